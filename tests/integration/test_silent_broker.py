"""A broker that is away is told, whatever it said before; and the worker goes on by itself when it is back."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from support.pipeline import Pipeline
from support.small_model import save_small_model

from streams.brokers.embedded import EmbeddedBroker
from streams.brokers.processes import free_port
from streams.kafka import admin
from streams.sources.replay import OrderedProducer

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]


def asked(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def until(holds: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def lags(port: int) -> dict[str, float]:
    found = re.findall(
        r'pulsegraph_lag_records\{partition="0",role="(\w+)",topic="([\w-]+)"\} (\S+)', asked(port, "/metrics")[1]
    )
    return {f"{role} {topic}": float(value) for role, topic, value in found}


def test_a_silent_broker_is_told(tmp_path: Path) -> None:
    port = free_port()
    with EmbeddedBroker() as broker:
        admin.create_topics(admin.connect({"bootstrap.servers": broker.bootstrap}), partitions=1)
        given = {"PULSEGRAPH_METRICS_PORT": str(port), "PULSEGRAPH_BROKER_SILENCE_MS": "6000"}
        model = save_small_model(tmp_path / "model")
        pipeline = Pipeline(broker.bootstrap, "", 1, model, tmp_path, given)
        worker = pipeline.start_worker()
        try:
            until(lambda: asked(port, "/readyz")[0] == 200, 90)
            assert len(lags(port)) == 7 and not any(lags(port).values())
            until(lambda: "is ready" in pipeline.log().read_text(), 10)
            said = [line for line in pipeline.log().read_text().splitlines() if "is ready" in line]
            assert said == [
                "pulsegraph worker is ready: ingest 0, encode 0, entities 0, learn 0; "
                f"metrics on http://127.0.0.1:{port}/metrics"
            ]
            assert broker.pid is not None
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                until(lambda: asked(port, "/readyz")[0] == 503 and not lags(port), 40)
                assert "the broker has not answered for" in asked(port, "/readyz")[1]
                assert asked(port, "/healthz") == (200, "alive\n")
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            until(lambda: asked(port, "/readyz")[0] == 200 and len(lags(port)) == 7, 60)
            producer = OrderedProducer(broker.bootstrap)
            body = {"event": "purchase", "event_ts_ms": int(time.time() * 1000), "item_id": "i"}
            producer.send("clickstream", b"c1", json.dumps(body).encode(), 0)
            producer.deliver()
            pipeline.await_taken(1)
            assert worker.running
        finally:
            pipeline.stop()
