"""`pulsegraph skip-snapshots`: state is warmed up without a model, and encode goes on behind what that wrote."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from support.pipeline import Pipeline
from support.small_model import save_small_model

from streams import cli
from streams.brokers.embedded import EmbeddedBroker
from streams.kafka import admin
from streams.kafka.partitioning import partition_for
from streams.sources.replay import OrderedProducer

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(180)]

PARTITIONS = 2


def test_what_was_warmed_up_is_known_and_gets_no_prediction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_small_model(tmp_path / "model")
    with EmbeddedBroker() as kafka:
        admin.create_topics(admin.connect({"bootstrap.servers": kafka.bootstrap}), partitions=PARTITIONS)
        pipeline = Pipeline(kafka.bootstrap, "", PARTITIONS, model, tmp_path)
        producer = OrderedProducer(kafka.bootstrap)
        now_ms = int(time.time() * 1000) - 60_000

        def buy(customers: range, at_ms: int) -> None:
            for number in customers:
                key = b"c%02d" % number
                body = {"event": "purchase", "event_ts_ms": at_ms + number, "item_id": "i1"}
                producer.send("clickstream", key, json.dumps(body).encode(), partition_for(key, PARTITIONS))
            producer.deliver()

        skip = ["skip-snapshots", "--bootstrap", kafka.bootstrap]
        try:
            buy(range(40), now_ms)
            pipeline.start_worker(roles="ingest,entities")
            pipeline.await_taken(40)
            pipeline.stop()
            waiting = len(pipeline.read("session-snapshots"))
            assert waiting >= 40
            assert cli.main(skip) == 0
            assert f"behind {waiting} snapshots" in capsys.readouterr().out
            buy(range(10), now_ms + 1_000)
            pipeline.start_worker()
            pipeline.await_taken(50)
            pipeline.await_drained()
            assert cli.main(skip) == 2
            assert "group pulsegraph-encode has members" in capsys.readouterr().err
            found = pipeline.predictions("predictions.churn").values()
            assert {record["customer_id"] for record in found} == {f"c{number:02}" for number in range(10)}
            assert {record["last_activity_ms"] for record in found} == {now_ms + 1_000 + number for number in range(10)}
        finally:
            pipeline.stop()
