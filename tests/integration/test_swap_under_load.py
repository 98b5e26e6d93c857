"""Models swapped under load: every snapshot is answered once, by a model that served, as that model alone answers."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import model_worlds as worlds
from support.pipeline import Pipeline
from support.small_model import save_small_version

from models.inference import Predictor
from models.saved_model import ENCODER_FILE, card_digest
from schemas import codec
from schemas.model_versions import KEY, MODELS
from schemas.snapshot import Snapshot
from streams import cli
from streams.brokers.embedded import EmbeddedBroker
from streams.kafka import admin
from streams.kafka.partitioning import partition_for
from streams.kafka.reader import TopicReader
from streams.serving.announcements import newest_announcement
from streams.sources.replay import OrderedProducer

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(420)]

PARTITIONS = 2
PER_SECOND = 200
LONGEST_GAP_S = 5.0
"""On a busy machine; docs/benchmarks.md says what a quiet one does."""


class Load:
    """Snapshots of many customers at a steady rate, until it is stopped."""

    def __init__(self, bootstrap: str) -> None:
        self.sent: dict[str, Snapshot] = {}
        self._producer = OrderedProducer(bootstrap, config={"linger.ms": 1})
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._producer.deliver()

    def _send(self) -> None:
        begin_s, number = time.monotonic(), 0
        while not self._stopping.is_set():
            while number < (time.monotonic() - begin_s) * PER_SECOND:
                kind = ("event", "horizon", "sample")[number % 3]
                snapshot = worlds.snapshot(
                    number % 97, kind=kind, as_of_ms=worlds.START_MS + number, items=[number % 7, number % 11]
                )
                self.sent[snapshot.question_id] = snapshot
                key = snapshot.customer_id.encode()
                value = codec.msgpack_encode(snapshot)
                self._producer.send("session-snapshots", key, value, partition_for(key, PARTITIONS))
                number += 1
            time.sleep(0.005)


@pytest.fixture
def kafka() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        admin.create_topics(admin.connect({"bootstrap.servers": broker.bootstrap}), partitions=PARTITIONS)
        yield broker


def pipeline_of(kafka: EmbeddedBroker, model: Path, folder: Path) -> Pipeline:
    settings = {"PULSEGRAPH_ENCODE_COALESCE": "false"}
    return Pipeline(kafka.bootstrap, "", PARTITIONS, model, folder, settings)


def publish(kafka: EmbeddedBroker, model: Path, *more: str) -> int:
    return cli.main(["publish", "--bootstrap", kafka.bootstrap, "--model", str(model), *more])


def announce(kafka: EmbeddedBroker, folder: Path) -> None:
    """Without the command, which would refuse it."""
    digest = card_digest(folder) if folder.exists() else "0" * 64
    record: dict[str, Any] = {
        "at_ms": int(time.time() * 1000),
        "serve": {"model_version": f"pg-{folder.name}", "folder": folder.name, "card_sha256": digest},
    }
    with TopicReader({"bootstrap.servers": kafka.bootstrap}) as reader:
        value, _ = newest_announcement(reader, MODELS)
    assert value is not None
    last = json.loads(value)
    record["before"] = [last["serve"], *last.get("before", [])]
    producer = OrderedProducer(kafka.bootstrap)
    producer.send(MODELS, KEY, json.dumps(record).encode(), partition_for(KEY, PARTITIONS))
    producer.deliver()


def served(pipeline: Pipeline, version: str, since: int, timeout_s: float = 60.0) -> int:
    """Wait until a model answers; returns how many answers there are."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = pipeline.read("predictions.churn")
        if any(json.loads(message.value())["model_version"] == version for message in found[since:]):
            return len(found)
        assert time.monotonic() < deadline, pipeline.log().read_text()[-2_000:]
        time.sleep(0.3)


