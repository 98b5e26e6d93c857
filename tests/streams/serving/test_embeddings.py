"""Embeddings are published when they have moved, and an erasure is the last word."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support import model_worlds as worlds

from models.wide import Floats
from schemas.snapshot import SnapshotKind
from streams.serving.embeddings import CUSTOMER_EMBEDDINGS, EmbeddingFeed

WIDTH = 8


def vector(angle: float) -> Floats:
    """Of length √WIDTH, at an angle to that of 0."""
    out = np.zeros(WIDTH, dtype=np.float32)
    out[:2] = np.cos(angle), np.sin(angle)
    return out * np.float32(WIDTH**0.5)


def sent(feed: EmbeddingFeed, customer: int, angle: float, kind: SnapshotKind = "event") -> bool:
    records = feed([worlds.snapshot(customer, kind=kind)], vector(angle)[None], "model-1")
    assert all((record.topic, record.key) == (CUSTOMER_EMBEDDINGS, str(customer).encode()) for record in records)
    return bool(records)


def test_what_is_sent_can_be_read() -> None:
    snapshot = worlds.snapshot(7)
    (record,) = EmbeddingFeed(0.02)([snapshot], vector(0.5)[None], "model-1")
    assert record.value is not None
    told = json.loads(record.value)
    assert np.allclose(told.pop("embedding"), vector(0.5), atol=1e-4)
    assert told == {
        "customer_id": "7",
        "as_of_ms": snapshot.as_of_ms,
        "model_version": "model-1",
        "question_id": snapshot.question_id,
    }


@given(st.lists(st.floats(0.0, 3.1), min_size=1, max_size=30))
def test_readers_are_never_further_off_than_the_margin(angles: list[float]) -> None:
    feed, known = EmbeddingFeed(0.02), None
    for angle in angles:
        if sent(feed, 1, angle):
            known = angle
        assert known is not None
        assert 1 - np.cos(angle - known) <= 0.02 + 1e-5


def test_small_moves_add_up() -> None:
    feed = EmbeddingFeed(0.02)
    assert [sent(feed, 1, angle) for angle in (0.0, 0.1, 0.19, 0.21, 0.3)] == [True, False, False, True, False]


def test_only_what_holds_now_is_published() -> None:
    feed = EmbeddingFeed(0.02)
    assert not any(sent(feed, 1, 0.0, kind) for kind in ("horizon", "sample"))
    assert sent(feed, 1, 0.0, "refresh")


def test_who_was_erased_is_sent_again() -> None:
    feed = EmbeddingFeed(0.02)
    sent(feed, 1, 0.0)
    gone = feed.forget("1")
    assert (gone.topic, gone.key, gone.value) == (CUSTOMER_EMBEDDINGS, b"1", None)
    assert sent(feed, 1, 0.0)


def test_the_memory_is_bounded_and_a_miss_sends() -> None:
    feed = EmbeddingFeed(0.02, budget_bytes=3 * 300)
    assert [sent(feed, customer, 0.0) for customer in (1, 2, 3, 4, 4, 1)] == [True, True, True, True, False, True]
