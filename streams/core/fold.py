"""One customer's state as a left fold over its events in event-time order.

:func:`fold` takes one event in; :func:`fire_due` lets event time pass without one and fires what falls due:
the end of a session, a churn horizon, the end of a window. Folding the same events in the same order
gives the same bytes, whatever the batches were.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import Final
from zlib import crc32

from msgspec import UNSET

from schemas.channels import remaining
from schemas.events import SOURCES, CampaignSend, Clickstream, Profile, Redemption, Said, Withdrawal
from schemas.names import OPT_OUTS
from schemas.snapshot import Snapshot
from streams.core import counters, labels
from streams.core.baskets import is_return, items_of
from streams.core.config import DAY_MS, CoreConfig
from streams.core.context import Context
from streams.core.decay import factor, forward_weight
from streams.core.event import Event, consent_of
from streams.core.graph import edges_of, touch
from streams.core.history import local_hour
from streams.core.labels import Awaiting, Bought, Pending
from streams.core.money import rate_of
from streams.core.sales import count_sale
from streams.core.snapshots import snapshot_of
from streams.core.state import Effect, Folded

_GAP_HALF_LIFE_MS: Final = 84 * DAY_MS
_CHANNELS_KEPT: Final = 16  # a producer that invents channel names must not blow up the state


def fold(state: Folded, event: Event, context: Context, effects: list[Effect]) -> None:
    """Take one event in. Events come in :attr:`Event.order`; what falls due before it fires first."""
    ts_ms, body = event.ts_ms, event.body
    config = context.config
    if ts_ms != state.last_ms:  # the lines of one order share an instant, and nothing falls due within it
        fire_due(state, ts_ms, context, effects)
    at_ms = body.event_ts_ms
    is_late = at_ms < ts_ms
    is_known = not isinstance(body, Withdrawal)  # the record of one was refused: it counts as no event
    if is_known and (not state.first_ms or at_ms < state.first_ms):
        state.first_ms = at_ms
    match body:
        case Clickstream():
            _clickstream(state, ts_ms, body, context, effects)
        case CampaignSend():
            _campaign_send(state, ts_ms, body, context, effects)
        case Redemption():
            _redemption(state, ts_ms, body, context, effects)
        case Profile():
            _profile(state, ts_ms, body)
        case Withdrawal():
            state.opt_out_ms = max(state.opt_out_ms, body.event_ts_ms)
            state.consent = () if state.consent else state.consent
    touch(
        state.graph,
        edges_of(body) if event.edges is None else event.edges,
        ts_ms,
        forward_weight(ts_ms, config.edge_half_life_ms),
        fresh_limit=config.fresh_edges,
        type_limit=config.edges_per_type,
    )
    state.events += is_known
    state.last_ms = ts_ms
    state.source = (event.source_index, event.offset, event.ingest_ms)
    if event.offset > state.applied[event.source_index]:
        state.applied[event.source_index] = event.offset
    if is_late:
        topic = SOURCES[event.source_index]
        state.late[topic] = state.late.get(topic, 0) + 1
    _remember(state, ts_ms, event.uid, config)
    if not is_late and config.sample_share and _is_sampled(context.customer_id, event.uid, config.sample_share):
        _sample(state, ts_ms, context, effects)


def _is_sampled(customer_id: str, uid: int, share: float) -> bool:
    return (uid ^ _hash(customer_id)) & 0xFFFF_FFFF < share * (1 << 32)  # a uid is a hash itself


@lru_cache(maxsize=4_096)
def _hash(customer_id: str) -> int:
    return crc32(customer_id.encode("utf-8", "surrogatepass"))


def _sample(state: Folded, ts_ms: int, context: Context, effects: list[Effect]) -> None:
    """Ask of the customer, as an event left them, what is asked of them weekly."""
    config = context.config
    if not state.activity_ms or ts_ms - state.activity_ms > config.churn_active_ms:
        return
    if sum(known.head == "churn" for known in state.pending) >= config.pending_limit // 2:
        return  # the rest is for weekly ones and sends, which do not come by the thousand
    snapshot = snapshot_of(state, "sample", ts_ms, context)
    effects.append(snapshot)
    # What happens at the same instant is not after it, as the next line of an order: so a millisecond more.
    label = Pending.of("churn", snapshot, ts_ms + config.churn_horizon_ms + 1)
    _add_pending(state, label, snapshot, context, effects)


def _remember(state: Folded, ts_ms: int, uid: int, config: CoreConfig) -> None:
    recent = state.recent
    recent.append((ts_ms, uid))
    oldest_ms, excess = ts_ms - config.ids_kept_ms, len(recent) - config.recent_ids
    if excess > 0 or recent[0][0] < oldest_ms:
        del recent[: max(bisect_left(recent, (oldest_ms,)), excess)]


def next_due_ms(state: Folded, config: CoreConfig) -> int | None:
    """When event time alone changes this state next; None where nothing is waiting."""
    due_ms = state.timeline.ends_ms(config.session_gap_ms)
    if state.next_horizon_ms and (due_ms is None or state.next_horizon_ms < due_ms):
        due_ms = state.next_horizon_ms
    for pending in state.pending:
        if due_ms is None or pending.due_ms < due_ms:
            due_ms = pending.due_ms
    return due_ms


def fire_due(state: Folded, now_ms: int, context: Context, effects: list[Effect]) -> None:
    """Fire everything due at or before ``now_ms``, in due order: sessions, then labels, then horizons."""
    config = context.config
    while True:
        due_ms = next_due_ms(state, config)
        if due_ms is None or due_ms > now_ms:
            return
        if state.timeline.ends_ms(config.session_gap_ms) == due_ms:
            state.timeline.close(context)
            if state.bought:
                effects += labels.ordered(state.pending, state.bought, due_ms, config)
                state.bought = []
        elif expired := labels.pop_due(state.pending, due_ms, state.bought, config):
            effects += expired
        else:
            _horizon(state, due_ms, context, effects)


def _horizon(state: Folded, due_ms: int, context: Context, effects: list[Effect]) -> None:
    config = context.config
    if due_ms - state.activity_ms > config.churn_active_ms:
        state.next_horizon_ms = 0  # asleep; the next activity begins a new chain
        return
    state.next_horizon_ms = due_ms + config.horizon_every_ms
    snapshot = snapshot_of(state, "horizon", due_ms, context)
    effects.append(snapshot)
    label = Pending.of("churn", snapshot, due_ms + config.churn_horizon_ms)
    _add_pending(state, label, snapshot, context, effects)


def first_horizon_ms(customer_id: str, after_ms: int, every_ms: int) -> int:
    """First point of the customer's grid after a time; grids are spread over the interval, so that work is too."""
    phase_ms = _hash(customer_id) % every_ms
    return after_ms + every_ms - (after_ms - phase_ms) % every_ms


