"""What customers did next, as targets for the encoder: the items and categories of the weeks after a snapshot.

Nothing but snapshots is read: the newest events of a customer's later snapshots are the future of the earlier ones.
Where a customer's snapshots do not reach to the end of a window, nothing is known of it, unless the customer is known
to have done nothing in it.

Source of the idea: Pancha et al., "PinnerFormer: sequence modeling for user representation at Pinterest" (2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.sequence import ranges
from models.tokenizer import Vocabulary, field_of
from models.wide import Ints
from schemas.events import SEND_EVENTS
from schemas.snapshot import Outcome, Snapshot
from schemas.words import hash_of, split

DAY_MS: Final = 86_400_000
FIELDS: Final = ("cat", "item")
WINDOWS_DAYS: Final[dict[str, int]] = {"cat": 14, "item": 28}
"""How far the future of a field reaches: categories come again sooner than items."""
_NOT_OWN: Final = frozenset(hash_of(f"evt:{event}") for event in (*SEND_EVENTS, "refund", "profile"))
"""Events that say nothing of what a customer goes for."""


@dataclass(frozen=True)
class Future:
    """Targets of N rows for one field."""

    targets: Ints
    """(C,): rows of the vocabulary that can be a target."""
    known: npt.NDArray[np.bool_]
    """(N,): whether the window's end is known."""
    counts: Ints
    """(N,): different targets of each row."""
    columns: Ints
    """Places in ``targets``, those of a row after those of the row before."""

    def dense(self, rows: Ints) -> npt.NDArray[np.float32]:
        """(R, C) of 0 and 1."""
        out = np.zeros((len(rows), len(self.targets)), dtype=np.float32)
        begin = np.cumsum(self.counts) - self.counts
        flat = self.columns[ranges(begin[rows], self.counts[rows])]
        out[np.repeat(np.arange(len(rows)), self.counts[rows]), flat] = 1.0
        return out


def futures(
    outcomes: Sequence[Outcome], others: Sequence[Outcome], vocabulary: Vocabulary, until_ms: int | None = None
) -> dict[str, Future]:
    """Targets of ``outcomes`` by field.

    Args:
        outcomes: one row each.
        others: more outcomes of the same customers, whatever their horizon: only their snapshots count.
        until_ms: nothing is known of a window that ends later; None: no such bound.
    """
    events, until_s = _events([o.snapshot for o in (*outcomes, *others) if o.snapshot is not None], vocabulary)
    last_s = None if until_ms is None else until_ms // 1000
    return {field: _future(outcomes, events, until_s, field, vocabulary, last_s) for field in FIELDS}


_Events = dict[str, tuple[list[int], list[Ints]]]
"""Customer → seconds in which something was done, sorted, and the words of each as rows."""


def _events(snapshots: Sequence[Snapshot], vocabulary: Vocabulary) -> tuple[_Events, dict[str, int]]:
    found: dict[str, dict[int, list[bytes]]] = {}
    until_s: dict[str, int] = {}
    for snapshot in snapshots:
        name = snapshot.customer_id
        until_s[name] = max(until_s.get(name, 0), snapshot.as_of_ms // 1000)
        of_snapshot: dict[int, list[bytes]] = {}
        for at_ms, words in snapshot.recent:
            of_snapshot.setdefault(at_ms // 1000, []).append(words)
        of_customer = found.setdefault(name, {})
        for at_s, entries in of_snapshot.items():
            # An entry may grow after one snapshot, or another join it within the second; it may lose its oldest words
            # before a third.
            if sum(map(len, entries)) > sum(map(len, of_customer.get(at_s, []))):
                of_customer[at_s] = entries
    events: _Events = {}
    for name, of_customer in found.items():
        own = {at: [e for e in entries if _NOT_OWN.isdisjoint(split(e))] for at, entries in of_customer.items()}
        times = sorted(at for at, entries in own.items() if entries)
        events[name] = times, [vocabulary.rows(b"".join(own[at])).astype(np.int64) for at in times]
    return events, until_s


def _future(
    outcomes: Sequence[Outcome],
    events: _Events,
    until_s: dict[str, int],
    field: str,
    vocabulary: Vocabulary,
    last_s: int | None,
) -> Future:
    rows = [row for row, word in enumerate(vocabulary.names) if field_of(word) == field]
    place = np.full(len(vocabulary), -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    window_s = WINDOWS_DAYS[field] * DAY_MS // 1000
    counts, columns = np.zeros(len(outcomes), dtype=np.int64), [np.zeros(0, dtype=np.int64)]
    known = np.zeros(len(outcomes), dtype=np.bool_)
    for row, outcome in enumerate(outcomes):
        name, from_s = outcome.customer_id, outcome.as_of_ms // 1000
        silent = outcome.head == "churn" and outcome.label == 1 and outcome.due_ms // 1000 >= from_s + window_s
        known[row] = silent or until_s[name] >= from_s + window_s
        known[row] &= last_s is None or from_s + window_s <= last_s
        times, words = events[name]
        first, last = np.searchsorted(times, (from_s + 1, from_s + window_s + 1)).tolist()
        if known[row] and first < last:
            found = place[np.unique(np.concatenate(words[first:last]))]
            columns.append(found[found >= 0])
            counts[row] = len(columns[-1])
    return Future(np.array(rows, dtype=np.int64), known, counts, np.concatenate(columns))
