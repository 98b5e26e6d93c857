"""Snapshots as arrays: the columns of a batch, read without a loop over their entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from models.wide import Doubles, Floats, Ints
from schemas import features
from schemas.errors import InvalidField
from schemas.graph import EDGE_INDEX
from schemas.snapshot import EDGE, SESSION, Snapshot
from schemas.words import HASH_BYTES

EDGE_DTYPE: Final = np.dtype([("word", "<u4"), ("weight", "<f2"), ("count", "u1"), ("age", "u1")])
SESSION_DTYPE: Final = np.dtype(
    [
        ("start_s", "<u4"),
        ("minutes", "<u2"),
        ("events", "<u2"),
        ("value", "<f4"),
        ("channel", "<u4"),
        ("local_hour", "u1"),
        ("sessions", "u1"),
        ("messages", "u1"),
        ("redemptions", "u1"),
        ("categories", "<u4", 3),
        ("items", "<u4", 2),
    ]
)
"""As :class:`schemas.snapshot.Session` says, main words as arrays."""


def check(snapshot: Snapshot) -> None:
    """Raise where a snapshot's columns cannot be read.

    Raises:
        InvalidField: features of another size, or columns that hold no whole number of entries, or not equally many.
    """
    recent = snapshot.recent
    words = sum(recent.lengths)
    for name, found, wanted in (
        ("features", len(snapshot.features), 4 * features.SIZE),
        ("recent.at_s", len(recent.at_s), 4 * len(recent.lengths)),
        ("recent.words", len(recent.words), HASH_BYTES * words),
        ("history", len(snapshot.history) % SESSION.size, 0),
        *(
            (f"edges of type {index}", len(column) % EDGE.size, 0)
            for block in snapshot.edges
            for index, column in block.edges.items()
        ),
    ):
        if found != wanted:
            raise InvalidField(f"{name} holds {found} bytes, not {wanted}")
    if snapshot.edge_half_life_ms <= 0:
        raise InvalidField(f"edge_half_life_ms is {snapshot.edge_half_life_ms}")


def features_of(snapshots: Sequence[Snapshot]) -> Floats:
    """(B, SIZE) raw feature vectors."""
    flat = np.frombuffer(b"".join(s.features for s in snapshots), dtype="<f4")
    return flat.astype(np.float32).reshape(len(snapshots), features.SIZE)


class EdgeColumns:
    """The edges of one type of a batch, flat; each as its last block has it, decayed to its snapshot's time.

    Attributes:
        words: (E,) uint32, of the entities.
        customer: (E,) row of each.
        weight: (E,).
    """

    def __init__(self, snapshots: Sequence[Snapshot], edge_type: str) -> None:
        self.customers = len(snapshots)
        index = EDGE_INDEX[edge_type]
        blocks = [
            (row, snapshot.as_of_ms - block.as_of_ms, snapshot.edge_half_life_ms, column)
            for row, snapshot in enumerate(snapshots)
            for block in reversed(snapshot.edges)
            if (column := block.edges.get(index))
        ]
        flat = np.frombuffer(b"".join([column for *_, column in blocks]), dtype=EDGE_DTYPE)
        sizes = [len(column) // EDGE.size for *_, column in blocks]
        customer = np.repeat(np.array([row for row, *_ in blocks], dtype=np.int64), sizes)
        half_lives = np.array([since_ms / half_life_ms for _, since_ms, half_life_ms, _ in blocks])
        weight = flat["weight"].astype(np.float64) * np.exp2(-np.repeat(half_lives, sizes))
        # The newest block of a customer comes first, and np.unique keeps the first of equals.
        name = customer.astype(np.uint64) << np.uint64(32) | flat["word"]
        kept = np.sort(np.unique(name, return_index=True)[1])
        self.words = flat["word"][kept]
        self.customer: Ints = customer[kept]
        self.weight: Doubles = weight[kept]

    def totals(self) -> Floats:
        """Sum of the weights of each customer, (B, 1)."""
        return np.bincount(self.customer, self.weight, minlength=self.customers)[:, None].astype(np.float32)
