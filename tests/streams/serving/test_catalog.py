"""The catalog topic followed: what comes last counts, and what is no entry is told once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from schemas.catalog import CatalogEntry
from schemas.deadletter import refuse
from schemas.errors import InvalidField, TopicMismatch
from schemas.records import LogRecord
from streams.inspect import dead_letters
from streams.kafka.outbox import Outbox
from streams.kafka.reader import TopicReader
from streams.serving.catalog import CatalogFollower
from streams.sources.replay import OrderedProducer

Told = list[tuple[int, int, bytes | None]]


class Catalog:
    """The topic, and followers of it."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.client = {"bootstrap.servers": bootstrap}
        self.topic = prefix + "catalog"
        self._producer = OrderedProducer(bootstrap)

    def put(self, key: bytes | None, value: bytes | None, partition: int = 0) -> None:
        self._producer.send(self.topic, key, value, partition)
        self._producer.deliver()

    def read(self, delivered: Callable[[], None] | None) -> tuple[dict[str, CatalogEntry], Told]:
        """Everything that is there now, and what one start tells of."""
        told: Told = []

        def refused(partition: int, offset: int, key: bytes | None, value: bytes | None, error: Exception) -> None:
            told.append((partition, offset, value))

        follower = CatalogFollower(self.client, self.topic, refused, delivered)
        follower.start()
        follower.stop()
        assert follower.failure is None
        return follower.current[0], told


@pytest.fixture
def catalog(broker: Any, make_topics: Callable[..., str]) -> Catalog:
    return Catalog(broker.bootstrap, make_topics(partitions=2))


def entry(name: str, title: str) -> bytes:
    return msgspec.json.encode(CatalogEntry(kind="item", id=name, title=title))


def safe() -> None:
    """As if every dead letter were acknowledged."""


def test_what_comes_last_counts(catalog: Catalog) -> None:
    catalog.put(b"item:1", entry("1", "tea"))
    catalog.put(b"item:2", entry("2", "jam"))
    catalog.put(b"item:1", entry("1", "green tea"))
    catalog.put(b"item:2", None)
    entries, told = catalog.read(safe)
    assert {name: found.title for name, found in entries.items()} == {"item:1": "green tea"}
    assert told == []


def test_a_refusal_is_reported_once_however_often_workers_start(catalog: Catalog) -> None:
    catalog.put(b"item:1", b"{")
    catalog.put(b"\xff", entry("2", "jam"), partition=1)
    catalog.put(b"item:3", entry("4", "another"), partition=1)
    _, told = catalog.read(safe)
    assert sorted(told) == [(0, 0, b"{"), (1, 0, entry("2", "jam")), (1, 1, entry("4", "another"))]
    assert catalog.read(safe)[1] == []
    catalog.put(b"item:1", b"[")
    catalog.put(b"item:5", entry("5", "rye"))
    entries, told = catalog.read(safe)
    assert told == [(0, 1, b"[")]
    assert entries.keys() == {"item:5"}
    assert catalog.read(safe)[1] == []


def test_what_was_not_delivered_is_reported_again(catalog: Catalog) -> None:
    catalog.put(b"item:1", b"{")

    def fails() -> None:
        raise OSError("the broker went away")

    follower = CatalogFollower(catalog.client, catalog.topic, lambda *record: None, fails)
    with pytest.raises(Exception, match="went away"):
        follower.start()
    follower.stop()
    assert catalog.read(safe)[1] == [(0, 0, b"{")]


def test_dead_letters_are_acknowledged_before_they_count_as_sent(catalog: Catalog) -> None:
    """As a worker does it: an outbox of the follower's thread, and a loop for each wait."""
    catalog.put(b"item:1", b"{")
    prefix = catalog.topic.removesuffix("catalog")
    outbox = Outbox(catalog.client["bootstrap.servers"], prefix=prefix)

    def refused(partition: int, offset: int, key: bytes | None, value: bytes | None, error: Exception) -> None:
        record = LogRecord(offset, key, value, (), 0)
        outbox.send_all([refuse(InvalidField(str(error)), "catalog", partition, record)])

    for _ in range(2):
        follower = CatalogFollower(
            catalog.client, catalog.topic, refused, lambda: asyncio.run(outbox.delivered(outbox.mark(), 20.0))
        )
        follower.start()
        assert outbox.unacknowledged == 0
        follower.stop()
    outbox.close()
    assert [dead_letter.dl_id for dead_letter in dead_letters.read(catalog.client, prefix)] == ["catalog-0-0"]
    with TopicReader(catalog.client) as reader:
        ends = reader.ends((prefix + "dead-letter", partition) for partition in range(2))
    assert sum(ends.values()) == 1


def test_a_follower_sees_what_comes_later(catalog: Catalog) -> None:
    told: Told = []
    follower = CatalogFollower(
        catalog.client, catalog.topic, lambda at, offset, key, value, error: told.append((at, offset, value)), safe
    )
    follower.start()
    try:
        assert follower.current == ({}, 0)
        catalog.put(b"item:1", b"{")
        catalog.put(b"item:2", entry("2", "jam"))
        deadline = time.monotonic() + 20
        while "item:2" not in follower.current[0]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert told == [(0, 0, b"{")]
    finally:
        follower.stop()
    assert catalog.read(safe)[1] == []


def test_a_missing_topic_names_the_command(broker: Any, topics_prefix: str) -> None:
    follower = CatalogFollower({"bootstrap.servers": broker.bootstrap}, topics_prefix + "catalog", lambda *record: None)
    with pytest.raises(TopicMismatch, match="pulsegraph topics create"):
        follower.start()
    follower.stop()


def test_changes_are_shown_together(catalog: Catalog) -> None:
    catalog.put(b"item:0", entry("0", "tea"))
    follower = CatalogFollower(catalog.client, catalog.topic, lambda *refused: None)
    follower.start()
    _, before = follower.current
    try:
        for number in range(1, 30):
            catalog.put(b"item:%d" % number, entry(str(number), "tea"))
            time.sleep(0.05)
        deadline = time.monotonic() + 30
        while len(follower.current[0]) < 30:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert follower.current[1] - before <= 5, "what rests on the catalog would be made anew 29 times"
    finally:
        follower.stop()


def test_who_follows_is_told_of_nulls_too_and_of_when(catalog: Catalog) -> None:
    catalog.put(b"item:1", entry("1", "tea"))
    catalog.put(b"item:2", None)
    catalog.put(b"item:3", b"{")
    told: list[tuple[dict[str, int], bool]] = []

    def shown(changed: Mapping[str, int]) -> None:
        told.append((dict(changed), "item:1" in follower.current[0]))

    follower = CatalogFollower(catalog.client, catalog.topic, lambda *refused: None, shown=shown)
    follower.start()
    follower.stop()
    ((changed, seen),) = told
    assert changed.keys() == {"item:1", "item:2"}
    assert all(abs(at_ms - 1000 * time.time()) < 600_000 for at_ms in changed.values())
    assert seen, "what was told can be read"
