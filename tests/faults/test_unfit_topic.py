"""Bad producers: one among good ones is told and stops nobody; a topic of bad ones alone waits, others go on."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.pipeline import Pipeline
from support.small_model import save_small_model

from streams.brokers.processes import free_port
from streams.inspect import dead_letters
from streams.sources.replay import OrderedProducer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
GOOD, BAD = 500, 1_500
MONTH_MS = 30 * 86_400_000


def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def scraped(port: int, metric: str) -> dict[str, float]:
    """Labels as text -> value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {labels: float(value) for labels, value in re.findall(rf"{metric}{{(.*?)}} (\S+)", text)}


def test_one_bad_producer_stops_nobody(broker: Any, make_topics: Callable[..., str], tmp_path: Path) -> None:
    """501 of 1,000 records a month ahead, of one producer; another one writes to the same topic."""
    prefix, port = make_topics(partitions=1), free_port()
    pipeline = Pipeline(
        broker.bootstrap,
        prefix,
        1,
        save_small_model(tmp_path / "model"),
        tmp_path,
        {"PULSEGRAPH_METRICS_PORT": str(port)},
    )
    producer, now_ms = OrderedProducer(broker.bootstrap), int(time.time() * 1000)

    def send(number: int, source: bytes, ahead_ms: int) -> None:
        body = {"event": "purchase", "event_ts_ms": now_ms + ahead_ms, "item_id": f"i{number}"}
        producer.send(prefix + "clickstream", b"c1", json.dumps(body).encode(), 0, headers=[("ce_source", source)])

    for number in range(1_000):
        send(number, b"app", MONTH_MS if number < 501 else 0)
        send(number, b"web", 0)
    producer.deliver()
    try:
        worker = pipeline.start_worker()
        pipeline.await_taken(2_000)
        pipeline.await_drained()
        found = scraped(port, "pulsegraph_refused_source_ratio")
        assert found == {'reason="out_of_time",source="app",topic="clickstream"': 0.501}
        assert scraped(port, "pulsegraph_topic_paused_flag") == {}
        assert scraped(port, "pulsegraph_events_total")['outcome="applied",role="ingest"'] == 1_499
        assert (
            "50% of the newest records of app in clickstream were refused, most as out_of_time"
            in pipeline.log().read_text()
        )
        assert worker.running
    finally:
        pipeline.stop()


def test_a_topic_of_bad_records_waits_and_the_others_go_on(
    broker: Any, make_topics: Callable[..., str], tmp_path: Path
) -> None:
    prefix, port = make_topics(partitions=1), free_port()
    model = save_small_model(tmp_path / "model")
    producer, now_ms = OrderedProducer(broker.bootstrap), int(time.time() * 1000)

    def produce(topic: str, bodies: list[dict[str, Any]]) -> None:
        for body in bodies:
            producer.send(prefix + topic, b"c1", json.dumps(body).encode(), 0)
        producer.deliver()

    good = [{"event": "purchase", "event_ts_ms": now_ms, "item_id": f"i{number}"} for number in range(GOOD)]
    bad = [{"event": "purchase", "timestamp": now_ms, "item_id": f"i{number}"} for number in range(BAD)]
    produce("clickstream", good)
    pipeline = Pipeline(broker.bootstrap, prefix, 1, model, tmp_path, {"PULSEGRAPH_METRICS_PORT": str(port)})
    try:
        worker = pipeline.start_worker()
        pipeline.await_taken(GOOD)
        produce("clickstream", bad)
        until(lambda: scraped(port, "pulsegraph_topic_paused_flag") == {'topic="clickstream"': 1.0})
        assert "clickstream is read no more: everything that writes there is refused" in pipeline.log().read_text()
        time.sleep(1)
        taken = pipeline.taken()
        produce("clickstream", good)
        produce(
            "redemptions", [{"event_ts_ms": now_ms, "offer_id": f"o{number}", "value": 1.0} for number in range(50)]
        )
        pipeline.await_taken(taken + 50)
        time.sleep(1)
        assert pipeline.taken() == taken + 50, "what is behind in the paused topic waits"
        assert worker.running
        worker.stop(timeout_s=30.0)
        assert worker.returncode == 0
    finally:
        pipeline.stop()
    going_on = Pipeline(broker.bootstrap, prefix, 1, model, tmp_path, {"PULSEGRAPH_INGEST_REFUSED_SHARE": "1"})
    try:
        worker = going_on.start_worker(roles="ingest")
        going_on.await_taken(GOOD + BAD + GOOD + 50)
        worker.stop(timeout_s=30.0)
        assert worker.returncode == 0
    finally:
        going_on.stop()
    found = [dead_letter.offset for dead_letter in dead_letters.read(going_on.client, prefix)]
    assert sorted(found) == list(range(GOOD, GOOD + BAD))
