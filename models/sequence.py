"""What the encoder sees of a customer: one sequence of positions, of four kinds.

1. **customer**: one position with all numeric features, the calendar of the time of asking, and the words of those
   attributes of the profile that models may read.
2. **recent**: the newest events, a position each, its words together; markers of sessions are among the words.
3. **history**: closed sessions, a position each: main categories and items, and how much there was.
4. **graph**: edges. In turn over the types, the heaviest have a position each; what is left of a type shares one, a bag
   weighted by the edges.

A position is words, amounts and a time, and the time is relative to the time of asking: the same timeline a week later
is another input. Within a kind, rank 0 is the newest or heaviest.

Everything is flat arrays, built for a whole batch without a loop over positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from models.entities import WordRows
from models.local_time import hour_of_week, offsets_s
from models.snapshot_columns import SESSION_DTYPE, Edges, features_of
from models.tokenizer import Vocabulary
from models.wide import Doubles, Floats, Ints, columns
from schemas.graph import EDGE_TYPES
from schemas.snapshot import SESSION, Snapshot
from schemas.words import HASH_BYTES

Rows = npt.NDArray[np.uint32]
Small = npt.NDArray[np.uint8]

SECTIONS: Final = ("customer", "recent", "history", "graph")
CUSTOMER, RECENT, HISTORY, GRAPH = range(4)

#: What a position is: of the history session, month or late event; of the graph the type, alone or what is left of it.
KINDS: Final = (
    "customer",
    "event",
    "session",
    "month",
    "late event",
    *EDGE_TYPES,
    *(f"other {edge_type}" for edge_type in EDGE_TYPES),
)
SECTION_OF_KIND: Final = (CUSTOMER, RECENT, *[HISTORY] * 3, *[GRAPH] * 2 * len(EDGE_TYPES))
_SESSION_KIND: Final = KINDS.index("session")
_EDGE_KIND: Final = KINDS.index(EDGE_TYPES[0])
_REST_KIND: Final = _EDGE_KIND + len(EDGE_TYPES)

AMOUNTS: Final = (
    "words of the event",
    "events of the session",
    "value of the session",
    "minutes of the session",
    "messages since the session before",
    "redemptions since the session before",
    "sessions of the month",
    "weight of the edge",
    "count of the edge",
    "edges that share the position",
)
"""Logarithms of these, signed; 0 where the kind has none."""

UNKNOWN: Final = -1.0
DAY_S: Final = 86_400.0
YEAR_DAYS: Final = 365.2425
PADDING_TARGET: Final = 0.05
MOST_POSITIONS: Final = 255
"""Of one kind: a rank is a byte."""


class SequenceSize(msgspec.Struct, frozen=True, kw_only=True):
    """Most positions of each kind."""

    recent: int = 40
    history: int = 32
    graph: int = 23
    span_days: int = 366
    """What training saw enough of. Older positions are not shown, nor the time of the year unless it saw all of it: a
    model knows little of ages and nothing of seasons that it has not met."""

    @property
    def whole_year(self) -> bool:
        """Whether training saw every season."""
        return self.span_days >= YEAR_DAYS

    @property
    def positions(self) -> int:
        """Of the longest sequence."""
        return sum(self.sections)

    @property
    def sections(self) -> tuple[int, int, int, int]:
        """Most positions in the order of :data:`SECTIONS`."""
        return 1, self.recent, self.history, self.graph

    @property
    def valid(self) -> bool:
        """Whether ranks fit a byte, and there is a past."""
        return all(0 <= most <= MOST_POSITIONS for most in self.sections) and self.span_days > 0


@dataclass(frozen=True)
class Sequences:
    """Of B customers T positions with W words, flat; a customer's positions are neighbours, in the order of kinds."""

    numbers: Floats
    """(B, COLUMNS): transformed features of each customer, NaN for unknown, see :func:`models.wide.columns`."""
    lengths: Ints
    """(B,): positions of each customer, at least one."""
    kind: Small
    """(T,): place in :data:`KINDS`."""
    rank: Small
    """(T,): place among the customer's positions of one section."""
    age_days: Floats
    """(T,): time of asking less the time of the position."""
    gap_days: Floats
    """(T,): from the position of this section before it in time; -1 where there is none."""
    hour: Floats
    """(T,): local hour of the week, 0 is Monday 00:00; :data:`UNKNOWN` where not known."""
    year: Floats
    """(T,): time of the year, 0 to 1; :data:`UNKNOWN` where it is not shown."""
    amounts: Floats
    """(T, len(AMOUNTS))."""
    counts: Ints
    """(T,): words of each position."""
    words: Rows
    """(W,): places of words, see :class:`models.entities.WordRows`."""
    weights: Floats
    """(W,): what each word counts for in its position."""
    tokens: npt.NDArray[np.object_] | None = None
    """(B,) lists of ids, of a text encoder's tokens; None where none reads these."""
    word_rows: WordRows | None = None
    """What words stand for; where there is none, each for the row of the vocabulary that its number says."""

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Ints) -> Sequences:
        """Those of some customers, in this order."""
        begin = np.cumsum(self.lengths) - self.lengths
        positions = ranges(begin[rows], self.lengths[rows])
        first_word = np.cumsum(self.counts) - self.counts
        words = ranges(first_word[positions], self.counts[positions])
        return Sequences(
            numbers=self.numbers[rows],
            lengths=self.lengths[rows],
            words=self.words[words],
            weights=self.weights[words],
            tokens=None if self.tokens is None else self.tokens[rows],
            word_rows=self.word_rows,
            **{name: getattr(self, name)[positions] for name in _OF_POSITIONS},
        )

    def thinned(self, positions: float, words: float, generator: np.random.Generator) -> Sequences:
        """Without a random part of the positions and of the words, so that nobody is known by heart.

        Args:
            positions: share that is left out; the first of a customer stays.
            words: share of the words in the others that is left out.
        """
        kept = (generator.random(len(self.kind)) >= positions) | (self.kind == CUSTOMER)
        return self.only(kept, generator.random(len(self.words)) >= words)

    def only(self, kept: npt.NDArray[np.bool_], said: npt.NDArray[np.bool_]) -> Sequences:
        """Some of the positions, (T,), which have at least one of each customer, and some of the words, (W,)."""
        said = said & np.repeat(kept, self.counts)
        owner = np.repeat(np.arange(len(self)), self.lengths)
        of_word = np.repeat(np.arange(len(self.kind)), self.counts)
        changed = {name: getattr(self, name)[kept] for name in _OF_POSITIONS}
        changed["counts"] = np.bincount(of_word[said], minlength=len(self.kind))[kept]
        return Sequences(
            numbers=self.numbers,
            lengths=np.bincount(owner[kept], minlength=len(self)),
            words=self.words[said],
            weights=self.weights[said],
            tokens=self.tokens,
            word_rows=self.word_rows,
            **changed,
        )

    def batches(self, most_positions: int, min_rows: int = 8) -> Iterator[Ints]:
        """Rows in groups of like length: at most so many positions after padding, little of it padding.

        A group ends where the next row would raise padding past the target, once it has ``min_rows``.
        """
        order = np.argsort(self.lengths, kind="stable")
        begin, filled = 0, 0
        for at, length in enumerate(self.lengths[order].tolist()):
            rows = at - begin
            padded = (rows + 1) * length
            too_wide = rows >= min_rows and padded - filled - length > PADDING_TARGET * padded
            if rows and (padded > most_positions or too_wide):
                yield order[begin:at]
                begin, filled = at, 0
            filled += length
        if begin < len(order):
            yield order[begin:]


