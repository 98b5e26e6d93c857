"""Everything that shapes a customer's state. Two deployments with equal values agree byte for byte."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS


_CHANNEL_ALIASES: Final = {
    "mail": "email",
    "newsletter": "email",
    "text": "sms",
    "txt": "sms",
    "textmessage": "sms",
    "pushnotification": "push",
}


class CoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in milliseconds of event time, bounds in counts."""

    timezone: str = "UTC"
    """IANA name of the zone of a customer's time of day where the profile names none."""
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")] = "EUR"
    """The company's currency, ISO 4217: values count in it, and an event that names none is in it."""
    channel_aliases: dict[str, str] = msgspec.field(default_factory=_CHANNEL_ALIASES.copy)
    """Names that may mean another channel. An opt-out from the one is one from the other, too, and sends of both count
    for a cap; consent for the one is none for the other. Case, spaces, ``-`` and ``_`` tell no names apart anyway."""
    rates: dict[Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")], Annotated[float, Meta(gt=0, le=1e6)]] = {}
    """What one unit of another currency is worth in it. Values without a rate are kept apart and not summed."""
    lateness_ms: int = 5 * MINUTE_MS
    """How far an event may arrive behind the event time of its topic partition and still be put in its place."""
    watermark_keys: int = 8
    """Event time of a topic partition is the k-th newest among its last 2k - 1 customers: no single clock moves it.

    Where fewer are known it is the oldest of their times, and one alone says nothing; 1 takes the newest of all.
    """
    session_gap_ms: int = 30 * MINUTE_MS
    """A session ends after this much event time without an event."""
    timeline_words: int = 256
    """Most words of a customer's newest events; the oldest events go first, and live on in the history of sessions."""
    edges_per_type: int = 256
    """An edge type that has more is cut back to two thirds of this, heaviest first, when edges are merged."""
    fresh_edges: int = 48
    """At so many edges touched since the last merge, they are merged into the older ones, which are written then."""
    edge_half_life_ms: int = 28 * DAY_MS
    """An edge's weight halves over this time."""
    ids_kept_ms: int = 2 * DAY_MS
    """How long the id of an event is remembered. A late event is taken as far back as this, and no further: what comes
    later might be one that was counted before."""
    recent_ids: int = 1_024
    """Most ids remembered of one customer. A retry that comes late and after so many others is counted again."""
    tail_limit: int = 16_384
    """Most unsettled events of one customer. The oldest settle early beyond it; what comes before them then is late.

    Far above what people do inside the lateness bound: a worker that catches up may read one topic a whole fetch
    ahead of another, and everything in between waits here.
    """
    key_limit_per_minute: Annotated[int, Meta(ge=0)] = 0
    """Most clickstream events of one customer within a minute, orders and returns aside; 0: no limit. Of what comes
    beyond, one event in ``key_sample`` is taken and the rest is counted (``sampled_out``) and dropped."""
    key_sample: Annotated[int, Meta(ge=1)] = 16
    """See ``key_limit_per_minute``."""
    sends_kept: int = 32
    """Newest sends remembered per channel, for caps and for what was sent already."""
    orders_kept: int = 16
    """Newest order ids remembered per customer, so that an order counts once however its lines interleave."""
    order_window_ms: int = 14 * DAY_MS
    """An order id is forgotten this long after the order's last line; the same id later is another order."""
    activity_events: tuple[str, ...] = ("purchase",)
    """Clickstream events that count as being active: churn is their absence."""
    churn_horizon_ms: int = 28 * DAY_MS
    """Churn is no activity for this long."""
    order_horizon_ms: Annotated[int, Meta(ge=56 * DAY_MS)] = 56 * DAY_MS
    """How far ahead the next order is looked for; models look 56 days ahead."""
    churn_active_ms: int = 28 * DAY_MS
    """A customer gets churn labels only while the last activity is at most this old."""
    horizon_every_ms: int = 7 * DAY_MS
    """Time between two horizon snapshots of an active customer; customers are spread over the days."""
    redemption_window_ms: int = 30 * DAY_MS
    """How long after a send an offer may be redeemed, where the send does not say."""
    response_window_ms: int = 7 * DAY_MS
    """How long after a send an open or a click counts as a response."""
    machine_open_ms: int = 5_000
    """An open or a click so soon after the send, or after its delivery, is a mail scanner's and no response."""
    sample_share: Annotated[float, Meta(ge=0, le=1)] = 0.02
    """Share of the events of active customers after which a ``sample`` snapshot is taken, to be labelled like a weekly
    one: what a live prediction sees in the middle of a session is learned and judged, too."""
    model_attributes: tuple[str, ...] = ()
    """Names of profile attributes that models may read; all others are kept out of snapshots."""
    pending_limit: int = 64
    """Most pending labels of one head, per customer; beyond it, new ones are dropped. Samples take half of it
    at most."""
    holdout_percent: int = 0
    """Share of customers that are never contacted, to measure what contact is worth."""
    max_future_ms: int = 10 * MINUTE_MS
    """An event time this far past its Kafka record timestamp cannot be true."""
    ahead_ms: int = DAY_MS
    """An event this far past its topic's event time is counted as ahead of its time, whatever its record says."""
    misplaced: Literal["dead-letter", "accept"] = "dead-letter"
    """What becomes of a record whose key belongs to another partition by Kafka's default partitioner (murmur2).
    Accepted, customers are kept where their records are: for producers that all use one other partitioner. Look-ups do
    not find them then, and an erasure in a partition that does not know the customer is refused."""
    refuse_ahead: bool = False
    """Whether such events become dead letters. Else they wait with their customer until event time comes to them."""
