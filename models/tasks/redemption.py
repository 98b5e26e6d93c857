"""Redemption: the probability that a customer uses what a campaign offers in its window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from models.candidate_scorer import CandidateScorer
from models.candidate_task import CandidateTask
from models.candidates import as_sent
from models.model import Model
from models.task import Encoded, Moment, common, rounded
from schemas.predictions import RedemptionPrediction
from schemas.snapshot import DAY_MS, Outcome, SnapshotKind


class RedemptionTask(CandidateTask):
    """Evidence of every send; of what could be sent, by decisions."""

    name = "redemption"
    topic: ClassVar[str] = "predictions.redemption"
    kinds: ClassVar[frozenset[SnapshotKind]] = frozenset({"send"})

    def label(self, outcome: Outcome) -> int:
        return outcome.label

    def scorer(self, model: Model, version: str) -> RedemptionScorer:
        return RedemptionScorer(self, model, version)


class RedemptionScorer(CandidateScorer):
    """With a record of every send."""

    def predictions(self, encoded: Encoded, moment: Moment) -> Iterator[RedemptionPrediction]:
        sent = {
            row: as_sent(snapshot.candidate, moment.catalog)
            for row, snapshot in enumerate(encoded.snapshots)
            if snapshot.kind in RedemptionTask.kinds and snapshot.candidate is not None
        }
        if not sent:
            return
        distinct = sorted(set(sent.values()), key=repr)
        column = {candidate: place for place, candidate in enumerate(distinct)}
        campaigns = self.sets(distinct, moment.catalog, moment.catalog_version)
        answers = self(encoded.take(list(sent)), campaigns)
        for row, (place, wanted) in enumerate(sent.items()):
            snapshot = encoded.snapshots[place]
            candidate = snapshot.candidate
            assert candidate is not None
            entry = moment.catalog.get(f"campaign:{candidate.campaign_id}")
            ends_ms = (entry.active_to_ms if entry is not None else None) or 0
            yield RedemptionPrediction(
                **common(self.task.name, snapshot, self.version, moment.now_ms),
                # A campaign without an end, or one that was sent after it: nothing says how long that holds.
                valid_until_ms=ends_ms if ends_ms > snapshot.as_of_ms else snapshot.as_of_ms + DAY_MS,
                campaign_id=candidate.campaign_id,
                offer_id=candidate.offer_id,
                channel=candidate.channel,
                probability=rounded(answers.probability[row, column[wanted]]),
                reason_codes=self.reasons(snapshot, answers, row, column[wanted]),
            )
