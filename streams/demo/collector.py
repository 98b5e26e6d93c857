"""Reads what the pipeline publishes, as a campaign system would, and keeps what the demo shows."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

from schemas import codec
from schemas import topics as contract
from schemas.predictions import ChurnPrediction, NextBestAction, RedemptionPrediction
from schemas.snapshot import LIVE_KINDS, Head, Outcome
from streams.core.config import CoreConfig
from streams.core.judge import Judge, ScoredPrediction
from streams.core.quality import Quality, quality
from streams.core.scoring import auc
from streams.kafka.clients import Consumer
from streams.kafka.offsets import available

CHURN: Final = "predictions.churn"
REDEMPTION: Final = "predictions.redemption"
ACTIONS: Final = "predictions.next-best-action"
COUNTED: Final = tuple(
    topic for topic in contract.TOPICS if topic.startswith("predictions.") and topic not in (CHURN, REDEMPTION, ACTIONS)
)
"""Of which only the number is told."""
TOPICS: Final = (CHURN, REDEMPTION, *COUNTED, ACTIONS, "outcomes", "dead-letter")

_RISERS: Final = 200
_LATENCIES: Final = 20_000
_RECENT: Final = 2_000
_KEPT: Final = 200_000


class Riser(msgspec.Struct, frozen=True):
    """A customer whose churn risk went up between two predictions."""

    customer_id: str
    before: float
    now: float
    why: str
    as_of_ms: int


class Collector:
    """A thread that follows predictions and outcomes from the beginning.

    Attributes are read by the view while the thread writes them; each is replaced or appended to in one step.
    """

    def __init__(self, client: Mapping[str, Any], prefix: str, partitions: int) -> None:
        self.predictions: Counter[str] = Counter()
        self.repeated = 0
        self.dead_letters: Counter[str] = Counter()
        self.freshness_ms: deque[float] = deque(maxlen=_LATENCIES)
        self.recent_freshness_ms: deque[float] = deque(maxlen=_RECENT)
        self.risers: deque[Riser] = deque(maxlen=_RISERS)
        self.actions: deque[NextBestAction] = deque(maxlen=50)
        self.judge = Judge(CoreConfig(), window=None, kept=_KEPT)
        self.heard_s = time.monotonic()
        self.failure: Exception | None = None
        self._newest_ms = 0
        self._risk: dict[str, float] = {}
        self._seen: set[bytes] = set()
        self._prefix = prefix
        self._places = [
            TopicPartition(prefix + topic, partition, OFFSET_BEGINNING)
            for topic in TOPICS
            for partition in range(partitions)
        ]
        self._consumer = Consumer(
            {**client, "group.id": "pulsegraph-demo", "enable.auto.commit": False, "fetch.wait.max.ms": 20}
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="collector", daemon=True)
        self._churn = msgspec.json.Decoder(ChurnPrediction).decode
        self._redemption = msgspec.json.Decoder(RedemptionPrediction).decode
        self._action = msgspec.json.Decoder(NextBestAction).decode
        self._counted = {topic: msgspec.json.Decoder(contract.TOPICS[topic].record).decode for topic in COUNTED}
        self._outcome = codec.decoder(Outcome)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Read what is still there, then end."""
        self._stopping.set()
        self._thread.join(timeout=30.0)

    def qualities(self, until_ms: int) -> dict[str, dict[str, Quality]]:
        """Head -> kind -> how good its predictions were, over outcomes whose horizon ended by ``until_ms``."""
        self.judge.pass_time(until_ms)
        found: dict[str, dict[str, Quality]] = {}
        for (head, kind), score in self.judge.scores.items():
            found.setdefault(head, {})[kind] = quality(score.pairs)
        return found

    def score(self, until_ms: int) -> dict[str, tuple[float | None, int]]:
        """(AUC, predictions scored) per head, over the questions whose horizon ended by ``until_ms``."""
        self.judge.pass_time(until_ms)
        pairs: dict[str, list[tuple[float, int]]] = {}
        for (head, kind), score in self.judge.scores.items():
            if kind not in LIVE_KINDS:
                pairs.setdefault(head, []).extend(score.pairs)
        return {head: (auc(of_head), len(of_head)) for head, of_head in pairs.items()}

    def _follow(self) -> None:
        try:
            self._consumer.assign(self._places)
            while True:
                messages = available(self._consumer, 5_000, 0.1)
                for message in messages:
                    if message.error() is None:
                        self._take(message)
                if messages:
                    self.heard_s = time.monotonic()
                elif self._stopping.is_set():
                    return
        except (KafkaException, msgspec.DecodeError) as error:
            self.failure = error
        finally:
            self._consumer.close()

    def _take(self, message: Any) -> None:
        topic, value = message.topic().removeprefix(self._prefix), message.value()
        if topic == "dead-letter":
            headers = dict(message.headers() or ())
            self.dead_letters[headers.get("dl_reason", b"?").decode()] += 1
        elif topic == "outcomes":
            self.judge.answered(self._outcome(value))
        elif topic == CHURN:
            self._take_churn(self._churn(value), message)
        elif topic == REDEMPTION:
            redemption = self._redemption(value)
            if self._count(topic, redemption.prediction_id):
                self._judge("redemption", redemption)
        elif topic in COUNTED:
            self._count(topic, self._counted[topic](value).prediction_id)
        else:
            action = self._action(value)
            if self._count(topic, action.prediction_id):
                self.actions.append(action)

    def _take_churn(self, prediction: ChurnPrediction, message: Any) -> None:
        if not self._count(CHURN, prediction.prediction_id):
            return
        self._judge("churn", prediction)
        if prediction.snapshot_kind in LIVE_KINDS:
            # Until it was made, and from there until a consumer has it.
            arrival_ms = time.time() * 1000 - message.timestamp()[1]
            self.freshness_ms.append(prediction.latency_ms + max(0.0, arrival_ms))
            self.recent_freshness_ms.append(self.freshness_ms[-1])
        before = self._risk.get(prediction.customer_id)
        self._risk[prediction.customer_id] = prediction.probability
        if before is not None and prediction.probability > before + 0.02:
            pushing = [reason.text for reason in prediction.reason_codes if reason.weight > 0]
            why = "; ".join(pushing[:2]) or "many small things"
            self.risers.append(Riser(prediction.customer_id, before, prediction.probability, why, prediction.as_of_ms))

    def _judge(self, head: Head, prediction: ChurnPrediction | RedemptionPrediction) -> None:
        self.judge.predicted(head, msgspec.convert(prediction, ScoredPrediction, from_attributes=True))

    def _count(self, topic: str, prediction_id: str) -> bool:
        """Count a prediction once, however often it was emitted."""
        key = topic[12:14].encode() + bytes.fromhex(prediction_id)
        if key in self._seen:
            self.repeated += 1
            return False
        self._seen.add(key)
        self.predictions[topic] += 1
        return True


def percentile(values: Any, share: float) -> float | None:
    """The value below which ``share`` of the values lie; None for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
