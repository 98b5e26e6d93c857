"""Consent as producers write it: read in whatever form, and found where nobody would read it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, Literal

from schemas import errors
from schemas.channels import WELL_KNOWN, canonical
from schemas.names import is_plainly_opt_out, opt_out

Fields = dict[str, Any]
"""A record's JSON object."""

CONVERTED: Final = "converted"
DROPPED: Final = "dropped"

_MAX_WORD: Final = 64
_MAX_CHANNELS: Final = 16
_MAX_PURPOSES: Final = 8
_NOTHING: Final = frozenset({"", "0", "false", "f", "no", "n", "off", "none", "null"})
#: Texts by which a producer says no; nothing but ``true`` says yes.
_NO: Final = _NOTHING | {
    "denied", "deny", "withdrawn", "revoked", "optout", "optedout", "unsubscribed", "refused", "rejected",
}  # fmt: skip

_CHANNEL: Final = r"(?:e ?mails?|sms|push|texts?|calls?|phone|newsletters?|marketing|contact|mailings?)"
#: Names of fields, as :func:`_words` has them, that take consent back by what is no no.
_LEAVES: Final = re.compile(
    r"(?<!ad)opt(?:ed|s|ing)? ?out|unsub|\bno ?consent|consent.*(?:withdr[ae]w|revo[ck]|deni|deny|refus|declin|cancel)"
    r"|\bno (?:marketing|contact|newsletters?|mailings?)\b"
    rf"|\bdo(?: ?no|n ?)t ?{_CHANNEL}|\bdn[cd]\b|\b{_CHANNEL} (?:suppressed|blocked|disabled)$"
)
#: Names under which consent is given, or not.
_GIVES: Final = re.compile(
    r"consen(?:t|so)|einwilligung|zustimmung|toestemming|^gdpr$|(?<!ad)opt(?:ed|s)? ?in(?:\b|e?mail|sms|push|marketing)"
)
#: Names that say nothing of consent but when somebody says no.
_AGREES: Final = re.compile(
    rf"\bsubscribed$|\b(?:accept|allow|receive|agree)[sd]?(?: to)? {_CHANNEL}"
    rf"|\b{_CHANNEL} (?:accepted|allowed|agreed|enabled|permissions?)$"
)
#: Last words of names that are about consent, and none themselves; the others are ways to say it.
_ABOUT: Final = re.compile(
    r" (?:at|on|by|date|time|ts|ms|timestamp|since|version|source|method|form|ip|lang|language|country)$"
)
_WAY: Final = re.compile(r" (?:url|uri|link|href|page|text|label|token|id|code)$")
_STATE: Final = re.compile(r"\b(?:event|event ?(?:type|name)|type|action|status|state|reason|kind)$")
_EDGE: Final = 64


def consent_of(given: Any) -> tuple[dict[str, dict[str, bool]] | None, tuple[str, ...]]:
    """Consent in whatever form, as the schema has it.

    Nothing is granted but by ``true`` under a channel and a purpose that can be read. What says no in another form is
    a no; so is what grants nothing and cannot be read further.

    Raises:
        InvalidField: it may grant something, and cannot be read.
    """
    if _says_no(given):
        return None, () if given is None else (CONVERTED,)
    if not isinstance(given, dict):
        raise errors.InvalidField(f"consent takes channel -> purpose -> true or false, not {_shown(given)}")
    granted: dict[str, dict[str, bool]] = {}
    done: list[str] = []
    refused: set[str] = set()
    for channel, purposes in given.items():
        if _says_no(purposes) or purposes == {}:
            done += () if isinstance(purposes, dict) else (CONVERTED,)
            refused.add(canonical(channel))
            continue
        if not isinstance(purposes, dict):
            raise errors.InvalidField(
                f"consent.{channel[:_MAX_WORD]} takes purpose -> true or false, not {_shown(purposes)}"
            )
        for purpose, said in purposes.items():
            if said is not True and not _says_no(said):
                raise errors.InvalidField(
                    f"consent.{channel[:_MAX_WORD]}.{purpose[:_MAX_WORD]} takes true or false, not {_shown(said)}"
                )
            if said is not False and said is not True:
                done.append(CONVERTED)
            if not (0 < len(channel) <= _MAX_WORD and 0 < len(purpose) <= _MAX_WORD):
                if said is True:
                    raise errors.InvalidField(f"consent names have 1 to {_MAX_WORD} characters: {_shown(channel)}")
                done.append(DROPPED)
                continue
            granted.setdefault(channel, {})[purpose] = said is True
    granted = {channel: purposes for channel, purposes in granted.items() if canonical(channel) not in refused}
    if len(granted) > _MAX_CHANNELS or any(len(purposes) > _MAX_PURPOSES for purposes in granted.values()):
        said_yes = {
            channel: {purpose: True for purpose, said in purposes.items() if said}
            for channel, purposes in granted.items()
            if any(purposes.values())
        }
        if len(said_yes) > _MAX_CHANNELS or any(len(purposes) > _MAX_PURPOSES for purposes in said_yes.values()):
            raise errors.InvalidField(f"consent takes {_MAX_CHANNELS} channels of {_MAX_PURPOSES} purposes at most")
        for channel, purposes in granted.items():  # a refusal may stand beside another spelling of its name
            for purpose, said in purposes.items():
                if not said:
                    _take_back(said_yes, channel, purpose)
        return said_yes, (*dict.fromkeys(done), DROPPED)
    return granted, tuple(dict.fromkeys(done))


