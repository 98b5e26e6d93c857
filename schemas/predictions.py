"""What campaign systems consume: JSON on the ``predictions.*`` topics, keyed by customer id."""

from __future__ import annotations

from functools import cache
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

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


class AppliedRecalibration(msgspec.Struct, frozen=True, kw_only=True):
    """How outcomes of earlier predictions changed a probability p that the model said.

    ``logit' = low_slope * ln(p) - high_slope * ln(1 - p) + shift``. Reasons say why the model said p.
    """

    model_probability: Probability
    """What the model said."""
    low_slope: float
    """Below 1 where the model was too sure of itself when it said little."""
    high_slope: float
    """The same when it said much."""
    shift: float
    """Above 0 where it happened more often than the model said."""


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
    recalibration: AppliedRecalibration | None = None
    """How outcomes changed the probability; missing where it is as the model said."""
    reason_codes: list[Reason] = []
    """Why, most telling first."""


class BehaviourPrediction(Prediction, frozen=True, kw_only=True, omit_defaults=True):
    """When the customer buys next, and whether the customer stays; all of it from the same curves, so it agrees."""

    churn_14d: Probability
    """Probability of no activity within 14 days."""
    churn_28d: Probability
    """No activity within 28 days; never more than in 14."""
    churn_56d: Probability
    """No activity within 56 days; never more than in 28."""
    repeat_purchase_7d: Probability | None = None
    """Probability of another purchase within 7 days; this and the next two are missing for who has never bought."""
    repeat_purchase_14d: Probability | None = None
    """A purchase within 14 days; never less than in 7."""
    repeat_purchase_28d: Probability | None = None
    """A purchase within 28 days; never less than in 14."""
    first_purchase_14d: Probability | None = None
    """Activation: probability of the first purchase within 14 days, for who has never bought. Missing for everybody
    else, and where the model has seen too few first purchases."""
    next_order_days: float | None = None
    """Days after ``as_of_ms`` by which the next order has come with probability 0.5; missing: beyond 56 days, or the
    model says nothing of orders of who has never bought."""
    next_order_from_days: float | None = None
    """The same with probability 0.1: four of five next orders come from then on and by ``next_order_to_days``."""
    next_order_to_days: float | None = None
    """The same with probability 0.9."""
    last_activity_ms: int | None = None
    """Event time of the customer's newest activity, to about a second; missing where there was none."""
    reason_codes: list[Reason] = []
    """Why orders come soon, or do not, most telling first; a positive weight means sooner."""


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
    recalibration: AppliedRecalibration | None = None
    """How outcomes changed the probability; missing where it is as the model said."""
    reason_codes: list[Reason] = []
    """Why, most telling first."""


class RankedItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item that the next order may hold."""

    item_id: str
    """The item, as in the catalog."""
    probability: Probability
    """Probability that the next order holds it, if one comes."""
    kind: Literal["again", "new"]
    """``again``: the customer bought it before, as far as is remembered. ``new``: not."""
    title: str | None = None
    """Its name, where the catalog has one."""
    reason_codes: list[Reason] = []
    """Why, most telling first."""


class NextItemsPrediction(Prediction, frozen=True, kw_only=True, omit_defaults=True):
    """What the customer's next order may hold: items that the catalog offers, the likeliest first."""

    items: list[RankedItem] = []
    """The likeliest first, 10 at most; none where the catalog offers none."""


class MatchedCampaign(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A campaign that could be sent now, with the template and the channel that suit the customer best."""

    campaign_id: str
    """The campaign, as in the catalog."""
    template_id: str | None = None
    """The template, as in the catalog."""
    channel: str | None = None
    """By which channel to send it."""
    offer_id: str | None = None
    """The offer, as in the catalog, where the campaign has one."""
    open: Probability | None = None
    """Probability that the message is opened within 7 days; missing where the model has not learned it, so below."""
    click: Probability | None = None
    """Probability that it is clicked within 7 days."""
    redeem: Probability | None = None
    """Probability that its offer is used inside its window."""
    ends_ms: int | None = None
    """Event time at which the campaign ends; missing where that is open."""
    reason_codes: list[Reason] = []
    """Why the probability that campaigns are ranked by, most telling first."""


class CampaignMatch(Prediction, frozen=True, kw_only=True, omit_defaults=True):
    """What would become of each running campaign, were it sent to the customer now. No decision."""

    ranked_by: Literal["redeem", "click", "open"]
    """Which probability the campaigns are ranked by."""
    probability: Probability = 0.0
    """The first campaign's; 0 where none is listed."""
    campaigns: list[MatchedCampaign] = []
    """Running campaigns that the customer may be sent, best first."""
    left_out: int = 0
    """How many more there are."""


class SendSlot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An hour in which a message can be sent by a channel."""

    from_ms: int
    """Event time at which the hour begins, UTC."""
    channel: str
    """By which channel to send."""
    weekday: Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
    """Day at that time where the customer is."""
    hour: int
    """Hour of that day where the customer is, 0 to 23."""
    probability: Probability
    """Probability that a message sent then is opened or clicked within 7 days."""


class SendTime(Prediction, frozen=True, kw_only=True, omit_defaults=True):
    """When to send, and by which channel: the hours of the week to come, ranked."""

    probability: Probability = 0.0
    """The first slot's; 0 where there is none."""
    slots: list[SendSlot] = []
    """The 24 best of the next 168 hours, best first; none where no channel may be used."""
    soonest: SendSlot | None = None
    """The best one of the next 24 hours; missing where there is none."""
    utc_offset_minutes: int = 0
    """What the customer's clock is ahead of UTC, as far as their events say."""
    reason_codes: list[Reason] = []
    """Why the first slot, most telling first."""


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


@cache
def probability_fields(record: type[msgspec.Struct]) -> tuple[str, ...]:
    """Names of the fields of a record, of its own and not of what it holds, that are probabilities.

    Example:
        >>> probability_fields(ChurnPrediction)
        ('probability',)
    """
    hints = get_type_hints(record, include_extras=True)

    def is_one(hint: object) -> bool:
        return hint == Probability or (get_origin(hint) in (Union, UnionType) and Probability in get_args(hint))

    return tuple(field.name for field in msgspec.structs.fields(record) if is_one(hints[field.name]))


def probabilities(said: msgspec.Struct) -> dict[str, float]:
    """What a record says, by field, of what it ranks by rank (``items.0.probability``); without what is open."""
    found = {name: getattr(said, name) for name in probability_fields(type(said))}
    for name in said.__struct_fields__:
        listed = getattr(said, name)
        for rank, one in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(one, msgspec.Struct):
                found |= {f"{name}.{rank}.{inner}": number for inner, number in probabilities(one).items()}
    return {name: number for name, number in found.items() if number is not None}


def prediction_record(topic: str, prediction: Prediction) -> OutputRecord:
    """A prediction on its way to its topic, a logical name."""
    headers = cloudevents.headers(prediction.prediction_id, topic, prediction.as_of_ms)
    return OutputRecord(topic, prediction.customer_id.encode(), json_encode(prediction), headers)
