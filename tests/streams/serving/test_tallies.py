"""What learn counts, on a broker: encode follows it within seconds, and a restarted learn goes on with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from support import model_worlds as worlds

from schemas import codec
from schemas.codec import json_encode
from schemas.errors import DeliveryFailed, Retry, TopicMismatch
from schemas.recalibrations import OutcomeTallies, WeekTally
from schemas.snapshot import Outcome
from streams.agents import learn
from streams.agents.learn import LearnRole
from streams.core.config import DAY_MS, CoreConfig
from streams.core.recalibration import Recalibration
from streams.kafka.outbox import Outbox
from streams.runtime.app import build_app, serve
from streams.serving.tallies import TOPIC, RecalibrationFollower, newest_tallies, record_of
from streams.telemetry.metrics import Metrics

VERSION = "pg-1"
TOPICS = LearnRole.topics


def counted(partition: int, happened: int, version: str = VERSION, offset: int = 0) -> OutcomeTallies:
    """Four hundred weekly predictions of 0.5, and in how many of a hundred it happened."""
    tally = WeekTally(
        head="churn", model_version=version, snapshot_kind="horizon", week=2_600, bins={0: (400, 4 * happened)}
    )
    return OutcomeTallies(partition=partition, next_offsets=dict.fromkeys(TOPICS, offset), newest_ms=0, tallies=[tally])


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.fixture
def send(broker: Any) -> Callable[[str, bytes, bytes, int], None]:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})

    def produce(topic: str, key: bytes, value: bytes, partition: int) -> None:
        producer.produce(topic, value, key, partition)
        assert producer.flush(30) == 0

    return produce


def test_encode_follows_all_partitions_within_seconds(broker: Any, make_topics: Any, send: Any) -> None:
    prefix = make_topics(partitions=2)
    client = {"bootstrap.servers": broker.bootstrap}

    def publish(one: OutcomeTallies) -> None:
        record = record_of(one)
        send(prefix + TOPIC, record.key, record.value, record.partition)

    shown: list[tuple[str, str, str, Recalibration]] = []
    publish(counted(0, 90))
    publish(counted(1, 10, version="pg-other"))
    follower = RecalibrationFollower(client, prefix + TOPIC, lambda *found: shown.append(found))
    follower.start()
    try:
        assert set(follower.of(VERSION)) == {("churn", "horizon")}, "known from the start"
        assert set(follower.of("pg-other")) == {("churn", "horizon")} and not follower.of("pg-none")
        shift = follower.of(VERSION)["churn", "horizon"].shift
        assert shift > 0.5
        for nonsense in (b"{", b"\xff", json_encode(msgspec.structs.replace(counted(1, 0), version=9)), b""):
            send(prefix + TOPIC, b"1", nonsense, 1)
        publish(counted(1, 90))
        until(lambda: follower.of(VERSION)["churn", "horizon"].shift > shift + 0.1)
        publish(counted(0, 10))
        until(lambda: abs(follower.of(VERSION)["churn", "horizon"].shift) < 1e-6)
        assert (VERSION, "churn", "horizon", follower.of(VERSION)["churn", "horizon"]) in shown[-2:]
        follower.check()
        assert set(newest_tallies(client, prefix, {0, 1})) == {0, 1}
        assert newest_tallies(client, prefix, {1}) == {1: counted(1, 90)}
    finally:
        follower.stop()


def test_what_accounts_for_a_log_that_is_gone_counts_no_more(broker: Any, make_topics: Any, send: Any) -> None:
    prefix = make_topics(partitions=1)
    record = record_of(counted(0, 90, offset=1))
    send(prefix + TOPIC, record.key, record.value, 0)
    client = {"bootstrap.servers": broker.bootstrap}
    assert newest_tallies(client, prefix, {0}) == {}
    for topic in TOPICS:
        send(prefix + topic, b"k", b"{}", 0)
    assert newest_tallies(client, prefix, {0}) == {0: counted(0, 90, offset=1)}


def test_a_missing_topic_is_named(broker: Any) -> None:
    follower = RecalibrationFollower({"bootstrap.servers": broker.bootstrap}, "nowhere.recalibrations")
    with pytest.raises(TopicMismatch, match="there is no topic nowhere"):
        follower.start()
    follower.stop()
    follower.check()


def test_what_passes_ends_no_follower(broker: Any, make_topics: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = make_topics(partitions=1)
    follower = RecalibrationFollower({"bootstrap.servers": broker.bootstrap}, prefix + TOPIC)
    follower.start()
    faults, take = [Retry("a new leader"), Retry("not yet")], follower._take

    def take_in_the_end(message: Any) -> bool:
        if faults:
            raise faults.pop()
        return take(message)

    monkeypatch.setattr(follower, "_take", take_in_the_end)
    outbox = Outbox(broker.bootstrap, prefix=prefix)
    try:
        outbox.send_all([record_of(counted(0, 90))])
        until(lambda: ("churn", "horizon") in follower.of(VERSION))
        follower.check()
    finally:
        outbox.close()
        follower.stop()


def test_a_follower_that_broke_says_so(broker: Any, make_topics: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = make_topics(partitions=1)
    follower = RecalibrationFollower({"bootstrap.servers": broker.bootstrap}, prefix + TOPIC)
    follower.start()
    try:
        monkeypatch.setattr(follower, "_take", lambda message: 1 / 0)
        outbox = Outbox(broker.bootstrap, prefix=prefix)
        outbox.send_all([record_of(counted(0, 1))])
        until(lambda: not follower._thread.is_alive())
        outbox.close()
        with pytest.raises(DeliveryFailed, match="no longer followed: division by zero"):
            follower.check()
    finally:
        follower.stop()


def test_learn_counts_once_over_restarts_and_encode_is_told(
    broker: Any, make_topics: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learn, "_PUBLISH_EVERY_MS", 2_000)
    prefix, count = make_topics(partitions=2), 600
    client = {"bootstrap.servers": broker.bootstrap}
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})

    def happen(names: range) -> None:
        """In nine of ten it happens, where the model said one of two."""
        for at in names:
            for partition in (0, 1):
                name = f"{partition}-{at}"
                said = {
                    "question_id": name, "probability": 0.5, "as_of_ms": 0, "customer_id": name,
                    "snapshot_kind": "horizon", "model_version": VERSION,
                }  # fmt: skip
                seen = worlds.snapshot(as_of_ms=0, kind="horizon")
                outcome = Outcome(
                    question_id=name,
                    head="churn",
                    labels={"churn": int(at % 10 > 0)},
                    due_ms=28 * DAY_MS,
                    resolved_ms=28 * DAY_MS,
                    customer_id=seen.customer_id,
                    as_of_ms=0,
                    snapshot=msgspec.structs.replace(seen, question_id=name),
                )
                producer.produce(prefix + "predictions.churn", json_encode(said), b"k", partition)
                producer.produce(prefix + "outcomes", codec.msgpack_encode(outcome), b"k", partition)
        assert producer.flush(30) == 0

    def published() -> int:
        found = newest_tallies(client, prefix, {0, 1})
        return sum(n for one in found.values() for tally in one.tallies for n, _ in tally.bins.values())

    async def learn_until(condition: Callable[[], bool]) -> None:
        outbox, stop = Outbox(broker.bootstrap, prefix=prefix), asyncio.Event()
        role = LearnRole(
            config=CoreConfig(),
            metrics=Metrics(),
            monotonic_ms=lambda: int(time.monotonic() * 1000),
            outbox=outbox,
            counted=partial(newest_tallies, client, prefix),
        )
        app = build_app(role, bootstrap=broker.bootstrap, prefix=prefix, session_timeout_ms=6_000)
        running = asyncio.create_task(serve(app, stop=stop))
        deadline_s = time.monotonic() + 60
        while not await asyncio.to_thread(condition):
            assert time.monotonic() < deadline_s and not running.done()
            await asyncio.sleep(0.1)
        stop.set()
        assert await running == 0
        outbox.close()

    follower = RecalibrationFollower(client, prefix + TOPIC)
    follower.start()
    try:
        happen(range(count))
        asyncio.run(learn_until(lambda: published() == 2 * count))
        until(lambda: ("churn", "horizon") in follower.of(VERSION))
        happen(range(count, 2 * count))
        asyncio.run(learn_until(lambda: published() == 4 * count))
        until(lambda: follower.of(VERSION)["churn", "horizon"](0.5) > 0.8)
        found = newest_tallies(client, prefix, {0, 1})
        assert {one.next_offsets["outcomes"] for one in found.values()} == {2 * count}
        assert [tally.bins for one in found.values() for tally in one.tallies] == [{0: (2 * count, 1_080)}] * 2
    finally:
        follower.stop()
