"""Orders of several products, returns, currencies and local times, as shops mean them."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.logs import CONFIG, START_MS, Sent, Worker, clickstream, log_of
from support.told import Reader

from schemas import errors, features
from schemas.codec import decode_event, json_encode
from schemas.events import CLICKSTREAM, PROFILES, Clickstream, Line
from schemas.graph import GraphEdge
from schemas.limits import MAX_LINES
from schemas.snapshot import Outcome, Snapshot, sessions
from schemas.words import hash_of
from streams.core.baskets import amount_of, basket_of, is_return
from streams.core.config import DAY_MS, HOUR_MS, CoreConfig
from streams.core.context import Context
from streams.core.entities import Entities, draw
from streams.core.graph import edges_of
from streams.core.history import local_hour
from streams.core.state import Folded
from streams.core.timeline import Timeline, event_words
from streams.settings.zones import INSTALLED, known
from streams.state.checkpoints import StoredRecords
from streams.state.memory import MemoryStore

PLAIN: Final = msgspec.structs.replace(CONFIG, edges_per_type=64, timeline_words=512, orders_kept=16)
_decode_outcome: Final = msgspec.msgpack.Decoder(Outcome).decode
_decode_snapshot: Final = msgspec.msgpack.Decoder(Snapshot).decode


def event(at_ms: int = START_MS, name: str = "purchase", **said: Any) -> Sent:
    body = {"event": name, "event_ts_ms": at_ms} | said
    return Sent(CLICKSTREAM, "c1", at_ms, body)


def profile(at_ms: int = START_MS, **said: Any) -> Sent:
    return Sent(PROFILES, "c1", at_ms, {"event_ts_ms": at_ms} | said)


def worker_of(events: list[Sent], config: CoreConfig = PLAIN) -> Worker:
    worker = Worker(config)
    for source_index, topic in reversed(list(enumerate(log_of(events)))):  # profiles first
        worker.take(source_index, topic)
    worker.checkpoint()
    return worker


def state_of(events: list[Sent], config: CoreConfig = PLAIN) -> Folded:
    customer = worker_of(events, config).ingest.customer("c1")
    assert customer is not None
    state: Folded = customer.view()
    return state


def total(state: Folded, name: str) -> float:
    """The sum with the longest half-life, as of the last touch."""
    counter = state.counters.get(name)
    return 0.0 if counter is None else counter[-1]


def body(**said: Any) -> Clickstream:
    return msgspec.convert({"event": "purchase", "event_ts_ms": START_MS} | said, Clickstream)


def words(rate: float | None = 1.0, **fields: Any) -> list[str]:
    reader = Reader()
    told: list[str] = reader.read(event_words(body(**fields), Context(PLAIN, reader, 0, "c1"), rate))
    return told


# Lines

LINES = st.lists(
    st.fixed_dictionaries(
        {"item_id": st.sampled_from("abcd")},
        optional={
            "price": st.sampled_from([0.0, 0.5, 2.5, 10.0]),
            "quantity": st.sampled_from([0.0, 1.0, 2.0, 7.0]),
            "category": st.sampled_from(["tea", "coffee"]),
        },
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(
    lines=LINES, name=st.sampled_from(["purchase", "add_to_cart", "item_view", "remove_from_cart", "refund", "scan"])
)
def test_one_event_with_lines_says_what_an_event_a_line_says(lines: list[dict[str, Any]], name: str) -> None:
    order: dict[str, Any] = {"order_id": "o"} if name == "purchase" else {}
    together = state_of([event(name=name, items=lines, **order)])
    apart = state_of([event(name=name, event_id=f"e{at:02}", **line, **order) for at, line in enumerate(lines)])
    assert together.graph.fresh == apart.graph.fresh
    assert together.timeline.recent == apart.timeline.recent
    assert together.timeline.tally == apart.timeline.tally
    assert together.counters.keys() == apart.counters.keys()
    for counter in together.counters:
        assert together.counters[counter] == pytest.approx(apart.counters[counter])
    assert (together.events, apart.events) == (1, len(lines))


def test_lines_draw_edges_on_both_sides() -> None:
    worker = worker_of(
        [event(items=[{"item_id": "a"}, {"item_id": "b", "quantity": 2}, {"item_id": "a"}], channel="app")]
    )
    drawn = {(edge.type, edge.entity) for edge in worker.edges}
    assert drawn == {("purchase>item", "item:a"), ("purchase>item", "item:b"), ("via>channel", "channel:app")}
    customer = worker.ingest.customer("c1")
    assert customer is not None
    assert {name: edge[0] for name, edge in customer.view().graph.edges("purchase>item").items()} == {"a": 2, "b": 1}


def test_an_exchange_reaches_the_entity_by_both_edges() -> None:
    """Both come with one offset: neither may pass for a repetition of the other."""
    lines = [{"item_id": "a", "price": 5}, {"item_id": "a", "price": 5, "quantity": -1}, {"item_id": "a", "price": 5}]
    edges: list[GraphEdge] = worker_of([event(items=lines)]).edges
    entities = Entities(0, StoredRecords(MemoryStore()), None)
    for edge in edges:
        assert draw(entities.entity(edge.entity), edge)
    assert {name: known.count for name, known in entities.entity("item:a").edges.items()} == {
        "purchase>item": 1,
        "returned>item": 1,
    }


def test_the_events_value_counts_once_and_before_its_lines() -> None:
    lines = [{"item_id": "a", "price": 3.0, "quantity": 2}, {"item_id": "b", "price": 1.0}]
    assert total(state_of([event(items=lines)]), "value") == 7.0
    assert total(state_of([event(items=lines, value=6.5)]), "value") == 6.5
    assert total(state_of([event(items=lines, value=0)]), "value") == 0.0
    assert total(state_of([event(items=lines)]), "purchases") == 2.0
    assert total(state_of([event(items=lines)]), "orders") == 1.0


def test_a_discount_line_lowers_the_value_and_is_no_product() -> None:
    lines = [{"item_id": "a", "price": 10.0}, {"item_id": "voucher", "price": -3.0}]
    state = state_of([event(items=lines)])
    assert (total(state, "value"), total(state, "purchases"), total(state, "returns")) == (7.0, 1.0, 0.0)
    assert list(state.graph) == ["purchase>item"] and state.graph.edges("purchase>item").keys() == {"a"}


def test_free_items_are_items() -> None:
    state = state_of([event(item_id="gift", price=0)])
    assert (total(state, "purchases"), total(state, "orders"), total(state, "value")) == (1.0, 1.0, 0.0)
    assert words(item_id="gift", price=0) == ["evt:purchase", "item:gift", "price:p0"]
    assert not is_return(body(item_id="gift", price=0, quantity=0, value=0))


def refusal(**said: Any) -> str:
    with pytest.raises(errors.InvalidField) as refused:
        decode_event(CLICKSTREAM, b"c1", json_encode({"event_ts_ms": START_MS} | said), (), START_MS, 0)
    return str(refused.value)


def taken(**said: Any) -> Clickstream:
    found = decode_event(CLICKSTREAM, b"c1", json_encode({"event_ts_ms": START_MS} | said), (), START_MS, 0).body
    assert isinstance(found, Clickstream)
    return found


def test_what_lines_cannot_be_is_refused_with_what_to_do() -> None:
    line = {"item_id": "a"}
    assert "items and item_id exclude each other" in refusal(event="purchase", items=[line], item_id="b")
    assert "items and price, quantity exclude each other" in refusal(
        event="purchase", items=[line], price=1, quantity=1
    )
    assert f"length <= {MAX_LINES}" in refusal(event="purchase", items=[line] * (MAX_LINES + 1))
    assert "missing required field `item_id`" in refusal(event="purchase", items=[{"price": 1}])
    assert "currency" in refusal(event="purchase", item_id="a", price=1, currency="EURO")
    assert "currency" in refusal(event="purchase", item_id="a", price=1, currency="E\n")
    assert "currency" in refusal(event="purchase", item_id="a", price=1, currency="E1R")


def test_below_0_only_what_gives_back_has_a_quantity() -> None:
    assert taken(event="item_view", item_id="a", quantity=-1).quantity is None
    assert taken(event="add_to_cart", items=[{"item_id": "a", "quantity": -1}]).items == (Line(item_id="a"),)
    assert taken(event="refund", item_id="a", quantity=-1).quantity == -1


def test_the_most_lines_are_taken() -> None:
    state = state_of([event(items=[{"item_id": f"i{at}", "price": 1} for at in range(MAX_LINES)])])
    assert total(state, "value") == MAX_LINES
    assert len(state.graph.edges("purchase>item")) < PLAIN.edges_per_type + PLAIN.fresh_edges


def test_a_list_of_no_lines_is_as_absent() -> None:
    assert body(items=[]).items is None
    assert body(items=[], item_id="a") == body(item_id="a")


# Returns

RETURNS: Final[list[dict[str, Any]]] = [
    {"name": "refund", "item_id": "a", "price": 4, "quantity": 2},
    {"name": "refund", "item_id": "a", "value": 8},
    {"name": "refund", "item_id": "a", "value": -8},
    {"name": "return", "item_id": "a", "price": 4, "quantity": -2},
    {"name": "return", "items": [{"item_id": "a", "price": 4, "quantity": 2}]},
    {"name": "purchase", "item_id": "a", "price": 4, "quantity": -2},
    {"name": "purchase", "item_id": "a", "value": -8},
    {"name": "purchase", "item_id": "a", "price": -8},
    {"name": "purchase", "item_id": "a", "quantity": -2, "value": 8},
    {"name": "purchase", "items": [{"item_id": "a", "price": 4, "quantity": -2}]},
    {"name": "purchase", "items": [{"item_id": "a", "price": 4}], "value": -8},
]


@pytest.mark.parametrize("said", RETURNS)
@pytest.mark.parametrize("order", [{}, {"order_id": "o"}, {"order_id": "of long ago"}])
def test_a_return_lowers_value_and_is_nothing_else(said: dict[str, Any], order: dict[str, str]) -> None:
    bought = event(item_id="a", value=20.0, order_id="o")
    before, state = state_of([bought]), state_of([bought, event(START_MS + 1, **said, **order)])
    assert total(state, "value") == pytest.approx(12.0)
    assert total(state, "returns") == 1.0
    for name in ("purchases", "orders"):
        assert state.counters[name] == before.counters[name]
    assert state.graph.edges("purchase>item") == before.graph.edges("purchase>item")
    assert {name: edge[0] for name, edge in state.graph.edges("returned>item").items()} == {"a": 1}
    assert (state.activity_ms, state.active_days) == (before.activity_ms, before.active_days)
    assert state.hours == before.hours
    assert words(**({"event": said["name"]} | {k: v for k, v in said.items() if k != "name"}))[:2] == [
        "evt:refund",
        "item:a",
    ]


@pytest.mark.parametrize("said", RETURNS)
def test_a_return_is_no_session_and_answers_no_open_question(said: dict[str, Any]) -> None:
    day = [event(START_MS, item_id="a", value=20.0)]
    asked = state_of([*day, event(START_MS + 2 * DAY_MS, "page_view", page="p")])
    churn = [entry for entry in asked.pending if entry.head == "churn"]
    assert churn
    returned = event(START_MS + 2 * DAY_MS, **said)
    state = state_of([*day, returned])
    assert [entry.due_ms for entry in state.pending] == [entry.due_ms for entry in churn]
    assert state.timeline.sessions == 1 and not state.timeline.events
    answered = worker_of([*day, returned, profile(START_MS + 9 * DAY_MS)])
    assert all(label == 1 for label in churn_labels(answered))


def churn_labels(worker: Worker) -> list[int]:
    return [outcome.label for outcome in map(_decode_outcome, worker.outcomes.values()) if outcome.head == "churn"]


def test_a_refund_that_names_an_order_only_takes_off_what_is_left_of_it() -> None:
    bought = event(items=[{"item_id": "a", "price": 6}, {"item_id": "b", "price": 4}], order_id="o")
    whole = [bought, event(START_MS + 1, "refund", order_id="o")]
    assert total(state_of(whole), "value") == pytest.approx(0.0, abs=1e-6)
    parts = [
        bought,
        event(START_MS + 1, "return", order_id="o", item_id="a", price=6),
        event(START_MS + 2, "refund", order_id="o"),
    ]
    assert total(state_of(parts), "value") == pytest.approx(0.0, abs=1e-6)
    twice = [*whole, event(START_MS + 3, "refund", order_id="o")]
    assert total(state_of(twice), "value") == pytest.approx(0.0, abs=1e-6)
    unknown = [bought, event(START_MS + 1, "refund", order_id="another")]
    assert total(state_of(unknown), "value") == pytest.approx(10.0)


def test_an_exchange_is_a_purchase_that_also_gives_back() -> None:
    lines = [{"item_id": "a", "price": 5, "quantity": -1}, {"item_id": "b", "price": 7}]
    state = state_of([event(items=lines)])
    assert (total(state, "value"), total(state, "purchases"), total(state, "returns")) == (2.0, 1.0, 1.0)
    assert state.activity_ms == START_MS
    assert words(items=lines) == [
        "evt:purchase", "item:b", "price:p4", "evt:refund", "item:a", "price:p4",
    ]  # fmt: skip


def test_a_purchase_after_an_exchange_says_its_word_again() -> None:
    reader, timeline = Reader(), Timeline()
    lines = [{"item_id": "a", "quantity": -1}, {"item_id": "b"}]
    for made in (body(items=lines), body(item_id="c"), body(item_id="d")):
        timeline.act(START_MS, made, Context(PLAIN, reader, 0, "c1"), START_MS)
    told = [word for word in reader.read(timeline.words) if word.startswith("evt:")]
    assert told == ["evt:purchase", "evt:refund", "evt:purchase"]


def test_a_return_between_two_sessions_lowers_the_value_of_the_second() -> None:
    bought, again = event(item_id="a", value=20.0), event(START_MS + 2 * DAY_MS, item_id="b", value=5.0)
    returned = event(START_MS + DAY_MS, "refund", item_id="a", value=8.0)
    state = state_of([bought, returned, again, profile(START_MS + 3 * DAY_MS)])
    assert [(entry.value, entry.sessions) for entry in sessions(state.timeline.history.entries)] == [
        (20.0, 1),
        (-3.0, 1),
    ]


@st.composite
def _bodies(draw: Any) -> Clickstream:
    return body(**clickstream(draw))


@given(made=_bodies())
def test_every_product_is_on_one_side_and_returns_are_never_worth_something(made: Clickstream) -> None:
    taken, given_back = basket_of(made)
    assert not set(map(id, taken)) & set(map(id, given_back))
    amount = amount_of(made)
    if is_return(made):
        assert not taken
        assert amount is None or amount <= 0
        assert {edge_type for edge_type, _ in edges_of(made)} <= {"returned>item"}
        assert "evt:refund" in _said(made) and "evt:purchase" not in _said(made)
    else:
        assert taken and amount is not None and math.isfinite(amount)
        assert "returned>item" not in {kind for kind, _ in edges_of(made)} or given_back


def _said(made: Clickstream) -> list[str]:
    reader = Reader()
    told: list[str] = reader.read(event_words(made, Context(PLAIN, reader, 0, "c1")))
    return told


@settings(max_examples=60, deadline=None)
@given(bodies=st.lists(_bodies(), min_size=1, max_size=20), steps=st.data())
def test_whatever_is_bought_and_returned_features_stay_finite(bodies: list[Clickstream], steps: st.DataObject) -> None:
    at_ms, events = START_MS, []
    for made in bodies:
        at_ms += steps.draw(st.sampled_from([0, 1, HOUR_MS, 40 * DAY_MS]))
        said = msgspec.to_builtins(made) | {"event_ts_ms": at_ms}
        events.append(Sent(CLICKSTREAM, "c1", at_ms, said))
    worker = worker_of(events)
    for raw in worker.snapshots.values():
        values = struct.unpack(f"<{features.SIZE}f", _decode_snapshot(raw).features)
        assert all(map(math.isfinite, values))
        counted = [values[features.INDEX[f"{name}_84d"]] for name in features.COUNTED if name != "value"]
        assert min(counted) >= 0


# Currencies


def test_a_currency_is_upper_case_and_converted_by_its_rate() -> None:
    assert body(currency="usd").currency == "USD"
    state = state_of([event(item_id="a", value=10, currency="usd"), event(START_MS + 1, item_id="a", value=1)])
    assert total(state, "value") == pytest.approx(10.2)
    assert state.unconverted == {}


def test_a_value_without_a_rate_is_kept_apart_and_counted() -> None:
    events = [
        event(item_id="a", value=10, currency="JPY"),
        event(START_MS + 1, item_id="a", value=2),
        event(START_MS + 2, "refund", item_id="a", value=4, currency="JPY"),
        event(START_MS + 3, item_id="a", value=0, currency="JPY"),
        event(START_MS + 4, "item_view", item_id="a", price=7, currency="JPY"),
    ]
    worker = worker_of(events)
    customer = worker.ingest.customer("c1")
    assert customer is not None
    state = customer.view()
    assert total(state, "value") == pytest.approx(2.0)
    assert state.unconverted["JPY"][-1] == pytest.approx(6.0)
    assert total(state, "purchases") == pytest.approx(3.0)
    assert worker.ingest.counts["unconverted_values"] == 2


def test_currencies_kept_apart_are_bounded() -> None:
    names = [f"X{first}{second}" for first in "ABCD" for second in "ABCD"]
    state = state_of([event(START_MS + at, item_id="a", value=1, currency=name) for at, name in enumerate(names)])
    assert list(state.unconverted) == names[:8]


@given(
    spent=st.lists(
        st.tuples(st.sampled_from(["EUR", "USD", "JPY", "CHF", None]), st.sampled_from([1.0, 2.5, -1.0, 0.0])),
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_every_amount_is_in_one_sum(spent: list[tuple[str | None, float]]) -> None:
    """At one instant, so that nothing decays."""
    events = [
        event(item_id="a", event_id=f"e{at:02}", value=value, currency=name) for at, (name, value) in enumerate(spent)
    ]
    state = state_of([event(item_id="a", value=0, event_id="a"), *events])
    sums: dict[str | None, float] = {}
    for name, value in spent:
        sums[name] = sums.get(name, 0.0) + value
    own = sums.get("EUR", 0.0) + sums.get(None, 0.0) + 0.92 * sums.get("USD", 0.0)
    assert total(state, "value") == pytest.approx(own)
    for name in ("JPY", "CHF"):
        known = state.unconverted.get(name)
        assert (known[-1] if known else 0.0) == pytest.approx(sums.get(name, 0.0))


def test_price_bands_are_those_of_the_companys_currency() -> None:
    assert words(item_id="a", price=10)[-1] == "price:p5"
    assert words(item_id="a", price=10, rate=0.01)[-1] == "price:p0"
    assert words(item_id="a", price=10, rate=None)[-1] == "item:a"


# Times of day


def hours_of(events: list[Sent], config: CoreConfig = PLAIN) -> tuple[list[int], float, float]:
    """Hours of the week of the histogram, and the two features."""
    worker = worker_of(events, config)
    customer = worker.ingest.customer("c1")
    assert customer is not None
    snapshot = customer.snapshot()
    assert snapshot is not None
    values = struct.unpack(f"<{features.SIZE}f", snapshot.features)
    hours = sorted(customer.view().hours["site"])
    return hours, values[features.INDEX["hour_of_day"]], values[features.INDEX["day_of_week"]]


@pytest.mark.parametrize(
    ("own", "company", "day", "hour"),
    [
        (None, "UTC", 4, 2),  # 2017-07-14T02:40Z, a Friday
        ("Europe/Berlin", "UTC", 4, 4),
        ("America/Los_Angeles", "UTC", 3, 19),
        ("Asia/Kolkata", "UTC", 4, 8),
        (None, "America/New_York", 3, 22),
        ("Europe/Berlin", "America/New_York", 4, 4),
        ("Mars/Olympus", "America/New_York", 3, 22),
        ("../../etc/passwd", "UTC", 4, 2),
    ],
)
def test_times_of_day_are_the_customers_own(own: str | None, company: str, day: int, hour: int) -> None:
    config = msgspec.structs.replace(PLAIN, timezone=company)
    told = [profile(START_MS - 1)] if own is None else [profile(START_MS - 1, timezone=own)]
    assert hours_of([*told, event(item_id="a")], config) == ([day * 24 + hour], hour, day)
    timeline = state_of([*told, event(item_id="a")], config).timeline
    name = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[day]
    assert hash_of(f"[DAY:{name}]") + hash_of(f"[HOUR:{hour}]") in timeline.words
    assert local_hour(timeline.local_start_ms) == day * 24 + hour


def test_what_is_done_at_an_hour_is_counted_by_channel() -> None:
    hour = 4 * 24 + 2  # 2017-07-14T02:40Z, a Friday
    minutes = (("site", 0), ("site", 5), ("app", 6), ("site", 19), ("site", 20))
    events = [event(START_MS + after * 60_000, item_id="a", channel=channel) for channel, after in minutes]
    assert state_of(events).hours == {"site": {hour: 3, hour + 1: 1}, "app": {hour: 1}}


def test_summer_time_is_the_zones() -> None:
    winter_ms = START_MS + 180 * DAY_MS
    events = [profile(START_MS - 1, timezone="Europe/Berlin"), event(item_id="a"), event(winter_ms, item_id="a")]
    hours, hour, _ = hours_of(events)
    assert {at % 24 for at in hours} == {4, 3} and hour == 3


def test_an_unknown_zone_is_counted_and_the_rest_of_the_profile_taken() -> None:
    events = [
        profile(START_MS - 2, consent={"email": {"marketing": True}}),
        profile(START_MS - 1, timezone="Europe/Berln", consent={"email": {"marketing": False}}, attributes={"a": 1}),
        event(item_id="a"),
    ]
    worker = worker_of(events)
    customer = worker.ingest.customer("c1")
    assert customer is not None
    assert customer.view().consent == () and customer.view().attributes == {"a": 1}
    assert worker.ingest.counts["unknown_timezones"] == 1
    assert INSTALLED.offset_ms("Europe/Berln", START_MS) is None


@given(
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "America/Argentina/Buenos_Aires", "UTC", "Etc/GMT+5"]),
    letters=st.sampled_from([str.lower, str.upper, str.title, str]),
    around=st.text(" \t\n", max_size=2),
    spaced=st.booleans(),
)
def test_letters_and_spaces_make_no_other_zone(
    zone: str, letters: Callable[[str], str], around: str, spaced: bool
) -> None:
    said = around + letters(zone.replace("_", " ") if spaced else zone) + around
    assert known(said) == zone
    worker = worker_of([profile(START_MS - 1, timezone=said), event(item_id="a")])
    assert worker.ingest.counts["unknown_timezones"] == 0
    assert INSTALLED.offset_ms(said, START_MS) == INSTALLED.offset_ms(zone, START_MS)


@given(
    zone=st.sampled_from(["Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kathmandu", "US/Eastern"]),
    ts_ms=st.integers(946_684_800_000, 4_102_444_800_000),
)
def test_offsets_are_those_of_zoneinfo(zone: str, ts_ms: int) -> None:
    with (files("tzdata") / "zoneinfo" / zone).open("rb") as table:
        expected = ZoneInfo.from_file(table)
    moment = datetime.fromtimestamp(ts_ms // 1000, UTC).astimezone(expected)
    offset = moment.utcoffset()
    assert offset is not None
    assert INSTALLED.offset_ms(zone, ts_ms) == offset // timedelta(milliseconds=1)
