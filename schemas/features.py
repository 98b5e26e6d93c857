"""The snapshot's feature vector: order, names and meaning, in one place.

Values are raw (counts, amounts, days); the model owns every transform, so that training and serving
cannot drift apart. A decayed sum weighs an event ``2 ** -(age / half_life)``.
"""

from __future__ import annotations

from typing import Final

HALF_LIFE_DAYS: Final = (7, 28, 84)
COUNTED: Final = (
    "purchases",
    "orders",
    "value",
    "returns",
    "views",
    "carts",
    "sends",
    "opens",
    "clicks",
    "redemptions",
)

_SCALARS: Final = {
    "days_since_activity": "days since the last purchase-like event; -1 where there was none",
    "days_since_event": "days since the last event of any kind",
    "days_since_first": "days since the first event: how long the customer is known",
    "mean_gap_days": "decayed mean of the days between two active days",
    "gap_ratio": "days_since_activity over mean_gap_days; 0 where unknown",
    "days_since_send": "days since the last send; -1 where there was none",
    "days_since_redemption": "days since the last redemption; -1 where there was none",
    "events_total": "events folded in so far",
    "sessions_total": "sessions begun so far",
    "active_days_total": "days with a purchase-like event so far",
    "sends_total": "sends so far",
    "redemptions_total": "redemptions so far",
    "distinct_items": "items with an edge in the bounded graph",
    "distinct_categories": "categories with an edge in the bounded graph",
    "open_session_events": "events in the session that is open, 0 where none is",
    "hour_of_day": "hour of the last event, where the customer is",
    "day_of_week": "day of `as_of_ms`, where the customer is, Monday is 0",
}

MEANING: Final[dict[str, str]] = _SCALARS | {
    f"{name}_{days}d": f"decayed {name}, half-life {days} days" for name in COUNTED for days in HALF_LIFE_DAYS
}
NAMES: Final = tuple(MEANING)
INDEX: Final[dict[str, int]] = {name: position for position, name in enumerate(NAMES)}
SIZE: Final = len(NAMES)
