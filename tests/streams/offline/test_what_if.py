"""Added events change what the log with them would have changed, and are refused as a producer's would be."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.logs import CONFIG, START_MS, Sent, log_of, sent_events

from schemas import codec
from schemas.events import CLICKSTREAM, PROFILES, SOURCES, CampaignSend
from schemas.snapshot import Snapshot
from streams.core.config import DAY_MS
from streams.core.customer import Customer
from streams.offline.rebuild import SourceLogRecord, customer_of_log
from streams.offline.what_if import add_events, snapshots_at

BOUGHT = {"event": "purchase", "event_ts_ms": START_MS, "item_id": "a"}
FOREVER_MS = START_MS + 1_000 * DAY_MS


def known(events: list[Sent], as_of_ms: int = FOREVER_MS) -> Customer:
    log = [
        SourceLogRecord(source_index, record.offset, record.key, record.value, record.headers, record.timestamp)
        for source_index, records in enumerate(log_of(events))
        for record in records
    ]
    return customer_of_log("c1", 0, as_of_ms, log, CONFIG)


def line(sent: Sent) -> bytes:
    return codec.json_encode({"topic": SOURCES[sent.source_index], **(sent.body or {})})


def seen(snapshots: list[Snapshot]) -> list[bytes]:
    return [codec.msgpack_encode(snapshot) for snapshot in snapshots]


@settings(max_examples=examples(150), deadline=None)
@given(sent_events(), st.data())
def test_added_events_count_as_those_of_the_log(events, data):
    events = [event._replace(customer="c1") for event in events]
    cut = data.draw(st.integers(0, len(events)))
    later_ms = data.draw(st.sampled_from([0, 1, DAY_MS, 40 * DAY_MS]))
    as_of_ms = events[-1].ts_ms + later_ms
    customer = known(events[:cut])
    added = add_events(customer, map(line, events[cut:]))
    whole = known(events)
    # Ids and offsets, too: the lines are taken for the next records of their topics.
    assert len(added.events) + len({one.line for one in added.refused}) == len(events) - cut
    assert {one.reason for one in added.refused} <= {"duplicate"}
    bodies = [event.body for event in added.events]
    sends = [body for body in bodies if isinstance(body, CampaignSend) and body.event == "send"]
    found = snapshots_at(customer, as_of_ms, added.events)
    assert [snapshot.kind for snapshot in found][-1:] == ["event" if as_of_ms == whole.view().last_ms else "refresh"]
    assert seen(found[-1:]) == seen(snapshots_at(whole, as_of_ms))
    # A send is no question where nothing is known before it, or the same was just asked.
    assert [snapshot.kind for snapshot in found[:-1]] == ["send"] * len(found[:-1]) and len(found) - 1 <= len(sends)


@settings(max_examples=examples(100), deadline=None)
@given(sent_events(), st.data())
def test_the_customer_of_a_past_time_knows_nothing_of_what_came_later(events, data):
    events = [event._replace(customer="c1") for event in events]
    as_of_ms = data.draw(st.sampled_from([event.ts_ms for event in events])) + data.draw(st.sampled_from([0, 7]))
    then = known(events, as_of_ms)
    assert seen(snapshots_at(then, as_of_ms)) == seen(
        snapshots_at(known([event for event in events if event.ts_ms <= as_of_ms]), as_of_ms)
    )


def purchase(at_ms: int, **said: object) -> dict[str, object]:
    return {"topic": "clickstream", "event": "purchase", "item_id": "a", "event_ts_ms": at_ms, **said}


@pytest.mark.parametrize(
    ("raw", "reason", "message"),
    [
        (b"{", "malformed", "not JSON"),
        (b"[]", "invalid_field", 'name the topic beside the event\'s fields, as "topic": one of clickstream'),
        (codec.json_encode({**purchase(START_MS), "topic": "clicks"}), "invalid_field", "one of clickstream"),
        (codec.json_encode({**purchase(START_MS), "topic": ["x"]}), "invalid_field", "one of clickstream"),
        (codec.json_encode(purchase(START_MS, customer_id="c2")), "key_mismatch", "name different customers"),
        (codec.json_encode(purchase(12)), "out_of_time", "event_ts_ms"),
        (codec.json_encode({"topic": "clickstream", "event": "purchase"}), "invalid_field", "event_ts_ms"),
        (codec.json_encode(purchase(START_MS, event_id="e1")), "duplicate", "'e1' is known"),
        (b'{"topic": "clickstream", "event": "\xff"}', "malformed", "not JSON"),
    ],
)
def test_a_line_is_refused_with_its_reason(raw: bytes, reason: str, message: str) -> None:
    customer = known([Sent(CLICKSTREAM, "c1", START_MS, purchase(START_MS, event_id="e1") | {"topic": None})])
    before = seen(snapshots_at(known([]), 0)), codec.msgpack_encode(customer.snapshot())
    added = add_events(customer, [b"", raw, b"  "])
    assert [(one.line, one.reason) for one in added.refused] == [(2, reason)] and message in added.refused[0].message
    assert added.events == [] and codec.msgpack_encode(customer.snapshot()) == before[1]


def test_a_refused_opt_out_takes_consent_all_the_same() -> None:
    granted = {"event_ts_ms": START_MS, "consent": {"email": {"marketing": True}}}
    customer = known([Sent(PROFILES, "c1", START_MS, granted)])
    broken = {"topic": "profiles", "event_ts_ms": START_MS + 5, "consent": 5}
    added = add_events(customer, [codec.json_encode(broken)])
    assert [one.reason for one in added.refused] == ["invalid_field"] and len(added.events) == 1
    (snapshot,) = snapshots_at(customer, START_MS + 9)
    assert not snapshot.consent


def test_what_was_before_the_settled_state_comes_too_late_for_its_place() -> None:
    customer = known([Sent(CLICKSTREAM, "c1", START_MS, BOUGHT)])
    customer.advance(START_MS + DAY_MS, observed=False)
    add_events(customer, [codec.json_encode(purchase(START_MS - DAY_MS))])
    assert customer.view().late == {"clickstream": 1} and customer.view().last_ms == START_MS


def test_a_send_is_asked_about_as_of_the_moment_before_it() -> None:
    customer = known([Sent(CLICKSTREAM, "c1", START_MS, BOUGHT)])
    send = {"event": "send", "campaign_id": "x", "event_ts_ms": START_MS + 5, "offer_id": "o"}
    added = add_events(customer, [codec.json_encode(send | {"topic": "campaign-sends"})])
    about, now = snapshots_at(customer, START_MS + DAY_MS, added.events)
    assert (about.kind, about.as_of_ms) == ("send", START_MS + 5) and about.candidate is not None
    assert (about.candidate.campaign_id, about.candidate.offer_id) == ("x", "o")
    assert (now.kind, now.as_of_ms) == ("refresh", START_MS + DAY_MS)
    assert msgspec.structs.replace(now, kind="event").sends[0].campaigns == ("x",)
