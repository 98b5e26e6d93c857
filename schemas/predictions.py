"""What campaign systems consume: JSON on the ``predictions.*`` topics, keyed by customer id."""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.limits import Probability


class Reason(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why, in a form a program can switch on and a person can read."""

    code: str
    """Stable, upper case, e.g. ``RECENCY_HIGH``."""
    text: str
    """The same for a person, with the numbers."""
    weight: float = 0.0
    """Contribution to the logit, positive pushes the probability up."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Fields that every prediction has.

    ``prediction_id`` is derived from the head and the snapshot, so a re-emission after a crash is the same
    record and consumers can drop it by id.
    """

    prediction_id: str
    customer_id: str
    as_of_ms: int
    model_version: str
    valid_until_ms: int
    source: tuple[str, int, int]
    event_ts_ms: int
    latency_ms: int
    """From the newest event's record timestamp to this prediction, wall clock."""
    snapshot_kind: Literal["event", "horizon", "send"] = "event"


class ChurnPrediction(Prediction, frozen=True, kw_only=True, omit_defaults=True):
    """Probability that no activity comes within ``horizon_days``."""

    probability: Probability
    horizon_days: int
    reason_codes: list[Reason] = []


class RedemptionPrediction(Prediction, frozen=True, kw_only=True, omit_defaults=True):
    """Probability that the customer uses what a send offered inside its window; one for every send."""

    campaign_id: str
    probability: Probability
    offer_id: str | None = None
    channel: str | None = None
    reason_codes: list[Reason] = []


class Suppressed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A candidate that a constraint removed."""

    campaign_id: str
    by: str
    """``no_consent``, ``send_cap``, ``holdout``, ``already_sent``, ``offer_over`` or ``no_channel``."""
    detail: str


class RankedAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One candidate with its expected value."""

    action: Literal["send", "none"]
    value: float
    """P(redeem) * value - cost - fatigue; 0 for doing nothing."""
    probability: Probability = 0.0
    campaign_id: str | None = None
    offer_id: str | None = None
    template_id: str | None = None
    channel: str | None = None
    propensity: Probability = 0.0
    """Probability with which the policy would have chosen this candidate."""


class NextBestAction(Prediction, frozen=True, kw_only=True, omit_defaults=True):
    """The chosen action, what it was ranked against, and what was not allowed."""

    chosen: RankedAction
    propensity: Probability
    alternatives: list[RankedAction] = []
    reason_codes: list[Reason] = []
    suppressed_by: list[Suppressed] = []
    experiment_arm: Literal["greedy", "explore"] = "greedy"


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """Receipt: everything kept about the customer has been deleted."""

    receipt_id: str
    customer_id: str
    erased_ms: int
    source: tuple[str, int, int]