def _clickstream(state: Folded, ts_ms: int, body: Clickstream, context: Context, effects: list[Effect]) -> None:
    config, name, counts = context.config, body.event, state.counters
    at_ms, rate = body.event_ts_ms, rate_of(body.currency, config)
    local_ms = context.local_ms(at_ms, state.timezone)
    gives_back, value = is_return(body), 0.0
    if gives_back or name == "purchase":
        value = count_sale(state, ts_ms, body, rate, config, gives_back=gives_back)
    if gives_back or at_ms < ts_ms:
        _note(state, ts_ms, body, context, rate, value)
    else:
        state.timeline.act(ts_ms, body, context, local_ms, rate)
        if value:
            state.timeline.earn(value)
    if gives_back:  # neither activity nor a session
        return
    if name in ("page_view", "search"):
        counters.add(counts, "views", ts_ms, 1.0)
    elif name in ("item_view", "add_to_cart"):
        lines = 1 if body.items is None else len(body.items)
        counters.add(counts, "views" if name == "item_view" else "carts", ts_ms, float(lines))
    if state.activity_ms != at_ms and name in config.activity_events:
        _activity(state, at_ms, ts_ms, context, effects)
    if name == "purchase" and labels.is_followed(state.pending):
        line = Bought(at_ms, value, items_of(body))
        if at_ms < ts_ms:
            effects += labels.ordered(state.pending, [line], ts_ms, config)
        else:
            labels.buy(state.bought, line)
    _count_hour(state, local_ms, body.channel or "site")


def _activity(state: Folded, active_ms: int, now_ms: int, context: Context, effects: list[Effect]) -> None:
    last_ms = state.activity_ms
    if active_ms > last_ms:
        if not last_ms or last_ms // DAY_MS != active_ms // DAY_MS:
            state.active_days += 1
            if last_ms:
                left = factor(last_ms, active_ms, _GAP_HALF_LIFE_MS)
                state.gap_weight = state.gap_weight * left + 1.0
                state.gap_sum_days = state.gap_sum_days * left + (active_ms - last_ms) / DAY_MS
        state.activity_ms = active_ms
    if state.pending:
        effects += labels.active(state.pending, active_ms, now_ms, context.config)
    if not state.next_horizon_ms:
        state.next_horizon_ms = first_horizon_ms(context.customer_id, now_ms, context.config.horizon_every_ms)


