"""What the encoder sees of a customer: the same as a slow loop finds, and the same for one as for many."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import model_worlds as worlds
from support.examples import examples
from support.sequences import sizes, snapshots
from support.snapshots import edge_block, hashes, recent

from models.local_time import offset_s
from models.sequence import (
    AMOUNTS,
    CUSTOMER,
    GRAPH,
    HISTORY,
    KINDS,
    RECENT,
    SECTION_OF_KIND,
    Sequences,
    SequenceSize,
    concatenated,
    sequences_of,
)
from models.tokenizer import UNK_ID
from models.wide import columns
from schemas import features
from schemas.graph import EDGE_TYPES
from schemas.snapshot import EDGE, SESSION, EdgeBlock, Snapshot, age_hours, sessions
from schemas.words import hash_of, split

NOW_MS = worlds.START_MS
DAY_S = 86_400.0
FULL = SequenceSize(recent=255, history=255, graph=255, span_days=10_000)


class Position(NamedTuple):
    """One position as a plain loop finds it."""

    kind: str
    rank: int
    age_s: float
    gap_s: float | None
    hour: int | None
    amounts: Mapping[str, float]
    words: Mapping[str, float]
    """By name, with what they weigh together."""


def named(hashed: int) -> str:
    """The word that the vocabulary has for a hash."""
    return _names().get(hashed, "[UNK]")


@functools.cache
def _names() -> dict[int, str]:
    return {int.from_bytes(hash_of(name), "little"): name for name in worlds.vocabulary().names[4:]}


def bag(words: list[tuple[str, float]]) -> dict[str, float]:
    out: dict[str, float] = {}
    for word, weight in words:
        out[word] = out.get(word, 0.0) + weight
    return out


def slowly(snapshot: Snapshot, size: SequenceSize) -> list[Position]:
    """The positions of one customer: customer, newest events, newest sessions, heaviest edges."""
    now_s = snapshot.as_of_ms / 1000
    known = [named(int.from_bytes(hashed, "little")) for hashed in split(snapshot.attributes)]
    own = bag([(word, len(known) ** -0.5) for word in known])
    found = [Position("customer", 0, 0.0, None, local_hour(snapshot, now_s), {}, own)]

    events, of_recent = list(snapshot.recent), []
    for at, (at_ms, said) in enumerate(events):
        words = [named(int.from_bytes(said[i : i + 4], "little")) for i in range(0, len(said), 4)]
        gap_s = max(0.0, (at_ms - events[at - 1][0]) / 1000) if at else None
        of_recent.append(
            Position(
                "event", len(events) - 1 - at, now_s - at_ms / 1000, gap_s, local_hour(snapshot, at_ms / 1000),
                {"words of the event": len(words)},
                bag([(word, len(words) ** -0.5) for word in words]),
            )
        )  # fmt: skip
    found += [position for position in reversed(of_recent) if position.rank < size.recent]

    entries, of_history = list(sessions(snapshot.history)), []
    for at, entry in enumerate(entries):
        gap_s = None
        if at:
            before = entries[at - 1]
            gap_s = max(0.0, entry.start_s - before.start_s - 60 * before.minutes)
        told = [
            entry.category, entry.second_category, entry.third_category, entry.item, entry.second_item, entry.channel,
        ]  # fmt: skip
        names = [named(word) for word in told if word]
        kind = {0: "late event", 1: "session"}.get(entry.sessions, "month")
        amounts = {
            "events of the session": entry.events,
            "value of the session": entry.value,
            "minutes of the session": entry.minutes,
            "messages since the session before": entry.messages,
            "redemptions since the session before": entry.redemptions,
            "sessions of the month": entry.sessions,
        }
        of_history.append(
            Position(
                kind, len(entries) - 1 - at, now_s - entry.start_s, gap_s, entry.local_hour, amounts,
                bag([(name, len(names) ** -0.5) for name in names]),
            )
        )  # fmt: skip
    found += [position for position in reversed(of_history) if position.rank < size.history]
    found += slow_graph(snapshot, size.graph)
    return [p for p in found if p.kind == "customer" or np.float32(p.age_s / DAY_S) <= size.span_days]


def local_hour(snapshot: Snapshot, at_s: float) -> int:
    """Of the week, where the customer is."""
    then = datetime(1970, 1, 1) + timedelta(seconds=math.floor(at_s) + offset_s(snapshot))
    return 24 * then.weekday() + then.hour


def slow_graph(snapshot: Snapshot, most: int) -> list[Position]:
    of_type: dict[int, dict[int, tuple[float, int, float]]] = {}
    for block in snapshot.edges:
        since_ms = snapshot.as_of_ms - block.as_of_ms
        for edge_type, column in block.edges.items():
            for hashed, weight, count, age in EDGE.iter_unpack(column):
                now = weight * 2 ** (-since_ms / snapshot.edge_half_life_ms)
                entry = (now, count, 3600 * age_hours(age) + since_ms / 1000)
                of_type.setdefault(edge_type, {})[int.from_bytes(hashed, "little")] = entry
    waiting = {
        edge_type: sorted(edges.items(), key=lambda edge: (-edge[1][0], edge[0]))
        for edge_type, edges in sorted(of_type.items())
        if edges
    }
    found: list[Position] = []
    alone = max(0, most - len(waiting))
    while len(found) < alone and any(waiting.values()):
        for edge_type, edges in waiting.items():
            if edges and len(found) < alone:
                hashed, (weight, count, age_s) = edges.pop(0)
                amounts = {"weight of the edge": weight, "count of the edge": count}
                words = {named(hashed): 1.0}
                found.append(Position(EDGE_TYPES[edge_type], len(found), age_s, None, None, amounts, words))
    for edge_type, edges in waiting.items():
        if edges and len(found) < most:
            weights = [max(weight, 1e-6) for _, (weight, _, _) in edges]
            length = sum(weight**2 for weight in weights) ** 0.5
            amounts = {
                "weight of the edge": sum(weights),
                "count of the edge": sum(count for _, (_, count, _) in edges),
                "edges that share the position": len(edges),
            }
            ages = sum(w * age_s for w, (_, (_, _, age_s)) in zip(weights, edges, strict=True)) / sum(weights)
            words = bag([(named(hashed), w / length) for w, (hashed, _) in zip(weights, edges, strict=True)])
            found.append(Position(f"other {EDGE_TYPES[edge_type]}", len(found), ages, None, None, amounts, words))
    return found


def assert_same(snapshot: Snapshot, found: Sequences, size: SequenceSize) -> None:
    """``found`` is of this customer alone."""
    wanted = slowly(snapshot, size)
    names = worlds.vocabulary().names
    assert found.lengths.tolist() == [len(wanted)]
    assert found.counts.sum() == len(found.words) == len(found.weights)
    first_word = np.cumsum(found.counts) - found.counts
    for at, position in enumerate(wanted):
        assert KINDS[found.kind[at]] == position.kind
        assert found.rank[at] == position.rank
        assert found.age_days[at] == pytest.approx(position.age_s / DAY_S, rel=1e-5, abs=1e-5)
        gap_days = -1.0 if position.gap_s is None else position.gap_s / DAY_S
        assert found.gap_days[at] == pytest.approx(gap_days, rel=1e-5, abs=1e-6)
        assert found.hour[at] == (-1 if position.hour is None else position.hour)
        days = (snapshot.as_of_ms / 1000 - position.age_s) / DAY_S
        turned = 2 * np.pi * (found.year[at] - days / 365.2425)
        if size.span_days > 365:
            assert np.cos(turned) == pytest.approx(1.0, abs=1e-4), "time of the year"
        else:
            assert found.year[at] == -1
        for name, amount in zip(AMOUNTS, found.amounts[at], strict=True):
            said = position.amounts.get(name, 0.0)
            assert amount == pytest.approx(np.sign(said) * np.log1p(abs(said)), rel=1e-4, abs=1e-5), name
        words = slice(first_word[at], first_word[at] + found.counts[at])
        told = bag([(names[row], float(w)) for row, w in zip(found.words[words], found.weights[words], strict=True)])
        assert told == pytest.approx(dict(position.words), rel=1e-4)


@settings(deadline=None, max_examples=examples(100))
@given(snapshots, sizes)
def test_a_sequence_is_what_a_slow_loop_finds(snapshot: Snapshot, size: SequenceSize) -> None:
    found = sequences_of([snapshot], worlds.vocabulary(), size)
    assert_same(snapshot, found, size)
    sections = [SECTION_OF_KIND[kind] for kind in found.kind]
    assert sections == sorted(sections)
    for section, most in ((CUSTOMER, 1), (RECENT, size.recent), (HISTORY, size.history), (GRAPH, size.graph)):
        ranks = [int(rank) for rank, at in zip(found.rank, sections, strict=True) if at == section]
        assert ranks == sorted(set(ranks))
        assert all(rank < most for rank in ranks)
    assert len(found.kind) <= size.positions


@settings(deadline=None, max_examples=examples(40))
@given(st.lists(snapshots, max_size=6), sizes, st.randoms(use_true_random=False))
def test_a_batch_is_one_after_the_other(many: list[Snapshot], size: SequenceSize, random: Any) -> None:
    together = sequences_of(many, worlds.vocabulary(), size)
    assert len(together) == len(many)
    none = sequences_of([], worlds.vocabulary(), size)
    singles = [sequences_of([one], worlds.vocabulary(), size) for one in many]
    assert_equal(concatenated([none, *singles]), together)
    order = list(range(len(many)))
    random.shuffle(order)
    some = order[: random.randint(0, len(order))] + order[:1]  # one of them twice
    shuffled = sequences_of([many[at] for at in some], worlds.vocabulary(), size)
    assert_equal(together.take(np.array(some, dtype=np.int64)), shuffled)


def assert_equal(one: Sequences, other: Sequences) -> None:
    assert one.word_rows is other.word_rows
    for field in fields(Sequences):
        if field.name == "word_rows":
            continue
        left, right = getattr(one, field.name), getattr(other, field.name)
        if left is None or right is None:
            assert left is right
            continue
        assert left.shape == right.shape, field.name
        assert left.dtype == right.dtype, field.name
        assert np.array_equal(left, right, equal_nan=left.dtype.kind == "f"), field.name


@given(st.lists(snapshots, min_size=1, max_size=4), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=examples(40))
def test_what_is_left_out_is_positions_and_words_of_those_that_stay(many: list[Snapshot], seed: int) -> None:
    whole = sequences_of(many, worlds.vocabulary(), FULL)
    assert_equal(whole.thinned(0.0, 0.0, np.random.default_rng(seed)), whole)
    bare = whole.thinned(1.0, 0.0, np.random.default_rng(seed))
    assert bare.lengths.tolist() == [1] * len(many)
    assert bare.kind.tolist() == [0] * len(many), "the customer's own position stays"
    assert np.array_equal(bare.numbers, whole.numbers, equal_nan=True)
    silent = whole.thinned(0.0, 1.0, np.random.default_rng(seed))
    assert (silent.lengths.tolist(), len(silent.words)) == (whole.lengths.tolist(), 0)
    some = whole.thinned(0.5, 0.5, np.random.default_rng(seed))
    assert some.lengths.sum() == len(some.kind) == len(some.counts)
    assert some.counts.sum() == len(some.words)
    begin = np.cumsum(some.lengths) - some.lengths
    assert (some.kind[begin] == 0).all()
    left = {
        (float(age), int(kind), int(rank)) for age, kind, rank in zip(some.age_days, some.kind, some.rank, strict=True)
    }
    assert left <= {(float(a), int(k), int(r)) for a, k, r in zip(whole.age_days, whole.kind, whole.rank, strict=True)}


def test_a_share_of_a_half_leaves_about_a_half() -> None:
    whole = sequences_of([worlds.snapshot(items=[1, 2, 3, 4] * 5)] * 100, worlds.vocabulary(), FULL)
    some = whole.thinned(0.5, 0.5, np.random.default_rng(0))
    assert (len(some.kind) - 100) / (len(whole.kind) - 100) == pytest.approx(0.5, abs=0.05)
    assert len(some.words) / len(whole.words) == pytest.approx(0.25, abs=0.05)


def test_a_week_later_the_same_customer_is_another_input() -> None:
    now = worlds.snapshot(items=[1, 2, 3, 4, 5, 6])
    later = msgspec.structs.replace(now, as_of_ms=now.as_of_ms + 7 * worlds.DAY_MS)
    size = SequenceSize(recent=4, history=4, graph=4)
    first, second = (sequences_of([one], worlds.vocabulary(), size) for one in (now, later))
    assert np.array_equal(first.words, second.words)
    assert np.array_equal(first.gap_days, second.gap_days)
    aged = first.kind != 0
    assert second.age_days[aged] - first.age_days[aged] == pytest.approx(np.full(aged.sum(), 7.0), abs=1e-3)
    assert first.age_days[0] == second.age_days[0] == 0
    assert second.year[0] - first.year[0] == pytest.approx(7 / 365.2425, abs=1e-4), "the calendar of the time of asking"
    alone = first.amounts[:, AMOUNTS.index("weight of the edge")]
    assert (alone[aged][-4:] > second.amounts[:, AMOUNTS.index("weight of the edge")][aged][-4:]).all(), "edges fade"


def test_nobody_knows_anything_of_an_empty_customer() -> None:
    bare = msgspec.structs.replace(worlds.snapshot(items=[]), features=bytes(4 * features.SIZE), edges=())
    found = sequences_of([bare], worlds.vocabulary(), FULL)
    assert (found.lengths.tolist(), found.kind.tolist(), len(found.words)) == ([1], [CUSTOMER], 0)
    assert np.array_equal(found.numbers, columns(np.zeros((1, features.SIZE), dtype=np.float32)), equal_nan=True)
    assert len(sequences_of([], worlds.vocabulary(), FULL)) == 0


def test_how_much_there_was_is_seen() -> None:
    """Two customers who differ in the number of sessions only, beyond the newest events too."""
    month = SESSION.pack(NOW_MS // 1000 - 90 * 86_400, 5, 1, 20.0, 0, 18, 9, 0, 0, 0, 0, 0, 0, 0)
    one = SESSION.pack(NOW_MS // 1000 - 90 * 86_400, 5, 1, 20.0, 0, 18, 1, 0, 0, 0, 0, 0, 0, 0)
    few, many, pooled = (
        sequences_of([msgspec.structs.replace(worlds.snapshot(), history=said)], worlds.vocabulary(), FULL)
        for said in (one, one * 3, month)
    )
    assert many.lengths[0] - few.lengths[0] == 2
    assert pooled.lengths[0] == few.lengths[0]
    at = [int(np.flatnonzero(found.rank[found.kind < len(KINDS)] == 0)[2]) for found in (few, pooled)]
    assert KINDS[few.kind[at[0]]] == "session"
    assert KINDS[pooled.kind[at[1]]] == "month"
    place = AMOUNTS.index("sessions of the month")
    assert pooled.amounts[at[1], place] == pytest.approx(np.log(10.0))
    assert few.amounts[at[0], place] == pytest.approx(np.log(2.0))


def test_only_the_newest_are_kept_and_still_know_what_was_before() -> None:
    told = worlds.snapshot(items=[1, 2, 3])
    found = sequences_of([told], worlds.vocabulary(), SequenceSize(recent=1, history=1, graph=0))
    assert [KINDS[kind] for kind in found.kind] == ["customer", "event", "session"]
    assert found.gap_days[1] == pytest.approx(3.0), "the gap is to the event before, seen or not"
    assert found.gap_days[2] == pytest.approx(3.0 - 5 / 1440, abs=1e-4), "from the end of the session before"


def test_ranks_and_counts_are_whole_however_many_there_are() -> None:
    many = recent((NOW_MS - 1000 * at, hashes("item:1")) for at in range(400, 0, -1))
    entry = SESSION.pack(NOW_MS // 1000, 65_535, 65_535, 3e38, 0, 255, 255, 255, 255, 1, 2, 3, 4, 5)
    crowd = {1: b"".join(EDGE.pack(at.to_bytes(4, "little"), 1.0, 255, 255) for at in range(1, 400))}
    busy = msgspec.structs.replace(
        worlds.snapshot(), recent=many, history=entry * 400, edges=(EdgeBlock(NOW_MS, crowd),)
    )
    found = sequences_of([busy], worlds.vocabulary(), FULL)
    assert found.lengths.tolist() == [1 + 3 * 255]
    for section in (RECENT, HISTORY, GRAPH):
        of_section = np.array(SECTION_OF_KIND)[found.kind] == section
        assert found.rank[of_section].tolist() == list(range(255))
    assert np.isfinite(found.amounts).all()
    assert (found.words[found.kind.repeat(found.counts) > KINDS.index("late event")] == UNK_ID).all()
    shared = found.counts[-1]
    assert shared == 399 - 254
    assert found.weights[-shared:] == pytest.approx(np.full(shared, shared**-0.5))


@pytest.mark.parametrize("as_of_ms", [-(2**63), -1, 0, 1, 2**63 - 1])
def test_any_time_of_asking_gives_numbers(as_of_ms: int) -> None:
    odd = msgspec.structs.replace(worlds.snapshot(), as_of_ms=as_of_ms)
    found = sequences_of([odd], worlds.vocabulary(), FULL)
    for name in ("age_days", "gap_days", "year", "amounts", "weights"):
        assert np.isfinite(getattr(found, name)).all(), name
    assert ((found.year >= 0) & (found.year <= 1)).all()


@given(st.lists(st.binary(min_size=8, max_size=8), max_size=8), st.integers(0, 4))
@settings(deadline=None, max_examples=examples(60))
def test_any_edges_give_numbers(said: list[bytes], most: int) -> None:
    block = EdgeBlock(NOW_MS, {0: b"".join(said), 24: b"".join(said[::2]), 25: b"".join(said)})
    wild = msgspec.structs.replace(worlds.snapshot(), edges=(block,))
    with np.errstate(all="raise"):
        found = sequences_of([wild, worlds.snapshot()], worlds.vocabulary(), SequenceSize(graph=most))
    assert len(found) == 2
    for name in ("age_days", "amounts", "weights"):
        assert np.isfinite(getattr(found, name)).all(), name


def test_an_edge_is_alone_or_shares_and_never_both() -> None:
    weights = {str(at): float(40 - at) for at in range(10)}
    block = edge_block(NOW_MS, {"purchase>item": weights, "view>item": {"1": 1.0}})
    seen = msgspec.structs.replace(worlds.snapshot(), edges=(block,))
    found = sequences_of([seen], worlds.vocabulary(), SequenceSize(recent=0, history=0, graph=5))
    said = [KINDS[kind] for kind in found.kind[1:]]
    assert said == ["purchase>item", "view>item", "purchase>item", "other purchase>item"]
    names = [worlds.vocabulary().names[row] for row in found.words]
    assert names[:3] == ["item:0", "item:1", "item:1"]
    assert sorted(names[3:]) == [f"item:{at}" for at in range(2, 10)]
