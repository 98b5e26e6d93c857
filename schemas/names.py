"""Names of events, and what a producer may have meant by one that we do not know."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

OPT_OUTS: Final = ("unsubscribe", "complaint")
"""Events of ``campaign-sends`` that take consent back."""

#: What systems that send mail and messages call an opt-out or a complaint, as far as letters go.
_LEAVES: Final = re.compile(r"unsub|opt(?:s|ed|ing)?out|donotcontact|donotemail")
_COMPLAINS: Final = re.compile(r"complain|spam|abuse|junk")
_RETURNS: Final = re.compile(r"resub|notspam|nospam|notjunk")
_EXACTLY: Final = {"stop": "unsubscribe", "dnc": "unsubscribe", "stopall": "unsubscribe"}
_LETTERS: Final = re.compile(r"[^a-z0-9]+")
#: The same in bytes that are no JSON: whatever stands between two letters.
_IN_BYTES: Final = re.compile(rb"unsub|opt(?:s|ed|ing)?.{0,6}?out|do.{0,6}?not.{0,6}?contact|complain|spam|abuse|junk")
_MOST_SEARCHED: Final = 1 << 20
_SIMILAR: Final = 0.7


def letters_of(name: str) -> str:
    """Letters and digits in lower case: what ``PageView``, ``page-view`` and ``page_view`` share."""
    return _LETTERS.sub("", name.lower())


@lru_cache(maxsize=4_096)
def opt_out(name: str) -> str | None:
    """Which of :data:`OPT_OUTS` a name means; None where it means another event.

    Example:
        >>> [opt_out(name) for name in ("Unsubscribed", "spam_report", "opt-out", "group_resubscribe", "open")]
        ['unsubscribe', 'complaint', 'unsubscribe', None, None]
    """
    letters = letters_of(name)
    if _RETURNS.search(letters):
        return None
    if letters in _EXACTLY:
        return _EXACTLY[letters]
    if _LEAVES.search(letters):
        return "unsubscribe"
    return "complaint" if _COMPLAINS.search(letters) else None


def may_opt_out(value: bytes) -> bool:
    """Whether bytes that cannot be read speak of an opt-out, in UTF-8 or UTF-16."""
    return _IN_BYTES.search(value[:_MOST_SEARCHED].replace(b"\0", b"").lower()) is not None


def spelling(name: str, known: Iterable[str]) -> str | None:
    """The known name that differs in case and separators only."""
    letters = letters_of(name)
    return next((one for one in known if letters_of(one) == letters), None) if letters else None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like another; None where none is.

    Example:
        >>> nearest("purchse", ["purchase", "page_view"])
        'purchase'
    """
    by_letters = {letters_of(one): one for one in known}
    found = difflib.get_close_matches(letters_of(name), list(by_letters), n=1, cutoff=_SIMILAR)
    return by_letters[found[0]] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name."""
    found = nearest(name[:64], known)
    return "" if found is None else f"; the nearest name is {found}"
