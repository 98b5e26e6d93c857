"""What the encoder sees, and what training reads: msgpack records on internal topics.

A snapshot holds columns, packed little-endian, so that a year of a customer stays small and a batch of them becomes
arrays without a loop. Words are hashes (:func:`schemas.words.hash_of`): no model has to be at hand where a snapshot is
made, and any model can read it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from decimal import Decimal
from math import isfinite
from struct import Struct
from typing import Final, Literal, NamedTuple

import msgspec

from schemas.features import INDEX
from schemas.graph import EDGE_INDEX
from schemas.words import HASH_BYTES

SNAPSHOT_VERSION: Final = 3
OUTCOME_VERSION: Final = 3

Head = Literal["churn", "redemption", "order", "response"]
"""What is asked of a snapshot: weekly and after samples ``churn`` and ``order``, of sends ``redemption`` and
``response``."""
SnapshotKind = Literal["event", "horizon", "send", "sample", "refresh"]
ERASED_MS: Final = "erased_ms"
"""Header of a null on ``session-snapshots``: event time of the erasure."""
LIVE_KINDS: Final[tuple[SnapshotKind, ...]] = ("event", "refresh")
"""Kinds that say what holds now. The others are questions: they wait for labels, and none stands for another."""

Label = int | float | tuple[str, ...]
"""A class, a number or a time in ms, or a set of words."""

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

_feature: Final = Struct("<f")
_ACTIVITY_AT: Final = _feature.size * INDEX["days_since_activity"]

EDGE: Final = Struct(f"<{HASH_BYTES}seBB")
"""One edge in 8 bytes: word of the entity, weight (float16), count (at most 255), age (:func:`age_code`)."""

SESSION: Final = Struct("<IHHfI4B3I2I")
"""One :class:`Session` in 40 bytes."""

#: Least age of each :func:`age_code`. In decimals, since powers of floats differ between machines in the last bit.
_AGES_MS: Final = tuple(int((Decimal(2) ** (Decimal(code) / 16) - 1) * HOUR_MS + Decimal("0.5")) for code in range(256))


class Candidate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The campaign side of a (customer, campaign) pair: what a send named."""

    campaign_id: str
    offer_id: str | None = None
    template_id: str | None = None
    channel: str | None = None


