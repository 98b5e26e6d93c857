"""A prediction for people: what it says in one sentence, why, and what was not allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from schemas.codec import json_encode
from schemas.predictions import (
    BehaviourPrediction,
    CampaignMatch,
    ChurnPrediction,
    NextBestAction,
    NextItemsPrediction,
    Prediction,
    RankedAction,
    Reason,
    RedemptionPrediction,
    SendTime,
    Suppressed,
)
from streams.inspect.moments import moment
from streams.inspect.titles import titled

_SUPPRESSED_SHOWN: Final = 4
_RANKED_SHOWN: Final = 5
_COMMON: Final = frozenset(Prediction.__struct_fields__) | {"reason_codes", "suppressed_by"}


def sentence(prediction: Prediction, titles: Mapping[str, str]) -> str:
    """What a prediction says.

    Args:
        titles: ``kind:id`` -> title in the catalog.
    """
    match prediction:
        case ChurnPrediction():
            return f"{prediction.probability:.1%} likely to stay away for {prediction.horizon_days} days"
        case BehaviourPrediction():
            return _behaviour(prediction)
        case CampaignMatch():
            return _matched(prediction, titles)
        case SendTime():
            return _timed(prediction)
        case NextItemsPrediction():
            return f"the likeliest {len(prediction.items)} items of the next order"
        case RedemptionPrediction():
            named = _campaign(prediction.campaign_id, titles)
            return f"{prediction.probability:.1%} likely to use the offer of campaign {named}"
        case NextBestAction():
            return f"{_action(prediction.chosen, titles)}, chosen with probability {prediction.propensity:.3f}"
        case _:
            return _fields(prediction)


def _behaviour(prediction: BehaviourPrediction) -> str:
    """Example: ``71.2% likely to buy again within 7 days, ... next order in 2.1 days (80 %: 0.4 to 9.8)``."""
    buys = [
        f"{probability:.1%} likely to buy {what} days"
        for what, probability in (
            ("again within 7", prediction.repeat_purchase_7d),
            ("again within 28", prediction.repeat_purchase_28d),
            ("for the first time within 14", prediction.first_purchase_14d),
        )
        if probability is not None
    ]
    parts = [*buys, f"{prediction.churn_28d:.1%} likely to stay away for 28"]
    if buys:
        middle, low, high = (
            "beyond 56" if days is None else f"{days:g}"
            for days in (prediction.next_order_days, prediction.next_order_from_days, prediction.next_order_to_days)
        )
        parts.append(f"next order in {middle} days (80 %: {low} to {high})")
    return ", ".join(parts)


def _matched(prediction: CampaignMatch, titles: Mapping[str, str]) -> str:
    if not prediction.campaigns:
        return "no campaign is running that the customer may be sent"
    best = prediction.campaigns[0]
    said = ", ".join(
        f"{value:.1%} {name}"
        for name, value in (("open", best.open), ("click", best.click), ("redeem", best.redeem))
        if value is not None
    )
    more = prediction.left_out + len(prediction.campaigns) - 1
    return f"campaign {_campaign(best.campaign_id, titles)} by {best.channel}: {said}; {more} more are running"


def _timed(prediction: SendTime) -> str:
    if not prediction.slots:
        return "no channel may be used"
    best = prediction.slots[0]
    return (
        f"best sent by {best.channel} on {best.weekday} from {best.hour}:00 (local): {best.probability:.1%} likely to "
        f"respond; {len(prediction.slots) - 1} more hours are ranked"
    )


def reasons(prediction: Prediction) -> Iterator[str]:
    """Why, most telling first."""
    first = prediction.campaigns[0] if isinstance(prediction, CampaignMatch) and prediction.campaigns else prediction
    codes: list[Reason] = getattr(first, "reason_codes", [])
    for reason in codes:
        weight = f" ({reason.weight:+.2f})" if reason.weight else ""
        yield f"because {reason.text}  [{reason.code}]{weight}"


def suppressed(prediction: Prediction, titles: Mapping[str, str]) -> Iterator[str]:
    """Campaigns that were not allowed, the first few."""
    found: list[Suppressed] = getattr(prediction, "suppressed_by", [])
    for refused in found[:_SUPPRESSED_SHOWN]:
        yield f"not {_campaign(refused.campaign_id, titles)}: {refused.detail}  [{refused.by}]"
    if len(found) > _SUPPRESSED_SHOWN:
        yield f"and {len(found) - _SUPPRESSED_SHOWN} more campaigns that are not allowed"


def block(topic: str, prediction: Prediction, titles: Mapping[str, str]) -> Iterator[str]:
    """All that a prediction says, line by line."""
    yield f"{topic.removeprefix('predictions.')}, {prediction.snapshot_kind} as of {moment(prediction.as_of_ms)} UTC"
    yield f"  {sentence(prediction, titles)}"
    for line in (*reasons(prediction), *ranked(prediction, titles), *suppressed(prediction, titles)):
        yield f"  {line}"
    yield f"  valid until {moment(prediction.valid_until_ms)} UTC; id {prediction.prediction_id}"


def ranked(prediction: Prediction, titles: Mapping[str, str]) -> Iterator[str]:
    """What it ranks, best first."""
    if isinstance(prediction, NextItemsPrediction):
        for item in prediction.items:
            named = f"{item.item_id} ({item.title})" if item.title else item.item_id
            why = "; ".join(reason.text for reason in item.reason_codes)
            yield f"{item.probability:>6.1%}  {item.kind}  {named}" + (f": {why}" if why else "")
    if isinstance(prediction, NextBestAction):
        for action in prediction.alternatives[:_RANKED_SHOWN]:
            yield f"else {_action(action, titles)}"


def _action(action: RankedAction, titles: Mapping[str, str]) -> str:
    if action.action == "none":
        return f"do nothing: value {action.value:.3f}"
    what = f"send campaign {_campaign(action.campaign_id, titles)} by {action.channel}"
    return f"{what}: value {action.value:.3f}, {action.probability:.1%} likely to be used"


def _campaign(campaign_id: str | None, titles: Mapping[str, str]) -> str:
    return titled(str(campaign_id), f"campaign:{campaign_id}", titles)


def _fields(prediction: Prediction) -> str:
    """What a record of any other kind has beside the fields that all have."""
    said = {name: getattr(prediction, name) for name in prediction.__struct_fields__ if name not in _COMMON}
    return ", ".join(f"{name} {json_encode(value).decode()}" for name, value in said.items() if value is not None)
