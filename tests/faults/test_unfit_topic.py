"""A topic that is mostly bad stops the worker, loudly, with nothing of it committed and nothing lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.pipeline import Pipeline
from support.small_model import save_small_model

from streams.inspect import dead_letters
from streams.sources.replay import OrderedProducer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
GOOD, BAD = 500, 1_500


def test_a_worker_stops_and_can_be_told_to_go_on(broker: Any, make_topics: Callable[..., str], tmp_path: Path) -> None:
    prefix = make_topics(partitions=1)
    model = save_small_model(tmp_path / "model")
    now_ms = int(time.time() * 1000)
    producer = OrderedProducer(broker.bootstrap)

    def produce(bodies: list[dict[str, Any]]) -> None:
        for body in bodies:
            producer.send(prefix + "clickstream", b"c1", json.dumps(body).encode(), 0)
        producer.deliver()

    produce([{"event": "purchase", "event_ts_ms": now_ms, "item_id": f"i{number}"} for number in range(GOOD)])
    pipeline = Pipeline(broker.bootstrap, prefix, 1, model, tmp_path)
    try:
        worker = pipeline.start_worker(roles="ingest")
        pipeline.await_taken(GOOD)
        produce([{"event": "purchase", "timestamp": now_ms, "item_id": f"i{number}"} for number in range(BAD)])
        assert worker.wait(60.0) == 2
        log = pipeline.log().read_text()
        assert "of the last 1,000 records of clickstream were refused" in log
        assert "as invalid_field: the topic is wrong" in log
        assert "Traceback" not in log
        assert GOOD <= pipeline.taken() < GOOD + BAD
        assert len(list(dead_letters.read(pipeline.client, prefix))) > 500
    finally:
        pipeline.stop()
    going_on = Pipeline(broker.bootstrap, prefix, 1, model, tmp_path, {"PULSEGRAPH_INGEST_REFUSED_SHARE": "1"})
    try:
        worker = going_on.start_worker(roles="ingest")
        going_on.await_taken(GOOD + BAD)
        worker.stop(timeout_s=30.0)
        assert worker.returncode == 0
    finally:
        going_on.stop()
    found = [dead_letter.offset for dead_letter in dead_letters.read(going_on.client, prefix)]
    assert sorted(found) == list(range(GOOD, GOOD + BAD))
