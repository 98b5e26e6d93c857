"""What is bought next, and what becomes of messages: labels that follow those of churn and redemption."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lives import CONFIG, Life
from support.logs import START_MS

from schemas.events import CLICKSTREAM
from schemas.snapshot import Label
from streams.core.config import DAY_MS, HOUR_MS, CoreConfig

AHEAD: Final = msgspec.structs.replace(CONFIG, order_horizon_ms=6 * DAY_MS, activity_events=("purchase", "item_view"))
SESSION_MS: Final = CONFIG.session_gap_ms
STEPS: Final = [1, HOUR_MS // 4, SESSION_MS, SESSION_MS + 1, DAY_MS // 2, 2 * DAY_MS, 5 * DAY_MS]
DONE: Final = st.lists(
    st.tuples(st.sampled_from(STEPS), st.sampled_from(["a", "b", "c", None])), min_size=1, max_size=20
)


@given(done=DONE)
def test_an_order_is_all_that_its_session_buys(done: list[tuple[int, str | None]]) -> None:
    """Against the definition: None is a view, which is activity and buys nothing."""
    life, now_ms = Life(msgspec.structs.replace(AHEAD, sample_share=1.0)), START_MS
    acts: list[tuple[int, str | None]] = []
    for gap_ms, item in done:
        now_ms += gap_ms
        acts.append((now_ms, item))
        if item is None:
            life.view(now_ms)
        else:
            life.purchase(now_ms, item, value=2.0)
    life.until(now_ms + 60 * DAY_MS)
    asked = {one.question_id: one for one in life.outcomes("churn")}
    outcomes = life.outcomes("order")
    assert {one.question_id for one in outcomes} == asked.keys(), "who is asked for one is asked for the other"
    assert len(outcomes) == len(asked) > 0
    for one in outcomes:
        after_ms = one.as_of_ms + (asked[one.question_id].seen.kind == "sample")
        later = [(at, item) for at, item in acts if after_ms <= at < one.due_ms]
        bought = [(at, item) for at, item in later if item is not None]
        expected: dict[str, Label] = {"order": int(bool(bought))}
        if bought:
            (first_ms, _), last_ms = bought[0], bought[0][0]
            for at, _ in acts:
                if last_ms < at < last_ms + SESSION_MS:
                    last_ms = at
            mine = [item for at, item in bought if at <= last_ms]
            expected |= {"order_after_ms": first_ms - one.as_of_ms, "order_items": tuple(sorted(set(mine)))}
            expected["order_value"] = 2.0 * len(mine)
        if later:
            expected["active_after_ms"] = later[0][0] - one.as_of_ms
        assert one.labels == expected
        assert one.snapshot is None and one.customer_id == "c1"
        assert one.due_ms == asked[one.question_id].due_ms + 3 * DAY_MS


def test_lines_lie_in_one_order_and_returns_in_none() -> None:
    life = Life(AHEAD)
    life.purchase(START_MS)
    life.until(START_MS + DAY_MS)
    at_ms = START_MS + DAY_MS + HOUR_MS
    lines = [{"item_id": "b", "price": 1.0}, {"item_id": "a", "price": 2.0, "quantity": 2}]
    life.event(CLICKSTREAM, at_ms, event="purchase", items=lines)
    life.event(CLICKSTREAM, at_ms + 1, event="refund", item_id="z", value=3.0)
    life.until(at_ms + DAY_MS)
    (first, *_) = life.outcomes("order")
    assert (first.labels["order_items"], first.labels["order_value"]) == (("a", "b"), 5.0)


def test_an_order_that_comes_late_is_one_by_itself() -> None:
    life = Life(msgspec.structs.replace(AHEAD, activity_events=("purchase",)))
    life.purchase(START_MS)
    life.until(START_MS + DAY_MS)
    life.view(START_MS + 2 * DAY_MS)
    life.event(
        CLICKSTREAM, START_MS + 2 * DAY_MS, event="purchase", item_id="l", event_ts_ms=START_MS + DAY_MS + HOUR_MS
    )
    (order,) = [one for one in life.outcomes("order") if one.as_of_ms <= START_MS + DAY_MS]
    assert order.labels["order_after_ms"] == START_MS + DAY_MS + HOUR_MS - order.as_of_ms
    assert (order.labels["order_items"], order.resolved_ms) == (("l",), START_MS + 2 * DAY_MS)


def test_a_huge_order_names_some_of_its_items_and_all_of_its_value() -> None:
    life = Life(AHEAD)
    life.purchase(START_MS)
    life.until(START_MS + DAY_MS)
    for line in range(1_000):
        life.purchase(START_MS + DAY_MS + HOUR_MS + line // 3, f"i{line}", value=1.0)
    life.until(START_MS + 3 * DAY_MS)
    (first, *_) = life.outcomes("order")
    items = first.labels["order_items"]
    assert isinstance(items, tuple) and len(items) == 256
    assert first.labels["order_value"] == 1_000.0


MINUTE_MS: Final = 60_000
RESPONSES: Final = [
    # what came and how long after the send, and the labels
    ([], {"response": 0}),
    ([("delivered", 2_000), ("open", 6_000)], {"response": 0}),  # within 5 s of its delivery
    ([("open", 4_999)], {"response": 0}),
    ([("open", 5_001)], {"response": 1, "open_after_ms": 5_001}),
    ([("open", 4_000), ("open", MINUTE_MS)], {"response": 1, "open_after_ms": MINUTE_MS}),
    ([("open", MINUTE_MS), ("open", 2 * MINUTE_MS)], {"response": 1, "open_after_ms": MINUTE_MS}),
    (
        [("open", MINUTE_MS), ("click", 2 * MINUTE_MS)],
        {"response": 1, "open_after_ms": MINUTE_MS, "click_after_ms": 2 * MINUTE_MS},
    ),
    ([("click", MINUTE_MS)], {"response": 1, "open_after_ms": MINUTE_MS, "click_after_ms": MINUTE_MS}),
    ([("click", 1_000)], {"response": 0}),
    ([("open", 8 * DAY_MS)], {"response": 0}),
]


@pytest.mark.parametrize(("came", "expected"), RESPONSES)
@pytest.mark.parametrize("by_send", [True, False])
def test_a_response_is_a_persons(came: list[tuple[str, int]], expected: dict[str, int], by_send: bool) -> None:
    life = Life(CoreConfig(sample_share=0.0))
    life.view(START_MS)
    named = {"send_id": "s"} if by_send else {}
    life.send(START_MS + 1, **named)
    life.send(START_MS + 1, campaign_id="y", send_id="other")
    for name, after_ms in came:
        life.respond(name, START_MS + 1 + after_ms, **named)
    life.until(START_MS + 60 * DAY_MS)
    redemption = {one.question_id: one.seen.candidate for one in life.outcomes("redemption")}
    found = {
        candidate.campaign_id: one.labels
        for one in life.outcomes("response")
        if (candidate := redemption[one.question_id])
    }
    assert found == {"x": expected, "y": {"response": 0}}


def test_of_two_sends_of_a_campaign_the_newer_one_is_meant() -> None:
    life = Life(CoreConfig(sample_share=0.0))
    life.view(START_MS)
    life.send(START_MS + 1)
    life.send(START_MS + DAY_MS)
    life.respond("click", START_MS + DAY_MS + MINUTE_MS)
    life.until(START_MS + 60 * DAY_MS)
    found = {one.as_of_ms: one.label for one in life.outcomes("response")}
    assert found == {START_MS + 1: 0, START_MS + DAY_MS: 1}
