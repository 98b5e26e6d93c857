"""Why an item is ranked where it is: stable codes for programs, sentences with numbers for people."""

from __future__ import annotations

import math
from typing import Final

from models.item_columns import OWN_NAMES
from models.item_lists import COLUMN, COLUMN_NAMES
from models.wide import Floats
from schemas.predictions import Reason

TOP: Final = 2
SMALLEST: Final = 0.02

FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "OFTEN": (
        "bought", "count", "weight", "weight_7d", "weight_14d", "weight_84d", "weight_224d", "count_share",
        "weight_share", "rank", "in_category",
    ),
    "DUE": ("age", "interval", "due", "overdue", "last_order", "recent_orders", "recent_7d", "recent_28d", "returned"),
    "SEEN": ("viewed", "viewed_age", "carted"),
    "CATEGORY": ("category_weight", "category_share", "category_age", "category_due"),
    "POPULAR": ("popularity", "lately", "trend", "in_its_category", "price"),
    "TASTE": ("taste", "match"),
    "ORDERS": ("basket", "items", "orders", "silent"),
}  # fmt: skip
"""Code → its columns; every column is in one."""
_MEMBERS: Final = {code: [COLUMN[name] for name in names] for code, names in FAMILIES.items()}
_NOT_OF_ITEM: Final = "ORDERS"
"""The same for every item of a customer: it moves probabilities and no rank."""
assert sorted(name for names in FAMILIES.values() for name in names) == sorted(COLUMN_NAMES)
assert set(OWN_NAMES) <= set(COLUMN_NAMES)


def item_reasons(values: Floats, contributions: Floats, of_tower: float, category: str | None) -> list[Reason]:
    """The families that moved an item's logit most, strongest first; where none did, what the tower said.

    Args:
        values: raw columns of the item, (len(COLUMNS),).
        contributions: what each adds to the wide part of the logit, (len(COLUMNS),).
        of_tower: what the tower's columns change in the logit.
        category: the catalog's.
    """
    shares = {code: float(contributions[at].sum()) for code, at in _MEMBERS.items() if code != _NOT_OF_ITEM}
    shares["TASTE"] = of_tower
    said = [(code, _described(code, values, category)) for code in shares]
    shown = [(code, text, shares[code]) for code, text in said if text and abs(shares[code]) >= SMALLEST]
    shown.sort(key=lambda one: (-one[2], one[0]))
    return [Reason(code, text, weight=round(share, 4)) for code, text, share in shown[:TOP]]


def _described(code: str, values: Floats, category: str | None) -> str:
    """The sentence; empty where there is nothing to say."""

    def value(name: str) -> float:
        return float(values[COLUMN[name]])

    def amount(name: str) -> float:
        return math.expm1(value(name))

    bought = value("bought") > 0
    if code == "OFTEN":
        times = amount("count")
        return f"bought {times:.0f} times" if bought and times > 1.5 else "bought once" if bought else ""
    if code == "DUE":
        if not bought:
            return ""
        usual = f", usually every {_days(amount('interval'))}" if math.isfinite(value("interval")) else ""
        return f"last bought {_days(amount('age'))} ago{usual}"
    if code == "SEEN":
        seen = amount("viewed") + amount("carted")
        return f"looked at lately, weight {seen:.1f}" if seen > 0.05 else ""
    if code == "CATEGORY":
        share = value("category_share")
        return f"{share:.0%} of recent purchases are {category or 'of its category'}" if share > 0.005 else ""
    if code == "POPULAR":
        return f"in {math.exp(value('lately')):.1%} of all orders lately"
    return "like what the customer goes for" if math.isfinite(value("taste")) else ""


def _days(days: float) -> str:
    return f"{days:.0f} days" if days >= 1.5 else "a day"
