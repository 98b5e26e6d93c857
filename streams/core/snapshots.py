"""From state to :class:`schemas.snapshot.Snapshot`: the one feature pipeline, for training and serving."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

from schemas import ids
from schemas.events import SOURCES
from schemas.snapshot import Candidate, SendCount, Snapshot, SnapshotKind
from schemas.words import attribute_of
from streams.core import counters, graph
from streams.core.config import DAY_MS
from streams.core.context import Context
from streams.core.state import Folded


def snapshot_of(
    state: Folded, kind: SnapshotKind, as_of_ms: int, context: Context, candidate: Candidate | None = None
) -> Snapshot:
    """The customer as seen at ``as_of_ms``, which is not before the newest event in ``state``."""
    config = context.config
    half_life_ms = config.edge_half_life_ms
    source_index, offset, ingest_ms = state.source
    source = (SOURCES[source_index], context.partition, offset)
    applied = {SOURCES[at]: applied for at, applied in enumerate(state.applied) if applied >= 0}
    timeline = state.timeline
    return Snapshot(
        question_id=ids.question_id(
            context.customer_id, kind, as_of_ms, source, applied, state.events, state.consent, candidate
        ),
        customer_id=context.customer_id,
        kind=kind,
        as_of_ms=as_of_ms,
        source=source,
        applied=applied,
        event_ts_ms=state.last_ms,
        ingest_ts_ms=ingest_ms,
        features=_features(state, as_of_ms, context),
        recent=timeline.recent,
        history=timeline.history.entries,
        edges=graph.blocks(state.graph, as_of_ms, context.words, half_life_ms),
        edge_half_life_ms=half_life_ms,
        consent=state.consent,
        sends=_sends(state),
        holdout=in_holdout(context.customer_id, config.holdout_percent),
        candidate=candidate,
        attributes=attribute_words(state.attributes, context),
    )


def attribute_words(attributes: Mapping[str, str | bool | int | float | None], context: Context) -> bytes:
    """Words of a profile's attributes that models may read, in the order of the setting."""
    known = [(name, attributes.get(name)) for name in context.config.model_attributes]
    return b"".join([context.words.attribute[attribute_of(name, value)] for name, value in known if value is not None])


def in_holdout(customer_id: str, percent: int) -> bool:
    """Whether a customer belongs to the share that is never contacted; fixed for the customer's life."""
    return percent > 0 and crc32(b"holdout:" + customer_id.encode("utf-8", "surrogatepass")) % 100 < percent


def _days(from_ms: int, as_of_ms: int) -> float:
    return (as_of_ms - from_ms) / DAY_MS if from_ms else -1.0


def _features(state: Folded, as_of_ms: int, context: Context) -> bytes:
    since_activity = _days(state.activity_ms, as_of_ms)
    mean_gap = state.gap_sum_days / state.gap_weight if state.gap_weight else 0.0
    day = context.local_ms(as_of_ms, state.timezone) // DAY_MS
    return counters.pack(
        [
            since_activity,
            _days(state.last_ms, as_of_ms),
            _days(state.first_ms, as_of_ms),
            mean_gap,
            since_activity / mean_gap if mean_gap and state.activity_ms else 0.0,
            _days(state.last_send_ms, as_of_ms),
            _days(state.last_redemption_ms, as_of_ms),
            float(state.events),
            float(state.timeline.sessions),
            float(state.active_days),
            float(state.sends_total),
            float(state.redemptions_total),
            float(state.graph.count("item")),
            float(state.graph.count("category")),
            float(state.timeline.events),
            float(context.local_ms(state.last_ms, state.timezone) // 3_600_000 % 24),
            float((day + 3) % 7),
        ],
        state.counters,
        as_of_ms,
    )


def _sends(state: Folded) -> tuple[SendCount, ...]:
    by_channel: dict[str, list[tuple[int, str]]] = {}
    for sent_ms, channel, campaign_id in state.sends:
        by_channel.setdefault(channel, []).append((sent_ms, campaign_id))
    return tuple(
        SendCount(channel, tuple(ms for ms, _ in sent), tuple(campaign_id for _, campaign_id in sent))
        for channel, sent in sorted(by_channel.items())
    )