def _campaign_send(state: Folded, ts_ms: int, body: CampaignSend, context: Context, effects: list[Effect]) -> None:
    config, name, at_ms = context.config, body.event, body.event_ts_ms
    if name == "send":
        if at_ms == ts_ms:  # of a late one it is not known any more how the customer was just before
            _await_redemption(state, ts_ms, body, context, effects)
        counters.add(state.counters, "sends", ts_ms, 1.0)
        state.sends_total += 1
        state.last_send_ms = max(state.last_send_ms, at_ms)
        _log_send(state, at_ms, body, config)
    elif name == "delivered":
        labels.answered_send(state.pending, body, ts_ms, config)
    elif name in ("open", "click"):
        if (known := labels.answered_send(state.pending, body, ts_ms, config)) is not None:
            effects.append(known)
        counters.add(state.counters, "opens" if name == "open" else "clicks", ts_ms, 1.0)
        _count_hour(state, context.local_ms(at_ms, state.timezone), body.channel or "")
    elif name in OPT_OUTS:
        state.opt_out_ms = max(state.opt_out_ms, at_ms)
        if state.consent and at_ms >= state.consent_ms:
            state.consent = remaining(state.consent, body.channel or "", config.channel_aliases)
    _note(state, ts_ms, body, context)


def _note(
    state: Folded, ts_ms: int, body: Said, context: Context, rate: float | None = 1.0, value: float = 0.0
) -> None:
    if (at_ms := body.event_ts_ms) < ts_ms:
        local_ms = context.local_ms(at_ms, state.timezone)
        state.timeline.note_late(ts_ms, body, context, local_ms, rate, value)
    else:
        state.timeline.note(ts_ms, body, context, rate)
        state.timeline.earn(value)


def _log_send(state: Folded, ts_ms: int, body: CampaignSend, config: CoreConfig) -> None:
    """Keep the newest sends of each channel: a busy one must not push out what another one's cap counts."""
    channel = body.channel or ""
    state.sends.append((ts_ms, channel, body.campaign_id or ""))
    same = [place for place, sent in enumerate(state.sends) if sent[1] == channel]
    if len(same) > config.sends_kept:
        del state.sends[same[0]]
    elif len(state.sends) > _CHANNELS_KEPT * config.sends_kept:
        del state.sends[0]


def _await_redemption(state: Folded, ts_ms: int, body: CampaignSend, context: Context, effects: list[Effect]) -> None:
    """Remember the customer as it was just before the send, to be labelled by what comes of it."""
    if not state.events:
        return  # nothing is known yet: there is no snapshot to judge
    snapshot = snapshot_of(state, "send", ts_ms, context, labels.candidate_of(body))
    effects.append(snapshot)
    due_ms = body.window_end_ms or ts_ms + context.config.redemption_window_ms
    if due_ms > ts_ms:
        label = Pending.of("redemption", snapshot, due_ms, body)
        if not _add_pending(state, label, snapshot, context, effects):
            return  # nobody would have the snapshot
        response = Pending.of("response", snapshot, ts_ms + context.config.response_window_ms, body)
        if (dropped := labels.add(state.pending, response, context.config.pending_limit)) is not None:
            effects.append(dropped)


def _add_pending(state: Folded, label: Pending, snapshot: Snapshot, context: Context, effects: list[Effect]) -> bool:
    """Whether there was room for it."""
    dropped = labels.add(state.pending, label, context.config.pending_limit)
    effects.append(Awaiting(label, snapshot) if dropped is None else dropped)
    return dropped is None


def _redemption(state: Folded, ts_ms: int, body: Redemption, context: Context, effects: list[Effect]) -> None:
    counters.add(state.counters, "redemptions", ts_ms, 1.0)
    state.redemptions_total += 1
    state.last_redemption_ms = max(state.last_redemption_ms, body.event_ts_ms)
    if (known := labels.redeemed(state.pending, body, ts_ms)) is not None:
        effects.append(known)
    _note(state, ts_ms, body, context)


def _profile(state: Folded, ts_ms: int, body: Profile) -> None:
    at_ms = body.event_ts_ms
    if body.consent is not UNSET:
        _consent(state, ts_ms, at_ms, consent_of(body) or ())
    if at_ms < ts_ms and at_ms <= state.profile_ms:
        return  # a newer one is known
    state.profile_ms, state.timezone, state.attributes = at_ms, body.timezone, body.attributes or {}


def _consent(state: Folded, ts_ms: int, at_ms: int, granted: tuple[str, ...]) -> None:
    if at_ms < ts_ms:
        if at_ms <= state.consent_ms:
            return  # a newer one is known
        if state.consent is not None or at_ms <= state.opt_out_ms:
            # What was taken back meanwhile may be newer than this: it can take back more, and give nothing.
            granted = tuple(pair for pair in granted if pair in (state.consent or ()))
    elif at_ms == state.opt_out_ms:  # which was first is not known
        granted = tuple(pair for pair in granted if pair in (state.consent or ()))
    state.consent, state.consent_ms = granted, at_ms


def _count_hour(state: Folded, local_ms: int, channel: str) -> None:
    hour = local_hour(local_ms)
    histogram = state.hours.get(channel)
    if histogram is None:
        if len(state.hours) >= _CHANNELS_KEPT:
            return
        histogram = state.hours[channel] = {}
    histogram[hour] = histogram.get(hour, 0) + 1
