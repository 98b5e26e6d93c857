"""An order counts once, however its lines interleave with others'."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logs import CONFIG, START_MS, Sent, Worker, log_of

from schemas.events import CLICKSTREAM
from streams.core import counters
from streams.core.config import DAY_MS, MINUTE_MS
from streams.core.orders import Orders, give_back, is_new
from streams.core.state import Folded

WINDOW_MS = 14 * DAY_MS


def bought(order_id: str | None, number: int, at_ms: int = START_MS, value: float = 1.0) -> Sent:
    body = {"event": "purchase", "event_ts_ms": at_ms, "event_id": f"e{number:04}", "item_id": "a", "value": value}
    return Sent(CLICKSTREAM, "c1", at_ms, body if order_id is None else body | {"order_id": order_id})


def seen(events: list[Sent]) -> Folded:
    worker = Worker(msgspec.structs.replace(CONFIG, orders_kept=16, order_window_ms=WINDOW_MS))
    for source_index, topic in enumerate(log_of(events)):
        worker.take(source_index, topic)
    worker.checkpoint()
    customer = worker.ingest.customer("c1")
    assert customer is not None
    state: Folded = customer.view()
    return state


def counted(state: Folded, name: str = "orders") -> float:
    return counters.sums(state.counters, name, state.last_ms)[0]


@pytest.mark.parametrize("step_ms", [0, 1_000])
def test_lines_of_two_orders_that_alternate_are_two_orders(step_ms: int) -> None:
    events = [bought(f"o{number % 2}", number, START_MS + number * step_ms) for number in range(20)]
    assert counted(seen(events)) == pytest.approx(2, rel=1e-3)
    assert counted(seen(events), "purchases") == pytest.approx(20, rel=1e-3)


def test_lines_without_an_order_are_orders_of_their_own() -> None:
    assert counted(seen([bought(None, number) for number in range(3)])) == 3


@given(names=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30), data=st.data())
def test_orders_are_the_distinct_ids_in_any_interleaving(names: list[str], data: st.DataObject) -> None:
    """At one instant, so that nothing decays: the sum is exactly the number of ids."""
    order = data.draw(st.permutations(range(len(names))))
    events = [bought(names[place], number) for number, place in enumerate(order)]
    assert counted(seen(events)) == len(set(names))


@given(
    lines=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from([0, 1, MINUTE_MS, DAY_MS, 15 * DAY_MS]))),
    kept=st.integers(1, 4),
)
def test_orders_are_bounded_and_forgotten_as_said(lines: list[tuple[str, int]], kept: int) -> None:
    orders: Orders = {}
    touched: dict[str, int] = {}
    now_ms = START_MS
    for name, step_ms in lines:
        now_ms += step_ms
        newer = sum(1 for other, at_ms in touched.items() if other != name and _after(touched, other, name))
        known = name in touched and now_ms - touched[name] <= WINDOW_MS and newer < kept
        assert is_new(orders, name, now_ms, 1.0, kept, WINDOW_MS) is not known
        touched.pop(name, None)
        touched[name] = now_ms
        assert len(orders) <= kept
        assert list(itertools.pairwise(at_ms for at_ms, _ in orders.values())) == sorted(
            itertools.pairwise(at_ms for at_ms, _ in orders.values())
        )


def _after(touched: dict[str, int], other: str, name: str) -> bool:
    """Whether ``other`` had a line since the last one of ``name``."""
    places = list(touched)
    return name in touched and places.index(other) > places.index(name)


def test_an_order_without_a_line_for_two_weeks_is_forgotten() -> None:
    events = [bought("o", 1), bought("o", 2, START_MS + WINDOW_MS), bought("o", 3, START_MS + 2 * WINDOW_MS + 1)]
    assert len(seen(events).orders) == 1
    assert seen(events[:2]).counters["orders"][0] == START_MS
    assert seen(events).counters["orders"][0] == START_MS + 2 * WINDOW_MS + 1


def test_giving_back_takes_what_is_said_or_what_is_left() -> None:
    orders: Orders = {}
    for value in (10.0, 5.0):
        is_new(orders, "o", START_MS, value, 4, WINDOW_MS)
    assert give_back(orders, "o", 4.0) == 4.0
    assert give_back(orders, "o", None) == 11.0
    assert give_back(orders, "o", None) == 0.0
    assert give_back(orders, "unknown", None) == 0.0
    assert give_back(orders, "unknown", 3.0) == 3.0