class SendCount(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Recent sends on one channel, newest last, for caps that are set where decisions are made."""

    channel: str
    sent_ms: tuple[int, ...]
    campaigns: tuple[str, ...] = ()
    """What each of them was, in the same order."""


class EdgeBlock(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Some edges of a customer as of one time."""

    as_of_ms: int
    """What weights and ages count to."""
    edges: dict[int, bytes]
    """Place in :data:`schemas.graph.EDGE_TYPES` -> edges of that type, each an :data:`EDGE`."""


class Recent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The newest events, oldest first, in columns: one entry an event."""

    at_s: bytes = b""
    """uint32 each: when, in seconds."""
    lengths: bytes = b""
    """uint8 each: words of the event."""
    words: bytes = b""
    """uint32 each: the words of all events, one after the other."""

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """(ms, words) of each event."""
        begin = 0
        for entry, length in enumerate(self.lengths):
            end = begin + HASH_BYTES * length
            yield 1000 * int.from_bytes(self.at_s[4 * entry : 4 * entry + 4], "little"), self.words[begin:end]
            begin = end


class Session(NamedTuple):
    """A session that ended, a month of them, or an event that came too late for its session."""

    start_s: int
    minutes: int
    """Duration."""
    events: int
    value: float
    """What was bought, less what was given back since the session before, in the company's currency."""
    channel: int
    """Word of the first one that was named; 0 for none."""
    local_hour: int
    """Of the week in the customer's zone, 0 is Monday 00:00; of a month the one of most sessions."""
    sessions: int
    """1; of a pooled month their number, at most 255; 0 for a late event."""
    messages: int
    """Sends since the session before, at most 255."""
    redemptions: int
    """The same of redemptions."""
    category: int
    """Word of the category of most lines; 0 for none, as below."""
    second_category: int
    third_category: int
    item: int
    second_item: int


class Snapshot(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """A customer as seen at one point of event time; the only input of the encoder and of every head.

    ``applied`` makes it reproducible: the events up to those offsets that are not younger than
    ``as_of_ms`` give the same bytes on any machine.
    """

    version: int = SNAPSHOT_VERSION
    question_id: str
    """What predictions and outcomes of it are joined by, see :func:`schemas.ids.question_id`."""
    customer_id: str
    kind: SnapshotKind
    """``event``: after an event, from all that is known; ``refresh``: the same in a sweep, as of event time. From
    settled state, with labels to come: ``horizon`` (weekly), ``send`` (before one) and ``sample`` (after some events,
    drawn by a hash)."""
    as_of_ms: int
    source: tuple[str, int, int]
    """topic, partition and offset of the newest event in it."""
    applied: dict[str, int]
    event_ts_ms: int
    ingest_ts_ms: int
    """The newest event's Kafka record timestamp."""
    features: bytes
    """float32 little-endian in the order of :data:`schemas.features.NAMES`."""
    recent: Recent
    history: bytes
    """A :data:`SESSION` each, oldest first, late events where they came in."""
    edges: tuple[EdgeBlock, ...]
    """An edge that is in two of them counts as the last one has it."""
    edge_half_life_ms: int
    """Weights halve over this time."""
    consent: tuple[str, ...] | None
    """Granted ``channel:purpose`` pairs, sorted; None where no profile was seen."""
    sends: tuple[SendCount, ...]
    holdout: bool
    """The customer belongs to the group that is never contacted."""
    candidate: Candidate | None = None
    """Set on ``send`` snapshots: what the redemption outcome is about."""
    attributes: bytes = b""
    """uint32 each: words of the profile's attributes that models may read, see
    :attr:`streams.core.config.CoreConfig.model_attributes`."""

    @property
    def last_activity_ms(self) -> int | None:
        """Event time of the newest activity, to about a second; None where there was none."""
        if len(self.features) < _ACTIVITY_AT + _feature.size:
            return None
        (days,) = _feature.unpack_from(self.features, _ACTIVITY_AT)
        return None if days < 0 or not isfinite(days) else self.as_of_ms - round(days * DAY_MS)

    def count_edges(self, edge_type: str) -> int:
        """Edges of a type that it holds."""
        index = EDGE_INDEX[edge_type]
        words = {edge[0] for block in self.edges for edge in EDGE.iter_unpack(block.edges.get(index, b""))}
        return len(words)


class Outcome(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """What became of a customer after a snapshot: one record a head that asked.

    Labels by name; those of things that did not happen are absent:

    - ``churn``: ``churn``, 1 where no activity came within the horizon, and ``after_ms``, when one came;
    - ``order``: ``order``, 1 where something was bought within its horizon, ``order_after_ms``, ``order_items`` (ids of
      what was bought until that session ended, sorted) and ``order_value``; ``active_after_ms``, the first activity;
    - ``redemption``: ``redemption``, 1 where the offer was used in its window, and ``after_ms``;
    - ``response``: ``response``, 1 where the message was opened or clicked, ``open_after_ms``, ``click_after_ms``.

    What ends in ``after_ms`` counts from ``as_of_ms``.
    """

    version: int = OUTCOME_VERSION
    question_id: str
    """Of the snapshot, and of every prediction that was made of it."""
    head: Head
    labels: dict[str, Label]
    due_ms: int
    """End of the horizon or window."""
    resolved_ms: int
    """Event time at which the labels became known."""
    customer_id: str
    as_of_ms: int
    """Of the snapshot."""
    snapshot: Snapshot | None
    """None for ``order`` and ``response``: the outcome of ``churn`` or ``redemption`` of the question has it."""

    @property
    def outcome_id(self) -> str:
        """Of a question and a head."""
        return f"{self.question_id}:{self.head}"

    @property
    def label(self) -> int:
        """0 or 1: the head's own label."""
        return int(self.labels[self.head])  # type: ignore[arg-type]

    @property
    def seen(self) -> Snapshot:
        """The snapshot, of an outcome that has it."""
        assert self.snapshot is not None, f"an outcome of {self.head} carries no snapshot"
        return self.snapshot


def age_code(age_ms: int) -> int:
    """An age in 8 bits: steps of 4 % over an hour to seven years.

    Example:
        >>> [age_code(hours * HOUR_MS) for hours in (0, 1, 24, 24 * 28)]
        [0, 16, 74, 150]
    """
    return bisect_right(_AGES_MS, age_ms) - 1 if age_ms > 0 else 0


def age_hours(code: int) -> float:
    """The least age that :func:`age_code` gives this code."""
    return _AGES_MS[code] / HOUR_MS


def sessions(history: bytes) -> Iterator[Session]:
    """The entries of :attr:`Snapshot.history`.

    Raises:
        ValueError: not a whole number of them.
    """
    if len(history) % SESSION.size:
        raise ValueError(f"history holds {len(history)} bytes, which is no number of {SESSION.size}-byte entries")
    return map(Session._make, SESSION.iter_unpack(history))
