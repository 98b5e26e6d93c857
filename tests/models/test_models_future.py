"""What comes after a snapshot is read from later snapshots, and is known only as far as these reach."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from support import model_worlds as worlds
from support.snapshots import hashes, recent

from models.future import FIELDS, WINDOWS_DAYS, Future, futures
from schemas.snapshot import Outcome

NOW_MS = worlds.START_MS
DAY_MS = worlds.DAY_MS
Told = list[tuple[float, tuple[str, ...]]]
"""Days from now, and words."""


def bought(item: int) -> tuple[str, ...]:
    return ("evt:purchase", f"cat:{worlds.category(item)}", f"item:{item}")


def looked(
    day: float, events: Told, *, customer: int = 1, head: str = "churn", label: int = 0, horizon_days: int = 28
) -> Outcome:
    """A snapshot so many days from now, and what it holds."""
    as_of_ms = NOW_MS + int(day * DAY_MS)
    told = recent((NOW_MS + int(at * DAY_MS), hashes(*said)) for at, said in events)
    made = msgspec.structs.replace(worlds.snapshot(customer, as_of_ms=as_of_ms), recent=told)
    found = worlds.outcome(f"{customer}-{day}", made, label, due_ms=as_of_ms + horizon_days * DAY_MS)
    out: Outcome = msgspec.structs.replace(found, head=head, labels={head: label})
    return out


def targets(future: Future, row: int = 0) -> set[str]:
    begin = int(future.counts[:row].sum())
    names = worlds.vocabulary().names
    return {names[future.targets[at]] for at in future.columns[begin : begin + int(future.counts[row])].tolist()}


def after(asked: Outcome, *others: Outcome) -> dict[str, set[str] | None]:
    """By field; None where it is not known."""
    found = futures([asked], others, worlds.vocabulary())
    return {field: targets(found[field]) if found[field].known[0] else None for field in FIELDS}


NOTHING: dict[str, set[str] | None] = {"cat": set(), "item": set()}


def test_what_is_in_the_window_counts_and_nothing_else() -> None:
    events = [
        (-1.0, bought(0)),  # before
        (0.0, bought(1)),  # at the moment of asking it is in the snapshot
        (1 / 86_400, bought(2)),
        (14.0, bought(3)),
        (14.0 + 1 / 86_400, bought(4)),  # too late for categories
        (28.0, bought(5)),
        (28.0 + 1 / 86_400, bought(6)),  # too late for all
    ]
    found = after(looked(0, []), looked(40, events))
    assert found["cat"] == {"cat:soap", "cat:bread"}
    assert found["item"] == {"item:2", "item:3", "item:4", "item:5"}


@pytest.mark.parametrize(("until", "known"), [(13.9, ()), (14.0, ("cat",)), (27.9, ("cat",)), (28.0, ("cat", "item"))])
def test_a_window_is_known_once_the_snapshots_reach_its_end(until: float, known: tuple[str, ...]) -> None:
    found = after(looked(0, []), looked(until, [(3.0, bought(1))]))
    assert {field for field in FIELDS if found[field] is not None} == set(known)


def test_another_customers_snapshots_say_nothing() -> None:
    assert after(looked(0, []), looked(40, [(3.0, bought(1))], customer=2)) == {"cat": None, "item": None}


def test_who_churned_is_known_to_have_done_nothing() -> None:
    assert after(looked(0, [(-1.0, bought(1))], label=1)) == NOTHING
    assert after(looked(0, [], label=0)) == {"cat": None, "item": None}, "of who came back it is not known what for"
    assert after(looked(0, [], label=1, horizon_days=14)) == {"cat": set(), "item": None}, "as far as it was waited"
    assert after(looked(0, [], label=1, head="redemption")) == {"cat": None, "item": None}, "that says something else"


@pytest.mark.parametrize("event", ["send", "open", "click", "unsubscribe", "refund", "profile"])
def test_what_is_done_to_a_customer_or_undone_does_not_count(event: str) -> None:
    """Whether or not the vocabulary has a row for the event."""
    said = (f"evt:{event}", "cat:coffee", "item:4")
    assert after(looked(0, []), looked(40, [(2.0, said)])) == NOTHING
    both = after(looked(0, []), looked(40, [(2.0, said), (2.0, bought(1))]))
    assert both["item"] == {"item:1"}, "at the same second too"


def test_an_entry_that_grew_counts_as_it_was_longest() -> None:
    short, long = bought(1), (*bought(1), "item:2", "cat:soap")
    others = [looked(3, [(2.0, short)]), looked(10, [(2.0, long)]), looked(40, [(2.0, long[2:])])]
    for order in (others, others[::-1]):
        found = after(looked(0, []), *order)
        assert found["item"] == {"item:1", "item:2"}
        assert found["cat"] == {f"cat:{worlds.category(1)}", "cat:soap"}


def test_events_of_one_second_all_count() -> None:
    found = after(looked(0, []), looked(40, [(2.0, bought(1)), (2.0, bought(2)), (2.0, bought(3))]))
    assert found["item"] == {"item:1", "item:2", "item:3"}
    joined = after(looked(0, []), looked(2, [(2.0, bought(1))]), looked(40, [(2.0, bought(1)), (2.0, bought(2))]))
    assert joined["item"] == {"item:1", "item:2"}


def test_words_without_a_row_are_no_targets() -> None:
    assert after(looked(0, []), looked(40, [(2.0, ("evt:purchase", "item:nobody", "dark"))])) == NOTHING


def test_rows_keep_their_own_targets() -> None:
    events: Told = [(2.0, bought(1)), (2.5, bought(1)), (30.0, bought(2))]
    asked = [looked(0, []), looked(0, [], customer=2), looked(20, events[:2]), looked(1, [], customer=3, label=1)]
    last = looked(60, events)
    found = futures(asked, [last], worlds.vocabulary())["item"]
    assert found.known.tolist() == [True, False, True, True]
    assert found.counts.tolist() == [1, 0, 1, 0]
    assert [targets(found, row) for row in range(4)] == [{"item:1"}, set(), {"item:2"}, set()]
    dense = found.dense(np.array([2, 0, 3]))
    assert dense.shape == (3, len(found.targets))
    names = worlds.vocabulary().names
    assert [[names[found.targets[at]] for at in np.flatnonzero(row)] for row in dense] == [["item:2"], ["item:1"], []]
    assert found.dense(np.zeros(0, dtype=np.int64)).shape == (0, len(found.targets))


def test_nobody_has_no_future() -> None:
    found = futures([], [], worlds.vocabulary())
    assert set(found) == set(WINDOWS_DAYS)
    assert all(len(future.known) == len(future.columns) == 0 for future in found.values())


@pytest.mark.parametrize(("until", "known"), [(13.9, ()), (14.0, ("cat",)), (27.9, ("cat",)), (28.0, ("cat", "item"))])
def test_nothing_is_known_of_a_window_that_ends_behind_the_bound(until: float, known: tuple[str, ...]) -> None:
    """Neither of what was seen later nor of a silence: that time is for gate and report."""
    seen, silent = (looked(0, []), looked(40, [(3.0, bought(1))])), (looked(0, [], customer=2, label=1),)
    until_ms = NOW_MS + int(until * DAY_MS)
    found = futures([seen[0], *silent], seen[1:], worlds.vocabulary(), until_ms)
    for field in FIELDS:
        assert found[field].known.tolist() == [field in known] * 2
        assert found[field].counts.tolist() == [int(field in known), 0]
