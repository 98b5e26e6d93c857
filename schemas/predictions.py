"""What campaign systems consume: JSON on the ``predictions.*`` topics, keyed by customer id."""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas import cloudevents
from schemas.codec import json_encode
from schemas.limits import Probability
from schemas.records import OutputRecord
from schemas.snapshot import SnapshotKind


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

    ``prediction_id`` is derived from the task, the snapshot and the model, so a re-emission after a crash is the same
    record and consumers can drop it by id.
    """

    prediction_id: str
    """Derived from task, snapshot and model: a repeated record has the same id, so drop what you have seen."""
    question_id: str
    """Of the snapshot: what outcomes carry, and what the predictions of two models about one snapshot share."""
    customer_id: str
    """The customer."""
    as_of_ms: int
    """Event time for which it holds."""
    model_version: str
    """Which model said so; ``none`` of a revocation."""
    valid_until_ms: int
    """Event time after which it should not be used."""
    source: tuple[str, int, int]
    """The newest event it rests on."""
    event_ts_ms: int
    """Event time of that event."""
    latency_ms: int
    """From the newest event's record timestamp to this prediction, wall clock."""
    snapshot_kind: SnapshotKind = "event"
    """``event``: something happened. ``refresh``: nothing did, it was asked for. ``horizon``, ``send``, ``sample``: its
    outcome will be known later."""


class ChurnPrediction(Prediction, frozen=True, kw_only=True, omit_defaults=True):
    """Probability that no activity comes within ``horizon_days``."""

    probability: Probability
    """Probability of no activity within the horizon."""
    horizon_days: int
    """Days without activity that count as churn."""
    last_activity_ms: int | None = None
    """Event time of the customer's newest activity, to about a second; missing where there was none."""
    reason_codes: list[Reason] = []
    """Why, most telling first."""


class RedemptionPrediction(Prediction, frozen=True, kw_only=True, omit_defaults=True):
    """Probability that the customer uses what a send offered inside its window; one for every send."""

    campaign_id: str
    """The campaign, as in the catalog."""
    probability: Probability
    """Probability that the offer sent is used inside its window."""
    offer_id: str | None = None
    """The offer, as in the catalog."""
    channel: str | None = None
    """By which channel the offer was sent."""
    reason_codes: list[Reason] = []
    """Why, most telling first."""


class Suppressed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A candidate that a constraint removed."""

    campaign_id: str
    """The campaign, as in the catalog."""
    by: str
    """``no_consent``, ``send_cap``, ``holdout``, ``already_sent``, ``offer_over`` or ``no_channel``."""
    detail: str
    """The same for a person, with the numbers."""


class RankedAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One candidate with its expected value."""

    action: Literal["send", "none"]
    """Send something, or do nothing."""
    value: float
    """P(redeem) * value - cost - fatigue; 0 for doing nothing."""
    probability: Probability = 0.0
    """Probability that the offer is used."""
    campaign_id: str | None = None
    """The campaign, as in the catalog."""
    offer_id: str | None = None
    """The offer, as in the catalog."""
    template_id: str | None = None
    """The template, as in the catalog."""
    channel: str | None = None
    """By which channel to send it."""
    propensity: Probability = 0.0
    """Probability with which the policy would have chosen this candidate."""


class NextBestAction(Prediction, frozen=True, kw_only=True, omit_defaults=True):
    """The chosen action, what it was ranked against, and what was not allowed."""

    chosen: RankedAction
    """What to do."""
    propensity: Probability
    """Probability with which the policy chose what was chosen."""
    alternatives: list[RankedAction] = []
    """The next best ones, with their values."""
    reason_codes: list[Reason] = []
    """Why, most telling first."""
    suppressed_by: list[Suppressed] = []
    """Every running campaign that was not allowed, and by what, 1,000 at most."""
    experiment_arm: Literal["greedy", "explore"] = "greedy"
    """``explore`` where the action was drawn evenly, ``greedy`` where it was the best."""


class Erasure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Receipt: everything kept about the customer has been deleted, but for what topics keep for a while."""

    receipt_id: str
    """Derived from customer and time."""
    customer_id: str
    """Who was erased."""
    erased_ms: int
    """Event time of the erasure; everything up to it is gone."""
    source: tuple[str, int, int]
    """The record that requested it."""
    kept_days: dict[str, int] = {}
    """Topic -> days for which records of before the erasure stay there, as `pulsegraph topics create` makes topics."""


def prediction_record(topic: str, prediction: Prediction) -> OutputRecord:
    """A prediction on its way to its topic, a logical name."""
    headers = cloudevents.headers(prediction.prediction_id, topic, prediction.as_of_ms)
    return OutputRecord(topic, prediction.customer_id.encode(), json_encode(prediction), headers)
