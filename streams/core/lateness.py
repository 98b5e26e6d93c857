"""What becomes of an event whose time is not the time of its topic. A function of the topic's log alone."""

from __future__ import annotations

from schemas.errors import OutOfTime, TooLate
from schemas.events import Body, CampaignSend, Profile
from streams.core.config import CoreConfig
from streams.core.event_clock import NOT_OBSERVED_MS

OPT_OUTS = ("unsubscribe", "complaint")


def withdraws(body: Body) -> bool:
    """Whether an event may take consent back: such a one is never too late, and twice is as good as once."""
    return isinstance(body, Profile) or (isinstance(body, CampaignSend) and body.event in OPT_OUTS)


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


def check_not_too_late(ts_ms: int, reached_ms: int, body: Body, config: CoreConfig) -> None:
    """Let an event pass whose id, had it come before, would still be known.

    Raises:
        TooLate: it comes later than that, and takes no consent back.
    """
    if ts_ms < reached_ms - config.ids_kept_ms and not withdraws(body):
        raise TooLate(
            f"event_ts_ms {ts_ms} is {reached_ms - ts_ms} ms late, and event ids are kept for {config.ids_kept_ms} ms "
            "(core.ids_kept_ms): whether it was counted before cannot be known"
        )
