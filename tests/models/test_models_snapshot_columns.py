"""Snapshots as arrays: the same as one entry after the other, and nothing that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import model_worlds as worlds
from support.snapshots import edge_block, hashes, plain_snapshot, recent

from models.snapshot_columns import EDGE_DTYPE, SESSION_DTYPE, Edges, check, features_of
from schemas import features
from schemas.errors import InvalidField
from schemas.graph import EDGE_INDEX, EDGE_TYPES
from schemas.snapshot import EDGE, SESSION, EdgeBlock, Recent, Session, Snapshot, sessions
from schemas.words import hash_of

HALF_LIFE_MS = 28 * worlds.DAY_MS
NOW_MS = worlds.START_MS
BOUGHT, SEEN = "purchase>item", "view>item"


def word(name: str) -> int:
    return int.from_bytes(hash_of(name), "little")


def with_edges(*blocks: EdgeBlock, **said: Any) -> Snapshot:
    fields = {"as_of_ms": NOW_MS, "edge_half_life_ms": HALF_LIFE_MS}
    made: Snapshot = plain_snapshot(edges=blocks, **fields | said)
    return made


def weights(columns: Edges, row: int = 0) -> dict[int, float]:
    mine = columns.customer == row
    return dict(zip(columns.words[mine].tolist(), columns.weight[mine].tolist(), strict=True))


def test_entries_have_the_sizes_that_are_written() -> None:
    assert EDGE_DTYPE.itemsize == EDGE.size == 8
    assert SESSION_DTYPE.itemsize == SESSION.size == 40


def test_an_edge_is_read_as_it_is_written() -> None:
    (found,) = np.frombuffer(EDGE.pack(hash_of("item:1"), 1.5, 200, 74), dtype=EDGE_DTYPE)
    assert (found["word"], found["weight"], found["count"], found["age"]) == (word("item:1"), 1.5, 200, 74)


def test_a_session_is_read_as_it_is_written() -> None:
    written = Session(
        start_s=4_000_000_000, minutes=65_535, events=300, value=-1.5, channel=5, local_hour=167, sessions=2,
        messages=255, redemptions=9, category=10, second_category=11, third_category=12, item=13, second_item=2**32 - 1,
    )  # fmt: skip
    column = SESSION.pack(*written)
    (found,) = np.frombuffer(column, dtype=SESSION_DTYPE)
    alone = [name for name in SESSION_DTYPE.names or () if name not in ("categories", "items")]
    assert {name: found[name] for name in alone} == {name: getattr(written, name) for name in alone}
    assert found["categories"].tolist() == [10, 11, 12]
    assert found["items"].tolist() == [13, 2**32 - 1]
    assert list(sessions(column * 2)) == [written, written]
    with pytest.raises(ValueError, match="40-byte"):
        list(sessions(column[:-1]))


def test_a_snapshot_of_nothing_can_be_read() -> None:
    check(plain_snapshot(features=bytes(4 * features.SIZE)))
    check(worlds.snapshot())


def put(**changes: Any) -> Callable[[Snapshot], Snapshot]:
    return lambda seen: msgspec.structs.replace(seen, **changes)


def recent_but(**changes: bytes) -> Callable[[Snapshot], Snapshot]:
    return lambda seen: msgspec.structs.replace(seen, recent=msgspec.structs.replace(seen.recent, **changes))


SPOILT: dict[str, tuple[Callable[[Snapshot], Snapshot], str]] = {
    "no features": (put(features=b""), "features holds 0 bytes"),
    "a feature too many": (put(features=bytes(4 * features.SIZE + 4)), "features"),
    "half a feature": (put(features=bytes(4 * features.SIZE - 2)), "features"),
    "words without events": (put(recent=Recent(words=hashes("dark"))), r"recent\.words holds 4 bytes, not 0"),
    "events without words": (recent_but(words=b""), r"recent\.words"),
    "half a word": (recent_but(words=worlds.snapshot().recent.words[:-2]), r"recent\.words"),
    "times of other events": (recent_but(at_s=bytes(8)), r"recent\.at_s holds 8 bytes, not 12"),
    "no times": (recent_but(at_s=b""), r"recent\.at_s"),
    "half a session": (put(history=bytes(SESSION.size + 1)), "history"),
    "half an edge": (put(edges=(EdgeBlock(0, {}), EdgeBlock(0, {3: bytes(9)}))), "edges of type 3"),
    "a half-life of nothing": (put(edge_half_life_ms=0), "edge_half_life_ms is 0"),
    "a half-life before it began": (put(edge_half_life_ms=-1), "edge_half_life_ms is -1"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_cannot_be_read_is_named(name: str) -> None:
    spoil, message = SPOILT[name]
    with pytest.raises(InvalidField, match=message):
        check(spoil(worlds.snapshot()))


column = st.binary(max_size=24)
any_recent = st.builds(Recent, at_s=column, lengths=st.binary(max_size=4), words=column) | st.lists(
    st.tuples(st.integers(0, 2**32 - 1).map(lambda at_s: 1000 * at_s), st.sampled_from([b"", b"abcd", b"abcdefgh"])),
    max_size=4,
).map(recent)


@given(any_recent)
def test_events_that_pass_are_told_one_by_one(said: Recent) -> None:
    seen = plain_snapshot(features=bytes(4 * features.SIZE), recent=said)
    try:
        check(seen)
    except InvalidField:
        return
    events = list(said)
    assert b"".join(words for _, words in events) == said.words
    assert recent(events) == said


def test_features_are_rows() -> None:
    rows = [worlds.vector(events_total=n) for n in range(3)]
    found = features_of([plain_snapshot(features=row) for row in rows])
    assert found.shape == (3, features.SIZE)
    assert found[:, features.INDEX["events_total"]].tolist() == [0, 1, 2]
    assert features_of([]).shape == (0, features.SIZE)


def test_edges_of_a_type_are_those_of_the_snapshots() -> None:
    one = with_edges(edge_block(NOW_MS, {BOUGHT: {"1": 1.0, "2": 0.5}, SEEN: {"3": 4.0}}))
    other = with_edges(edge_block(NOW_MS, {BOUGHT: {"2": 3.0}}))
    found = Edges([one, with_edges(), other]).of(BOUGHT)
    assert weights(found, 0) == {word("item:1"): 1.0, word("item:2"): 0.5}
    assert weights(found, 1) == {}
    assert weights(found, 2) == {word("item:2"): 3.0}
    assert found.totals().tolist() == [[1.5], [0.0], [3.0]]
    assert found.totals().dtype == np.float32


def test_a_newer_block_overrides_an_older_one() -> None:
    older = edge_block(NOW_MS, {BOUGHT: {"1": 5.0, "2": 7.0}, SEEN: {"1": 9.0}})
    newer = edge_block(NOW_MS, {BOUGHT: {"1": 1.0, "3": 2.0}})
    expected = {word("item:1"): 1.0, word("item:2"): 7.0, word("item:3"): 2.0}
    seen = with_edges(older, newer)
    assert weights(Edges([seen]).of(BOUGHT)) == expected
    assert weights(Edges([seen]).of(SEEN)) == {word("item:1"): 9.0}, "another type is another edge"
    assert seen.count_edges(BOUGHT) == 3
    both = Edges([with_edges(newer, older), seen]).of(BOUGHT)
    assert weights(both, 0)[word("item:1")] == 5.0, "the last one counts"
    assert weights(both, 1) == expected, "whatever another customer has"


def test_weights_are_those_of_the_snapshots_time() -> None:
    older = edge_block(NOW_MS - 2 * HALF_LIFE_MS, {BOUGHT: {"1": 8.0, "2": 8.0}})
    newer = edge_block(NOW_MS - HALF_LIFE_MS, {BOUGHT: {"2": 8.0}})
    late = with_edges(older, newer)
    slow = with_edges(older, newer, edge_half_life_ms=2 * HALF_LIFE_MS)
    soon = with_edges(older, newer, as_of_ms=NOW_MS - HALF_LIFE_MS)
    found = Edges([late, slow, soon]).of(BOUGHT)
    one, two = word("item:1"), word("item:2")
    assert weights(found, 0) == {one: 2.0, two: 4.0}
    assert weights(found, 1) == pytest.approx({one: 4.0, two: 8.0 * 2**-0.5})
    assert weights(found, 2) == {one: 4.0, two: 8.0}
    assert found.totals()[:, 0].tolist() == pytest.approx([6.0, 4.0 + 8.0 * 2**-0.5, 12.0])


@pytest.mark.parametrize("edge_type", EDGE_TYPES)
def test_nobody_has_no_edges(edge_type: str) -> None:
    for snapshots in ([], [with_edges()], [with_edges(EdgeBlock(0, {EDGE_INDEX[edge_type]: b""}))] * 2):
        found = Edges(snapshots).of(edge_type)
        assert (len(found.words), len(found.customer), len(found.weight)) == (0, 0, 0)
        assert found.totals().tolist() == [[0.0]] * len(snapshots)


edges = st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.25, 1.0, 3.0]), max_size=3)
blocks = st.tuples(st.integers(0, 3), st.fixed_dictionaries({}, optional={BOUGHT: edges, SEEN: edges}))


@given(st.lists(st.lists(blocks, max_size=3), max_size=4))
def test_columns_are_what_a_loop_finds(customers: list[list[tuple[int, dict[str, dict[str, float]]]]]) -> None:
    snapshots = [
        with_edges(*(edge_block(NOW_MS - ago * HALF_LIFE_MS, found) for ago, found in said)) for said in customers
    ]
    for edge_type in (BOUGHT, SEEN, "cart>item"):
        columns = Edges(snapshots).of(edge_type)
        totals = columns.totals()
        for row, said in enumerate(customers):
            expected: dict[int, float] = {}
            for ago, found in said:
                expected |= {
                    word(f"item:{name}"): weight * 2.0**-ago for name, weight in found.get(edge_type, {}).items()
                }
            assert weights(columns, row) == expected
            assert snapshots[row].count_edges(edge_type) == len(expected)
            assert totals[row, 0] == pytest.approx(sum(expected.values()))


def test_edges_of_types_that_nobody_knows_yet_are_left_out() -> None:
    one = EDGE.pack(hash_of("item:1"), 1.0, 1, 0)
    newer = with_edges(EdgeBlock(NOW_MS, {len(EDGE_TYPES): one, -1: one, 2**40: one}))
    found = Edges([newer, with_edges(edge_block(NOW_MS, {BOUGHT: {"2": 3.0}})), newer])
    assert found.customer.tolist() == [1], "nor do they pass for another customer's"
    assert found.type.tolist() == [EDGE_INDEX[BOUGHT]]


@pytest.mark.parametrize("weight", [float("inf"), float("-inf"), float("nan"), -1.0, 65_504.0])
@pytest.mark.parametrize("ago_ms", [0, 2**63 - 1, -(2**63), 10 * HALF_LIFE_MS, -10 * HALF_LIFE_MS])
@pytest.mark.parametrize("half_life_ms", [1, HALF_LIFE_MS, 2**63 - 1])
def test_a_weight_is_a_number_whatever_was_written(weight: float, ago_ms: int, half_life_ms: int) -> None:
    block = EdgeBlock(NOW_MS - ago_ms, {0: EDGE.pack(hash_of("item:1"), weight, 255, 255)})
    found = Edges([with_edges(block, edge_half_life_ms=half_life_ms)])
    assert 0 <= float(found.weight[0]) <= 65_504
    assert np.isfinite(found.age_s).all()
    assert found.count.tolist() == [255]
