"""UCI's Online Retail as a stream of the project's own events.

541,909 invoice lines of a British mail-order gift shop, December 2010 to December 2011 (Chen, 2015, CC BY 4.0). Read
from ``online_retail.csv.gz`` in the folder that ``PULSEGRAPH_DATA`` names.

What is decided here, because the data is an accountant's:

- An invoice is one event at the time of its first line, a purchase whose ``order_id`` is its number; one of more than
  200 lines is several events with that id. An invoice whose number begins with C is a ``return``; which order it takes
  from is not in the data.
- Times are the shop's, Europe/London, and so is every profile's zone: where in a country a customer lives is not known.
- A quarter of the lines have no customer. Each such invoice is somebody of its own, ``guest-<invoice>``, without a
  profile.
- An item's id is its stock code in capitals, its title the description that most of its lines have.
- Amounts are in pounds, whatever the country; events name no currency, so they count in the company's.
- Left out, and counted by reason in :attr:`OnlineRetail.left_out`: what is no article (:data:`NO_ARTICLES`), and
  corrections of the stock, which are lines below 0 on an invoice that is no return, and invoices to nobody on which
  nothing has a price. Other prices of 0 are kept: they are free items.
"""

from __future__ import annotations

import csv
import gzip
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from schemas.events import Clickstream, Line, Profile
from schemas.limits import MAX_LINES
from streams.sources.datasets.record import SourceRecord, order, selected

SHOP_TIMEZONE: Final = "Europe/London"
FILE: Final = "online_retail.csv.gz"
COLUMNS: Final = (
    "InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country",
)  # fmt: skip
NO_ARTICLES: Final[Mapping[str, str]] = {
    "POST": "postage", "DOT": "postage", "C2": "postage",
    "BANK CHARGES": "fees", "AMAZONFEE": "fees", "CRUK": "fees",
    "D": "discounts", "S": "samples", "M": "manual entries", "B": "manual entries",
}  # fmt: skip
"""Stock code -> why it is no article. All others are: goods of the shop, its parties' bags and its vouchers."""
STOCK: Final = "corrections of the stock"
_PROFILE_LEAD_MS: Final = 1_000
_zone: Final = ZoneInfo(SHOP_TIMEZONE)


class _Row(NamedTuple):
    """A line as it is in the file, but ``code`` in capitals."""

    code: str
    description: str
    quantity: float
    price: float


class _Invoice(NamedTuple):
    """Lines with one number; ``customer`` is empty for a guest."""

    number: str
    ts_ms: int
    customer: str
    country: str
    rows: list[_Row]

    @property
    def is_return(self) -> bool:
        return self.number.startswith("C")

    @property
    def is_stock_correction(self) -> bool:
        return not self.customer and not any(row.price for row in self.rows)


