"""Next best action: constraints first, then expected value, then a little exploration.

Constraints fail closed: what is not known to be allowed is not done. Doing nothing is always a
candidate. Every candidate that was removed is named with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from schemas.catalog import CatalogEntry
from schemas.channels import DEFAULT_PURPOSE, alike, canonical, granted
from schemas.predictions import RankedAction, Suppressed
from schemas.snapshot import Snapshot
from streams.core.config import DAY_MS

_DEFAULT_VALUE: Final = 1.0
#: Draws are multiples of 2**-52: a share of fewer than millions of them cannot be told evenly from many candidates, and
#: its propensities would promise what never happens, down to zero.
_LEAST_EPSILON: Final = 1e-9
_NO_ALIASES: Final[Mapping[str, str]] = {}


class DecisionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Rules that hold for every customer."""

    cap_sends: int = 3
    """Most sends per channel inside ``cap_window_ms``."""
    cap_window_ms: int = 7 * DAY_MS
    """Length of that window, in event time."""
    fatigue: float = 0.05
    """Value lost per send the customer got inside the window."""
    epsilon: float = 0.02
    """Share of decisions drawn evenly from all allowed candidates, so that the policy can be evaluated; less than one
    in a billion is none."""
    alternatives: int = 3
    """Most alternatives reported with a decision."""


class Scored(msgspec.Struct, frozen=True):
    """A campaign with P(redeem) for one customer."""

    campaign: CatalogEntry
    probability: float
    offer_over: bool = False
    """Whether none of its offers can be used now."""


class Decision(msgspec.Struct, frozen=True):
    """What to do, what else was allowed, what was not."""

    chosen: RankedAction
    alternatives: list[RankedAction]
    next_best: RankedAction | None
    """The best campaign of those that were allowed and not chosen."""
    suppressed: list[Suppressed]
    explored: bool


def active_campaigns(catalog: Sequence[CatalogEntry], as_of_ms: int) -> list[CatalogEntry]:
    """Campaigns whose window holds ``as_of_ms``, by id; an open end counts as open."""
    return sorted(
        (entry for entry in catalog if entry.kind == "campaign" and _is_active(entry, as_of_ms)),
        key=lambda entry: entry.id,
    )


def offers_over(campaign: CatalogEntry, catalog: Mapping[str, CatalogEntry], as_of_ms: int) -> bool:
    """Whether the catalog knows all offers of a campaign, and the window of none holds ``as_of_ms``."""
    offers = (catalog.get(f"offer:{offer_id}") for offer_id in campaign.offers)
    return bool(campaign.offers) and all(offer is not None and not _is_active(offer, as_of_ms) for offer in offers)


def decide(
    snapshot: Snapshot,
    scored: Sequence[Scored],
    policy: DecisionPolicy,
    draw: float,
    aliases: Mapping[str, str] = _NO_ALIASES,
) -> Decision:
    """Choose for one customer.

    Args:
        scored: active campaigns with their probabilities.
        draw: a number in [0, 1) that is fixed for this decision; below ``epsilon`` it explores.
        aliases: name of a channel -> another that it may mean; sends on both count for a cap.

    Propensities sum to 1, and that of whatever is chosen is positive: its inverse is the weight of the decision in an
    evaluation.

    Source of the value: expected margin of the offer less its cost, as in uplift practice without a
    control arm; ``fatigue`` charges for messages the customer already got.
    """
    suppressed: list[Suppressed] = []
    allowed: list[RankedAction] = []
    for candidate in scored:
        refused = suppression(snapshot, candidate.campaign, policy, aliases, offer_over=candidate.offer_over)
        if refused is not None:
            suppressed.append(refused)
        else:
            allowed.append(_action(snapshot, candidate, policy, aliases))
    ranked = sorted([*allowed, RankedAction(action="none", value=0.0)], key=_rank)
    epsilon = policy.epsilon if policy.epsilon >= _LEAST_EPSILON else 0.0
    even = epsilon / len(ranked)
    ranked = [
        msgspec.structs.replace(action, propensity=even + (1.0 - epsilon if place == 0 else 0.0))
        for place, action in enumerate(ranked)
    ]
    explored = draw < epsilon
    chosen = ranked[min(int(draw / even), len(ranked) - 1)] if explored else ranked[0]
    others = [action for action in ranked if action is not chosen]
    next_best = next((action for action in others if action.action == "send"), None)
    return Decision(chosen, others[: policy.alternatives], next_best, suppressed, explored)


def suppression(
    snapshot: Snapshot,
    campaign: CatalogEntry,
    policy: DecisionPolicy,
    aliases: Mapping[str, str] = _NO_ALIASES,
    *,
    offer_over: bool = False,
) -> Suppressed | None:
    """Why a campaign must not be sent to this customer; None where it may."""
    channel = campaign.channel
    if snapshot.holdout:
        return Suppressed(campaign.id, "holdout", "the customer belongs to the group that is never contacted")
    if channel is None:
        return Suppressed(campaign.id, "no_channel", "the campaign names no channel in the catalog")
    if offer_over:
        return Suppressed(campaign.id, "offer_over", "no offer of the campaign can be used now")
    purpose = campaign.purpose or DEFAULT_PURPOSE
    if not granted(snapshot.consent, channel, purpose):
        wanted = f"{channel}:{purpose}"
        known = "no profile said so" if snapshot.consent is None else "consent was not given"
        return Suppressed(campaign.id, "no_consent", f"{wanted}: {known}")
    recent = recent_sends(snapshot, channel, policy.cap_window_ms, aliases)
    if recent >= policy.cap_sends:
        days = policy.cap_window_ms // DAY_MS
        return Suppressed(
            campaign.id, "send_cap", f"{recent} sends on {channel} in {days} days, {policy.cap_sends} allowed"
        )
    if any(campaign.id in count.campaigns for count in snapshot.sends):
        return Suppressed(campaign.id, "already_sent", "the customer has received this campaign")
    return None


def recent_sends(snapshot: Snapshot, channel: str, window_ms: int, aliases: Mapping[str, str] = _NO_ALIASES) -> int:
    """Sends on a channel, or on one that may mean the same, in the window before the snapshot."""
    oldest_ms = snapshot.as_of_ms - window_ms
    # A send whose channel is not known counts on every one: it may have been this one.
    same = {*alike(channel, aliases), ""}
    counts = (count for count in snapshot.sends if canonical(count.channel) in same)
    return sum(sent_ms > oldest_ms for count in counts for sent_ms in count.sent_ms)


def _action(snapshot: Snapshot, candidate: Scored, policy: DecisionPolicy, aliases: Mapping[str, str]) -> RankedAction:
    campaign = candidate.campaign
    assert campaign.channel is not None
    fatigue = policy.fatigue * recent_sends(snapshot, campaign.channel, policy.cap_window_ms, aliases)
    worth = campaign.value if campaign.value is not None else _DEFAULT_VALUE
    return RankedAction(
        action="send",
        value=candidate.probability * worth - (campaign.cost or 0.0) - fatigue,
        probability=candidate.probability,
        campaign_id=campaign.id,
        offer_id=campaign.offers[0] if len(campaign.offers) == 1 else None,
        template_id=campaign.template_id,
        channel=campaign.channel,
    )


def _is_active(entry: CatalogEntry, as_of_ms: int) -> bool:
    return (entry.active_from_ms is None or entry.active_from_ms <= as_of_ms) and (
        entry.active_to_ms is None or as_of_ms < entry.active_to_ms
    )


def _rank(action: RankedAction) -> tuple[float, str]:
    return math.inf if math.isnan(action.value) else -action.value, action.campaign_id or ""
