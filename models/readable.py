"""A snapshot in plain words: what the encoder sees of a customer, for people and for models that read text.

The four kinds of position are those of :mod:`models.sequence`, a line each and in the same order. Nothing here needs
numpy or torch, so that a look-up stays quick.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol, TypeVar

from models.local_time import hour_of_asking
from schemas import features
from schemas.graph import EDGE_TYPES
from schemas.snapshot import EDGE, Session, Snapshot, age_hours, sessions
from schemas.words import (
    DAY_MARKERS,
    FIRST_GAP,
    FIXED,
    GAP_BOUNDS_H,
    GAP_MARKERS,
    HASH_BYTES,
    HOUR_MARKERS,
    LATE,
    PRICE_BOUNDS,
    PRICE_WORDS,
    SESSION,
    SESSION_END,
    hash_of,
    split,
)

Names = Mapping[bytes, str]
"""What hashes of words stand for. What it lacks, and the grammar does not have, is shown as ``#`` and the hash."""

_FIXED: Final = {hash_of(word): word for word in FIXED}
_single: Final = struct.Struct("<f")
_Entry = TypeVar("_Entry")

_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400
_MONTH_S: Final = 30.4 * _DAY_S
_BAG_NAMES: Final = 5
"""Of edges that share a line, so many are named."""
_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_FIELDS: Final = {
    "item": "item ",
    "cat": "",
    "camp": "campaign ",
    "tmpl": "template ",
    "offer": "offer ",
    "chan": "channel ",
    "page": "page ",
}


class Limits(Protocol):
    """Most lines of each kind, and the age in days of the oldest; as :class:`models.sequence.SequenceSize` has them."""

    @property
    def recent(self) -> int: ...
    @property
    def history(self) -> int: ...
    @property
    def graph(self) -> int: ...
    @property
    def span_days(self) -> int: ...


class LineLimits(NamedTuple):
    """Limits of one's own."""

    recent: int = 1_000_000
    history: int = 1_000_000
    graph: int = 1_000_000
    span_days: int = 10**12


EVERYTHING: Final = LineLimits()
"""All that the snapshot holds."""


def readable(snapshot: Snapshot, names: Names, limits: Limits = EVERYTHING) -> str:
    """The whole of it: the names of the kinds, and their lines behind them.

    Example:
        >>> from support.snapshots import hashes, plain_snapshot, recent  # doctest: +SKIP
        >>> print(readable(snapshot, names))  # doctest: +SKIP
        customer
          as of 2017-07-01 00:00 UTC, friday 20:00 for the customer; known for 181 days; ...
        recent
          3 days ago: [session, wednesday 18:00, 2 to 3 days after the one before] purchase coffee, item 5, ...
        history
          9 days ago, thursday 18:00, 45 minutes, 12 events, value 34.20: coffee, milk, item 5
        graph
          purchase item 5: weight 3.20, 5 times, last 3 days ago
    """
    return "\n".join(
        "\n".join([kind, *(f"  {line}" for line in lines)])
        for kind, lines in positions(snapshot, names, limits).items()
        if lines
    )


def positions(snapshot: Snapshot, names: Names, limits: Limits = EVERYTHING) -> dict[str, list[str]]:
    """Kind → a line for each of its positions. Events and sessions run from old to new, edges from heavy to light.

    Raises:
        struct.error, ValueError: columns that :func:`models.snapshot_columns.check` does not take.
    """
    as_of_s = snapshot.as_of_ms / 1000
    events = [(as_of_s - at_ms / 1000, words) for at_ms, words in snapshot.recent]
    ended = [(as_of_s - entry.start_s, entry) for entry in sessions(snapshot.history)]
    return {
        "customer": [_customer(snapshot, names)],
        "recent": [
            f"{ago(age_s)}: {event_text(words, names)}".rstrip()
            for age_s, words in _last(events, limits.recent)
            if _shown(age_s, limits)
        ],
        "history": [
            _session(age_s, entry, names) for age_s, entry in _last(ended, limits.history) if _shown(age_s, limits)
        ],
        "graph": [text for age_s, text in _graph(snapshot, names, limits.graph) if _shown(age_s, limits)],
    }


