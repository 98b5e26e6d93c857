"""Sessions as words: where they begin and end, what they say, and that they stay within their limit."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.logs import CONFIG, START_MS
from support.told import Reader

from schemas import words
from schemas.events import Body, CampaignSend, Clickstream, Redemption
from schemas.snapshot import Session, sessions
from schemas.words import HASH_BYTES, hash_of
from streams.core.config import DAY_MS, MINUTE_MS
from streams.core.context import Context
from streams.core.timeline import Timeline, name_of

GAP_MS: Final = 30 * MINUTE_MS
LIMIT: Final = 100


class Teller:
    """A timeline and what reads it; ``told`` is all that is kept of the newest events."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.reader, self.limit = Reader(), limit
        self.timeline = Timeline()

    @property
    def context(self) -> Context:
        return Context(msgspec.structs.replace(CONFIG, timeline_words=self.limit), self.reader, 0, "c1")

    def act(self, ts_ms: int = START_MS, event: str = "item_view", **said: Any) -> None:
        made = msgspec.convert({"event": event, "event_ts_ms": ts_ms} | said, Clickstream)
        self.timeline.act(ts_ms, made, self.context, ts_ms)

    def note(self, ts_ms: int = START_MS, event: str = "send", **said: Any) -> None:
        made = CampaignSend(event=event, event_ts_ms=ts_ms, **{"campaign_id": "x"} | said)
        self.timeline.note(ts_ms, made, self.context)

    def redeem(self, ts_ms: int = START_MS, **said: Any) -> None:
        made = Redemption(event_ts_ms=ts_ms, offer_id="o", **said)
        self.timeline.note(ts_ms, made, self.context)

    def late(self, ts_ms: int, at_ms: int, value: float = 0.0, **said: Any) -> None:
        made = msgspec.convert({"event": "purchase", "event_ts_ms": at_ms} | said, Clickstream)
        self.timeline.note_late(ts_ms, made, self.context, at_ms, 1.0, value)

    def close(self) -> None:
        self.timeline.close(self.context)

    @property
    def told(self) -> str:
        return " ".join(self.reader.read(self.timeline.words))

    @property
    def entries(self) -> list[tuple[int, str]]:
        return [(at_ms, " ".join(self.reader.read(words))) for at_ms, words in self.timeline.recent]

    @property
    def events(self) -> str:
        return " ".join(word for word in self.told.split() if not word.startswith("["))

    @property
    def sessions(self) -> list[Session]:
        return list(sessions(self.timeline.history.entries))


def test_a_session_begins_with_its_gap_day_and_hour() -> None:
    teller = Teller()
    teller.act()  # 2017-07-14T02:40Z, a Friday
    assert teller.told == "[SESSION] [GAP:none] [DAY:fri] [HOUR:2] evt:item_view"
    assert teller.timeline.sessions == 1


@pytest.mark.parametrize(
    ("gap_ms", "marker"),
    [
        (0, "[GAP:1h]"),
        (60 * MINUTE_MS - 1, "[GAP:1h]"),
        (60 * MINUTE_MS, "[GAP:3h]"),
        (2 * DAY_MS, "[GAP:3d]"),
        (3 * DAY_MS - 1, "[GAP:3d]"),
        (3 * DAY_MS, "[GAP:5d]"),
        (400 * DAY_MS, "[GAP:long]"),
    ],
)
def test_the_gap_is_counted_from_the_last_event_before(gap_ms: int, marker: str) -> None:
    teller = Teller()
    teller.act(START_MS - MINUTE_MS)
    teller.act(START_MS)
    teller.close()
    teller.note(START_MS + gap_ms)  # a message is no event of the customer's own
    teller.act(START_MS + gap_ms)
    assert teller.told.split().count("[SESSION]") == 2
    assert marker == [word for word in teller.told.split() if word.startswith("[GAP:")][1]


