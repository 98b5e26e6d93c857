"""Why a decision came out as it did, from the numbers that decided it."""

from __future__ import annotations

from schemas.predictions import Reason
from schemas.snapshot import Snapshot
from streams.core.decisions import Decision


def decision_reasons(snapshot: Snapshot, decision: Decision, titles: dict[str, str]) -> list[Reason]:
    """Reasons of a next best action, most telling first.

    Args:
        titles: campaign id -> title, where the catalog has one.
    """
    chosen = decision.chosen
    if decision.explored:
        explored = f"drawn evenly from all allowed actions, with probability {chosen.propensity:.3f}"
        return [Reason("EXPLORATION", explored)]
    if chosen.action == "none":
        return [_why_nothing(decision)]
    name = titles.get(chosen.campaign_id or "", chosen.campaign_id or "")
    reasons = [
        Reason("HIGHEST_VALUE", f"{name} is worth {chosen.value:.2f}: {chosen.probability:.1%} likely to be redeemed")
    ]
    best_other = decision.next_best
    if best_other is not None:
        other_name = titles.get(best_other.campaign_id or "", best_other.campaign_id or "")
        reasons.append(Reason("BEATS_NEXT", f"next is {other_name} with {best_other.value:.2f}"))
    redeemed = snapshot.count_edges("redeemed>campaign")
    if redeemed:
        reasons.append(Reason("REDEEMED_BEFORE", f"used offers of {redeemed} earlier campaigns"))
    reasons.append(Reason("CONSENT_GIVEN", f"the customer agreed to {chosen.channel}"))
    return reasons


def _why_nothing(decision: Decision) -> Reason:
    best = decision.next_best
    if best is not None:
        return Reason("NOT_WORTH_IT", f"the best campaign is worth {best.value:.2f}, less than doing nothing")
    if decision.suppressed:
        named = ", ".join(sorted({refused.by for refused in decision.suppressed}))
        return Reason("ALL_SUPPRESSED", f"{len(decision.suppressed)} campaigns are running, none is allowed: {named}")
    return Reason("NOTHING_RUNNING", "no campaign is running")