def event_text(hashes: bytes, names: Names) -> str:
    """The words of one event, or of several in a row; session markers in brackets.

    Example:
        >>> from schemas.words import hash_of
        >>> said = ["[SESSION]", "[GAP:3d]", "[DAY:fri]", "[HOUR:18]", "evt:purchase", "cat:tea", "item:5", "price:p3"]
        >>> event_text(b"".join(map(hash_of, said)), {hash_of(word): word for word in said})
        '[session, friday, 18:00, 2 to 3 days after the one before] purchase tea, item 5, price 2 to 4'
    """
    said, marks = _Sentence(), list[str]()
    begun = False
    for word in [_named(hashed, names) for hashed in split(hashes)]:
        if begun and word in _BEGINS:
            marks.append(_BEGINS[word])
            continue
        if begun:
            said.mark([_MARKS[SESSION], *_in_order(marks)])
            begun, marks = False, []
        if word == SESSION:
            begun = True
        elif word in _MARKS:
            said.mark([_MARKS[word]])
        else:
            said.add(word)
    if begun:
        said.mark([_MARKS[SESSION], *_in_order(marks)])
    return said.text()


def spoken(word: str) -> str:
    """A word as one would say it.

    Example:
        >>> words = "cat:frozen fish", "camp:26", "evt:item_view", "price:p0", "dark", "attr:age=45", "#0f"
        >>> [spoken(word) for word in words]
        ['frozen fish', 'campaign 26', 'item view', 'price under 0.5', 'dark', 'age 45', '#0f']
    """
    if word in _SAID:
        return _SAID[word]
    field, colon, value = word.partition(":")
    if not colon:
        return word
    if field == "evt":
        return value.replace("_", " ")
    if field == "attr":
        return value.replace("=", " ", 1)
    return f"{_FIELDS[field]}{value}" if field in _FIELDS else word


def ago(age_s: float) -> str:
    """An age in words.

    Example:
        >>> [ago(seconds) for seconds in (0, 59, 60, 7200, 86_400, 30 * 86_400, 200 * 86_400, -7200)]
        ['now', 'now', '1 minute ago', '2 hours ago', '24 hours ago', '30 days ago', '6 months ago', '2 hours ahead']
    """
    size = abs(age_s)
    if size < _MINUTE_S:
        return "now"
    units = (
        (_MINUTE_S, "minute", _HOUR_S),
        (_HOUR_S, "hour", 2 * _DAY_S),
        (_DAY_S, "day", 90 * _DAY_S),
        (_MONTH_S, "month", math.inf),
    )
    unit_s, name, _ = next(unit for unit in units if size < unit[2])
    return f"{_number(int(size / unit_s), name)} {'ago' if age_s > 0 else 'ahead'}"


