"""The time zones of the installed ``tzdata`` package.

Not of the machine: two workers whose systems are of another year would tell another hour of the same event. The package
is pinned with the other dependencies, so equal deployments agree.
"""

from __future__ import annotations

import difflib
import logging
from datetime import datetime
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final
from zoneinfo import ZoneInfo

_log: Final = logging.getLogger(__name__)
_MINUTE_MS: Final = 60_000  # no zone has changed its offset between two minutes since 2000
_MOST_REPORTED: Final = 20
_reported: set[str] = set()


class InstalledZones:
    """As :class:`streams.core.zones.Zones`. Says once of each unknown name what it may have meant, of the first few."""

    def offset_ms(self, zone: str, ts_ms: int) -> int | None:
        return _offset_ms(zone, ts_ms // _MINUTE_MS)


INSTALLED: Final = InstalledZones()


@cache
def names() -> frozenset[str]:
    """All IANA names, old ones among them."""
    return frozenset((files("tzdata") / "zones").read_text().split())


@cache
def _by_lower() -> dict[str, str]:
    return {name.lower(): name for name in sorted(names())}


@lru_cache(maxsize=4_096)
def known(zone: str) -> str | None:
    """The IANA name that is meant, however its letters and spaces are written; None where there is none.

    Example:
        >>> known("Europe/berlin "), known("america/new york"), known("Europe/Berln")
        ('Europe/Berlin', 'America/New_York', None)
    """
    return _by_lower().get("_".join(zone.split()).lower())


def unknown(zone: str) -> str:
    """Why a name is refused, with the nearest that is known.

    Example:
        >>> unknown("Europe/Berln")
        "there is no time zone 'Europe/Berln': did you mean Europe/Berlin?"
    """
    close = difflib.get_close_matches("_".join(zone.split()).lower(), _by_lower(), n=1, cutoff=0.6)
    hint = f"did you mean {_by_lower()[close[0]]}?" if close else "write an IANA name, such as Europe/Berlin"
    return f"there is no time zone {zone!r}: {hint}"


@cache
def _zone(name: str) -> ZoneInfo:
    with (files("tzdata") / "zoneinfo" / name).open("rb") as table:
        return ZoneInfo.from_file(table, key=name)


@lru_cache(maxsize=16_384)
def _offset_ms(zone: str, minute: int) -> int | None:
    if zone == "UTC":
        return 0
    name = known(zone)
    if name is None:
        _tell(zone)
        return None
    offset = datetime.fromtimestamp(minute * 60, _zone(name)).utcoffset()
    return 0 if offset is None else round(offset.total_seconds() * 1000)


def _tell(zone: str) -> None:
    if zone not in _reported and len(_reported) < _MOST_REPORTED:
        _reported.add(zone)
        _log.warning("a profile is taken in without its time zone: %s", unknown(zone))