class OnlineRetail:
    """The data set in memory (about 200 MB), as events in the order of :func:`streams.sources.datasets.record.order`.

    Example:
        >>> retail = OnlineRetail.load()  # doctest: +SKIP
        >>> retail.kept + sum(retail.left_out.values())  # doctest: +SKIP
        541909
    """

    def __init__(self, invoices: Iterator[_Invoice]) -> None:
        self.kept = 0
        """Lines that are in an event."""
        self.left_out: Counter[str] = Counter()
        """Why -> lines that are in none."""
        invoiced = [(invoice, rows) for invoice in invoices if (rows := self._articles(invoice))]
        self._titles = _titles(invoiced)
        self._prices = _prices(invoiced)
        self._countries = {known.customer: known.country for known, _ in reversed(invoiced) if known.customer}
        self._events = sorted((event for pair in invoiced for event in self._events_of(*pair)), key=order)

    @classmethod
    def load(cls, path: Path | None = None) -> OnlineRetail:
        """Read the file: about five seconds.

        Raises:
            ConfigError: it is not there, or is another file.
        """
        path = path if path is not None else data_file()
        retail = cls(_invoices(path))
        if not retail.kept:
            raise ConfigError(f"{path} has no invoice of an article")
        return retail

    @property
    def from_ms(self) -> int:
        """Event time of the first event."""
        return self._events[0].event_ts_ms

    @property
    def until_ms(self) -> int:
        """Just past the last one."""
        return self._events[-1].event_ts_ms + 1

    def events(
        self, from_ms: int | None = None, to_ms: int | None = None, customers: Collection[str] | None = None
    ) -> Iterator[SourceRecord]:
        """All events with ``from_ms <= event time < to_ms``, led by the profiles of those who have one and an event."""
        found = selected(self._events, from_ms, to_ms, customers)
        if found:
            yield from self._profiles(found)
        yield from found

    def count(
        self, from_ms: int | None = None, to_ms: int | None = None, customers: Collection[str] | None = None
    ) -> int:
        """Number of records :meth:`events` yields."""
        found = selected(self._events, from_ms, to_ms, customers)
        return len(found) + len({event.key for event in found} & self._countries.keys())

    def events_by_customer(self, from_ms: int | None = None, to_ms: int | None = None) -> Counter[str]:
        """Customer or guest -> events in the range."""
        return Counter(event.key for event in selected(self._events, from_ms, to_ms, None))

    def catalog(self) -> list[CatalogEntry]:
        """The articles, with their median price where they had one."""
        return [
            CatalogEntry(kind="item", id=code, title=self._titles.get(code), price=self._prices.get(code))
            for code in sorted(self._titles.keys() | self._prices.keys())
        ]

    def _articles(self, invoice: _Invoice) -> list[_Row]:
        kept: list[_Row] = []
        for row in invoice.rows:
            reason = NO_ARTICLES.get(row.code)
            if reason is None and (invoice.is_stock_correction or (row.quantity < 0 and not invoice.is_return)):
                reason = STOCK
            if reason is None:
                kept.append(row)
            else:
                self.left_out[reason] += 1
        self.kept += len(kept)
        return kept

    def _events_of(self, invoice: _Invoice, rows: list[_Row]) -> Iterator[SourceRecord]:
        key = invoice.customer or f"guest-{invoice.number}"
        for start in range(0, len(rows), MAX_LINES):
            lines = tuple(
                Line(item_id=row.code, title=self._titles.get(row.code), quantity=row.quantity, price=row.price)
                for row in rows[start : start + MAX_LINES]
            )
            part = f"-{start // MAX_LINES + 1:02d}" if len(rows) > MAX_LINES else ""
            body = Clickstream(
                event="return" if invoice.is_return else "purchase",
                event_ts_ms=invoice.ts_ms,
                event_id=f"invoice-{invoice.number}{part}",
                order_id=None if invoice.is_return else invoice.number,
                items=lines,
            )
            yield SourceRecord("clickstream", key, body, invoice.ts_ms)

    def _profiles(self, found: list[SourceRecord]) -> Iterator[SourceRecord]:
        ts_ms = found[0].event_ts_ms - _PROFILE_LEAD_MS
        for key in sorted({event.key for event in found} & self._countries.keys()):
            body = Profile(
                event_ts_ms=ts_ms,
                event_id=f"profile-{key}-{ts_ms}",
                attributes={"country": self._countries[key]},
                timezone=SHOP_TIMEZONE,
            )
            yield SourceRecord("profiles", key, body, ts_ms)


def data_file() -> Path:
    """Where the file should be: in the folder ``PULSEGRAPH_DATA``, else in ``../shared/data``."""
    return Path(os.environ.get("PULSEGRAPH_DATA") or "../shared/data") / FILE


def _invoices(path: Path) -> Iterator[_Invoice]:
    """The invoices, in the order of their first lines."""
    invoices: dict[str, _Invoice] = {}
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            lines = csv.reader(file)
            if tuple(next(lines, ())) != COLUMNS:
                raise ConfigError(f"{path} is no Online Retail: its first line should be {','.join(COLUMNS)}")
            for number, code, description, quantity, date, price, customer, country in lines:
                invoice = invoices.get(number)
                if invoice is None:
                    customer = customer.removesuffix(".0")
                    invoice = invoices[number] = _Invoice(number, _utc_ms(date), customer, country, [])
                title = " ".join(description.split())
                invoice.rows.append(_Row(code.upper(), title, float(quantity), float(price)))
    except FileNotFoundError:
        raise ConfigError(
            f"Online Retail is not at {path}: set PULSEGRAPH_DATA to the folder that has {FILE}, with the columns "
            f"{', '.join(COLUMNS)} of https://archive.ics.uci.edu/dataset/352/online+retail"
        ) from None
    except (OSError, EOFError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as Online Retail: {error}") from error
    yield from invoices.values()


@lru_cache(maxsize=1_024)
def _utc_ms(local: str) -> int:
    return int(datetime.fromisoformat(local).replace(tzinfo=_zone).timestamp()) * 1000


def _titles(invoiced: list[tuple[_Invoice, list[_Row]]]) -> dict[str, str]:
    said: dict[str, Counter[str]] = {}
    for _, rows in invoiced:
        for row in rows:
            if row.description:
                said.setdefault(row.code, Counter())[row.description] += 1
    return {code: min(counted, key=lambda title: (-counted[title], title)).lower() for code, counted in said.items()}


def _prices(invoiced: list[tuple[_Invoice, list[_Row]]]) -> dict[str, float]:
    given: dict[str, list[float]] = {}
    for invoice, rows in invoiced:
        for row in rows:
            if row.price and not invoice.is_return:
                given.setdefault(row.code, []).append(row.price)
    return {code: median(prices) for code, prices in given.items()}