def test_a_session_ends_a_gap_after_its_newest_event() -> None:
    teller = Teller()
    assert teller.timeline.ends_ms(GAP_MS) is None
    teller.act(START_MS)
    teller.act(START_MS + 10)
    assert teller.timeline.ends_ms(GAP_MS) == START_MS + 10 + GAP_MS
    teller.close()
    assert teller.timeline.ends_ms(GAP_MS) is None
    assert teller.told.endswith("evt:item_view [/SESSION]")
    assert [(entry.start_s, entry.events) for entry in teller.sessions] == [(START_MS // 1000, 2)]


def test_a_message_neither_begins_nor_prolongs_a_session() -> None:
    teller = Teller()
    teller.note(START_MS)
    assert teller.timeline.ends_ms(GAP_MS) is None and teller.timeline.sessions == 0
    assert teller.told == "evt:send camp:x"
    teller.act(START_MS + 1_000)
    teller.note(START_MS + 2_000, channel="email", offer_id="o", template_id="t")
    assert teller.timeline.ends_ms(GAP_MS) == START_MS + 1_000 + GAP_MS
    assert teller.told.endswith("evt:item_view evt:send camp:x tmpl:t offer:o chan:email")
    assert teller.timeline.events == 1


def test_redemptions_are_written_too() -> None:
    teller = Teller()
    teller.redeem(campaign_id="x")
    assert teller.told == "evt:redemption camp:x offer:o"


def test_events_of_one_instant_and_name_are_one_entry() -> None:
    teller = Teller()
    for item in ("a", "b", "c"):
        teller.act(item_id=item)
    teller.act(event="purchase", item_id="c")
    teller.act(item_id="d")
    teller.act(START_MS + 1_000, item_id="e")
    assert [words.split("] ")[-1] for _, words in teller.entries] == [
        "evt:item_view item:a item:b item:c",
        "evt:purchase item:c",
        "evt:item_view item:d",
        "evt:item_view item:e",
    ]
    assert [at_ms for at_ms, _ in teller.entries] == [START_MS] * 3 + [START_MS + 1_000]
    teller.close()
    teller.act(START_MS + 1_000, item_id="f")
    assert teller.entries[-1][1].endswith("evt:item_view item:f"), "a session does not lean on the one before"


def test_a_message_ends_an_entry() -> None:
    teller = Teller()
    teller.act(item_id="a")
    teller.note()
    teller.act(item_id="b")
    assert teller.events == "evt:item_view item:a evt:send camp:x evt:item_view item:b"


def test_messages_outside_sessions_say_their_word_each() -> None:
    teller = Teller()
    teller.note()
    teller.note(START_MS + 1)
    assert teller.told == "evt:send camp:x evt:send camp:x"


def test_an_item_is_its_id_and_without_one_the_words_of_its_title() -> None:
    teller = Teller()
    teller.act(item_id="new", title="dark roast", category="coffee", price=3.0)
    assert teller.events == "evt:item_view cat:coffee item:new price:p3"
    teller.act(START_MS + 1, title="Dark Roast!")
    assert teller.events.endswith("evt:item_view dark roast")


def test_everything_a_click_says() -> None:
    teller = Teller()
    teller.act(event="search", query="cheap beans", page="results", channel="app", value=5.0)
    assert teller.events == f"evt:search {words.price_word(5.0)} page:results cheap beans chan:app"


def test_a_copy_is_independent() -> None:
    teller = Teller()
    teller.act()
    twin = teller.timeline.copy()
    before = msgspec.msgpack.encode(twin)
    assert before == msgspec.msgpack.encode(teller.timeline)
    teller.act(event="purchase")
    teller.close()
    assert msgspec.msgpack.encode(twin) == before


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["act", "act", "note", "redeem", "close", "late"]),
        st.sampled_from("abc"),
        st.sampled_from([0, 0, 1_000, GAP_MS, 3 * GAP_MS]),
    ),
    max_size=60,
)


def tell(teller: Teller, what: str, item: str, now_ms: int) -> None:
    if what == "act":
        teller.act(now_ms, item_id=item)
    elif what == "note":
        teller.note(now_ms, campaign_id=item)
    elif what == "redeem":
        teller.redeem(now_ms)
    elif what == "late":
        teller.late(now_ms, now_ms - DAY_MS, item_id=item)
    elif teller.timeline.events:
        teller.close()


