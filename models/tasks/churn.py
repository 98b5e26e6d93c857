"""Churn: the probability that no activity comes within the horizon, of whoever is active."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from models.customer_task import CustomerTask
from schemas.predictions import ChurnPrediction, Reason
from schemas.snapshot import DAY_MS, Outcome, Snapshot, SnapshotKind

VALID_MS: Final = 7 * DAY_MS


class ChurnTask(CustomerTask):
    """Evidence weekly, after a sample of events, and of what happens now."""

    name = "churn"
    question = "churn"
    topic = "predictions.churn"
    kinds: ClassVar[frozenset[SnapshotKind]] = frozenset({"event", "refresh", "horizon", "sample"})
    looks_ahead = True

    def label(self, outcome: Outcome) -> int:
        return outcome.label

    def record(
        self, snapshot: Snapshot, probability: float, reasons: list[Reason], horizon_days: int, fields: dict[str, Any]
    ) -> ChurnPrediction:
        return ChurnPrediction(
            **fields,
            valid_until_ms=snapshot.as_of_ms + VALID_MS,
            probability=probability,
            horizon_days=horizon_days,
            last_activity_ms=snapshot.last_activity_ms,
            reason_codes=reasons,
        )
