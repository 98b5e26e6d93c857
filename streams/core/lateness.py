"""What becomes of an event whose time is not the time of its topic. A function of the topic's log alone."""

from __future__ import annotations

from msgspec.structs import replace

from schemas.codec import NO_TIME_MS
from schemas.errors import OutOfTime, TooLate
from schemas.events import PROFILES, CampaignSend, Profile, Said, Withdrawal
from schemas.limits import MAX_EVENT_TS_MS, MIN_EVENT_TS_MS
from schemas.names import OPT_OUTS
from streams.core.config import CoreConfig
from streams.core.event_clock import NOT_OBSERVED_MS, EventClock


def withdraws(body: Said) -> bool:
    """Whether an event may take consent back: such a one is never too late, and twice is as good as once."""
    return isinstance(body, Profile) or is_opt_out(body)


def is_opt_out(body: Said) -> bool:
    """Whether an event does nothing else, so that its time matters less than that it counts."""
    return isinstance(body, Withdrawal) or (isinstance(body, CampaignSend) and body.event in OPT_OUTS)


def opt_out_at(
    body: Said, ts_ms: int, record_ts_ms: int, clock: EventClock, config: CoreConfig, source_index: int, consent_ms: int
) -> Said:
    """An opt-out that happened nobody knows when, at a time that can be true; any other as it is.

    It is the time of its record, or what its topic has come to where that is ahead (as in a replay of old events): a
    function of the topic's log. Where the record has no time either, it is put behind the consent that is known.

    Args:
        ts_ms: when it says that it was, :data:`schemas.codec.NO_TIME_MS` where that is not known.
        record_ts_ms: Kafka timestamp of its record.
        clock: of its topic.
        source_index: the topic. On ``profiles``, what comes behind an earlier record counts.
        consent_ms: time of the profile that the customer's consent comes from; 0 where there is none.
    """
    if ts_ms != NO_TIME_MS:
        return body
    reached_ms = clock.latest_ms
    latest_ms = MAX_EVENT_TS_MS if reached_ms == NOT_OBSERVED_MS else reached_ms + config.ahead_ms
    has_time = MIN_EVENT_TS_MS <= record_ts_ms <= MAX_EVENT_TS_MS
    at_ms = record_ts_ms if has_time and record_ts_ms <= latest_ms else max(reached_ms, MIN_EVENT_TS_MS)
    if source_index == PROFILES or not has_time:  # no consent was given at the last instant, see schemas.codec
        at_ms = min(MAX_EVENT_TS_MS, max(at_ms, consent_ms + 1))
    return replace(body, event_ts_ms=at_ms)


def is_ahead(ts_ms: int, reached_ms: int, config: CoreConfig) -> bool:
    """Whether an event is ahead of its time.

    Args:
        ts_ms: its event time.
        reached_ms: event time that its topic has reached.

    Raises:
        OutOfTime: it is, and ``refuse_ahead`` is set.
    """
    if reached_ms == NOT_OBSERVED_MS or ts_ms <= reached_ms + config.ahead_ms:
        return False
    if config.refuse_ahead:
        raise OutOfTime(
            f"event_ts_ms {ts_ms} is {ts_ms - reached_ms} ms ahead of what other customers confirm: correct the "
            "producer's clock, or let such events wait with core.refuse_ahead=false"
        )
    return True


def erased_until_ms(at_ms: int, reached_ms: int, config: CoreConfig) -> int:
    """How far an erasure reaches: what is settled goes as a whole, and so does what may have settled meanwhile.

    Args:
        at_ms: event time of the order.
        reached_ms: event time that its topic has reached.
    """
    return max(at_ms, reached_ms - config.lateness_ms)


def check_not_too_late(ts_ms: int, reached_ms: int, body: Said, config: CoreConfig) -> None:
    """Let an event pass whose id, had it come before, would still be known.

    Raises:
        TooLate: it comes later than that, and takes no consent back.
    """
    if ts_ms < reached_ms - config.ids_kept_ms and not withdraws(body):
        raise TooLate(
            f"event_ts_ms {ts_ms} is {reached_ms - ts_ms} ms late, and event ids are kept for {config.ids_kept_ms} ms "
            "(core.ids_kept_ms): whether it was counted before cannot be known"
        )
