"""From a batch of snapshots to the records that campaign systems read. Runs in the encoder's thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, Protocol

from models.candidates import named
from models.inference import Encoded, Predictor
from models.reasons import churn_reasons, redemption_reasons
from schemas import cloudevents, ids
from schemas.catalog import CatalogEntry
from schemas.codec import json_encode
from schemas.predictions import ChurnPrediction, NextBestAction, Prediction, Reason, RedemptionPrediction
from schemas.records import OutputRecord
from schemas.snapshot import LIVE_KINDS, Candidate, Snapshot
from streams.core.config import DAY_MS
from streams.core.decisions import DecisionPolicy, Scored, active_campaigns, decide, offers_over
from streams.core.judge import last_activity_ms
from streams.core.reasons import decision_reasons
from streams.serving.embeddings import EmbeddingFeed
from streams.serving.records import Predicted

_CHURN_VALID_MS: Final = 7 * DAY_MS
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
    """Runs the model once per batch and the decision once per live snapshot.

    Live snapshots get a churn risk and a next best action, horizons a churn risk, sends the probability
    that the offer sent is used. Ids are derived from the snapshot, so repeating a batch repeats its records.
    What a model has not learned is not published: no probability, and no campaign chosen by one.

    Args:
        embeddings: says whose embedding is published; absent: nobody's.
    """

    def __init__(
        self,
        predictor: Predictor,
        catalog: Catalog,
        policy: DecisionPolicy,
        wall_ms: Callable[[], int],
        embeddings: EmbeddingFeed | None = None,
    ) -> None:
        self._predictor = predictor
        self._catalog = catalog
        self._policy = policy
        self._wall_ms = wall_ms
        self._embeddings = embeddings

    def __call__(self, snapshots: list[Snapshot], erased: Sequence[str] = ()) -> Predicted:
        """Records of a batch; first what takes the embeddings of ``erased`` customers away."""
        published = [self._embeddings.forget(customer_id) for customer_id in erased] if self._embeddings else []
        encoded = self._predictor.encode(snapshots)
        self._churn(snapshots, encoded, published)
        self._actions(snapshots, encoded, published)
        self._sends(snapshots, encoded, published)
        if self._embeddings is not None:
            published += self._embeddings(snapshots, encoded.embeddings, self._predictor.version)
        return Predicted(published, encoded.words, encoded.unknown_words)

    def _churn(self, snapshots: Sequence[Snapshot], encoded: Encoded, published: list[OutputRecord]) -> None:
        if "churn" not in self._predictor.heads:
            return
        now_ms, typical = self._wall_ms(), self._predictor.typical
        for row, snapshot in enumerate(snapshots):
            if snapshot.kind == "send":
                continue
            prediction = ChurnPrediction(
                **self._common(snapshot, "churn", now_ms),
                valid_until_ms=snapshot.as_of_ms + _CHURN_VALID_MS,
                probability=_rounded(encoded.churn[row]),
                horizon_days=self._predictor.horizon_days,
                last_activity_ms=last_activity_ms(snapshot),
                reason_codes=churn_reasons(snapshot, encoded.contributions[row], typical),
            )
            published.append(_record("predictions.churn", prediction))

    def _actions(self, snapshots: Sequence[Snapshot], encoded: Encoded, published: list[OutputRecord]) -> None:
        rows = [row for row, snapshot in enumerate(snapshots) if snapshot.kind in LIVE_KINDS]
        if not rows:
            return
        entries, version = self._catalog.current
        campaigns = [entry for entry in entries.values() if entry.kind == "campaign"]
        learned = "redemption" in self._predictor.heads
        running = {row: active_campaigns(campaigns, snapshots[row].as_of_ms) if learned else [] for row in rows}
        names = sorted({entry.id for active in running.values() for entry in active})
        column = {name: place for place, name in enumerate(names)}
        scores = None
        if names:
            known = self._predictor.campaigns(entries, names, version)
            scores = self._predictor.redemption(encoded, snapshots, known).probability
        titles = {entry.id: entry.title for entry in campaigns if entry.title}
        now_ms = self._wall_ms()
        for row in rows:
            snapshot = snapshots[row]
            scored = (
                [
                    Scored(
                        entry,
                        _rounded(scores[row, column[entry.id]]),
                        offers_over(entry, entries, snapshot.as_of_ms),
                    )
                    for entry in running[row]
                ]
                if scores is not None
                else []
            )
            common = self._common(snapshot, "next-best-action", now_ms)
            decision = decide(snapshot, scored, self._policy, _draw(snapshot.question_id))
            prediction = NextBestAction(
                **common,
                valid_until_ms=_until_ms(snapshot, entries.get(f"campaign:{decision.chosen.campaign_id}")),
                chosen=decision.chosen,
                propensity=decision.chosen.propensity,
                alternatives=decision.alternatives,
                reason_codes=decision_reasons(snapshot, decision, titles) if learned else [_NOT_LEARNED],
                suppressed_by=decision.suppressed[:_MOST_SUPPRESSED],
                experiment_arm="explore" if decision.explored else "greedy",
            )
            published.append(_record("predictions.next-best-action", prediction))

    def _sends(self, snapshots: Sequence[Snapshot], encoded: Encoded, published: list[OutputRecord]) -> None:
        if "redemption" not in self._predictor.heads:
            return
        entries, version = self._catalog.current
        # A campaign the catalog does not have is scored by what its send said of it, and two sends may say different
        # things: they do not share a round, or what is published of one would depend on who else is in the batch.
        rounds: list[dict[str, Candidate]] = []
        rows: list[list[int]] = []
        for row, snapshot in enumerate(snapshots):
            candidate = snapshot.candidate
            if candidate is None:
                continue
            known = f"campaign:{candidate.campaign_id}" in entries
            for sent, members in zip(rounds, rows, strict=True):
                if sent.setdefault(candidate.campaign_id, candidate) == candidate or known:
                    members.append(row)
                    break
            else:
                rounds.append({candidate.campaign_id: candidate})
                rows.append([row])
        for sent, members in zip(rounds, rows, strict=True):
            self._scored_sends(snapshots, encoded, entries, version, sent, members, published)

    def _scored_sends(
        self,
        snapshots: Sequence[Snapshot],
        encoded: Encoded,
        entries: Mapping[str, CatalogEntry],
        version: int,
        sent: Mapping[str, Candidate],
        rows: Sequence[int],
        published: list[OutputRecord],
    ) -> None:
        strange = {
            f"campaign:{name}": named(candidate, entries)
            for name, candidate in sent.items()
            if f"campaign:{name}" not in entries
        }
        names = sorted(sent)
        column = {name: place for place, name in enumerate(names)}
        entries = {**entries, **strange} if strange else entries
        campaigns = self._predictor.campaigns(entries, names, None if strange else version)
        scores = self._predictor.redemption(encoded, snapshots, campaigns)
        cross = campaigns.candidates.cross(snapshots)
        now_ms, typical = self._wall_ms(), self._predictor.typical
        for row in rows:
            snapshot, candidate = snapshots[row], snapshots[row].candidate
            assert candidate is not None
            place = column[candidate.campaign_id]
            ends_ms = entries[f"campaign:{candidate.campaign_id}"].active_to_ms
            prediction = RedemptionPrediction(
                **self._common(snapshot, "redemption", now_ms),
                valid_until_ms=ends_ms if ends_ms is not None else snapshot.as_of_ms + _ACTION_VALID_MS,
                campaign_id=candidate.campaign_id,
                offer_id=candidate.offer_id,
                channel=candidate.channel,
                probability=_rounded(scores.probability[row, place]),
                reason_codes=redemption_reasons(
                    snapshot, scores.customer[row], scores.cross[row, place], cross[row, place], typical
                ),
            )
            published.append(_record("predictions.redemption", prediction))

    def _common(self, snapshot: Snapshot, head: str, now_ms: int) -> dict[str, Any]:
        return {
            "prediction_id": ids.prediction_id(head, snapshot.question_id, self._predictor.version),
            "question_id": snapshot.question_id,
            "customer_id": snapshot.customer_id,
            "as_of_ms": snapshot.as_of_ms,
            "model_version": self._predictor.version,
            "source": snapshot.source,
            "event_ts_ms": snapshot.event_ts_ms,
            "latency_ms": max(0, now_ms - snapshot.ingest_ts_ms),
            "snapshot_kind": snapshot.kind,
        }


def _until_ms(snapshot: Snapshot, campaign: CatalogEntry | None) -> int:
    """A decision holds for a day, and not past the end of the campaign it chose."""
    day_ms = snapshot.as_of_ms + _ACTION_VALID_MS
    return day_ms if campaign is None or campaign.active_to_ms is None else min(day_ms, campaign.active_to_ms)


def _record(topic: str, prediction: Prediction) -> OutputRecord:
    headers = cloudevents.headers(prediction.prediction_id, topic, prediction.as_of_ms)
    return OutputRecord(topic, prediction.customer_id.encode(), json_encode(prediction), headers)


def _rounded(probability: float) -> float:
    return round(float(probability), 6)


def _draw(question_id: str) -> float:
    """A number in [0, 1) that belongs to the snapshot: a repeated decision is the same decision."""
    digest = blake2b(question_id.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 12) / 2**52
