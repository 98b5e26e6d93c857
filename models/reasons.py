"""Contributions as reasons: stable codes for programs, sentences with numbers for people.

Windows of one kind (7, 28 and 84 days of orders) are correlated, and their single contributions pull against each
other; what a person can read is their sum. Features are therefore grouped into families, and a reason is a family's
exact share of the wide logit. The deep part has no reasons: it is a residual behind a gate.

Decayed sums are given as rates: a steady rate r per day gives a sum of ``r * half_life / ln 2``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from models.candidates import CROSS_NAMES
from models.wide import Floats
from schemas import features
from schemas.predictions import Reason
from schemas.snapshot import Snapshot

TOP: Final = 3
SMALLEST: Final = 0.02
"""A smaller share of the logit is no reason."""
PER_DAYS: Final = 28
UNKNOWN_RATE: Final = 0.2
"""Smoothed rate of whoever got nothing, see :mod:`models.candidates`."""
CHANGED: Final = 1.5
"""How far the last week must be from the last quarter to be called a change."""


def _windows(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{days}d" for name in names for days in features.HALF_LIFE_DAYS)


FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "RECENCY": ("days_since_activity", "days_since_event", "mean_gap_days", "gap_ratio"),
    "FREQUENCY": (*_windows("purchases", "orders"), "active_days_total"),
    "VALUE": _windows("value"),
    "RETURNS": _windows("returns"),
    "BROWSING": _windows("views"),
    "CART": _windows("carts"),
    "CONTACT": (*_windows("sends"), "days_since_send", "sends_total"),
    "RESPONSE": _windows("opens", "clicks"),
    "REDEMPTION": (*_windows("redemptions"), "days_since_redemption", "redemptions_total"),
    "TENURE": ("days_since_first", "events_total", "sessions_total"),
    "BREADTH": ("distinct_items", "distinct_categories"),
    "SESSION": ("open_session_events",),
    "TIMING": ("hour_of_day", "day_of_week"),
}
"""Code → its features; every feature is in one."""

CROSS_FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "ITEMS": ("bought_items", "bought_items_distinct", "bought_items_share"),
    "CATEGORIES": ("bought_categories", "bought_categories_share"),
    "INTEREST": ("viewed_items", "carted_items"),
    "ENGAGED": ("engaged",),
    "REDEEMED_BEFORE": ("redeemed_this", "redeemed_offers", "redeemed_alike", "rate_alike", "received_alike"),
    "CHANNEL": ("channel_share", "channel_open_rate", "channel_click_rate"),
    "OPENED_BEFORE": ("template_open_rate", "alike_open_rate"),
    "CAMPAIGN": ("items", "offers", "window_days", "price"),
}


def _membership(families: Mapping[str, tuple[str, ...]], names: Sequence[str]) -> Floats:
    """(names, families) of 0 and 1, so that the shares of all families are one product."""
    return np.array([[name in members for members in families.values()] for name in names], dtype=np.float32)


_MEMBERS: Final = _membership(FAMILIES, features.NAMES)
_CROSS_MEMBERS: Final = _membership(CROSS_FAMILIES, CROSS_NAMES)
_RATES: Final = {
    "FREQUENCY": ("orders", "orders"),
    "VALUE": ("value", "spent"),
    "RETURNS": ("returns", "returns"),
    "BROWSING": ("views", "items viewed"),
    "CART": ("carts", "cart additions"),
    "CONTACT": ("sends", "messages"),
    "RESPONSE": ("clicks", "clicks"),
    "REDEMPTION": ("redemptions", "redemptions"),
}
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def customer_reasons(snapshot: Snapshot, contributions: Floats, typical: Floats, top: int = TOP) -> list[Reason]:
    """The families that moved a customer's logit most, strongest first.

    Args:
        snapshot: what was scored.
        contributions: this customer's row of ``CustomerAnswers.contributions``, (SIZE,).
        typical: feature values of the average customer, (SIZE,); ``CustomerScorer.typical``.
        top: how many at most.
    """
    shares = dict(zip(FAMILIES, (contributions @ _MEMBERS).tolist(), strict=True))
    values = np.frombuffer(snapshot.features, dtype="<f4")
    return [
        Reason(*_described(code, values, typical, share), weight=round(share, 4))
        for code, share in _strongest(shares, top)
    ]


def candidate_reasons(
    snapshot: Snapshot, customer: Floats, cross: Floats, cross_values: Floats, typical: Floats, top: int = TOP
) -> list[Reason]:
    """The families that moved a (customer, campaign) logit most, strongest first.

    Args:
        snapshot: what was scored.
        customer: the customer's row of ``CandidateAnswers.customer``, (SIZE,).
        cross: the pair's row of ``CandidateAnswers.cross``, (CROSS_SIZE,).
        cross_values: the pair's raw cross features, (CROSS_SIZE,).
        typical: as in :func:`customer_reasons`.
    """
    shares = dict(zip(FAMILIES, (customer @ _MEMBERS).tolist(), strict=True))
    shares |= zip(CROSS_FAMILIES, (cross @ _CROSS_MEMBERS).tolist(), strict=True)
    values = np.frombuffer(snapshot.features, dtype="<f4")
    reasons: list[Reason] = []
    for code, share in _strongest(shares, top):
        said = _paired(code, cross_values) if code in CROSS_FAMILIES else _described(code, values, typical, share)
        reasons.append(Reason(*said, weight=round(share, 4)))
    return reasons


def _strongest(shares: dict[str, float], top: int) -> Sequence[tuple[str, float]]:
    ranked = sorted(shares.items(), key=lambda item: (-abs(item[1]), item[0]))
    return [(code, share) for code, share in ranked[:top] if abs(share) >= SMALLEST]


def _described(code: str, values: Floats, typical: Floats, share: float) -> tuple[str, str]:
    """Code with its direction, and the sentence."""

    def value(name: str) -> float:
        return float(values[features.INDEX[name]])

    if code == "RECENCY":
        return _recency(value("days_since_activity"), value("mean_gap_days"))
    if code in _RATES:
        return _rate(code, values, typical, share)
    if code == "TENURE":
        days, usual = value("days_since_first"), float(typical[features.INDEX["days_since_first"]])
        return f"TENURE_{_high(days, usual)}", f"known for {days:.0f} days, {value('events_total'):.0f} events"
    if code == "BREADTH":
        items, usual = value("distinct_items"), float(typical[features.INDEX["distinct_items"]])
        return (
            f"BREADTH_{_high(items, usual)}",
            f"{items:.0f} different items in {value('distinct_categories'):.0f} categories, {usual:.0f} is typical",
        )
    if code == "SESSION":
        events = value("open_session_events")
        return f"SESSION_{'OPEN' if events else 'CLOSED'}", f"{events:.0f} events in the open session"
    day, hour = value("day_of_week"), value("hour_of_day")
    name = _DAYS[int(day) % 7] if math.isfinite(day) else "an unknown day"
    return "TIMING", f"last seen at {hour:.0f}:00, scored on a {name}"


def _recency(days: float, gap: float) -> tuple[str, str]:
    if not days >= 0:
        return "RECENCY_NONE", "no purchase so far"
    usually = f", usually every {max(gap, 1):.0f}" if gap > 0 else ""
    ago = f"no purchase for {days:.0f} days" if days >= 1 else "a purchase within the last day"
    return f"RECENCY_{_high(days, gap if gap > 0 else PER_DAYS / 4)}", ago + usually


def _rate(code: str, values: Floats, typical: Floats, share: float) -> tuple[str, str]:
    name, noun = _RATES[code]
    if name == "orders" and not values[features.INDEX["orders_28d"]] > 0:
        name, noun = "purchases", "purchases"

    def per_period(of: Floats, half_life_days: int) -> float:
        decayed = float(of[features.INDEX[f"{name}_{half_life_days}d"]])
        return max(0.0, decayed) * math.log(2) / half_life_days * PER_DAYS if math.isfinite(decayed) else 0.0

    now, lately, long = (per_period(values, days) for days in (28, 7, 84))
    usual = per_period(typical, 28)
    text = f"about {now:.{_digits(now)}f} {noun} in {PER_DAYS} days, {usual:.{_digits(usual)}f} is typical"
    changed = f"about {lately:.{_digits(lately)}f} {noun} in {PER_DAYS} days lately, {long:.{_digits(long)}f} before"
    if long > 0 and lately * CHANGED < long and share > 0:
        return f"{code}_FALLING", changed
    if long > 0 and lately > long * CHANGED and share < 0:
        return f"{code}_RISING", changed
    return f"{code}_{_high(now, usual)}", text


def _paired(code: str, values: Floats) -> tuple[str, str]:
    def value(name: str) -> float:
        return float(values[CROSS_NAMES.index(name)])

    def count(name: str) -> float:
        return math.expm1(value(name))

    if code == "ITEMS":
        items = count("bought_items_distinct")
        share = f"{value('bought_items_share'):.0%} of recent purchases"
        return f"ITEMS_{_some(items)}", f"buys {items:.0f} of the campaign's items, {share}"
    if code == "CATEGORIES":
        known = count("bought_categories")
        return f"CATEGORIES_{_some(known)}", f"weight {known:.1f} of recent purchases in the campaign's categories"
    if code == "INTEREST":
        seen = count("viewed_items") + count("carted_items")
        return f"INTEREST_{_some(seen)}", f"weight {seen:.1f} of recent views and cart additions of its items"
    if code == "ENGAGED":
        return f"ENGAGED_{_some(value('engaged'))}", f"opened or clicked this campaign, weight {count('engaged'):.1f}"
    if code == "REDEEMED_BEFORE":
        used, had = count("redeemed_alike"), count("received_alike")
        return f"REDEEMED_BEFORE_{_some(used)}", f"used {used:.1f} of {had:.1f} recent campaigns of its kind (decayed)"
    if code == "CHANNEL":
        share, opened = f"{value('channel_share'):.0%}", _share(value("channel_open_rate"))
        said = f"{share} of messages came by the campaign's channel, {opened:.0%} of those were opened (smoothed)"
        return f"CHANNEL_{_some(value('channel_share'))}", said
    if code == "OPENED_BEFORE":
        of_template, alike = _share(value("template_open_rate")), _share(value("alike_open_rate"))
        said = f"{of_template:.0%} of messages with this template were opened, {alike:.0%} of its kind (smoothed)"
        return f"OPENED_BEFORE_{_some(max(of_template, alike) - UNKNOWN_RATE)}", said
    return "CAMPAIGN", f"the campaign has {count('items'):.0f} items and {count('offers'):.0f} offers"


def _share(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))


def _high(value: float, usual: float) -> str:
    return "HIGH" if value > usual else "LOW"


def _some(value: float) -> str:
    return "YES" if value > 1e-6 else "NO"


def _digits(value: float) -> int:
    return 0 if value >= 10 else 1
