"""What is taken in but not as it was meant: counted by name, so that somebody can see it."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from schemas.events import CLICKSTREAM_EVENTS, GIVING_BACK, Clickstream, Profile, Said
from schemas.names import resembled
from streams.core.baskets import amount_of
from streams.core.config import CoreConfig
from streams.core.money import rate_of
from streams.core.zones import Zones

_NONE: Final[tuple[str, ...]] = ()
_UNCONVERTED: Final = ("unconverted_values",)
_UNKNOWN_ZONE: Final = ("unknown_timezones",)
_RESEMBLING: Final = ("resembling_names",)
ODDITIES: Final = (*_UNCONVERTED, *_UNKNOWN_ZONE, *_RESEMBLING)
"""Every name that :func:`oddities` gives."""


def oddities(body: Said, config: CoreConfig, zones: Zones) -> tuple[str, ...]:
    """Names of counters that an event adds to, of :data:`ODDITIES`."""
    if isinstance(body, Clickstream):
        if body.event not in CLICKSTREAM_EVENTS:  # such events count no money
            return _NONE if known_name(body.event) is None else _RESEMBLING
        if body.currency is None or rate_of(body.currency, config) is not None:
            return _NONE
        counted = body.event == "purchase" or body.event in GIVING_BACK
        return _UNCONVERTED if counted and amount_of(body) else _NONE
    if isinstance(body, Profile) and body.timezone is not None:
        return _UNKNOWN_ZONE if zones.offset_ms(body.timezone, body.event_ts_ms) is None else _NONE
    return _NONE


@lru_cache(maxsize=4_096)
def known_name(custom: str) -> str | None:
    """The known event that a custom one may have been meant to be, None where it is like none."""
    return resembled(custom, sorted(CLICKSTREAM_EVENTS))