_OF_POSITIONS: Final = ("kind", "rank", "age_days", "gap_days", "hour", "year", "amounts", "counts")


def concatenated(parts: Sequence[Sequences]) -> Sequences:
    """All of them, one after the other; at least one, and all of the same rows of words."""
    names = [field.name for field in fields(Sequences) if field.name not in ("tokens", "word_rows")]
    tokens = [part.tokens for part in parts if part.tokens is not None]
    return Sequences(
        tokens=np.concatenate(tokens) if tokens else None,
        word_rows=parts[0].word_rows,
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
    )


Reader = Callable[[Sequence[Snapshot], WordRows | Vocabulary, SequenceSize], Sequences]
"""As :func:`sequences_of`."""


def sequences_of(snapshots: Sequence[Snapshot], known: WordRows | Vocabulary, size: SequenceSize) -> Sequences:
    """The sequences of a batch.

    Args:
        snapshots: which :func:`models.snapshot_columns.check` takes.
        known: whose places stand for words; a word that a vocabulary lacks is ``[UNK]``, else it is a bucket.
    """
    as_of_s = np.array([snapshot.as_of_ms for snapshot in snapshots], dtype=np.float64) / 1000
    ahead_s = offsets_s(snapshots)
    parts = [
        _customer(snapshots, as_of_s, ahead_s, known),
        _recent(snapshots, as_of_s, ahead_s, size.recent, known),
        _history(snapshots, as_of_s, size.history, known),
        _graph(snapshots, size.graph, known),
    ]
    owner = np.concatenate([part.owner for part in parts])
    section = np.repeat(np.arange(len(parts)), [len(part.owner) for part in parts])
    rank = np.concatenate([part.rank for part in parts])
    order = np.lexsort((rank, section, owner))
    counts = np.concatenate([part.counts for part in parts])
    words = ranges((np.cumsum(counts) - counts)[order], counts[order])
    age_s = np.concatenate([part.age_s for part in parts])[order]
    days = (np.repeat(as_of_s, np.bincount(owner, minlength=len(snapshots))) - age_s) / DAY_S
    found = Sequences(
        numbers=columns(features_of(snapshots)),
        lengths=np.bincount(owner, minlength=len(snapshots)).astype(np.int64),
        kind=np.concatenate([part.kind for part in parts])[order].astype(np.uint8),
        rank=rank[order].astype(np.uint8),
        age_days=(age_s / DAY_S).astype(np.float32),
        gap_days=np.concatenate([part.gap_days for part in parts])[order].astype(np.float32),
        hour=np.concatenate([part.hour for part in parts])[order].astype(np.float32),
        year=(days % YEAR_DAYS / YEAR_DAYS if size.whole_year else np.full(len(days), UNKNOWN)).astype(np.float32),
        amounts=np.concatenate([part.amounts for part in parts])[order],
        counts=counts[order],
        words=np.concatenate([part.words for part in parts])[words].astype(np.uint32),
        weights=np.concatenate([part.weights for part in parts])[words].astype(np.float32),
        word_rows=known if isinstance(known, WordRows) else None,
    )
    shown = (found.age_days <= size.span_days) | (found.kind == CUSTOMER)
    return found if shown.all() else found.only(shown, np.ones(len(found.words), dtype=np.bool_))


