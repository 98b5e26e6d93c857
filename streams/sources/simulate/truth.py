"""What the simulator knows and a model has to find out."""

from __future__ import annotations

from math import exp
from typing import Final

import msgspec

#: Coefficients of the log-odds that an offer is used, by the terms of :class:`ResponseTruth`.
REDEEM_INTERCEPT: Final = -3.4
REDEEM_COEFFICIENTS: Final = {
    "affinity": 4.0,
    "discount": 5.0,
    "channel_match": 1.5,
    "hour_match": 0.5,
    "recent_sends": -0.3,
}
#: The same for opening the message.
OPEN_INTERCEPT: Final = -1.5
OPEN_COEFFICIENTS: Final = {"channel_match": 3.0, "hour_match": 1.2, "recent_sends": -0.2}
CLICK_AFTER_OPEN: Final = 0.35
BOUNCE: Final = 0.01
UNSUBSCRIBE_AFTER_OPEN: Final = 0.01


class ResponseTruth(msgspec.Struct, frozen=True, kw_only=True):
    """One send, the terms its probabilities are made of, and what came of it.

    Opening and using the offer are drawn independently given the terms; both need a customer that is alive at
    the time drawn for them, so the probabilities are those of a customer that stays.
    """

    campaign_id: str
    send_id: str
    channel: str
    send_ms: int
    affinity: float
    """The customer's share of interest in the offer's category, 0 to 1."""
    discount: float
    """Discount of the offer times the customer's price sensitivity, 0 to 1."""
    channel_match: float
    """The customer's preference for the channel, 0 to 1; preferences add up to 1."""
    hour_match: float
    """1 at the customer's favourite hour, towards 0 away from it."""
    recent_sends: int
    """Sends to the customer in the seven days before."""
    p_open: float
    p_redeem: float
    opened: bool
    redeemed: bool


class CustomerTruth(msgspec.Struct, frozen=True, kw_only=True):
    """A customer's traits. Nothing the customer does happens before ``joined_ms`` or from ``death_ms`` on."""

    customer_id: str
    joined_ms: int
    hazard_per_day: float
    death_ms: int
    """May lie past the simulation's end."""
    erased_ms: int | None
    """Event time of the erasure; not even a send happens after it."""
    sessions_per_day: float
    timezone: str
    peak_hour: float
    """Favourite hour of the customer's day, local."""
    price_sensitivity: float
    category_share: tuple[float, ...]
    """Interest by category, in the order of ``world.CATEGORIES``; adds up to 1."""
    channel_preference: dict[str, float]
    consent: dict[str, bool]
    """Marketing consent by channel when joining."""
    favourites: tuple[str, ...]
    """Items of which about half of all views and purchases are."""
    responses: tuple[ResponseTruth, ...] = ()


def probability(intercept: float, coefficients: dict[str, float], terms: dict[str, float]) -> float:
    """The logistic of a linear form.

    Example:
        >>> probability(0.0, {"a": 1.0}, {"a": 0.0})
        0.5
    """
    return 1.0 / (1.0 + exp(-intercept - sum(coefficients[name] * terms[name] for name in coefficients)))
