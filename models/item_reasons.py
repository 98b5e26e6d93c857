"""Why an item is ranked where it is: stable codes for programs, sentences with numbers for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

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
CODES: Final = tuple(FAMILIES)
_NOT_OF_ITEM: Final = "ORDERS"
"""The same for every item of a customer: it moves probabilities and no rank."""
_MEMBER: Final[Floats] = np.array(
    [[name in names for names in FAMILIES.values()] for name in COLUMN_NAMES], dtype=np.float32
)
assert (_MEMBER.sum(1) == 1.0).all()


def family_shares(contributions: Floats, of_tower: Floats) -> Floats:
    """What each family moves an item's logit by, (N, len(CODES)).

    Args:
        contributions: what each column adds to the wide part of the logit, (N, len(COLUMNS)).
        of_tower: what the tower's columns change in the logit, (N,).
    """
    shares: Floats = contributions @ _MEMBER
    shares[:, CODES.index("TASTE")] = of_tower
    return shares


def item_reasons(values: Sequence[float], shares: Sequence[float], category: str | None) -> list[Reason]:
    """The families that moved an item's logit most, strongest first.

    Args:
        values: raw columns of the item, len(COLUMNS).
        shares: of :func:`family_shares`, len(CODES).
        category: the catalog's.
    """
    reasons: list[Reason] = []
    for share, code in sorted(zip(shares, CODES, strict=True), key=lambda one: (-one[0], one[1])):
        if code == _NOT_OF_ITEM or abs(share) < SMALLEST:
            continue
        if text := _described(code, values, category):
            reasons.append(Reason(code, text, weight=round(share, 4)))
            if len(reasons) == TOP:
                break
    return reasons


def _described(code: str, values: Sequence[float], category: str | None) -> str:
    """The sentence; empty where there is nothing to say."""

    def value(name: str) -> float:
        return values[COLUMN[name]]

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
