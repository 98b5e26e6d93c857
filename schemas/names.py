"""Names of events, and what a producer may have meant by one that we do not know."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

OPT_OUTS: Final = ("unsubscribe", "complaint")
"""Events of ``campaign-sends`` that take consent back."""

#: What systems that send mail and messages call an opt-out or a complaint, as far as letters go.
_LEAVES: Final = re.compile(
    r"unsub|opt(?:s|ed|ing)?out|do?no?t(?:contact|disturb|e?mail|sms|text|call|track)|consent|withdr[ae]w|revo[ck]"
    r"|cancel.{0,20}subscri|subscri.{0,20}cancel|removed?(?:me|from)|(?:delete|forget|erase)me|takemeoff|leavelist"
    r"|(?<!un)(?:blocklist|blacklist|denylist)|suppress"
    r"|abmeld|abbestell|widerruf|desabon|desinscri|desuscri|disiscri|afmeld|uitschrij"
)
_COMPLAINS: Final = re.compile(r"complain|spam|abuse|junk")
_NO_SPAM: Final = re.compile(r"notspam|nospam|notjunk")
#: What contains one of the words above and gives consent.
_GIVES: Final = frozenset({"consentgiven", "consentgranted", "consentgained", "grantconsent", "giveconsent"})
#: Words that are an opt-out when they are all that is said; text messages know them.
_STOP_WORDS: Final = (
    "stop", "stopall", "stopp", "quit", "cancel", "cancelall", "end", "arret", "arreter", "leave", "remove", "removed",
    "dnc", "dnd", "baja", "alto", "fin",
)  # fmt: skip
_STOPS: Final = re.compile(
    r"stop(?:all|sms|texts?|e?mails?|messages?|push)|(?:sms|text|e?mail|push|message)s?stop(?:ped)?"
)
#: Names that are an opt-out on whatever topic they come: narrower, since custom events may have any name.
_PLAINLY: Final = re.compile(
    r"(?:e?mail|sms|text|push|newsletter|marketing|group|list|user|customer)*"
    r"(?:unsubscribed?|opt(?:ed)?out|donotcontact|(?:withdraw|revoke)consent|consent(?:withdrawn|revoked|withdrawal)"
    r"|spam(?:report|complaint)|complaint)"
    r"(?:from|by|via|request|requested|confirmed|e?mails?|sms|texts?|push|newsletters?|marketing|all|list|event)*"
)
_LETTERS: Final = re.compile(r"[^a-z0-9]+")
#: The same in bytes that are no JSON: whatever stands between two letters, and stop words as whole texts.
_IN_BYTES: Final = re.compile(
    rb"unsub|opt(?:s|ed|ing)?.{0,6}?out|do.{0,6}?not.{0,6}?contact|complain|spam|abuse|junk|consent|withdr[ae]w|revo[ck]"
    rb"|cancel.{0,20}?subscri|subscri.{0,20}?cancel|\"\s*(?:" + "|".join(_STOP_WORDS).encode() + rb")\s*\"(?!\s*:)"
)
_MOST_SEARCHED: Final = 1 << 20
_LONGEST_NAME: Final = 128
_SIMILAR: Final = 0.7
_VERY_SIMILAR: Final = 0.8
_WORDS: Final = re.compile(r"[a-z0-9]+")
_LINKING: Final = frozenset({"to", "from"})


def letters_of(name: str) -> str:
    """Letters and digits in lower case: what ``PageView``, ``page-view`` and ``page_view`` share."""
    return _LETTERS.sub("", name.lower())


def opt_out(name: str) -> str | None:
    """Which of :data:`OPT_OUTS` a name on ``campaign-sends`` means; None where it means another event.

    Example:
        >>> [opt_out(name) for name in ("Unsubscribed", "spam_report", "ARR\u00caT", "resubscribe", "open")]
        ['unsubscribe', 'complaint', 'unsubscribe', None, None]
    """
    return _opt_out(name[:_LONGEST_NAME])


@lru_cache(maxsize=4_096)
def _opt_out(name: str) -> str | None:
    letters = _plain_letters(name)
    if letters in _STOP_WORDS or _STOPS.fullmatch(letters) or (_LEAVES.search(letters) and letters not in _GIVES):
        return "unsubscribe"
    return "complaint" if _COMPLAINS.search(letters) and not _NO_SPAM.search(letters) else None


def is_plainly_opt_out(name: str) -> bool:
    """Whether a name means an opt-out on a topic where it does not belong.

    Example:
        >>> [is_plainly_opt_out(name) for name in ("email_unsubscribed", "optOut", "stop", "unsubscribe_page_view")]
        [True, True, False, False]
    """
    return _is_plainly_opt_out(name[:_LONGEST_NAME])


@lru_cache(maxsize=4_096)
def _is_plainly_opt_out(name: str) -> bool:
    return _PLAINLY.fullmatch(_plain_letters(name)) is not None


def _plain_letters(name: str) -> str:
    """Letters without accents and other forms."""
    return letters_of(unicodedata.normalize("NFKD", name))


def may_opt_out(value: bytes) -> bool:
    """Whether bytes that cannot be read speak of an opt-out, in UTF-8 or UTF-16."""
    return _IN_BYTES.search(value[:_MOST_SEARCHED].replace(b"\0", b"").lower()) is not None


def spelling(name: str, known: Iterable[str]) -> str | None:
    """The known name that differs in case and separators only."""
    letters = letters_of(name)
    return next((one for one in known if letters_of(one) == letters), None) if letters else None


def nearest(name: str, known: Iterable[str], similar: float = _SIMILAR) -> str | None:
    """The known name that is most like another; None where none is.

    Args:
        similar: how much so at least, 1 for the same letters.

    Example:
        >>> nearest("purchse", ["purchase", "page_view"])
        'purchase'
    """
    by_letters = {letters_of(one): one for one in known}
    found = difflib.get_close_matches(letters_of(name), list(by_letters), n=1, cutoff=similar)
    return by_letters[found[0]] if found else None


def resembled(name: str, known: Iterable[str]) -> str | None:
    """The known name that a custom one may have been meant to be: some letters, or the order of words, are others.

    Example:
        >>> [resembled(name, ["purchase", "item_view"]) for name in ("purchases", "view_item", "loyalty_scan")]
        ['purchase', 'item_view', None]
    """
    known, words = tuple(known), _word_set(name)
    same = next((one for one in known if _word_set(one) == words), None)
    return same if same is not None else nearest(name, known, _VERY_SIMILAR)


def _word_set(name: str) -> frozenset[str]:
    return frozenset(_WORDS.findall(name.lower())) - _LINKING


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name."""
    found = nearest(name[:64], known)
    return "" if found is None else f"; the nearest name is {found}"
