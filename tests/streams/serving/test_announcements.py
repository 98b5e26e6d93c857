"""The topic of announcements: what it says at a start, and what comes from then on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from schemas.errors import TopicMismatch
from schemas.model_versions import KEY, MODELS
from streams.kafka.partitioning import partition_for
from streams.kafka.reader import TopicReader
from streams.serving.announcements import AnnouncementFollower, newest_announcement
from streams.sources.replay import OrderedProducer

PARTITIONS = 2


class Topic:
    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.client = {"bootstrap.servers": bootstrap}
        self.name = prefix + MODELS
        self._producer = OrderedProducer(bootstrap)

    def put(self, value: bytes | None, key: bytes = KEY) -> None:
        self._producer.send(self.name, key, value, partition_for(key, PARTITIONS))
        self._producer.deliver()

    def newest(self) -> bytes | None:
        with TopicReader(self.client) as reader:
            return newest_announcement(reader, self.name)[0]


@pytest.fixture
def topic(broker: Any, make_topics: Callable[..., str]) -> Topic:
    return Topic(broker.bootstrap, make_topics(partitions=PARTITIONS))


def test_the_newest_record_of_the_role_holds(topic: Topic) -> None:
    assert topic.newest() is None
    topic.put(b"1")
    topic.put(b"2")
    for number in range(20):
        topic.put(b"other", b"role-%d" % number)
    assert topic.newest() == b"2"
    topic.put(None)
    assert topic.newest() is None
    topic.put(b"")
    assert topic.newest() == b""


def test_what_comes_is_handed_on_once_in_order_and_late_ones_alone(topic: Topic) -> None:
    topic.put(b"before")
    taken: list[bytes] = []
    busy, free = threading.Event(), threading.Event()

    def take(value: bytes) -> None:
        taken.append(value)
        busy.set()
        assert free.wait(20)
        if value == b"fails":
            raise RuntimeError("a model that breaks whoever loads it")

    follower = AnnouncementFollower(topic.client, topic.name, take)
    assert follower.newest() == b"before"
    topic.put(b"between")
    follower.start()
    try:
        assert busy.wait(20)
        for value in (b"3", b"4", None, b"fails"):
            topic.put(value)
        topic.put(b"other", b"role")
        free.set()
        wait_for(lambda: len(taken) == 2)
        topic.put(b"last")
        wait_for(lambda: len(taken) == 3)
        time.sleep(0.5)
    finally:
        follower.stop()
    assert taken == [b"between", b"fails", b"last"]


def wait_for(done: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_topic_that_is_missing_is_said_at_the_start(broker: Any, topics_prefix: str) -> None:
    follower = AnnouncementFollower({"bootstrap.servers": broker.bootstrap}, topics_prefix + MODELS, lambda value: None)
    with pytest.raises(TopicMismatch, match="pulsegraph topics create"):
        follower.newest()