@dataclass(frozen=True)
class _Part:
    """Positions of one section of a batch, in any order: arrays as in :class:`Sequences`."""

    owner: Ints
    """(T,): row of the customer."""
    rank: Ints
    kind: Ints
    age_s: Doubles
    gap_days: Doubles
    hour: Doubles
    amounts: Floats
    counts: Ints
    words: Ints
    weights: Doubles


def _customer(snapshots: Sequence[Snapshot], as_of_s: Doubles, ahead_s: Ints, known: WordRows | Vocabulary) -> _Part:
    count = len(snapshots)
    nothing = np.zeros(count, dtype=np.int64)
    counts = np.array([len(snapshot.attributes) // HASH_BYTES for snapshot in snapshots], dtype=np.int64)
    return _Part(
        owner=np.arange(count),
        rank=nothing,
        kind=nothing,
        age_s=np.zeros(count),
        gap_days=np.full(count, -1.0),
        hour=hour_of_week(as_of_s.astype(np.int64), ahead_s).astype(np.float64),
        amounts=_amounts(count),
        counts=counts,
        words=known.rows(b"".join([snapshot.attributes for snapshot in snapshots])).astype(np.int64),
        weights=np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts),
    )


def _recent(
    snapshots: Sequence[Snapshot], as_of_s: Doubles, ahead_s: Ints, most: int, known: WordRows | Vocabulary
) -> _Part:
    entries = np.array([len(s.recent.lengths) for s in snapshots], dtype=np.int64)
    ends = np.cumsum(entries)
    length = np.frombuffer(b"".join([s.recent.lengths for s in snapshots]), dtype=np.uint8).astype(np.int64)
    at_s = np.frombuffer(b"".join([s.recent.at_s for s in snapshots]), dtype="<u4").astype(np.float64)
    kept = np.minimum(entries, most)
    pick = ranges(ends - kept, kept)
    owner = np.repeat(np.arange(len(snapshots)), kept)
    first_word = np.cumsum(length) - length
    counts = length[pick]
    flat = known.rows(b"".join([s.recent.words for s in snapshots])).astype(np.int64)
    return _Part(
        owner=owner,
        rank=ends[owner] - 1 - pick,
        kind=np.full(len(pick), KINDS.index("event")),
        age_s=as_of_s[owner] - at_s[pick],
        gap_days=_gaps(at_s, at_s, entries)[pick],
        hour=hour_of_week(at_s[pick].astype(np.int64), ahead_s[owner]).astype(np.float64),
        amounts=_amounts(len(pick), {"words of the event": counts}),
        counts=counts,
        words=flat[ranges(first_word[pick], counts)],
        # A large basket has many words, and still a time: its words must not drown it.
        weights=np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts),
    )


