"""Internal records as plain values with names."""

from __future__ import annotations

import json
from array import array
from typing import Any

import pytest
from support.logs import START_MS, Sent, Worker, log_of
from support.snapshots import edge_block, hashes, plain_snapshot, recent

from schemas import codec, features
from schemas.events import CLICKSTREAM
from schemas.graph import EDGE_INDEX, EDGE_TYPES
from schemas.snapshot import (
    EDGE,
    SESSION,
    SNAPSHOT_VERSION,
    Candidate,
    EdgeBlock,
    Outcome,
    SendCount,
    Session,
    Snapshot,
    age_code,
)
from schemas.words import hash_of
from streams.core.config import DAY_MS, HOUR_MS
from streams.core.customer import EDGES, HISTORY
from streams.core.history import FRESH_ENTRIES, Tally
from streams.inspect.render import plain, stored_key_text, value_of
from streams.state import keys


def _number(word: str) -> int:
    return int.from_bytes(hash_of(word), "little")


ENTRY = Session(
    start_s=START_MS // 1000,
    minutes=12,
    events=3,
    value=2.5,
    channel=_number("chan:app"),
    local_hour=17,
    sessions=1,
    messages=2,
    redemptions=1,
    category=_number("cat:tea"),
    second_category=_number("cat:coffee"),
    third_category=0,
    item=_number("item:a"),
    second_item=0,
)


def _snapshot() -> Snapshot:
    fresh = {
        EDGE_INDEX["purchase>item"]: EDGE.pack(hash_of("item:a"), 1.5, 3, age_code(HOUR_MS))
        + EDGE.pack(hash_of("item:b"), 0.25, 255, age_code(0)),
        EDGE_INDEX["via>channel"]: EDGE.pack(hash_of("chan:app"), 1.0, 1, age_code(24 * HOUR_MS)),
    }
    made: Snapshot = plain_snapshot(
        question_id="ab12",
        kind="send",
        features=array("f", range(features.SIZE)).tobytes(),
        recent=recent(
            [
                (START_MS, hashes("[SESSION]", "evt:purchase", "item:a")),
                (START_MS + 60_000, hashes("evt:search", "wish")),
            ]
        ),
        history=SESSION.pack(*ENTRY) + SESSION.pack(*ENTRY._replace(start_s=ENTRY.start_s + 1, channel=0)),
        edges=(edge_block(START_MS - DAY_MS, {"purchase>category": {"tea": 0.5}}), EdgeBlock(START_MS, fresh)),
        consent=("mail:marketing",),
        sends=(SendCount("mail", (START_MS,), ("c18",)),),
        candidate=Candidate("c18", "o5", None, "mail"),
    )
    return made


def _hash(word: str) -> str:
    return hash_of(word).hex()


def test_a_snapshot_has_names() -> None:
    shown = plain(_snapshot())
    assert (shown["version"], shown["question_id"]) == (SNAPSHOT_VERSION, "ab12")
    assert (shown["customer_id"], shown["kind"]) == ("c1", "send")
    assert (shown["source"], shown["applied"], shown["consent"]) == (
        ["clickstream", 0, 0],
        {"clickstream": 0},
        ["mail:marketing"],
    )
    assert shown["sends"] == [{"channel": "mail", "sent_ms": [START_MS], "campaigns": ["c18"]}]
    assert shown["candidate"] == {"campaign_id": "c18", "offer_id": "o5", "template_id": None, "channel": "mail"}
    assert set(shown) == set(Snapshot.__struct_fields__)
    json.loads(codec.json_encode(shown))


def test_features_of_a_snapshot_are_named() -> None:
    shown = plain(_snapshot())["features"]
    assert shown == {name: float(place) for place, name in enumerate(features.NAMES)}


def test_recent_events_of_a_snapshot_are_times_and_hashes() -> None:
    assert plain(_snapshot())["recent"] == [
        {"at_ms": START_MS, "words": [_hash("[SESSION]"), _hash("evt:purchase"), _hash("item:a")]},
        {"at_ms": START_MS + 60_000, "words": [_hash("evt:search"), _hash("wish")]},
    ]


