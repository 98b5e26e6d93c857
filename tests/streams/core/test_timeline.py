"""Sessions as words: where they begin and end, what they say, and that they stay within their limit."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.logs import START_MS

from schemas import words
from schemas.events import Body, CampaignSend, Clickstream, Redemption
from streams.core.config import DAY_MS, MINUTE_MS
from streams.core.timeline import Timeline, name_of

GAP_MS: Final = 30 * MINUTE_MS
LIMIT: Final = 100


class ReadableLexicon:
    """Numbers words as they come, and reads them back. What starts with ``~`` is a sub-word of a text."""

    fingerprint = "readable"

    def __init__(self, unseen: tuple[str, ...] = ()) -> None:
        self._words: list[str] = []
        self._unseen = unseen

    def word(self, word: str) -> bytes | None:
        if word in self._unseen:
            return None
        if word not in self._words:
            self._words.append(word)
        return self._words.index(word).to_bytes(2, "little")

    def text(self, text: str) -> bytes:
        return b"".join(self.word(f"~{part}") or b"" for part in text.split())

    def read(self, ids: bytes) -> str:
        assert len(ids) % 2 == 0
        return " ".join(self._words[int.from_bytes(ids[at : at + 2], "little")] for at in range(0, len(ids), 2))


class Teller:
    """A timeline with its lexicon; ``told`` is what it says after the session's markers."""

    def __init__(self, *unseen: str, limit: int = LIMIT) -> None:
        self.lexicon, self.limit = ReadableLexicon(unseen), limit
        self.timeline = Timeline()

    def act(self, ts_ms: int = START_MS, event: str = "item_view", **said: Any) -> None:
        made = Clickstream(event=event, event_ts_ms=ts_ms, **said)
        self.timeline.act(ts_ms, made, self.lexicon, self.limit)

    def note(self, ts_ms: int = START_MS, event: str = "send", **said: Any) -> None:
        made = CampaignSend(event=event, event_ts_ms=ts_ms, **{"campaign_id": "x"} | said)
        self.timeline.note(ts_ms, made, self.lexicon, self.limit)

    def redeem(self, ts_ms: int = START_MS, **said: Any) -> None:
        made = Redemption(event_ts_ms=ts_ms, offer_id="o", **said)
        self.timeline.note(ts_ms, made, self.lexicon, self.limit)

    def close(self) -> None:
        self.timeline.close(self.lexicon, self.limit)

    @property
    def told(self) -> str:
        return self.lexicon.read(self.timeline.tokens(self.limit))

    @property
    def events(self) -> str:
        return " ".join(word for word in self.told.split() if not word.startswith("["))


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
    assert teller.timeline.closed[0][:2] == (START_MS, START_MS + 10)


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


def test_a_run_of_equal_events_says_its_word_once() -> None:
    teller = Teller()
    for item in ("a", "b", "c"):
        teller.act(item_id=item)
    teller.act(event="purchase", item_id="c")
    teller.act(item_id="d")
    assert teller.events == "evt:item_view item:a item:b item:c evt:purchase item:c evt:item_view item:d"
    teller.close()
    teller.act(item_id="e")
    assert teller.events.endswith("item:d evt:item_view item:e"), "a session does not lean on the one before"


def test_a_message_ends_a_run() -> None:
    teller = Teller()
    teller.act(item_id="a")
    teller.note()
    teller.act(item_id="b")
    assert teller.events == "evt:item_view item:a evt:send camp:x evt:item_view item:b"


def test_messages_outside_sessions_say_their_word_each() -> None:
    teller = Teller()
    teller.note()
    teller.note()
    assert teller.told == "evt:send camp:x evt:send camp:x"


def test_an_unseen_item_falls_back_to_the_words_of_its_title() -> None:
    teller = Teller("item:new", "evt:loyalty_scan", "cat:strange", "camp:strange")
    teller.act(item_id="new", title="dark roast", category="coffee", price=3.0)
    assert teller.events == "evt:item_view cat:coffee ~dark ~roast price:p3"
    teller.act(item_id="known", title="dark roast")
    assert teller.events.endswith("item:known"), "a title is for items that have no word"
    teller.act(item_id="new")
    assert teller.events.endswith("item:known"), "nothing is known of it"
    teller.act(category="strange")
    assert teller.events.endswith("item:known ~strange")
    teller.act(event="loyalty_scan")
    assert teller.events.endswith("evt:custom")
    teller.note(campaign_id="strange")
    assert teller.events.endswith("evt:custom evt:send")


def test_everything_a_click_says() -> None:
    teller = Teller()
    teller.act(event="search", query="cheap beans", page="results", channel="app", value=5.0)
    assert teller.events == f"evt:search {words.price_word(5.0)} page:results ~cheap ~beans chan:app"


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
        st.sampled_from(["act", "act", "note", "redeem", "close"]),
        st.sampled_from("abc"),
        st.integers(0, 3 * GAP_MS),
    ),
    max_size=60,
)


@settings(max_examples=examples(150), deadline=None)
@given(steps=STEPS, limit=st.integers(6, 40))
def test_the_newest_tokens_of_everything_told_within_the_limit(steps: list[tuple[str, str, int]], limit: int) -> None:
    """Against a timeline without a limit: what is kept is its newest part, and it is bounded."""
    bounded, whole = Teller(limit=limit), Teller(limit=10_000)
    whole.lexicon = bounded.lexicon
    now_ms = START_MS
    for what, item, step_ms in steps:
        now_ms += step_ms
        for teller in (bounded, whole):
            if what == "act":
                teller.act(now_ms, item_id=item)
            elif what == "note":
                teller.note(now_ms, campaign_id=item)
            elif what == "redeem":
                teller.redeem(now_ms)
            elif teller.timeline.events:
                teller.close()
        timeline, everything = bounded.timeline, whole.timeline.tokens(10_000)
        ids = timeline.tokens(limit)
        assert len(ids) <= 2 * limit
        assert everything.endswith(ids)
        assert timeline.closed_bytes == sum(len(session[2]) for session in timeline.closed) <= 2 * limit
        assert len(timeline.ids) <= 4 * limit
        assert (timeline.sessions, timeline.events, timeline.last_ms) == (
            whole.timeline.sessions,
            whole.timeline.events,
            whole.timeline.last_ms,
        )
        # Whole sessions go, but an open one alone fills the limit by itself.
        if len(timeline.ids) >= 2 * limit:
            assert len(ids) == 2 * limit
    assert [session[0] for session in bounded.timeline.closed] == sorted(
        session[0] for session in bounded.timeline.closed
    )


@pytest.mark.parametrize("way", ["act", "note", "redeem"])
def test_a_flood_inside_one_session_is_bounded(way: str) -> None:
    teller = Teller(limit=20)
    teller.act()
    for at in range(2_000):
        if way == "act":
            teller.act(START_MS + at, item_id="a")
        elif way == "note":
            teller.note(START_MS + at, channel="email")
        else:
            teller.redeem(START_MS + at)
    assert len(teller.timeline.ids) <= 2 * 2 * 20
    assert len(teller.timeline.tokens(20)) == 2 * 20
    teller.close()
    assert teller.timeline.closed_bytes == 2 * 20


@given(names=st.lists(st.sampled_from(["purchase", "item_view", "send"]), min_size=1, max_size=20))
def test_any_split_of_a_session_stores_and_goes_on_alike(names: list[str]) -> None:
    straight, stored = Teller(), Teller()
    for name in names:
        for teller in (straight, stored):
            teller.note() if name == "send" else teller.act(event=name)
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
