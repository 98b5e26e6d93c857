"""From a batch of snapshots to the records that campaign systems read. Runs in the encoder's thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Final, Protocol

from models.candidate_scorer import as_listed
from models.inference import Predictor
from models.task import Encoded, Moment, common, rounded
from models.tasks.redemption import RedemptionTask
from schemas.catalog import CatalogEntry
from schemas.predictions import NextBestAction, Reason, prediction_record
from schemas.records import OutputRecord
from schemas.snapshot import LIVE_KINDS, Snapshot
from streams.core.config import DAY_MS, CoreConfig
from streams.core.decisions import DecisionPolicy, Scored, decide, offers_over
from streams.core.reasons import decision_reasons
from streams.serving import campaign_match
from streams.serving.campaign_match import CampaignMatches
from streams.serving.embeddings import EmbeddingFeed
from streams.serving.news import News
from streams.serving.recalibrated import Recalibrations, recalibrated, recalibrated_answers
from streams.serving.records import Predicted
from streams.serving.running import RunningCampaigns, RunningScores

_ACTION_VALID_MS: Final = DAY_MS
_MOST_SUPPRESSED: Final = 1_000
"""Most campaigns that a decision names as not allowed: a record has to stay below what topics take, 1 MB."""
_NOT_LEARNED: Final = Reason(
    "NOTHING_LEARNED", "the model has not learned yet which offers are used: it has seen too few outcomes of both kinds"
)


class Catalog(Protocol):
    """What is known of the catalog now: entries by ``kind:id``, and a version that changes with them."""

    @property
    def current(self) -> tuple[Mapping[str, CatalogEntry], int]: ...


class Predictions:
    """Runs the encoder once per batch, and what is asked of its snapshots: tasks, decisions, and matches of campaigns.

    Ids are derived from the snapshot, so repeating a batch repeats its records.
    What a model has not learned is not published: no probability, and no campaign chosen by one.

    Args:
        embeddings: says whose embedding is published; absent: nobody's.
        news: says which records are new, of the tasks that want that; absent: all.
        aliases: of channels, see ``channel_aliases`` in :mod:`streams.core.config`; absent: the defaults.
        margin: see :class:`streams.serving.campaign_match.CampaignMatches`.
        recalibrations: what outcomes say of the model's probabilities by now; absent: nothing.
    """

    def __init__(
        self,
        predictor: Predictor,
        catalog: Catalog,
        policy: DecisionPolicy,
        wall_ms: Callable[[], int],
        embeddings: EmbeddingFeed | None = None,
        aliases: Mapping[str, str] | None = None,
        news: News | None = None,
        margin: float = 0.0,
        recalibrations: Callable[[], Recalibrations] = dict,
    ) -> None:
        self._predictor = predictor
        self._catalog = catalog
        self._policy = policy
        self._wall_ms = wall_ms
        self._embeddings = embeddings
        self._news = news
        self._recalibrations = recalibrations
        self._aliases = CoreConfig().channel_aliases if aliases is None else aliases
        self._running = RunningCampaigns(predictor, campaign_match.TASKS)
        self.matches = CampaignMatches(self._running, predictor.version, margin)

    def __call__(self, snapshots: list[Snapshot], erased: Sequence[str] = ()) -> Predicted:
        """Records of a batch; first what takes the embeddings of ``erased`` customers away."""
        published = [self._embeddings.forget(customer_id) for customer_id in erased] if self._embeddings else []
        for customer_id in erased:
            self.matches.forget(customer_id)
            if self._news is not None:
                for name in self._predictor.scorers:
                    self._news.forget(name, customer_id)
        entries, version = self._catalog.current
        self._predictor.know(entries, version)
        encoded = self._predictor.encode(snapshots)
        moment = Moment(entries, version, self._wall_ms())
        recalibrations = self._recalibrations()
        for task, prediction in self._predictor.predictions(encoded, moment):
            assert task.topic is not None, f"{task.name} publishes nothing by itself"
            prediction = recalibrated(task.name, prediction, recalibrations)
            spoken = [prediction]
            if self._news is not None and task.sent_when_moved:
                spoken = self._news(task.name, prediction)
            published += [prediction_record(task.topic, one) for one in spoken]
        rows = [row for row, snapshot in enumerate(snapshots) if snapshot.kind in campaign_match.KINDS]
        if rows:
            scores = self._running(encoded, moment, rows)
            scores = dataclasses.replace(scores, answers=recalibrated_answers(scores.answers, recalibrations))
            published += self._actions(encoded, moment, scores)
            published += self.matches(rows, snapshots, scores, moment)
        if self._embeddings is not None:
            published += self._embeddings(snapshots, encoded.embeddings, self._predictor.version)
        return Predicted(published, encoded.words, encoded.unknown_words)

    def hand_over(self) -> None:
        """Partitions go to other workers, who may say something else before they come back: forget what was sent."""
        self.matches.clear()
        for hints in (self._embeddings, self._news):
            if hints is not None:
                hints.clear()

    def _actions(self, encoded: Encoded, moment: Moment, scores: RunningScores) -> Iterator[OutputRecord]:
        entries = moment.catalog
        learned = RedemptionTask.name in self._predictor.scorers
        redeem = scores.answers.get(RedemptionTask.name)
        titles = {entry.id: entry.title for entry in self._running.campaigns if entry.title}
        for row, snapshot in enumerate(encoded.snapshots):
            if snapshot.kind not in LIVE_KINDS:
                continue
            scored = (
                [
                    Scored(
                        entry,
                        rounded(redeem.probability[scores.row[row], scores.column[as_listed(entry)]]),
                        offers_over(entry, entries, snapshot.as_of_ms),
                    )
                    for entry in scores.running[row]
                ]
                if redeem is not None
                else []
            )
            decision = decide(snapshot, scored, self._policy, _draw(snapshot.question_id), self._aliases)
            prediction = NextBestAction(
                **common("next-best-action", snapshot, self._predictor.version, moment.now_ms),
                valid_until_ms=_until_ms(snapshot, entries.get(f"campaign:{decision.chosen.campaign_id}")),
                chosen=decision.chosen,
                propensity=decision.chosen.propensity,
                alternatives=decision.alternatives,
                reason_codes=decision_reasons(snapshot, decision, titles) if learned else [_NOT_LEARNED],
                suppressed_by=decision.suppressed[:_MOST_SUPPRESSED],
                experiment_arm="explore" if decision.explored else "greedy",
            )
            yield prediction_record("predictions.next-best-action", prediction)


def _until_ms(snapshot: Snapshot, campaign: CatalogEntry | None) -> int:
    """A decision holds for a day, and not past the end of the campaign it chose."""
    day_ms = snapshot.as_of_ms + _ACTION_VALID_MS
    return day_ms if campaign is None or campaign.active_to_ms is None else min(day_ms, campaign.active_to_ms)


def _draw(question_id: str) -> float:
    """A number in [0, 1) that belongs to the snapshot: a repeated decision is the same decision."""
    digest = blake2b(question_id.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 12) / 2**52
