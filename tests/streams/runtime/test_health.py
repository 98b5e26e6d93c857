"""Alive, ready and measured are three questions, each with a path of its own."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import TopicMismatch
from streams.kafka.offsets import Lag
from streams.runtime.health import STUCK_S, Health, _spans
from streams.telemetry.metrics import Metrics
from streams.telemetry.server import PATHS, Probes, serve


@dataclass
class Runner:
    name: str
    owned: frozenset[int] | None = None
    failures: list[BaseException] = field(default_factory=list)

    def fail(self, exc: BaseException) -> None:
        self.failures.append(exc)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def asked(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_each_path_says_its_own() -> None:
    clock, runner = Clock(), Runner("ingest")
    health = Health([runner], silence_s=30.0, clock=clock)
    server = serve(Metrics(), 0, probes=Probes(lambda: health.is_alive, health.unready))
    assert server is not None
    try:
        assert asked(server.port, "/healthz") == (200, "alive\n")
        assert asked(server.port, "/readyz") == (
            503,
            "ingest has no partitions yet, or restores them\nthe broker has not answered yet\n",
        )
        runner.owned = frozenset({0, 1})
        health.heard()
        assert asked(server.port, "/readyz") == (200, "ready\n")
        assert asked(server.port, "/readyz?verbose=1")[0] == 200
        clock.now_s += 31
        assert asked(server.port, "/readyz") == (503, "the broker has not answered for 31 s\n")
        assert asked(server.port, "/healthz")[0] == 200, "a restart brings no broker back"
        clock.now_s += STUCK_S
        assert asked(server.port, "/healthz") == (503, "the event loop hangs\n")
        assert "pulsegraph_records_total" in asked(server.port, "/metrics")[1]
        for path in ("/", "/metric", "/metrics/", "/healthz/x", "/favicon.ico"):
            assert asked(server.port, path)[0] == 404, path
        assert asked(server.port, "/")[1] == f"there is {', '.join(PATHS)}\n"
    finally:
        server.stop()


@given(
    owned=st.lists(st.none() | st.frozensets(st.integers(0, 5)), min_size=1, max_size=4),
    heard_ago_s=st.none() | st.floats(0, 100),
)
def test_ready_is_what_nothing_is_missing_for(owned: list[frozenset[int] | None], heard_ago_s: float | None) -> None:
    clock = Clock()
    health = Health([Runner(f"r{place}", of) for place, of in enumerate(owned)], silence_s=30.0, clock=clock)
    if heard_ago_s is not None:
        health.heard()
        clock.now_s += heard_ago_s
    is_ready = None not in owned and heard_ago_s is not None and heard_ago_s <= 30
    assert (not health.unready()) is is_ready
    assert health.broker_is_silent is (heard_ago_s is None or heard_ago_s > 30)


def test_what_ends_every_role_is_told_on_their_loop() -> None:
    runners = [Runner("ingest"), Runner("encode")]
    health = Health(runners, silence_s=1.0)

    async def main() -> None:
        health.beat()
        await asyncio.to_thread(health.fail, TopicMismatch("more partitions"))
        await asyncio.sleep(0)

    asyncio.run(main())
    assert [len(runner.failures) for runner in runners] == [1, 1]


@given(st.sets(st.integers(0, 40)))
def test_spans_hold_every_number_once(numbers: set[int]) -> None:
    found: list[int] = []
    for span in _spans(numbers).split():
        first, _, last = span.partition("-")
        found += range(int(first), int(last or first) + 1)
    assert found == sorted(numbers)


def test_the_summary_names_roles_and_partitions() -> None:
    roles = [Runner("ingest", frozenset({0, 1, 2})), Runner("encode", frozenset({3})), Runner("learn", frozenset())]
    assert Health(roles, silence_s=1.0).summary() == "ingest 0-2, encode 3, learn in reserve"


def test_lag_that_is_not_known_is_not_told() -> None:
    metrics = Metrics()
    metrics.lag("ingest", [Lag(topic="p.clickstream", partition=0, committed=3, end=3, lag=0)], "p.")
    labels = {"role": "ingest", "topic": "clickstream", "partition": "0"}
    assert metrics.registry.get_sample_value("pulsegraph_lag_records", labels) == 0.0
    metrics.lag_unknown("ingest", ["clickstream", "profiles"], 4)
    assert metrics.registry.get_sample_value("pulsegraph_lag_records", labels) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_it_is_served_on_either_family(host: str) -> None:
    server = serve(Metrics(), 0, host)
    assert server is not None
    server.stop()
