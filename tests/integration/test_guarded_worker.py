"""A whole worker on a broker that demands a password: every client presents it, and nobody ever prints it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pipeline import Pipeline
from support.small_model import save_small_model

from streams import admin, settings
from streams.broker_apache import ApacheBroker
from streams.partitioning import partition_for
from streams.processes import free_port
from streams.replay import OrderedProducer

pytestmark = [pytest.mark.apache, pytest.mark.slow, pytest.mark.timeout(240)]

RIGHT, WRONG = "fish-7Qx-right", "fish-7Qx-wrong"
EVENTS = 300
_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


def environment(bootstrap: str, password: str) -> dict[str, str]:
    return {
        "PULSEGRAPH_KAFKA_BOOTSTRAP": bootstrap,
        "PULSEGRAPH_KAFKA_PARTITIONS": "1",
        "PULSEGRAPH_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "PULSEGRAPH_SECURITY_MECHANISM": "PLAIN",
        "PULSEGRAPH_SECURITY_USERNAME": "campaigns",
        "PULSEGRAPH_SECURITY_PASSWORD": password,
    }


@pytest.fixture(scope="module")
def guarded() -> Iterator[ApacheBroker]:
    properties = {
        "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": f'{_LOGIN} required user_campaigns="{RIGHT}";',
    }
    with ApacheBroker(protocol="SASL_PLAINTEXT", properties=properties) as kafka:
        yield kafka


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = save_small_model(tmp_path_factory.mktemp("model") / "model")
    return path


def pipeline_with(guarded: ApacheBroker, password: str, model: Path, folder: Path, **more: str) -> Pipeline:
    named = environment(guarded.bootstrap, password)
    pipeline = Pipeline(guarded.bootstrap, "", 1, model, folder, named | more)
    pipeline.client |= settings.kafka_client_config(settings.load(env=named))
    return pipeline


def pulsegraph(guarded: ApacheBroker, password: str, *arguments: str) -> Any:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PULSEGRAPH_")}
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *arguments],
        env=clean | environment(guarded.bootstrap, password),
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_worker_with_the_right_password_does_all_its_work(guarded: ApacheBroker, model: Path, tmp_path: Path) -> None:
    port = str(free_port())
    pipeline = pipeline_with(guarded, RIGHT, model, tmp_path, PULSEGRAPH_METRICS_PORT=port)
    admin.create_topics(admin.connect(pipeline.client), partitions=1)
    producer = OrderedProducer(guarded.bootstrap, config=pipeline.client)
    now_ms = int(time.time() * 1000)
    for number in range(EVENTS):
        body = {"event": "purchase", "event_ts_ms": now_ms + number, "item_id": str(number % 40)}
        key = b"c%d" % (number % 20)
        value = b"{" if number == 7 else json.dumps(body).encode()
        producer.send("clickstream", key, value, partition_for(key, 1))
    producer.deliver()
    try:
        pipeline.start_worker()
        pipeline.await_taken(EVENTS)
        pipeline.await_drained(90.0)
        assert len({found["customer_id"] for found in pipeline.predictions("predictions.churn").values()}) == 20
        # The lag thread has a client of its own.
        deadline = time.monotonic() + 30
        while 'pulsegraph_lag_records{partition="0",role="ingest",topic="clickstream"} 0.0' not in scraped(port):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        # Another disk: the restore reads the changelog.
        pipeline.stop()
        pipeline.start_worker("w1", roles="ingest")
        wanted = r'pulsegraph_restored_records_total\{role="ingest"\} (\d+)'
        while not (found := re.search(wanted, scraped(port))) or int(found[1]) < 20:
            assert time.monotonic() < deadline + 60
            time.sleep(0.5)
        listed = pulsegraph(guarded, RIGHT, "dead-letters", "list")
        assert "clickstream-0-7" in listed.stdout, listed.stderr
        replayed = pulsegraph(guarded, RIGHT, "dead-letters", "replay", "clickstream-0-7")
        assert "1  sent to clickstream" in replayed.stdout, replayed.stderr
        pipeline.await_taken(EVENTS + 1)
    finally:
        pipeline.stop()
    assert RIGHT not in "".join(path.read_text() for path in tmp_path.glob("*.log"))


def scraped(port: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def test_a_worker_with_a_wrong_password_stops_and_does_not_say_it(
    guarded: ApacheBroker, model: Path, tmp_path: Path
) -> None:
    pipeline = pipeline_with(guarded, WRONG, model, tmp_path)
    worker = pipeline.start_worker()
    try:
        assert worker.wait(60.0) != 0
    finally:
        pipeline.stop()
    log = pipeline.log().read_text()
    assert WRONG not in log
    assert "does not answer" in log
    assert "Traceback" not in log


def test_settings_are_shown_without_it(guarded: ApacheBroker) -> None:
    for arguments in (["settings"], ["settings", "--changed"], ["settings", "--toml"]):
        done = pulsegraph(guarded, RIGHT, *arguments)
        assert done.returncode == 0
        assert RIGHT not in done.stdout + done.stderr
    assert "PULSEGRAPH_SECURITY_PASSWORD=***" in pulsegraph(guarded, RIGHT, "settings").stdout
