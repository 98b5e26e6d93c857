"""encode: what the model could not read of a snapshot is counted where people look."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from support import model_worlds as worlds

from models.encoder import EncoderSize, default_config
from models.inference import Predictor, check
from models.model import Model
from schemas import codec
from schemas.records import OutputRecord
from schemas.snapshot import Snapshot
from streams.agents.encode import EncodeRole
from streams.core.batching import MicroBatcher
from streams.core.decisions import DecisionPolicy
from streams.runtime.clocks import Clocks
from streams.runtime.runner import Batch
from streams.serving.predict import Predictions
from streams.telemetry.metrics import Metrics

SMALL = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, positions=64)


class Outbox:
    """Takes everything, and delivers it at once."""

    def __init__(self) -> None:
        self.topics: list[str] = []

    def send_all(self, records: Iterable[OutputRecord]) -> None:
        self.topics += [record.topic for record in records]

    def mark(self) -> int:
        return len(self.topics)

    async def delivered(self, mark: int, timeout_s: float) -> None:
        assert mark <= len(self.topics)


def _predictions() -> Predictions:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Model(default_config(worlds.lexicon().size, SMALL), worlds.lexicon())
    predictor = Predictor(model, "test", device="cpu", half=False, compiled=False)
    return Predictions(predictor, SimpleNamespace(current=({}, 0)), DecisionPolicy(), lambda: worlds.START_MS)


def test_snapshots_of_another_vocabulary_are_judged_and_counted() -> None:
    snapshots = [worlds.snapshot(1), worlds.snapshot(2, hint="elsewhere"), worlds.snapshot(3, hint="elsewhere")]
    predicted = _predictions()(snapshots)
    assert predicted.foreign == 2
    churn = [record.key for record in predicted.records if record.topic == "predictions.churn"]
    assert sorted(churn, key=str) == [b"1", b"2", b"3"]


def test_the_role_tells_of_them() -> None:
    metrics, outbox = Metrics(), Outbox()
    told: Any = outbox
    role = EncodeRole(
        predict=_predictions(),
        check=check,
        batcher=MicroBatcher(2, 0),
        outbox=told,
        metrics=metrics,
        clocks=Clocks(monotonic_ms=lambda: 0, wall_ms=lambda: worlds.START_MS),
    )

    def record(offset: int, snapshot: Snapshot) -> Any:
        value = codec.msgpack_encode(snapshot)
        return SimpleNamespace(offset=offset, key=b"1", value=value, headers=(), timestamp=worlds.START_MS)

    hints = ["elsewhere", None, "elsewhere"]
    records = [record(at, worlds.snapshot(at, hint=hint)) for at, hint in enumerate(hints)]

    async def encode() -> None:
        await role.process(Batch("session-snapshots", 0, records))
        await role.on_revoked({0})
        await role.stop()

    asyncio.run(encode())
    _, encoded = metrics.observations(Metrics.encode_batch_snapshots)
    assert metrics.value(Metrics.vocabulary_mismatch_total) == sum(hint is not None for hint in hints[: int(encoded)])
    assert outbox.topics.count("predictions.churn") == encoded > 0
