"""Names of channels as they are compared: however a producer spells one, it is the same channel.

What is published keeps the spelling of whoever wrote it; only comparisons go by these names.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

DEFAULT_PURPOSE: Final = "marketing"
"""What a send is for where nothing says so."""
_IGNORED: Final = frozenset("-_'\"")
_INVISIBLE: Final = ("Cc", "Cf", "Zs", "Zl", "Zp")


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


def is_left(pair: str, left: frozenset[str]) -> bool:
    """Whether an opt-out takes a granted ``channel:purpose`` back.

    Args:
        left: the channels that it may mean; whoever leaves ``push`` leaves ``push:ios``, too.
    """
    channel = canonical(pair.rpartition(":")[0])
    return any(channel == one or channel.startswith(one + ":") for one in left)
