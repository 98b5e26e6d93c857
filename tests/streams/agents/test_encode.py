"""encode: what the model does not know of a snapshot is counted where people look, what it cannot read is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from support import model_worlds as worlds

from models.encoder import EncoderSize, default_config
from models.inference import Predictor
from models.model import Model
from models.sequence import SequenceSize
from models.snapshot_columns import check
from models.tasks import TASKS
from schemas import codec
from schemas.records import OutputRecord
from schemas.snapshot import SNAPSHOT_VERSION, EdgeBlock, Recent, Snapshot, SnapshotKind
from streams.agents.encode import EncodeRole
from streams.core.batching import MicroBatcher
from streams.core.config import DAY_MS
from streams.core.decisions import DecisionPolicy
from streams.core.erased import Erasures
from streams.runtime.clocks import Clocks
from streams.runtime.runner import Batch
from streams.serving.predict import Predictions
from streams.serving.records import Predicted
from streams.telemetry.metrics import Metrics

SMALL = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, sequence=SequenceSize(recent=12, history=6, graph=8))


class Outbox:
    """Takes everything, and delivers it at once."""

    def __init__(self) -> None:
        self.records: list[OutputRecord] = []

    @property
    def topics(self) -> list[str]:
        return [record.topic for record in self.records]

    def send_all(self, records: Iterable[OutputRecord]) -> None:
        self.records += records

    def mark(self) -> int:
        return len(self.records)

    async def delivered(self, mark: int, timeout_s: float) -> None:
        assert mark <= len(self.records)


def _predictions(version: str = "test") -> Predictions:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Model(default_config(SMALL), worlds.vocabulary(), SMALL.sequence, TASKS)
    predictor = Predictor(model, version, device="cpu", half=False, compiled=False)
    return Predictions(predictor, SimpleNamespace(current=({}, 0)), DecisionPolicy(), lambda: worlds.START_MS)


class Encoding:
    """The role with an outbox and metrics of its own, given all snapshots at once and asked until nothing waits."""

    def __init__(self, entities: Any = None, models: Any = None) -> None:
        self.metrics, self.outbox = Metrics(), Outbox()
        self._batcher = MicroBatcher(2, 0, coalesce=False)
        told: Any = self.outbox
        self.role = EncodeRole(
            predict=models or _predictions(),
            models=models,
            check=check,
            batcher=self._batcher,
            outbox=told,
            metrics=self.metrics,
            clocks=Clocks(monotonic_ms=lambda: 0, wall_ms=lambda: worlds.START_MS),
            entities=entities,
        )

    def take(self, *values: bytes) -> None:
        records: list[Any] = [
            SimpleNamespace(offset=offset, key=b"1", value=value, headers=(), timestamp=worlds.START_MS)
            for offset, value in enumerate(values)
        ]

        async def encode() -> None:
            await self.role.process(Batch("session-snapshots", 0, records))
            while self._batcher.floor(0) is not None:
                await self.role.idle()
                await asyncio.sleep(0.001)
            await self.role.on_revoked({0})
            await self.role.stop()

        asyncio.run(encode())

    def dead_letters(self, reason: str) -> float:
        return self.metrics.value(Metrics.dead_letters_total, topic="session-snapshots", reason=reason)


def test_unknown_words_are_judged_and_counted() -> None:
    strange = [worlds.ITEMS, worlds.ITEMS + 1]
    snapshots = [worlds.snapshot(1), worlds.snapshot(2, items=strange), worlds.snapshot(3, items=[1, worlds.ITEMS])]
    predicted = _predictions()(snapshots)
    assert predicted.words == sum(map(worlds.shown, ([0, 4, 1], strange, [1, worlds.ITEMS])))
    assert predicted.unknown_words == 3 * 3, "as a word of an event, of a session and of an edge"
    churn = [record.key for record in predicted.records if record.topic == "predictions.churn"]
    assert sorted(churn, key=str) == [b"1", b"2", b"3"]


def test_the_role_tells_of_them() -> None:
    encoding = Encoding()
    items = [[worlds.ITEMS, 1], [2], [], [worlds.ITEMS + 7], [3, 3, 3]]
    encoding.take(*(codec.msgpack_encode(worlds.snapshot(at, items=bought)) for at, bought in enumerate(items)))
    _, encoded = encoding.metrics.observations(Metrics.encode_batch_snapshots)
    assert encoded == len(items) == encoding.outbox.topics.count("predictions.churn")
    assert encoding.metrics.value(Metrics.words_total) == sum(map(worlds.shown, items))
    assert encoding.metrics.value(Metrics.unknown_words_total) == 2 * 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": SNAPSHOT_VERSION - 1}, "invalid_field"),
        ({"version": SNAPSHOT_VERSION + 1}, "invalid_field"),
        ({"recent": Recent(lengths=b"\1")}, "invalid_field"),
        ({"history": b"\0"}, "invalid_field"),
        ({"edges": (EdgeBlock(0, {0: b"\0"}),)}, "invalid_field"),
        ({"edge_half_life_ms": 0}, "invalid_field"),
        ({"kind": "other"}, "malformed"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused_and_stops_nobody(changes: dict[str, Any], reason: str) -> None:
    encoding = Encoding()
    spoilt = codec.msgpack_encode(msgspec.structs.replace(worlds.snapshot(1), **changes))
    encoding.take(spoilt, codec.msgpack_encode(worlds.snapshot(2)))
    assert [record.key for record in encoding.outbox.records if record.topic == "predictions.churn"] == [b"2"]
    assert encoding.outbox.topics.count("dead-letter") == 1
    assert encoding.dead_letters(reason) == 1


def test_a_snapshot_of_the_format_before_is_refused() -> None:
    encoding = Encoding()
    before = [1, "c1", "event", 0, ["clickstream", 0, 0], {}, 0, 0, b"\0\0", b"", None, [], False, {}, "hint", None]
    encoding.take(msgspec.msgpack.encode(before), b"", codec.msgpack_encode(worlds.snapshot(2)))
    assert encoding.dead_letters("malformed") == 2
    assert encoding.outbox.topics.count("predictions.churn") == 1


def test_an_id_that_is_not_ours_is_no_reason_to_stop() -> None:
    encoding = Encoding()
    named = [msgspec.structs.replace(worlds.snapshot(1), question_id=name) for name in ("", "no hex")]
    encoding.take(*map(codec.msgpack_encode, named))
    assert encoding.outbox.topics.count("predictions.next-best-action") == 2


def test_every_kind_is_scored_and_says_how_late() -> None:
    encoding = Encoding()
    kinds: list[SnapshotKind] = ["event", "refresh", "sample", "horizon"]
    encoding.take(*(codec.msgpack_encode(worlds.snapshot(at, kind=kind)) for at, kind in enumerate(kinds)))
    assert encoding.outbox.topics.count("predictions.churn") == 4
    assert encoding.outbox.topics.count("predictions.next-best-action") == 2
    assert [encoding.metrics.observations(Metrics.freshness_seconds, kind=kind)[0] for kind in kinds] == [1, 1, 1, 1]


def test_what_waits_of_an_erased_customer_is_dropped_and_what_comes_late_brings_nothing_back() -> None:
    batcher = MicroBatcher(8, 0)
    kinds: tuple[SnapshotKind, ...] = ("event", "horizon", "send")
    for offset, kind in enumerate(kinds):
        batcher.add(worlds.snapshot(1, kind=kind), 0, offset, 0)
    batcher.add(worlds.snapshot(2, kind="horizon"), 0, 3, 0)
    batcher.erase(worlds.snapshot(1).customer_id, 0, 4, 0)
    left = batcher.take(0)
    assert [getattr(entry.snapshot, "customer_id", entry.snapshot) for entry in left] == [
        worlds.snapshot(1).customer_id,
        worlds.snapshot(2).customer_id,
    ]
    batcher.done(left)
    assert batcher.floor(0) is None

    before = worlds.snapshot(1)
    after = msgspec.structs.replace(before, as_of_ms=before.as_of_ms + 400 * DAY_MS)
    erasures = Erasures()
    erasures.add(before.customer_id, before.as_of_ms)
    assert erasures.bring_back(before)
    assert not erasures.bring_back(after)
    assert not erasures.bring_back(worlds.snapshot(2))


class Entities:
    """Has so many parts to send, and says for whom it was asked."""

    def __init__(self, parts: int, fails: bool = False) -> None:
        self.parts, self.fails = parts, fails
        self.held: list[set[int]] = []

    @property
    def due(self) -> bool:
        return self.parts > 0

    def hold(self, partitions: set[int]) -> None:
        self.held.append(partitions)

    def __call__(self) -> list[OutputRecord]:
        if self.fails:
            raise RuntimeError("no vectors")
        self.parts -= 1
        return [OutputRecord("embeddings.entity", b"item:%d" % self.parts, b"{}")]


def test_entities_are_sent_between_batches_while_partitions_are_held() -> None:
    entities = Entities(3)
    encoding = Encoding(entities)
    role = encoding.role

    async def live() -> None:
        for _ in range(5):
            await role.idle()
            await asyncio.sleep(0.01)
        assert encoding.outbox.topics == [], "nothing was assigned"
        await role.on_assigned({0, 2})
        await role.idle()
        await role.on_revoked({0, 2})
        assert encoding.outbox.topics == ["embeddings.entity"], "what was begun is sent before the partition goes"
        await role.idle()
        await asyncio.sleep(0.05)
        assert len(encoding.outbox.topics) == 1
        await role.on_assigned({2})
        while entities.due:
            await role.idle()
            await asyncio.sleep(0.001)
        await role.on_revoked({2})
        await role.stop()

    asyncio.run(live())
    assert entities.held == [{0, 2}, {2}]
    assert encoding.metrics.value(Metrics.predictions_total, topic="embeddings.entity") == 3
    assert [record.key for record in encoding.outbox.records] == [b"item:2", b"item:1", b"item:0"]


def test_a_tower_that_fails_ends_the_role() -> None:
    role = Encoding(Entities(1, fails=True)).role

    async def live() -> None:
        await role.on_assigned({0})
        try:
            for _ in range(200):
                await role.idle()
                await asyncio.sleep(0.005)
        finally:
            await role.stop()

    with pytest.raises(RuntimeError, match="no vectors"):
        asyncio.run(live())


class Models:
    """Another model is ready; says which batches were asked before it served."""

    def __init__(self, before: Predictions, after: Predictions) -> None:
        self.due, self._serves, self._after = True, before, after
        self.threads: set[int] = set()

    def __call__(self, snapshots: list[Snapshot], erased: list[str]) -> Predicted:
        self.threads.add(threading.get_ident())
        return self._serves(snapshots, erased)

    def swap(self) -> None:
        self.threads.add(threading.get_ident())
        self.due, self._serves = False, self._after


def test_a_model_takes_over_between_two_batches_though_nobody_waits() -> None:
    models: Any = Models(_predictions("one"), _predictions("other"))
    encoding = Encoding(models=models)

    async def wait() -> None:
        await encoding.role.idle()

    asyncio.run(wait())
    assert not models.due, "without partitions and without snapshots"
    encoding.take(*(codec.msgpack_encode(worlds.snapshot(at)) for at in range(7)))
    assert len(models.threads) == 1 and threading.get_ident() not in models.threads, "in the encoder's thread"
    churn = [record for record in encoding.outbox.records if record.topic == "predictions.churn"]
    assert len(churn) == 7
    assert {msgspec.json.decode(record.value or b"")["model_version"] for record in churn} == {"other"}