def test_history_entries_of_a_snapshot_are_named_and_their_words_hashes() -> None:
    first, second = plain(_snapshot())["history"]
    assert first == {
        "start_s": START_MS // 1000,
        "minutes": 12,
        "events": 3,
        "value": 2.5,
        "channel": _hash("chan:app"),
        "local_hour": 17,
        "sessions": 1,
        "messages": 2,
        "redemptions": 1,
        "category": _hash("cat:tea"),
        "second_category": _hash("cat:coffee"),
        "third_category": None,
        "item": _hash("item:a"),
        "second_item": None,
    }
    assert second == first | {"start_s": START_MS // 1000 + 1, "channel": None}


def test_edges_of_a_snapshot_are_by_type() -> None:
    older, fresh = plain(_snapshot())["edges"]
    tea = {"word": _hash("cat:tea"), "weight": 0.5, "count": 1, "age_hours": 0.0}
    assert older == {"as_of_ms": START_MS - DAY_MS, "edges": {"purchase>category": [tea]}}
    assert fresh == {
        "as_of_ms": START_MS,
        "edges": {
            "purchase>item": [
                {"word": _hash("item:a"), "weight": 1.5, "count": 3, "age_hours": 1.0},
                {"word": _hash("item:b"), "weight": 0.25, "count": 255, "age_hours": 0.0},
            ],
            "via>channel": [
                {"word": _hash("chan:app"), "weight": 1.0, "count": 1, "age_hours": pytest.approx(24, rel=0.05)}
            ],
        },
    }


def test_snapshots_and_outcomes_are_read_from_their_topics() -> None:
    snapshot = _snapshot()
    outcome = Outcome(
        question_id=snapshot.question_id,
        head="redemption",
        labels={"redemption": 1, "after_ms": 7},
        due_ms=START_MS + DAY_MS,
        resolved_ms=START_MS + 7,
        customer_id=snapshot.customer_id,
        as_of_ms=snapshot.as_of_ms,
        snapshot=snapshot,
    )
    assert value_of("session-snapshots", b"c1", codec.msgpack_encode(snapshot)) == plain(snapshot)
    shown = value_of("outcomes", b"c1", codec.msgpack_encode(outcome))
    assert (shown["question_id"], shown["labels"]) == ("ab12", {"redemption": 1, "after_ms": 7})
    assert shown["snapshot"] == plain(snapshot)


def _stored() -> dict[str, Any]:
    """What is stored of a customer, as it is shown: many visits with a basket each, and one that goes on."""
    lines = [{"item_id": name, "category": "tea", "price": 1.0} for name in "abc"]
    body = {"event": "purchase", "items": lines, "channel": "app"}
    visits = FRESH_ENTRIES + 2
    sent = [
        Sent(CLICKSTREAM, "c1", START_MS + day * DAY_MS, body | {"event_ts_ms": START_MS + day * DAY_MS})
        for day in range(visits)
    ]
    worker = Worker()
    for source_index, records in enumerate(log_of(sent, until_ms=START_MS + (visits - 1) * DAY_MS + HOUR_MS // 4)):
        worker.take(source_index, records)
    worker.checkpoint()
    found = {key: value for key, value in worker.store.scan(b"", b"\xff") if keys.identity(key) is not None}
    return {str(stored_key_text(key)): value_of("ingest-changelog", key, value) for key, value in found.items()}


def test_a_stored_customer_has_names_and_so_have_its_pieces() -> None:
    stored = _stored()
    codec.json_encode(stored)
    timeline, graph = stored["cc1"]["settled"]["timeline"], stored["cc1"]["settled"]["graph"]
    assert timeline["recent"][-1]["words"][:1] == [_hash("[SESSION]")]
    assert not {"at_s", "lengths", "words"} & set(timeline)
    assert timeline["tally"] == {
        "value": 3.0,
        "channel": _hash("chan:app"),
        "messages": 0,
        "redemptions": 0,
        "categories": {_hash("cat:tea"): 3},
        "items": {_hash(f"item:{name}"): 1 for name in "abc"},
    }
    assert timeline["history"]["merges"] == 1
    (fresh,) = timeline["history"]["fresh"]
    assert (fresh["category"], fresh["channel"], fresh["value"]) == (_hash("cat:tea"), _hash("chan:app"), 3.0)
    sessions, edges = (stored[f"pc1/{kind.decode()}"] for kind in (HISTORY, EDGES))
    assert [entry["start_s"] * 1000 for entry in sessions["entries"]] == [
        START_MS + day * DAY_MS for day in range(FRESH_ENTRIES)
    ]
    assert (sessions["merges"], edges["merges"]) == (1, graph["merges"])
    assert edges["edges"]["purchase>item"]["a"][0] > 1


def test_a_tally_without_a_channel_shows_none() -> None:
    assert plain(Tally())["channel"] is None


def test_an_edge_type_of_a_newer_release_has_its_number() -> None:
    block = EdgeBlock(START_MS, {len(EDGE_TYPES): EDGE.pack(hash_of("item:a"), 1.0, 1, 0)})
    assert list(plain(block)["edges"]) == [f"#{len(EDGE_TYPES)}"]
