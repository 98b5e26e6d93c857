"""What became of messages, by the log: labels of sends whose outcomes do not carry them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from infra.evaluate.purchases import SourceEvent
from schemas.events import CampaignSend
from schemas.snapshot import DAY_MS, Label, Outcome

WITHIN_MS: Final = 7 * DAY_MS
MACHINE_MS: Final = 5_000
"""An open so soon after the send is a machine's."""


def with_responses(outcomes: Sequence[Outcome], events: Iterable[SourceEvent]) -> list[Outcome]:
    """Outcomes of sends with ``response``, ``open_after_ms`` and ``click_after_ms``; what has them stays as it is.

    A message is found by customer and campaign: a campaign that is sent twice to somebody counts at its first answer.
    """
    answers: dict[tuple[str, str, str], list[int]] = {}
    for _, customer_id, body, event_ts_ms in events:
        if isinstance(body, CampaignSend) and body.event in ("open", "click") and body.campaign_id:
            answers.setdefault((customer_id, body.campaign_id, body.event), []).append(event_ts_ms)
    return [_labelled(outcome, answers) for outcome in outcomes]


def _labelled(outcome: Outcome, answers: dict[tuple[str, str, str], list[int]]) -> Outcome:
    snapshot = outcome.seen
    if outcome.head != "redemption" or snapshot.candidate is None or "response" in outcome.labels:
        return outcome
    labels: dict[str, Label] = dict(outcome.labels)
    for event in ("open", "click"):
        found = answers.get((snapshot.customer_id, snapshot.candidate.campaign_id, event), ())
        after = [at_ms - snapshot.as_of_ms for at_ms in found]
        within = [ms for ms in after if MACHINE_MS < ms <= WITHIN_MS]
        if within:
            labels[f"{event}_after_ms"] = min(within)
    labels["response"] = int("open_after_ms" in labels or "click_after_ms" in labels)
    told: Outcome = msgspec.structs.replace(outcome, labels=labels)
    return told