@settings(max_examples=examples(150), deadline=None)
@given(steps=STEPS, limit=st.integers(6, 40))
def test_the_newest_words_of_everything_told_within_the_limit(steps: list[tuple[str, str, int]], limit: int) -> None:
    """Against a timeline without a limit: what is kept is its newest part, in whole entries, and it is bounded."""
    bounded, whole = Teller(limit), Teller(limit=10_000)
    now_ms = START_MS
    for what, item, step_ms in steps:
        now_ms += step_ms
        for teller in (bounded, whole):
            tell(teller, what, item, now_ms)
        kept, everything = bounded.timeline.recent, whole.timeline.recent
        assert len(kept.words) <= HASH_BYTES * limit
        assert everything.words.endswith(kept.words) and everything.at_s.endswith(kept.at_s)
        assert sum(kept.lengths) * HASH_BYTES == len(kept.words) and len(kept.at_s) == 4 * len(kept.lengths)
        assert everything.lengths[-len(kept.lengths) :][1:] == kept.lengths[1:]
        if len(kept.lengths) > 1:
            assert everything.lengths.endswith(kept.lengths), "only an entry that is alone is cut itself"
        if len(kept.lengths) < len(everything.lengths):
            oldest_gone = everything.lengths[-len(kept.lengths) - 1]
            assert sum(kept.lengths) + oldest_gone > limit, "nothing goes that has room"
        assert bounded.sessions == whole.sessions
        assert bounded.timeline.tally == whole.timeline.tally


@pytest.mark.parametrize("way", ["act", "note", "redeem"])
@pytest.mark.parametrize("step_ms", [0, 1])
def test_a_flood_inside_one_session_is_bounded(way: str, step_ms: int) -> None:
    teller = Teller(limit=20)
    teller.act(item_id="first")
    for at in range(2_000):
        tell(teller, way, f"i{at}", START_MS + at * step_ms)
    assert 17 <= len(teller.timeline.words) // HASH_BYTES <= 20
    assert len(msgspec.msgpack.encode(teller.timeline)) < 2_000
    teller.close()
    assert len(teller.timeline.words) // HASH_BYTES <= 20


def test_an_entry_says_no_more_than_its_length_can() -> None:
    teller = Teller(limit=1_000)
    teller.act(event="purchase", items=[{"item_id": f"i{at}"} for at in range(200)])
    teller.act(event="purchase", items=[{"item_id": f"j{at}"} for at in range(200)])
    assert list(teller.timeline.lengths) == [254]
    assert teller.timeline.tally.items.keys() >= {hash_of("item:i0"), hash_of("item:i63")}
    teller.close()
    assert teller.told.endswith("[/SESSION]"), "there is room for the end of the session"


def test_a_late_event_has_entries_of_its_own_and_leaves_the_session_alone() -> None:
    teller = Teller()
    teller.act(item_id="a")
    before = teller.timeline.tally.copy()
    teller.late(START_MS + 1, START_MS - DAY_MS, value=9.0, item_id="b", category="tea")
    teller.act(START_MS + 1, item_id="c")
    teller.close()
    assert teller.events == "evt:item_view item:a evt:purchase cat:tea item:b evt:item_view item:c"
    assert "[LATE] evt:purchase cat:tea item:b" in teller.told
    late, session = teller.sessions
    assert (late.sessions, late.start_s, late.value, late.events) == (0, (START_MS - DAY_MS) // 1000, 9.0, 1)
    assert (late.category, late.item) == (number("cat:tea"), number("item:b"))
    assert (session.sessions, session.events, session.value) == (1, 2, 0.0)
    assert {session.item, session.second_item} == {number("item:a"), number("item:c")}
    assert before.items.keys() == {hash_of("item:a")}


def number(word: str) -> int:
    return int.from_bytes(hash_of(word), "little")


@given(names=st.lists(st.sampled_from(["purchase", "item_view", "send", "close"]), min_size=1, max_size=20))
def test_any_split_of_a_session_stores_and_goes_on_alike(names: list[str]) -> None:
    straight, stored = Teller(), Teller()
    for name in names:
        for teller in (straight, stored):
            if name == "close":
                tell(teller, name, "", START_MS)
            elif name == "send":
                teller.note()
            else:
                teller.act(event=name, item_id="a", category="tea")
        stored.timeline = msgspec.msgpack.decode(msgspec.msgpack.encode(stored.timeline), type=Timeline)
    assert msgspec.msgpack.encode(stored.timeline) == msgspec.msgpack.encode(straight.timeline)


def test_bodies_of_every_kind_have_a_name() -> None:
    bodies: list[tuple[Body, str]] = [
        (Clickstream(event="purchase", event_ts_ms=START_MS), "purchase"),
        (CampaignSend(event="click", event_ts_ms=START_MS, campaign_id="x"), "click"),
        (Redemption(event_ts_ms=START_MS, offer_id="o"), "redemption"),
    ]
    for body, name in bodies:
        assert name_of(body) == name
