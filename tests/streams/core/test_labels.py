"""Outcomes through the fold: which label, at what event time, about which snapshot."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lives import CONFIG, Life
from support.logs import START_MS

from schemas.events import CLICKSTREAM, REDEMPTIONS, CampaignSend, Clickstream, Redemption
from schemas.ids import event_uid, prediction_id
from streams.core import labels
from streams.core.config import DAY_MS, HOUR_MS, CoreConfig
from streams.core.event import Event
from streams.core.fold import fold, next_due_ms
from streams.core.labels import Pending, Resolved


def horizon_after(ts_ms: int, config: CoreConfig = CONFIG) -> int:
    life = Life(config)
    life.purchase(ts_ms)
    next_ms: int = life.state.next_horizon_ms
    return next_ms


def test_no_activity_within_the_horizon_is_churn_at_its_end() -> None:
    life = Life()
    life.purchase(START_MS)
    horizon_ms = life.state.next_horizon_ms
    life.until(horizon_ms + CONFIG.churn_horizon_ms - 1)
    assert life.outcomes("churn") == []
    assert life.awaiting_label("horizon")[0].as_of_ms == horizon_ms
    life.until(horizon_ms + CONFIG.churn_horizon_ms)
    (outcome,) = life.outcomes("churn")
    assert (outcome.label, outcome.due_ms, outcome.resolved_ms) == (1, horizon_ms + 3 * DAY_MS, horizon_ms + 3 * DAY_MS)
    assert outcome.snapshot == life.awaiting_label("horizon")[0], "the label is about exactly what was predicted on"


def test_coming_back_answers_every_pending_label_at_once() -> None:
    life = Life()
    life.purchase(START_MS)
    horizon_ms = life.state.next_horizon_ms
    back_ms = horizon_ms + DAY_MS + HOUR_MS
    life.purchase(back_ms)
    first, second = life.outcomes("churn")
    assert (first.label, second.label) == (0, 0)
    assert first.resolved_ms == second.resolved_ms == back_ms
    assert (first.due_ms, second.due_ms) == (horizon_ms + 3 * DAY_MS, horizon_ms + 4 * DAY_MS)
    assert not [entry for entry in life.state.pending if entry.head == "churn"]


@pytest.mark.parametrize(("back_after_ms", "label"), [(3 * DAY_MS - 1, 0), (3 * DAY_MS, 1), (3 * DAY_MS + 1, 1)])
def test_the_horizon_ends_before_its_last_millisecond(back_after_ms: int, label: int) -> None:
    life = Life()
    life.purchase(START_MS)
    horizon_ms = life.state.next_horizon_ms
    life.purchase(horizon_ms + back_after_ms)
    assert life.outcomes("churn")[0].due_ms == horizon_ms + 3 * DAY_MS
    assert life.outcomes("churn")[0].label == label


def test_only_activity_events_count_as_coming_back() -> None:
    life = Life()
    life.purchase(START_MS)
    horizon_ms = life.state.next_horizon_ms
    life.view(horizon_ms + 1)
    life.send(horizon_ms + 2)
    life.redeem(horizon_ms + 3)
    assert life.outcomes("churn") == []


def test_who_was_never_active_is_never_judged() -> None:
    life = Life()
    life.view(START_MS)
    life.send(START_MS + 1)
    life.until(START_MS + 100 * DAY_MS)
    assert life.outcomes("churn") == [] and life.awaiting_label("horizon") == []


def test_a_sleeper_is_judged_no_more_until_active_again() -> None:
    life = Life()
    life.purchase(START_MS)
    life.until(START_MS + 100 * DAY_MS)
    judged = [snapshot.as_of_ms for snapshot in life.awaiting_label("horizon")]
    assert judged and all(START_MS < at <= START_MS + CONFIG.churn_active_ms for at in judged)
    assert next_due_ms(life.state, CONFIG) is None
    life.purchase(START_MS + 100 * DAY_MS)
    life.until(START_MS + 102 * DAY_MS)
    assert len(life.awaiting_label("horizon")) > len(judged)


def test_outcomes_are_joined_with_predictions_by_question() -> None:
    life = Life(msgspec.structs.replace(CONFIG, sample_share=1.0))
    life.purchase(START_MS)
    life.send(START_MS + 1)
    life.send(START_MS + 1, campaign_id="y")
    life.until(START_MS + 30 * DAY_MS)
    outcomes = life.outcomes("churn") + life.outcomes("redemption")
    assert {outcome.seen.kind for outcome in outcomes} == {"horizon", "send", "sample"}
    assert all(outcome.question_id == outcome.seen.question_id for outcome in outcomes)
    assert len({outcome.question_id for outcome in outcomes}) == len(outcomes)


def test_two_models_say_two_things_about_one_question() -> None:
    assert prediction_id("churn", "q", "one") == prediction_id("churn", "q", "one")
    assert len({prediction_id(*said) for said in itertools.product(("churn", "redemption"), "qr", ("one", "two"))}) == 8


@pytest.mark.parametrize(("back_after_ms", "label"), [(1, 0), (3 * DAY_MS, 0), (3 * DAY_MS + 1, 1), (None, 1)])
def test_a_sample_asks_what_comes_after_its_event(back_after_ms: int | None, label: int) -> None:
    life = Life(msgspec.structs.replace(CONFIG, sample_share=1.0))
    life.purchase(START_MS)
    life.purchase(START_MS)  # the next line of the order is not a return
    if back_after_ms is not None:
        life.purchase(START_MS + back_after_ms)
    life.until(START_MS + 30 * DAY_MS)
    outcomes = [one for one in life.outcomes("churn") if one.seen.kind == "sample" and one.as_of_ms == START_MS]
    assert [one.labels for one in outcomes] == 2 * [{"churn": label} | ({} if label else {"after_ms": back_after_ms})]
    assert [one.seen.event_ts_ms for one in outcomes] == 2 * [START_MS]


def test_samples_are_an_even_share_that_depends_on_customer_and_event_alone() -> None:
    drawn = []
    for share in (0.1, 0.3):
        life = Life(msgspec.structs.replace(CONFIG, sample_share=share, pending_limit=10**6))
        for at in range(2_000):
            body = msgspec.convert({"event_ts_ms": START_MS + at, "event": "purchase"}, Clickstream)
            event = Event(START_MS + at, CLICKSTREAM, f"e{at}", event_uid(CLICKSTREAM, f"e{at}"), at, START_MS, body)
            fold(life.state, event, life.context, life.effects)
        drawn.append({snapshot.as_of_ms for snapshot in life.awaiting_label("sample")})
        assert share * 0.8 < len(drawn[-1]) / 2_000 < share * 1.2
    assert drawn[0] < drawn[1]


def test_samples_leave_room_for_weekly_questions() -> None:
    life = Life(msgspec.structs.replace(CONFIG, sample_share=1.0, pending_limit=8))
    for _ in range(100):
        life.purchase(START_MS)
    life.until(START_MS + DAY_MS)
    assert [entry.as_of_ms for entry in life.state.pending].count(START_MS) == 4
    assert len(life.state.pending) == 5


def sent_twice(**said: Any) -> Life:
    """Sends ``first`` and ``second``, told apart by their templates."""
    life = Life()
    life.view(START_MS)
    life.send(START_MS + 1, template_id="first", send_id="s1", offer_id="o", **said)
    life.send(START_MS + 2, template_id="second", send_id="s2", offer_id="o", **said)
    return life


def test_silence_until_the_window_ends_is_no_redemption() -> None:
    life = sent_twice()
    life.until(START_MS + 1 + 2 * DAY_MS)
    assert life.redemption_labels() == [("first", 0)]
    assert life.outcomes("redemption")[0].resolved_ms == START_MS + 1 + 2 * DAY_MS
    life.until(START_MS + 2 + 2 * DAY_MS)
    assert life.redemption_labels() == [("first", 0), ("second", 0)]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"send_id": "s1", "campaign_id": "x"}, [("first", 1)]),
        ({"send_id": "s2"}, [("second", 1)]),
        ({"campaign_id": "x"}, [("second", 1)]),
        ({}, [("second", 1)]),
        ({"offer_id": "another"}, []),
        ({"offer_id": "another", "campaign_id": "another"}, []),
    ],
)
def test_a_redemption_answers_by_send_then_campaign_then_offer(
    said: dict[str, Any], expected: list[tuple[str, int]]
) -> None:
    life = sent_twice()
    life.redeem(START_MS + DAY_MS, **said)
    assert life.redemption_labels() == expected
    life.until(START_MS + 10 * DAY_MS)
    labels_by_send = dict(life.redemption_labels())
    assert labels_by_send == {"first": 0, "second": 0} | dict(expected), "each send gets one label, once"
    assert len(life.redemption_labels()) == 2


def test_a_redemption_that_came_late_answers_no_send_after_it() -> None:
    life = Life()
    life.view(START_MS)
    life.send(START_MS + HOUR_MS, offer_id="o")
    body = msgspec.convert({"event_ts_ms": START_MS + 1, "offer_id": "o"}, Redemption)
    fold(
        life.state,
        Event(START_MS + 2 * HOUR_MS, REDEMPTIONS, "late", 99, 0, START_MS, body),
        life.context,
        life.effects,
    )
    assert life.redemption_labels() == []
    life.redeem(START_MS + 3 * HOUR_MS)
    (outcome,) = life.outcomes("redemption")
    assert outcome.labels == {"redemption": 1, "after_ms": 2 * HOUR_MS}


def test_a_campaign_is_closer_than_an_offer() -> None:
    life = Life()
    life.view(START_MS)
    life.send(START_MS + 1, "x", template_id="first", offer_id="o")
    life.send(START_MS + 2, "y", template_id="second", offer_id="o")
    life.redeem(START_MS + 3, campaign_id="x")
    assert life.redemption_labels() == [("first", 1)]


def test_using_one_send_twice_says_nothing_of_another() -> None:
    life = sent_twice()
    life.redeem(START_MS + DAY_MS, send_id="s1", campaign_id="x")
    life.redeem(START_MS + DAY_MS + 1, send_id="s1", campaign_id="x")
    assert life.redemption_labels() == [("first", 1)]


@pytest.mark.parametrize(("after_ms", "label"), [(2 * DAY_MS - 1, 1), (2 * DAY_MS, 0)])
def test_a_redemption_counts_inside_the_window_only(after_ms: int, label: int) -> None:
    life = Life()
    life.view(START_MS)
    life.send(START_MS + 1, template_id="first", offer_id="o")
    life.redeem(START_MS + 1 + after_ms)
    life.until(START_MS + 10 * DAY_MS)
    assert life.redemption_labels() == [("first", label)]


def test_a_send_may_say_when_its_window_ends() -> None:
    life = Life()
    life.view(START_MS)
    life.send(START_MS + 1, template_id="short", offer_id="o", window_end_ms=START_MS + HOUR_MS)
    life.send(START_MS + 2, template_id="over", offer_id="o", window_end_ms=START_MS)
    life.redeem(START_MS + HOUR_MS)
    life.until(START_MS + 10 * DAY_MS)
    assert life.redemption_labels() == [("short", 0)], "a window that is over before it begins asks nothing"


def test_a_send_is_judged_on_what_was_known_before_it() -> None:
    life = Life()
    life.send(START_MS, template_id="nothing known")
    assert life.awaiting_label("send") == []
    life.send(START_MS + 1, template_id="known", offer_id="o")
    (snapshot,) = life.awaiting_label("send")
    assert snapshot.as_of_ms == START_MS + 1 and snapshot.event_ts_ms == START_MS
    assert [count.sent_ms for count in snapshot.sends] == [(START_MS,)]


def test_redemption_before_the_send_answers_nothing() -> None:
    life = Life()
    life.redeem(START_MS, campaign_id="x")
    life.send(START_MS + 1, template_id="first", offer_id="o")
    assert life.redemption_labels() == []


def test_beyond_the_limit_a_label_is_dropped() -> None:
    life = Life(msgspec.structs.replace(CONFIG, pending_limit=3))
    life.view(START_MS)
    for at in range(5):
        life.send(START_MS + 1 + at, template_id=f"t{at}", send_id=f"s{at}", offer_id="o")
        assert all(sum(one.head == head for one in life.state.pending) <= 3 for head in ("redemption", "response"))
    life.until(START_MS + 10 * DAY_MS)
    assert life.redemption_labels() == [("t0", 0), ("t1", 0), ("t2", 0)]
    assert len(life.awaiting_label("send")) == 5
    assert [effect.send_id for effect in life.effects if isinstance(effect, Pending)] == ["s3", "s4"]


def test_the_limit_does_not_choose_labels() -> None:
    """Who is asked all the time: dropping the oldest question would keep those that were answered early."""
    life = Life(msgspec.structs.replace(CONFIG, pending_limit=3))
    life.view(START_MS)
    for at in range(40):
        at_ms = START_MS + (1 + at) * DAY_MS // 2
        life.send(at_ms, campaign_id=f"x{at}", send_id=f"s{at}", template_id=f"t{at}")
        if at % 10 == 0:
            life.redeem(at_ms + 1, campaign_id=f"x{at}", send_id=f"s{at}")
    life.until(START_MS + 60 * DAY_MS)
    labels_seen = [label for _, label in life.redemption_labels()]
    assert 0 in labels_seen and 1 in labels_seen
    assert sum(labels_seen) < len(labels_seen) / 2


def pending(head: str, due_ms: int) -> Pending:
    send = CampaignSend(event="send", event_ts_ms=START_MS, campaign_id="x")
    return Pending(head, f"{head}-{due_ms}", START_MS, due_ms, send.campaign_id)  # type: ignore[arg-type]


@given(dues=st.lists(st.tuples(st.sampled_from(["churn", "redemption"]), st.integers(0, 20)), max_size=12))
def test_silence_resolves_each_label_once(dues: list[tuple[str, int]]) -> None:
    waiting = [pending(head, due_ms) for head, due_ms in dues]
    resolved: list[Pending] = []
    for now_ms in range(21):
        while known := labels.pop_due(waiting, now_ms, [], CONFIG):
            (found,) = known
            assert isinstance(found, Resolved)
            assert found.pending.due_ms == found.resolved_ms == now_ms
            assert found.labels[found.pending.head] == (found.pending.head == "churn")
            resolved.append(found.pending)
        assert all(entry.due_ms > now_ms for entry in waiting)
    assert sorted((one.head, one.due_ms) for one in resolved if one.head != "order") == sorted(dues)


def test_activity_says_nothing_of_redemptions_and_redemptions_nothing_of_churn() -> None:
    waiting = [pending("churn", 5), pending("redemption", 5)]
    config = msgspec.structs.replace(CONFIG, churn_horizon_ms=5, order_horizon_ms=5, pending_limit=1)
    (known,) = labels.active(waiting, 3, 3, config)
    assert isinstance(known, Resolved) and known.pending.head == "churn"
    assert [entry.head for entry in waiting] == ["redemption", "order"]
    del waiting[1]
    waiting.append(pending("churn", 6))
    answered = labels.redeemed(waiting, Redemption(event_ts_ms=START_MS, offer_id="o", campaign_id="x"), 4)
    assert answered is not None
    assert (answered.pending.head, answered.labels["redemption"], answered.resolved_ms) == ("redemption", 1, 4)
    assert [entry.head for entry in waiting] == ["churn"]
    assert labels.redeemed(waiting, Redemption(event_ts_ms=START_MS, offer_id="o", campaign_id="x"), 4) is None


GAPS = st.lists(st.sampled_from([1, HOUR_MS, DAY_MS // 2, DAY_MS, 2 * DAY_MS, 5 * DAY_MS]), min_size=1, max_size=20)


@given(gaps=GAPS)
def test_churn_labels_say_what_happened(gaps: list[int]) -> None:
    """Against the definition: no purchase in ``(as_of, as_of + horizon)``."""
    life = Life()
    now_ms, purchases = START_MS, []
    for gap_ms in gaps:
        now_ms += gap_ms
        life.purchase(now_ms)
        purchases.append(now_ms)
    life.until(now_ms + 70 * DAY_MS)
    outcomes = life.outcomes("churn")
    assert len(outcomes) == len(life.awaiting_label("horizon")) > 0
    for outcome in outcomes:
        as_of_ms = outcome.as_of_ms
        came_back = [at for at in purchases if as_of_ms <= at < outcome.due_ms]
        assert outcome.label == (0 if came_back else 1)
        assert outcome.resolved_ms == min([*came_back, outcome.due_ms])
        assert outcome.due_ms == as_of_ms + CONFIG.churn_horizon_ms
    spaced = [snapshot.as_of_ms for snapshot in life.awaiting_label("horizon")]
    assert all((later - earlier) % DAY_MS == 0 for earlier, later in itertools.pairwise(spaced))
    assert not life.state.pending


def test_horizons_of_customers_are_spread_and_fixed() -> None:
    assert horizon_after(START_MS) == horizon_after(START_MS)
    assert START_MS < horizon_after(START_MS) <= START_MS + DAY_MS
    assert (horizon_after(START_MS + 10 * DAY_MS + 5) - horizon_after(START_MS)) % DAY_MS == 0
