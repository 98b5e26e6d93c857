"""CDNOW as a stream of the project's own events.

69,659 purchases of 23,570 people at an American online shop of records, who all bought there first in the first quarter
of 1997, up to June 1998 (Fader and Hardie, 2001). Read from the installed package lifetimes, which is not imported.

What is decided here, because the data has a day, a number of records and dollars only:

- Each line is one purchase of the category ``cd``. Which records is not in the data: there is no item, and no catalog.
- Lines of one customer and day are one order, as in the papers on this data, which count days with a purchase.
- Events before 2000 are refused, so every day comes 17 years later: 2014 and 2015 have the dates and weekdays of 1997
  and 1998.
- Every purchase happens at noon, UTC, which is the same day in America. Nothing else is known of a customer, so there
  are no profiles, and hours are UTC.
- Amounts are in dollars; events name no currency, so they count in the company's. 80 lines cost nothing; they are kept.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from schemas.events import Clickstream
from streams.sources.datasets.record import SourceRecord, order, selected

CATEGORY: Final = "cd"
COLUMNS: Final = ("customer_id", "date", "number_of_cds", "dollar_value")
YEARS_LATER: Final = 17
_FILE: Final = Path("datasets", "CDNOW_master.txt")
_PACKAGE: Final = "lifetimes"
_MISSING: Final = (
    "the CDNOW data set needs the package lifetimes: run `make install`, or pip install 'pulsegraph[datasets]'"
)


class Cdnow:
    """The data set in memory (about 50 MB), as events in the order of :func:`streams.sources.datasets.record.order`.

    Example:
        >>> sum(1 for _ in Cdnow.load().events())  # doctest: +SKIP
        69659
    """

    def __init__(self, events: Iterator[SourceRecord]) -> None:
        self._events = sorted(events, key=order)

    @classmethod
    def load(cls, path: Path | None = None) -> Cdnow:
        """Read the file of the installed package, or ``path``: about a second.

        Raises:
            ConfigError: the package is not installed, or the file is another one.
        """
        path = path if path is not None else data_file()
        cdnow = cls(_purchases(path))
        if not cdnow._events:
            raise ConfigError(f"{path} has no purchase")
        return cdnow

    @property
    def from_ms(self) -> int:
        """Event time of the first purchase."""
        return self._events[0].event_ts_ms

    @property
    def until_ms(self) -> int:
        """Just past the last one."""
        return self._events[-1].event_ts_ms + 1

    def events(
        self, from_ms: int | None = None, to_ms: int | None = None, customers: Collection[str] | None = None
    ) -> Iterator[SourceRecord]:
        """All purchases with ``from_ms <= event time < to_ms``."""
        return iter(selected(self._events, from_ms, to_ms, customers))

    def count(
        self, from_ms: int | None = None, to_ms: int | None = None, customers: Collection[str] | None = None
    ) -> int:
        """Number of records :meth:`events` yields."""
        return len(selected(self._events, from_ms, to_ms, customers))

    def events_by_customer(self, from_ms: int | None = None, to_ms: int | None = None) -> Counter[str]:
        """Customer -> purchases in the range."""
        return Counter(event.key for event in selected(self._events, from_ms, to_ms, None))

    def catalog(self) -> list[CatalogEntry]:
        """Nothing: the data names no item."""
        return []


def data_file() -> Path:
    """Where the installed package keeps its file.

    Raises:
        ConfigError: it is not there; the message says how to install it.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(_MISSING)
    path = Path(spec.submodule_search_locations[0]) / _FILE
    if not path.is_file():
        raise ConfigError(f"{path} is not there: {_MISSING}")
    return path


def _purchases(path: Path) -> Iterator[SourceRecord]:
    """The lines, in the order of the file."""
    lines_of = Counter[str]()
    try:
        with path.open(encoding="ascii") as file:
            if tuple(next(file, "").split()) != COLUMNS:
                raise ConfigError(f"{path} is no CDNOW: its first line should be {' '.join(COLUMNS)}")
            for line in file:
                customer, day, records, dollars = line.split()
                order_id, ts_ms = f"{customer}-{day}", _noon_ms(day)  # its id has the day of the data
                lines_of[order_id] += 1
                body = Clickstream(
                    event="purchase",
                    event_ts_ms=ts_ms,
                    event_id=f"{order_id}-{lines_of[order_id]:02d}",
                    category=CATEGORY,
                    quantity=float(records),
                    value=float(dollars),
                    order_id=order_id,
                )
                yield SourceRecord("clickstream", customer, body, ts_ms)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as CDNOW: {error}") from error


@lru_cache(maxsize=1_024)
def _noon_ms(day: str) -> int:
    said = datetime.strptime(day, "%Y%m%d").replace(hour=12, tzinfo=UTC)
    return int(said.replace(year=said.year + YEARS_LATER).timestamp()) * 1000