def _take_back(granted: dict[str, dict[str, bool]], channel: str, purpose: str) -> None:
    for other, purposes in granted.items():
        if canonical(other) == canonical(channel):
            for name in [name for name in purposes if canonical(name) == canonical(purpose)]:
                purposes[name] = False


def _says_no(given: Any, texts: frozenset[str] = _NO) -> bool:
    if given is None or given is False or (not isinstance(given, bool) and given == 0) or given == []:
        return True
    return isinstance(given, str) and canonical(given) in texts


def _shown(given: Any) -> str:
    text = json.dumps(given, default=str)
    return text if len(text) <= 80 else text[:80] + "..."


def unheard(fields: Fields) -> str | None:
    """The field of a profile that takes consent back, or may, where nobody reads it; None where there is none.

    Names like ``marketing_consent`` say so whatever they hold, unless ``consent`` itself is there: then by a no to what
    it grants.
    """
    has_consent, granted = "consent" in fields, _granted(fields.get("consent"))
    for name, said in inner(fields):
        kind = _kind(name)
        if (
            (kind == "leaves" and not _says_no(said, _NOTHING) and said != {})
            or (kind == "gives" and (not has_consent or _holds_no(said)))
            or (kind == "agrees" and _holds_no(said))
            or (kind == "state" and isinstance(said, str) and is_plainly_opt_out(said))
        ) and (not has_consent or _is_of_any(name, granted)):
            return name
    spelt = (name for name in fields if name != "consent" and canonical(name[:_EDGE]) in ("consent", "consents"))
    return next(spelt, None)


def takes_back(fields: Fields) -> bool:
    """Whether a record that is neither a profile nor an opt-out says no in a field that nobody reads."""
    return any(
        (kind == "leaves" and not _says_no(said, _NOTHING))
        or (kind in ("gives", "agrees") and _holds_no(said))
        or (kind == "state" and isinstance(said, str) and opt_out(said) is not None)
        for name, said in inner({"": fields})
        if (kind := _kind(name))
    )


def _granted(consent: Any) -> list[str]:
    """Channels for which something is granted."""
    given = consent.items() if isinstance(consent, dict) else ()
    return [canonical(name) for name, purposes in given if isinstance(purposes, dict) and True in purposes.values()]


def _is_of_any(name: str, channels: list[str]) -> bool:
    """Whether a field may be about one of some channels: ``email_opt_in`` is not about ``sms``."""
    named = {one for one in WELL_KNOWN if one in canonical(name[:_EDGE])}
    others = WELL_KNOWN - named if named else ()
    return any(any(one in of for one in named) or not any(one in of for one in others) for of in channels)


def speaks_of_consent(fields: Fields) -> bool:
    """Whether a field of a profile may be consent, under whatever name and at whatever depth."""
    named = any(_kind(name) not in ("", "state") for name, _ in inner(fields))
    return named or "consent" in fields or unheard(fields) is not None


def inner(fields: Fields) -> Iterator[tuple[str, Any]]:
    """What is in it at every depth, by its name if it has one, but for ``consent`` itself."""
    waiting: list[Any] = [{name: said for name, said in fields.items() if name != "consent"}]
    while waiting:
        found = waiting.pop()
        inner = list(found.items()) if isinstance(found, dict) else [("", one) for one in found]
        yield from inner
        waiting += [one for _, one in inner if isinstance(one, dict | list)]


def _holds_no(said: Any) -> bool:
    return _says_no(said) or (isinstance(said, dict | list) and any(_says_no(one) for _, one in inner({"": said})))


Kind = Literal["leaves", "gives", "agrees", "state", ""]


def _kind(name: str) -> Kind:
    return _kind_of(name if len(name) <= 2 * _EDGE else name[:_EDGE] + name[-_EDGE:])


@lru_cache(maxsize=4_096)
def _kind_of(name: str) -> Kind:
    words = _words(name)
    if _WAY.search(words):
        return ""
    if _LEAVES.search(words):
        return "leaves"
    if _GIVES.search(words):
        return "" if _ABOUT.search(words) else "gives"
    if _AGREES.search(words):
        return "agrees"
    return "state" if _STATE.search(words) else ""


def _words(name: str) -> str:
    """The words of a name in lower case, with one space between: of ``optIn``, ``opt_in`` and ``Opt-In`` the same."""
    plain = unicodedata.normalize("NFKD", name)
    return re.sub(r"[^a-z0-9]+", " ", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", plain).lower()).strip()
