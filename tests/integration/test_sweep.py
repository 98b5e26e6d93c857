"""`pulsegraph sweep` against a running worker: whom it names is predicted anew, with a new model too."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import pytest
from support.pipeline import Pipeline
from support.small_model import save_small_model

from models import saved_model, tokenizer
from models.tokenizer import Vocabulary
from schemas.snapshot import Snapshot
from streams import cli
from streams.brokers.embedded import EmbeddedBroker
from streams.kafka import admin
from streams.kafka.partitioning import partition_for
from streams.sources.replay import OrderedProducer

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(180)]

PARTITIONS = 2
_decode = msgspec.msgpack.Decoder(Snapshot).decode


def test_whom_a_sweep_names_is_predicted_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_small_model(tmp_path / "model")
    with EmbeddedBroker() as kafka:
        admin.create_topics(admin.connect({"bootstrap.servers": kafka.bootstrap}), partitions=PARTITIONS)
        pipeline = Pipeline(kafka.bootstrap, "", PARTITIONS, model, tmp_path)
        producer = OrderedProducer(kafka.bootstrap)
        now_ms = int(time.time() * 1000) - 60_000
        for number in range(40):
            key = b"c%02d" % number
            body = {"event": "purchase", "event_ts_ms": now_ms + number, "item_id": f"i{number % 2}"}
            producer.send("clickstream", key, json.dumps(body).encode(), partition_for(key, PARTITIONS))
        producer.deliver()
        try:
            pipeline.start_worker()
            pipeline.await_taken(40)
            pipeline.await_drained()
            before = pipeline.predictions("predictions.churn")
            order = ["sweep", "--bootstrap", kafka.bootstrap, "--entity", "item:i1", "--per-second", "100"]
            assert cli.main(order) == 0
            assert "was ordered of 2 partitions" in capsys.readouterr().out
            deadline = time.monotonic() + 60
            wanted = {f"c{number:02}" for number in range(1, 40, 2)}
            while refreshed(pipeline) != wanted:
                assert time.monotonic() < deadline, refreshed(pipeline)
                time.sleep(0.3)
            pipeline.await_drained()
            again = [record for name, record in pipeline.predictions("predictions.churn").items() if name not in before]
            assert {record["customer_id"] for record in again if record["snapshot_kind"] == "refresh"} == wanted
            pipeline.stop()
            # Another model with other words: state stays as it is, and the same sweep has it look at the same people.
            other = save_small_model(tmp_path / "other", Vocabulary(tokenizer.build({"item:i1": 2, "evt:purchase": 1})))
            pipeline = Pipeline(kafka.bootstrap, "", PARTITIONS, other, tmp_path)
            pipeline.start_worker()
            assert cli.main([*order, "--id", "a new model"]) == 0
            version = saved_model.read_card(other).model_version
            deadline = time.monotonic() + 60
            while refreshed_by(pipeline, version) != wanted:
                assert time.monotonic() < deadline, refreshed_by(pipeline, version)
                time.sleep(0.3)
            # Who is silent is embedded by the new model, too, and who is erased by none.
            while any(embedded_by(pipeline).get(name) != version for name in wanted):
                assert time.monotonic() < deadline, embedded_by(pipeline)
                time.sleep(0.3)
            producer.send("profiles", b"c01", None, partition_for(b"c01", PARTITIONS))
            producer.deliver()
            while embedded_by(pipeline)["c01"] is not None:
                assert time.monotonic() < deadline, embedded_by(pipeline)
                time.sleep(0.3)
            assert b"item:i1" in {json.loads(message.value())["word"].encode() for message in pipeline.read("words")}
        finally:
            pipeline.stop()
    assert cli.main([*order[:3], "--entity", "shelf:1"]) == 2
    assert "--entity 'shelf:1': write it kind:id" in capsys.readouterr().err


def refreshed_by(pipeline: Pipeline, version: str) -> set[str]:
    """Customers whom a model has predicted because of a sweep."""
    return {
        record["customer_id"]
        for record in pipeline.predictions("predictions.churn").values()
        if (record["model_version"], record.get("snapshot_kind")) == (version, "refresh")
    }


def embedded_by(pipeline: Pipeline) -> dict[str, str | None]:
    """Customer → whose embedding is the newest; None for a null."""
    return {
        message.key().decode(): message.value() and json.loads(message.value())["model_version"]
        for message in pipeline.read("embeddings.customer")
    }


def refreshed(pipeline: Pipeline) -> set[str]:
    """Customers of refresh snapshots; each has exactly one."""
    found = [_decode(message.value()) for message in pipeline.read("session-snapshots") if message.value()]
    customers = [snapshot.customer_id for snapshot in found if snapshot.kind == "refresh"]
    assert len(customers) == len(set(customers))
    return set(customers)
