"""Snapshots as arrays: the columns of a batch, read without a loop over their entries."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Final

import numpy as np

from models.wide import Doubles, Floats, Ints
from schemas import features
from schemas.errors import InvalidField
from schemas.graph import EDGE_INDEX, EDGE_TYPES
from schemas.snapshot import EDGE, SESSION, Snapshot, age_hours
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
_MOST_WEIGHT: Final = float(np.finfo(np.float16).max)
_MOST_HALF_LIVES: Final = 64.0
"""What is older weighs nothing; what is younger than its snapshot by as many weighs as much as can be."""
_AGES_S: Final[Doubles] = np.array([3600 * age_hours(code) for code in range(256)])


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
        ("attributes", len(snapshot.attributes) % HASH_BYTES, 0),
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


class Edges:
    """The edges of a batch, flat; each as its last block has it, decayed to its snapshot's time.

    Types that this program does not know, from a newer one, are left out. A weight that is no number is 0, and none is
    above what float16 holds.

    Attributes:
        customers: how many snapshots there are.
        words: (E,) uint32, of the entities.
        type: (E,) place in :data:`schemas.graph.EDGE_TYPES`.
        customer: (E,) row of each.
        weight: (E,).
        count: (E,) how often, 255 for more.
        age_s: (E,) since the last time.
    """

    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        self.customers = len(snapshots)
        blocks = [
            (row, edge_type, snapshot.as_of_ms - block.as_of_ms, snapshot.edge_half_life_ms, column)
            for row, snapshot in enumerate(snapshots)
            for block in reversed(snapshot.edges)
            for edge_type, column in block.edges.items()
            if 0 <= edge_type < len(EDGE_TYPES)
        ]
        flat = np.frombuffer(b"".join([column for *_, column in blocks]), dtype=EDGE_DTYPE)
        sizes = np.array([len(column) // EDGE.size for *_, column in blocks], dtype=np.int64)
        customer, edge_type = (
            np.repeat(np.array([block[at] for block in blocks], dtype=np.int64), sizes) for at in (0, 1)
        )
        # Doubles, as the difference of two times need not fit 64 bits.
        since_ms, half_life_ms = (
            np.repeat(np.array([block[at] for block in blocks], dtype=np.float64), sizes) for at in (2, 3)
        )
        half_lives = np.clip(since_ms / half_life_ms, -_MOST_HALF_LIVES, _MOST_HALF_LIVES)
        said = np.nan_to_num(flat["weight"].astype(np.float64), nan=0.0, posinf=_MOST_WEIGHT, neginf=0.0)
        weight = np.clip(said * np.exp2(-half_lives), 0.0, _MOST_WEIGHT)
        age_s = _AGES_S[flat["age"]] + since_ms / 1000
        # The newest block of a customer comes first, and np.unique keeps the first of equals.
        place = (customer * len(EDGE_TYPES) + edge_type).astype(np.uint64)
        kept = np.sort(np.unique(place << np.uint64(32) | flat["word"], return_index=True)[1])
        self.words = flat["word"][kept]
        self.type: Ints = edge_type[kept]
        self.customer: Ints = customer[kept]
        self.weight: Doubles = weight[kept]
        self.count = flat["count"][kept]
        self.age_s: Doubles = age_s[kept]

    def of(self, edge_type: str) -> Edges:
        """Those of one type."""
        found = copy(self)
        chosen = np.flatnonzero(self.type == EDGE_INDEX[edge_type])
        for name in ("words", "type", "customer", "weight", "count", "age_s"):
            setattr(found, name, getattr(self, name)[chosen])
        return found

    def totals(self) -> Floats:
        """Sum of the weights of each customer, (B, 1)."""
        return np.bincount(self.customer, self.weight, minlength=self.customers)[:, None].astype(np.float32)