def logged(pipeline: Pipeline, words: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while words not in (log := pipeline.log().read_text()):
        assert time.monotonic() < deadline, log[-2_000:]
        time.sleep(0.1)


def test_models_are_swapped_under_load(kafka: EmbeddedBroker, tmp_path: Path) -> None:
    directory = tmp_path / "models"
    one = save_small_version(directory, 1)
    pipeline = pipeline_of(kafka, directory, tmp_path)
    alone = {}
    try:
        pipeline.start_worker(roles="encode")
        with Load(kafka.bootstrap) as load:
            alone[one] = Predictor.load(one, device="cpu", half=False)
            seen = served(pipeline, alone[one].version, 0)
            assert publish(kafka, directory) == 0, "what is served already, so that there is something to go back to"
            other = save_small_version(directory, 2)
            alone[other] = Predictor.load(other, device="cpu", half=False)
            assert publish(kafka, directory) == 0
            seen = served(pipeline, alone[other].version, seen)
            assert publish(kafka, directory, "--rollback") == 0
            seen = served(pipeline, alone[one].version, seen)
            cut = directory / "cut"
            shutil.copytree(other, cut)
            (cut / ENCODER_FILE).write_bytes((cut / ENCODER_FILE).read_bytes()[:-10])
            for folder, reason in ((cut, "damaged"), (directory / "gone", "missing")):
                announce(kafka, folder)
                logged(pipeline, f"is refused ({reason})")
            assert publish(kafka, directory, str(other)) == 0
            seen = served(pipeline, alone[other].version, seen)
            assert publish(kafka, directory, "--rollback") == 0, "past the two that cannot be served"
            served(pipeline, alone[one].version, seen)
        pipeline_lag(pipeline)
    finally:
        pipeline.stop()
    first, second = alone.values()
    assert check_answers(pipeline, load.sent, {model.version: model for model in (first, second)}) < LONGEST_GAP_S
    some = list(load.sent.values())[:50]
    apart = np.abs(first.churn(first.encode(some)).probability - second.churn(second.encode(some)).probability)
    assert np.median(apart) > 0.01, "the two models say two things"


def test_a_worker_that_joins_serves_what_was_announced(kafka: EmbeddedBroker, tmp_path: Path) -> None:
    directory = tmp_path / "models"
    one, _ = (save_small_version(directory, seed) for seed in (1, 2))
    pipeline = pipeline_of(kafka, directory, tmp_path)
    expected = Predictor.load(one, device="cpu", half=False)
    try:
        assert publish(kafka, directory, str(one)) == 0
        with Load(kafka.bootstrap) as load:
            pipeline.start_worker("w0", roles="encode")
            seen = served(pipeline, expected.version, 0)
            pipeline.start_worker("w1", roles="encode")
            joined(pipeline, "w1")
            served(pipeline, expected.version, seen)
        pipeline_lag(pipeline)
    finally:
        pipeline.stop()
    check_answers(pipeline, load.sent, {expected.version: expected})


def joined(pipeline: Pipeline, name: str, timeout_s: float = 150.0) -> None:
    deadline = time.monotonic() + timeout_s
    while "pulsegraph worker is ready" not in (log := pipeline.log(name).read_text()):
        assert time.monotonic() < deadline, log[-2_000:]
        time.sleep(0.1)


def pipeline_lag(pipeline: Pipeline, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while any(lag.lag for lag in pipeline._lags("encode")):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def check_answers(pipeline: Pipeline, sent: dict[str, Snapshot], models: dict[str, Predictor]) -> float:
    """Each is answered once, as its model alone says; returns the longest gap of a partition in seconds."""
    said: dict[str, list[dict[str, Any]]] = defaultdict(list)
    times: dict[int, list[int]] = defaultdict(list)
    for message in pipeline.read("predictions.churn"):
        record = json.loads(message.value())
        said[record["question_id"]].append(record)
        times[message.partition()].append(message.timestamp()[1])
    assert said.keys() == sent.keys()
    assert [question for question, records in said.items() if len(records) != 1] == []
    answered: dict[str, int] = {}
    for version, model in models.items():
        model.know({})
        mine = [question for question, (record,) in said.items() if record["model_version"] == version]
        answered[version] = len(mine)
        expected = model.churn(model.encode([sent[question] for question in mine])).probability
        found = np.array([said[question][0]["probability"] for question in mine])
        assert np.abs(found - expected).max() < 1e-3
    assert sum(answered.values()) == len(sent)
    gap_s = max(np.diff(sorted(moments)).max() for moments in times.values()) / 1000
    print(f"{len(sent):,} snapshots, {answered}; longest gap of a partition {gap_s:.3f} s")
    return float(gap_s)