class _Sentence:
    """Clauses that begin with an event's name, and marks between them."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._clause: list[str] = []
        self._name = ""
        self._plain = False

    def add(self, word: str) -> None:
        field, colon, _ = word.partition(":")
        plain = not colon and not word.startswith("#")
        if colon and field == "evt":
            self._end()
            self._name = spoken(word)
        elif plain and self._plain:
            self._clause[-1] += f" {word}"  # of one text
        else:
            self._clause.append(spoken(word))
        self._plain = plain

    def mark(self, marks: Sequence[str]) -> None:
        self._end()
        self._parts.append(f"[{', '.join(marks)}]")

    def _end(self) -> None:
        text = " ".join(part for part in (self._name, ", ".join(self._clause)) if part)
        if text:
            self._parts.append(text)
        self._clause, self._name, self._plain = [], "", False

    def text(self) -> str:
        self._end()
        joined = ""
        for part in self._parts:
            clause = bool(joined) and not part.startswith("[") and not joined.endswith("]")
            joined += (";" if clause else "") + (" " if joined else "") + part
        return joined


def _customer(snapshot: Snapshot, names: Names) -> str:
    values = dict(zip(features.NAMES, array("f", snapshot.features), strict=False))
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    said = [f"as of {_moment(snapshot.as_of_ms)}"]
    known.pop("day_of_week", None)  # that of asking
    of_week = hour_of_asking(snapshot)
    said[0] += f", {_DAYS[of_week // 24]} {of_week % 24}:00 for the customer"
    if (hour := known.pop("hour_of_day", None)) is not None and 0 <= hour < 24:
        said.append(f"last event at {hour:.0f}:00")
    said += [spoken(_named(word, names)) for word in split(snapshot.attributes)]
    for name in features.NAMES:
        counter, _, last = name.rpartition("_")
        if counter in features.COUNTED and last == f"{features.HALF_LIFE_DAYS[0]}d":
            sums = [known.pop(f"{counter}_{days}d", 0.0) for days in features.HALF_LIFE_DAYS]
            if any(sums):
                said.append(f"{counter} {', '.join(_short(value) for value in sums)}")
        elif (value := known.get(name, 0.0)) not in (0.0, -1.0) and counter not in features.COUNTED:
            said.append(f"{name.replace('_', ' ')} {_short(value)}")
    return "; ".join(said)


def _session(age_s: float, entry: Session, names: Names) -> str:
    hour = f"{_DAYS[entry.local_hour // 24 % 7]} {entry.local_hour % 24}:00"
    if entry.sessions == 0:
        said = [f"{ago(age_s)}, {hour}, one event that came late"]
    elif entry.sessions > 1:
        said = [f"from {ago(age_s)} on, {entry.sessions} sessions, mostly on {hour}", f"{entry.minutes} minutes"]
    else:
        said = [f"{ago(age_s)}, {hour}", _number(entry.minutes, "minute")]
    if entry.sessions:
        said.append(_number(entry.events, "event"))
    if entry.value:
        said.append(f"value {entry.value:.2f}")
    said += [
        _number(count, what)
        for count, what in ((entry.messages, "message"), (entry.redemptions, "redemption"))
        if count
    ]
    main = (entry.channel, entry.category, entry.second_category, entry.third_category, entry.item, entry.second_item)
    words = [spoken(_named(word.to_bytes(HASH_BYTES, "little"), names)) for word in main if word]
    return ", ".join(said) + (f": {', '.join(words)}" if words else "")


class _Edge(NamedTuple):
    weight: float
    word: bytes
    times: int
    age_s: float


def _graph(snapshot: Snapshot, names: Names, most: int) -> Iterator[tuple[float, str]]:
    """(age in s, line): in turn over the types the heaviest alone, then what is left of each, as many as fit."""
    by_type = _edges(snapshot)
    singly = max(0, most - len(by_type))
    turn = sorted((rank, edge_type) for edge_type, edges in by_type.items() for rank in range(len(edges)))
    alone = turn[:singly]
    for rank, edge_type in alone:
        edge = by_type[edge_type][rank]
        yield edge.age_s, f"{_edge(edge_type, edge.word, names)}: {_weight(edge)}, last {ago(edge.age_s)}"
    shown = {edge_type: sum(of_type == edge_type for _, of_type in alone) for edge_type in by_type}
    left = {edge_type: edges[shown[edge_type] :] for edge_type, edges in by_type.items() if edges[shown[edge_type] :]}
    for edge_type, edges in list(left.items())[: most - len(alone)]:
        weights = [max(edge.weight, 1e-6) for edge in edges]
        age_s = sum(weight * edge.age_s for weight, edge in zip(weights, edges, strict=True)) / sum(weights)
        words = [spoken(_named(edge.word, names)) for edge in edges[:_BAG_NAMES]]
        more = ", ..." if len(edges) > _BAG_NAMES else ""
        total = _Edge(sum(weights), b"", sum(edge.times for edge in edges), age_s)
        verb = EDGE_TYPES[edge_type].partition(">")[0].replace("_", " ")
        yield age_s, f"{len(edges)} more, {verb} {', '.join(words)}{more}: {_weight(total)}, about {ago(age_s)}"


def _edges(snapshot: Snapshot) -> dict[int, list[_Edge]]:
    """Place in ``EDGE_TYPES`` → edges, heaviest first, each as its last block has it; no types of newer programs."""
    found: dict[int, dict[bytes, _Edge]] = {}
    for block in snapshot.edges:
        since_ms = snapshot.as_of_ms - block.as_of_ms
        half_lives = min(max(since_ms / snapshot.edge_half_life_ms, -64.0), 64.0)
        for edge_type, column in block.edges.items():
            if not 0 <= edge_type < len(EDGE_TYPES):
                continue
            of_type = found.setdefault(edge_type, {})
            for word, said, count, age in EDGE.iter_unpack(column):
                weight = said if math.isfinite(said) else (_MOST_WEIGHT if said > 0 else 0.0)
                decayed = min(max(weight * 2.0**-half_lives, 0.0), _MOST_WEIGHT)
                of_type[word] = _Edge(decayed, word, count, _HOUR_S * age_hours(age) + since_ms / 1000)
    return {
        edge_type: sorted(
            found[edge_type].values(), key=lambda edge: (-edge.weight, int.from_bytes(edge.word, "little"))
        )
        for edge_type in sorted(found)
        if found[edge_type]
    }


_MOST_WEIGHT: Final = 65_504.0
"""The largest float16."""


def _edge(edge_type: int, word: bytes, names: Names) -> str:
    verb = EDGE_TYPES[edge_type].partition(">")[0].replace("_", " ")
    return f"{verb} {spoken(_named(word, names))}"


def _weight(edge: _Edge) -> str:
    return f"weight {edge.weight:.2f}, {'once' if edge.times == 1 else f'{edge.times} times'}"


def _named(word: bytes, names: Names) -> str:
    return names.get(word) or _FIXED.get(word) or f"#{word.hex()}"


def _shown(age_s: float, limits: Limits) -> bool:
    (days,) = _single.unpack(_single.pack(age_s / _DAY_S))  # as the encoder has it
    return bool(days <= limits.span_days)


def _last(entries: Sequence[_Entry], most: int) -> Sequence[_Entry]:
    return entries[max(0, len(entries) - most) :]


def _in_order(marks: Iterable[str]) -> list[str]:
    """Day and hour before the gap, as one says it."""
    return sorted(marks, key=lambda mark: mark in _GAPS)


def _number(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _moment(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms"


def _gap_texts() -> dict[str, str]:
    found = {FIRST_GAP: "the first"}
    for place, marker in enumerate(GAP_MARKERS):
        if place == 0:
            text = f"under {_number(GAP_BOUNDS_H[0], 'hour')}"
        elif place == len(GAP_BOUNDS_H):
            text = f"{GAP_BOUNDS_H[-1] // 24} days or more"
        else:
            low, high = GAP_BOUNDS_H[place - 1], GAP_BOUNDS_H[place]
            text = f"{low} to {high} hours" if high <= 24 else f"{low // 24} to {high // 24} days"
        found[marker] = f"{text} after the one before"
    return found


def _price_texts() -> dict[str, str]:
    found = {PRICE_WORDS[0]: f"price under {PRICE_BOUNDS[0]:g}", PRICE_WORDS[-1]: f"price {PRICE_BOUNDS[-1]:g} or more"}
    for place in range(1, len(PRICE_BOUNDS)):
        found[PRICE_WORDS[place]] = f"price {PRICE_BOUNDS[place - 1]:g} to {PRICE_BOUNDS[place]:g}"
    return found


_GAP_TEXT: Final = _gap_texts()
_GAPS: Final = frozenset(_GAP_TEXT.values())
_BEGINS: Final[dict[str, str]] = {
    **_GAP_TEXT,
    **{marker: f"{hour}:00" for hour, marker in enumerate(HOUR_MARKERS)},
    **dict(zip(DAY_MARKERS, _DAYS, strict=True)),
}
"""What stands behind the marker of a session's begin."""
_MARKS: Final = {SESSION: "session", SESSION_END: "end of session", LATE: "came late"}
_SAID: Final = _MARKS | _BEGINS | _price_texts()
