"""The readable form: what the encoder sees, a line a position, in words."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given, settings
from support import model_worlds as worlds
from support.examples import examples
from support.sequences import NO_WORD, WORDS, sizes, snapshots
from support.snapshots import edge_block, hashes, plain_snapshot, recent

from models.readable import EVERYTHING, LineLimits, positions, readable, spoken
from models.sequence import SECTION_OF_KIND, SECTIONS, SequenceSize, sequences_of
from schemas import features
from schemas.snapshot import EDGE, SESSION, EdgeBlock, Snapshot, sessions
from schemas.words import FIXED, HASH_BYTES, hash_of, split

DAY_MS = worlds.DAY_MS
NOW_MS = worlds.START_MS  # a Sunday
NAMES = {hash_of(word): word for word in (*WORDS, *worlds.vocabulary().names) if word != NO_WORD}


@settings(deadline=None, max_examples=examples(150))
@given(snapshots, sizes)
def test_a_line_is_a_position_of_the_encoder(snapshot: Snapshot, size: SequenceSize) -> None:
    found = sequences_of([snapshot], worlds.vocabulary(), size)
    seen = Counter(SECTIONS[SECTION_OF_KIND[kind]] for kind in found.kind)
    lines = positions(snapshot, NAMES, size)
    assert list(lines) == list(SECTIONS)
    assert {kind: len(of_kind) for kind, of_kind in lines.items() if of_kind} == seen
    assert len(readable(snapshot, NAMES, size).splitlines()) == sum(seen.values()) + len(seen)


@settings(deadline=None, max_examples=examples(100))
@given(snapshots)
def test_every_word_is_said_and_no_other(snapshot: Snapshot) -> None:
    told = positions(snapshot, NAMES)
    for line, (_, words) in zip(told["recent"], snapshot.recent, strict=True):
        for hashed in split(words):
            assert spoken(NAMES.get(hashed, f"#{hashed.hex()}")) in line
    for hashed in split(snapshot.attributes):
        assert spoken(NAMES.get(hashed, f"#{hashed.hex()}")) in told["customer"][0]
    for line, entry in zip(told["history"], sessions(snapshot.history), strict=True):
        for word in (entry.channel, entry.category, entry.second_category, entry.third_category, entry.item):
            hashed = word.to_bytes(HASH_BYTES, "little")
            assert not word or spoken(NAMES.get(hashed, f"#{hashed.hex()}")) in line
    assert NO_WORD not in readable(snapshot, NAMES)


@settings(deadline=None, max_examples=examples(60))
@given(snapshots)
def test_without_names_only_the_grammar_is_said(snapshot: Snapshot) -> None:
    text = readable(snapshot, {})
    for name in ("coffee", "soap", "dark", "item 0", "camp"):
        assert name not in text
    grammar = {hash_of(word) for word in FIXED}
    for words in (snapshot.attributes, *(words for _, words in snapshot.recent)):
        for hashed in split(words):
            assert (f"#{hashed.hex()}" in text) == (hashed not in grammar)


def test_all_four_kinds_are_told() -> None:
    at_s = NOW_MS // 1000
    shelf, item, mail = (int.from_bytes(hash_of(word), "little") for word in ("cat:frozen fish", "item:5", "chan:mail"))
    begun = ["[SESSION]", "[GAP:3d]", "[DAY:fri]", "[HOUR:18]", "evt:purchase", "cat:frozen fish", "item:5", "price:p3"]
    snapshot = plain_snapshot(
        as_of_ms=NOW_MS,
        features=worlds.vector(
            days_since_first=181.0, days_since_send=-1.0, sessions_total=57, orders_7d=0.5, orders_28d=2.0,
            orders_84d=4.25, hour_of_day=18, day_of_week=6,
        ),
        recent=recent(
            [
                (NOW_MS - 9 * DAY_MS, hashes("evt:send", "camp:1", "chan:mail")),
                (NOW_MS - 2 * DAY_MS, hashes(*begun)),
                (NOW_MS - 2 * DAY_MS + 60_000, hashes("evt:search", "dark", "roast", "[/SESSION]")),
                (NOW_MS - 3_600_000, hashes("[LATE]", "evt:refund", "item:5")),
                (NOW_MS, hashes("[SESSION]", "[GAP:2d]", "evt:item_view", "item:unheard")),
            ]
        ),
        history=SESSION.pack(at_s - 200 * 86_400, 90, 30, 99.5, 0, 18, 7, 2, 0, shelf, 0, 0, 0, 0)
        + SESSION.pack(at_s - 9 * 86_400, 1, 12, 34.2, mail, 4 * 24 + 18, 1, 0, 1, shelf, 0, 0, item, 0)
        + SESSION.pack(at_s - 86_400, 0, 1, -3.0, 0, 5, 0, 0, 0, 0, 0, 0, item, 0),
        edges=(edge_block(NOW_MS, {"purchase>item": {"5": 3.2, "6": 2.0, "7": 1.0}, "view>page": {}}),),
    )  # fmt: skip
    names = NAMES | {hash_of(word): word for word in ("evt:send", "evt:search", "evt:refund", "roast", "item:7")}
    assert readable(snapshot, names, LineLimits(graph=2)).splitlines() == [
        "customer",
        "  as of 2017-01-01 00:00 UTC, sunday 0:00 for the customer; last event at 18:00; days since first 181; "
        "sessions total 57; orders 0.5, 2, 4.25",
        "recent",
        "  9 days ago: send campaign 1, channel mail",
        "  2 days ago: [session, friday, 18:00, 2 to 3 days after the one before] purchase frozen fish, item 5, "
        "price 2 to 4",
        "  47 hours ago: search dark roast [end of session]",
        "  1 hour ago: [came late] refund item 5",
        f"  now: [session, 1 to 2 days after the one before] item view #{hash_of('item:unheard').hex()}",
        "history",
        "  from 6 months ago on, 7 sessions, mostly on monday 18:00, 90 minutes, 30 events, value 99.50, 2 messages: "
        "frozen fish",
        "  9 days ago, friday 18:00, 1 minute, 12 events, value 34.20, 1 redemption: channel mail, frozen fish, item 5",
        "  24 hours ago, monday 5:00, one event that came late, value -3.00: item 5",
        "graph",
        "  purchase item 5: weight 3.20, once, last now",
        "  2 more, purchase item 6, item 7: weight 3.00, 2 times, about now",
    ]


def test_of_an_empty_customer_the_time_of_asking_is_told() -> None:
    empty = plain_snapshot(as_of_ms=NOW_MS, features=bytes(4 * features.SIZE))
    assert (
        readable(empty, {})
        == "customer\n  as of 2017-01-01 00:00 UTC, sunday 0:00 for the customer; last event at 0:00"
    )
    unknown = msgspec.structs.replace(empty, features=b"\xff" * 4 * features.SIZE)
    assert readable(unknown, {}) == "customer\n  as of 2017-01-01 00:00 UTC, sunday 0:00 for the customer"


def test_what_no_calendar_or_number_holds_is_told_as_it_is() -> None:
    edge = EDGE.pack(hash_of("item:0"), float("nan"), 3, 255)
    endless = EDGE.pack(hash_of("item:1"), float("inf"), 3, 0)
    far = plain_snapshot(
        as_of_ms=2**62,
        features=b"\x7f" * 4 * features.SIZE,
        edges=(EdgeBlock(-(2**62), {0: edge + endless, 99: edge}),),
        edge_half_life_ms=1,
    )
    text = readable(far, NAMES, EVERYTHING)
    assert f"as of {2**62} ms" in text
    assert "purchase item 0: weight 0.00, 3 times" in text
    assert len(positions(far, NAMES)["graph"]) == 2, "what a newer program calls type 99 is left out"