def _history(snapshots: Sequence[Snapshot], as_of_s: Doubles, most: int, known: WordRows | Vocabulary) -> _Part:
    entries = np.array([len(s.history) // SESSION.size for s in snapshots], dtype=np.int64)
    ends = np.cumsum(entries)
    flat = np.frombuffer(b"".join([s.history for s in snapshots]), dtype=SESSION_DTYPE)
    kept = np.minimum(entries, most)
    pick = ranges(ends - kept, kept)
    owner = np.repeat(np.arange(len(snapshots)), kept)
    start_s = flat["start_s"].astype(np.float64)
    gaps = _gaps(start_s, start_s + 60.0 * flat["minutes"], entries)[pick]
    found = flat[pick]
    names = np.concatenate([found["categories"], found["items"], found["channel"][:, None]], axis=1)  # (T, 6)
    rows = known.rows(names.astype("<u4").tobytes()).astype(np.int64).reshape(names.shape)
    named = names > 0
    counts = named.sum(1)
    return _Part(
        owner=owner,
        rank=ends[owner] - 1 - pick,
        kind=_SESSION_KIND + np.where(found["sessions"] > 1, 1, np.where(found["sessions"] == 0, 2, 0)),
        age_s=as_of_s[owner] - start_s[pick],
        gap_days=gaps,
        hour=found["local_hour"].astype(np.float64),
        amounts=_amounts(
            len(pick),
            {
                "events of the session": found["events"],
                "value of the session": found["value"],
                "minutes of the session": found["minutes"],
                "messages since the session before": found["messages"],
                "redemptions since the session before": found["redemptions"],
                "sessions of the month": found["sessions"],
            },
        ),
        counts=counts,
        words=rows[named],
        weights=np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts),
    )


def _graph(snapshots: Sequence[Snapshot], most: int, known: WordRows | Vocabulary) -> _Part:
    edges = Edges(snapshots)
    group = edges.customer * len(EDGE_TYPES) + edges.type
    order = np.lexsort((edges.words, -edges.weight, group))
    group, customer = group[order], edges.customer[order]
    weight, count = edges.weight[order], edges.count[order].astype(np.float64)
    age_s, kind = edges.age_s[order], edges.type[order]
    rank = _rank(group)
    # Every type keeps a place for what is left of it; the others go round the types, heaviest first.
    types = np.bincount(np.unique(group) // len(EDGE_TYPES), minlength=len(snapshots))
    singly = np.maximum(0, most - types)
    turn = np.lexsort((kind, rank, customer))
    place = np.empty(len(turn), dtype=np.int64)
    place[turn] = _rank(customer[turn])
    alone = place < singly[customer]
    rest = ~alone
    bag, inverse = np.unique(group[rest], return_inverse=True)
    bag_owner = bag // len(EDGE_TYPES)
    bag_rank = singly[bag_owner] + _rank(bag_owner)
    if (bag_rank >= most).any():  # more types than positions
        rest[rest] = (bag_rank < most)[inverse]
        bag, inverse = np.unique(group[rest], return_inverse=True)
        bag_owner = bag // len(EDGE_TYPES)
        bag_rank = singly[bag_owner] + _rank(bag_owner)
    bags = len(bag)

    def summed(values: Doubles) -> Doubles:
        return np.bincount(inverse, values, minlength=bags).astype(np.float64)

    weighted = np.maximum(weight[rest], 1e-6)
    norm = np.sqrt(summed(weighted**2))
    ages = summed(weighted * age_s[rest]) / np.maximum(summed(weighted), 1e-12)
    youngest = np.argsort(inverse, kind="stable")
    rows = known.rows(edges.words[order].astype("<u4").tobytes()).astype(np.int64)
    singles = int(alone.sum())
    owner = np.concatenate([customer[alone], bag_owner])
    return _Part(
        owner=owner,
        rank=np.concatenate([place[alone], bag_rank]),
        kind=np.concatenate([_EDGE_KIND + kind[alone], _REST_KIND + bag % len(EDGE_TYPES)]),
        age_s=np.concatenate([age_s[alone], ages]),
        gap_days=np.full(len(owner), -1.0),
        hour=np.full(len(owner), UNKNOWN),
        amounts=_amounts(
            len(owner),
            {
                "weight of the edge": np.concatenate([weight[alone], summed(weighted)]),
                "count of the edge": np.concatenate([count[alone], summed(count[rest])]),
                "edges that share the position": np.concatenate([np.zeros(singles), summed(np.ones(len(inverse)))]),
            },
        ),
        counts=np.concatenate([np.ones(singles, dtype=np.int64), np.bincount(inverse, minlength=bags)]),
        words=np.concatenate([rows[alone], rows[rest][youngest]]),
        weights=np.concatenate([np.ones(singles), (weighted / np.maximum(norm[inverse], 1e-12))[youngest]]),
    )


def _amounts(count: int, of: dict[str, npt.NDArray[np.generic]] | None = None) -> Floats:
    out = np.zeros((count, len(AMOUNTS)), dtype=np.float32)
    for name, values in (of or {}).items():
        known = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
        out[:, AMOUNTS.index(name)] = np.sign(known) * np.log1p(np.abs(known))
    return out


def _gaps(begin_s: Doubles, end_s: Doubles, entries: Ints) -> Doubles:
    """Days from the end of the entry before to the begin of each; -1 for the first of a customer."""
    out = np.full(len(begin_s), -1.0)
    out[1:] = np.maximum(0.0, begin_s[1:] - end_s[:-1]) / DAY_S
    first = (np.cumsum(entries) - entries)[entries > 0]
    out[first] = -1.0
    return out


def _rank(group: Ints) -> Ints:
    """Place of each within its group; equal groups are neighbours."""
    if not len(group):
        return np.zeros(0, dtype=np.int64)
    first = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    sizes = np.diff(np.r_[first, len(group)])
    return np.arange(len(group)) - np.repeat(first, sizes)


def ranges(begin: Ints, counts: Ints) -> Ints:
    """begin[0], begin[0] + 1, ... counts[0] of them, then those of the next."""
    return np.repeat(begin - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))
