"""Names of channels as they are compared: however a producer spells one, it is the same channel.

What is published keeps the spelling of whoever wrote it; only comparisons go by these names.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Final

DEFAULT_PURPOSE: Final = "marketing"
"""What a send is for where nothing says so."""
_IGNORED: Final = frozenset("-_'\"")
_INVISIBLE: Final = ("Cc", "Cf", "Zs", "Zl", "Zp")
#: Names that mean one channel to everybody. Not ``phone``, which may be calls or texts, nor ``app``.
WELL_KNOWN: Final = frozenset({"email", "sms", "push", "whatsapp"})
_EVERY: Final = frozenset({"*", "all", "any", "every", "everything", "allchannels", "anychannel", "everychannel"})
_BETWEEN: Final = re.compile(r"[][(){},;/|&+\n]")


@lru_cache(maxsize=4_096)
def canonical(name: str) -> str:
    """The same for all spellings of a name: case, spaces, hyphens and underscores say nothing.

    Example:
        >>> [canonical(name) for name in ("Email", " e-mail", "E_MAIL\\u200b", "push:iOS")]
        ['email', 'email', 'email', 'push:ios']
    """
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join([one for one in plain if one not in _IGNORED and unicodedata.category(one) not in _INVISIBLE])


def canonical_pair(pair: str) -> str:
    """The same of a ``channel:purpose``."""
    channel, _, purpose = pair.rpartition(":")
    return f"{canonical(channel)}:{canonical(purpose)}"


def granted(pairs: Iterable[str] | None, channel: str, purpose: str) -> bool:
    """Whether consent holds a channel and a purpose; not where nothing is known of it.

    Args:
        pairs: granted ``channel:purpose``; None where no profile was seen.

    Example:
        >>> [granted(pairs, "e-mail", "marketing") for pairs in (["Email:Marketing"], ["sms:marketing"], None)]
        [True, False, False]
    """
    return pairs is not None and canonical_pair(f"{channel}:{purpose}") in map(canonical_pair, pairs)


def alike(name: str, aliases: Mapping[str, str]) -> frozenset[str]:
    """Canonical names of all channels that a name may mean.

    Args:
        aliases: name -> the channel that it may mean, see ``channel_aliases`` in :mod:`streams.core.config`.

    Example:
        >>> sorted(alike("Mail", {"mail": "email", "post": "letter"}))
        ['email', 'mail']
    """
    return _alike(canonical(name), tuple(aliases.items()))


@lru_cache(maxsize=4_096)
def _alike(name: str, aliases: tuple[tuple[str, str], ...]) -> frozenset[str]:
    known = {canonical(alias): canonical(meant) for alias, meant in aliases}
    meant = known.get(name, name)
    return frozenset({name, meant, *(alias for alias, other in known.items() if other == meant)})


def remaining(pairs: Iterable[str], name: str, aliases: Mapping[str, str]) -> tuple[str, ...]:
    """What an opt-out leaves of granted ``channel:purpose`` pairs; nothing where it is not known what was meant.

    A list in one text names each of its parts. Whoever leaves ``push`` leaves ``push:ios``, too; and who leaves
    ``push:ios`` leaves ``push``, which would reach it.

    Args:
        name: the channel that was left, as it was written.
        aliases: as for :func:`alike`.

    Example:
        >>> granted = ("email:marketing", "push:marketing")
        >>> [remaining(granted, name, {}) for name in ("push:iOS", "sms", "email/sms", "emails")]
        [('email:marketing',), ('email:marketing', 'push:marketing'), ('push:marketing',), ()]
    """
    pairs = tuple(pairs)
    channels = {canonical(pair.rpartition(":")[0]) for pair in pairs}
    parts = [name] if canonical(name) in channels else [part for part in _BETWEEN.split(name) if canonical(part)]
    left = channels & _EVERY
    for part in parts or [""]:
        meant = _left(canonical(part), channels, aliases)
        if meant is None:
            return ()
        left |= meant
    return tuple(pair for pair in pairs if canonical(pair.rpartition(":")[0]) not in left)


def _left(name: str, channels: set[str], aliases: Mapping[str, str]) -> set[str] | None:
    """Which channels one name means; None where it may mean any."""
    if name in _EVERY:
        return None
    wider, same = set[str](), set[str]()
    for prefix in accumulate(name.split(":"), "{}:{}".format):  # push, push:ios
        others = alike(prefix, aliases)
        wider |= others
        same |= {other + name[len(prefix) :] for other in others}
    left = {one for one in channels if one in wider or any(one == of or one.startswith(of + ":") for of in same)}
    known = not wider.isdisjoint(WELL_KNOWN.union(*(map(canonical, pair) for pair in aliases.items())))
    if known:  # web_push is a push; push:android is another than push:ios
        left |= {one for one in channels if any(of in one and not one.startswith(of + ":") for of in wider)}
    return left if known or left else None
