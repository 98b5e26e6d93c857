"""Consent fails closed: an opt-out counts whenever it arrives, and whatever it leaves out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from support.logs import CONFIG, START_MS, LogRecord, Sent, Worker, record

from schemas.codec import NO_TIME_MS
from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, PROFILES, Withdrawal
from schemas.ids import question_id
from schemas.snapshot import Snapshot
from streams.core.config import MINUTE_MS
from streams.core.event_clock import EventClock
from streams.core.lateness import opt_out_at

LATE_MS = 2 * CONFIG.lateness_ms


def profile(ts_ms: int, *channels: str) -> Sent:
    consent = {channel: {"marketing": True} for channel in channels}
    return Sent(PROFILES, "c1", ts_ms, {"event_ts_ms": ts_ms, "event_id": f"p{ts_ms}", "consent": consent})


def opt_out(ts_ms: int, **fields: Any) -> Sent:
    body = {"event": "unsubscribe", "campaign_id": "x", "event_ts_ms": ts_ms, "event_id": f"u{ts_ms}", **fields}
    return Sent(CAMPAIGN_SENDS, "c1", ts_ms, body)


def consent_after(*events: Sent) -> tuple[str, ...] | None:
    worker, offsets = Worker(), [0, 0, 0, 0]
    for number, sent in enumerate([*events, Sent(CLICKSTREAM, "c1", events[-1].ts_ms + 40 * MINUTE_MS, None)]):
        if sent.body is None:
            body = {"event": "page_view", "event_ts_ms": sent.ts_ms, "event_id": f"v{number}"}
            sent = sent._replace(body=body)
        one: LogRecord = record(sent, offsets[sent.source_index])
        offsets[sent.source_index] += 1
        worker.take(sent.source_index, [one])
    worker.checkpoint()
    return msgspec.msgpack.decode(worker.snapshots["c1", "event"], type=Snapshot).consent


def test_consent_that_is_given_is_seen() -> None:
    assert consent_after(profile(START_MS, "email", "sms")) == ("email:marketing", "sms:marketing")


def test_an_opt_out_takes_back_its_channel() -> None:
    events = (profile(START_MS, "email", "sms"), opt_out(START_MS + 1, channel="email"))
    assert consent_after(*events) == ("sms:marketing",)


def test_an_opt_out_without_a_channel_takes_back_everything() -> None:
    assert consent_after(profile(START_MS, "email", "sms"), opt_out(START_MS + 1)) == ()


@pytest.mark.parametrize(("fields", "left"), [({"channel": "email"}, ("sms:marketing",)), ({}, ())])
def test_a_late_opt_out_counts(fields: dict[str, Any], left: tuple[str, ...]) -> None:
    sends_go_on = Sent(
        CAMPAIGN_SENDS,
        "c1",
        START_MS + 1 + LATE_MS,
        {"event": "delivered", "campaign_id": "x", "event_ts_ms": START_MS + 1 + LATE_MS, "event_id": "d"},
    )
    assert consent_after(profile(START_MS, "email", "sms"), sends_go_on, opt_out(START_MS + 1, **fields)) == left


def test_a_channel_with_a_colon_in_its_name_can_be_left_late() -> None:
    """What was granted for all of ``push`` would reach it, so that goes, too."""
    granted = profile(START_MS, "push:ios", "push", "push:android", "sms")
    events = granted, opt_out(START_MS + 1, channel="push:ios")
    left = ("push:android:marketing", "sms:marketing")
    assert consent_after(*events) == left
    body = {"event": "delivered", "campaign_id": "x", "event_ts_ms": START_MS + LATE_MS + 1, "event_id": "d"}
    sends_go_on = Sent(CAMPAIGN_SENDS, "c1", START_MS + LATE_MS + 1, body)
    assert consent_after(events[0], sends_go_on, events[1]) == left


def test_a_channel_that_was_left_before_it_was_granted_stays_left() -> None:
    """An older profile that comes behind the opt-out cannot give what was left by then; a newer one can."""
    left, older, newer = (
        opt_out(START_MS + 2, channel="sms"), profile(START_MS + 1, "email", "sms"), profile(START_MS + 3, "sms"),
    )  # fmt: skip
    beat = {"event_ts_ms": START_MS + LATE_MS, "event_id": "b", "attributes": {}}
    other = Sent(PROFILES, "c2", START_MS + LATE_MS, beat)
    assert consent_after(profile(START_MS, "email"), left) == ("email:marketing",)
    assert consent_after(profile(START_MS, "email"), left, other, older) == ("email:marketing",)
    assert consent_after(left, older) == ("email:marketing",), "in time it is put before the opt-out"
    assert consent_after(left, other, older) == (), "late, it gives nothing"
    assert consent_after(profile(START_MS, "email"), left, newer) == ("sms:marketing",)


def test_a_decision_that_corrects_another_has_an_id_of_its_own() -> None:
    ids_of = [
        question_id("c1", "event", START_MS, ("clickstream", 0, 1), {"clickstream": 1}, 1, consent, None)
        for consent in (("email:marketing",), ("sms:marketing",), (), None)
    ]
    assert len(set(ids_of)) == 4


def test_a_late_profile_can_take_back_and_not_give() -> None:
    newest = profile(START_MS + LATE_MS, "email", "sms")
    late = profile(START_MS + 1, "push", "sms")
    # It is older than the profile in force, which therefore stands, also where the late one gave less.
    assert consent_after(profile(START_MS, "email"), newest, late) == ("email:marketing", "sms:marketing")


def test_consent_given_again_later_counts_again() -> None:
    sends_go_on = Sent(
        CAMPAIGN_SENDS,
        "c1",
        START_MS + 1 + LATE_MS,
        {"event": "delivered", "campaign_id": "x", "event_ts_ms": START_MS + 1 + LATE_MS, "event_id": "d"},
    )
    again = profile(START_MS + 3 * LATE_MS, "email")
    late = opt_out(START_MS + 1, channel="email")
    assert consent_after(profile(START_MS, "email"), sends_go_on, late, again) == ("email:marketing",)


def other_profile(ts_ms: int) -> Sent:
    return Sent(PROFILES, "c2", ts_ms, {"event_ts_ms": ts_ms, "event_id": f"o{ts_ms}"})


def test_a_late_profile_that_is_the_newest_takes_back_and_does_not_give() -> None:
    late = profile(START_MS + 1, "push", "sms")
    assert consent_after(profile(START_MS, "email", "sms"), other_profile(START_MS + LATE_MS), late) == (
        "sms:marketing",
    )


def test_a_first_profile_that_comes_late_gives_what_nobody_took_back() -> None:
    late = profile(START_MS + 1, "email")
    before = Sent(CLICKSTREAM, "c1", START_MS, {"event": "app_open", "event_ts_ms": START_MS, "event_id": "a"})
    assert consent_after(before, other_profile(START_MS + LATE_MS), late) == ("email:marketing",)
    left = opt_out(START_MS + 2, channel="email")
    assert consent_after(before, left, other_profile(START_MS + LATE_MS), late) == ()


@pytest.mark.parametrize(
    ("after_ms", "ahead"), [(-1, 0), (0, 0), (1, 0), (CONFIG.ahead_ms, 0), (CONFIG.ahead_ms + 1, 1)]
)
def test_an_opt_out_far_ahead_of_its_topic_counts_and_is_counted(after_ms: int, ahead: int) -> None:
    worker = Worker()
    worker.take(CAMPAIGN_SENDS, [record(opt_out(START_MS), 0)])
    assert worker.ingest.counts["ahead"] == 0, "ahead of nothing: it is the first of its topic"
    worker.take(CAMPAIGN_SENDS, [record(opt_out(START_MS + after_ms), 1)])
    assert worker.ingest.counts["ahead"] == ahead
    assert worker.ingest.counts["applied"] == 2 - (after_ms == 0), "the same id again is a duplicate"


@pytest.mark.parametrize(
    ("source_index", "consent_ms", "at_ms"),
    [
        (PROFILES, 0, START_MS - 5),
        (PROFILES, START_MS - 6, START_MS - 5),
        (PROFILES, START_MS - 3, START_MS - 2),  # one profile behind another: the later one counts
        (CAMPAIGN_SENDS, 0, START_MS - 5),
        (CAMPAIGN_SENDS, START_MS - 3, START_MS - 5),  # consent may be newer than what another topic tells
    ],
)
def test_an_undated_opt_out_is_of_its_record_and_on_profiles_behind_the_consent_that_is_known(
    source_index: int, consent_ms: int, at_ms: int
) -> None:
    dated = opt_out_at(
        Withdrawal(NO_TIME_MS), NO_TIME_MS, START_MS - 5, EventClock(1, START_MS), CONFIG, source_index, consent_ms
    )
    assert dated.event_ts_ms == at_ms
