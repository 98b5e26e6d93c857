"""The items that a catalog offers, as arrays: what is ranked, found by the hashes that snapshots name them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from models.entities import Hashes, WordRows, word_of
from models.wide import Floats, Ints
from schemas.catalog import CatalogEntry
from schemas.words import HASH_BYTES, hash_of

NONE: Final = -1
"""Place of what is not offered."""
_OPEN_MS: Final = np.iinfo(np.int64).max


class Assortment:
    """Items of one state of the catalog, in the order of their hashes; immutable, so that it can be cached.

    Of two items with one hash only the first by id is offered: snapshots cannot tell them apart.

    Args:
        catalog: ``kind:id`` -> entry.
        word_rows: of the model that ranks them, and of the same catalog.

    Attributes:
        entries: of each item, N of them.
        hashes: (N,), sorted.
        rows: (N,) place of each among the word rows.
        category: (N,) number of its category; :data:`NONE` where the catalog says none.
        category_hashes: (G,) of the categories, sorted.
        log_price: (N,), NaN where the catalog says none.
    """

    def __init__(self, catalog: Mapping[str, CatalogEntry], word_rows: WordRows) -> None:
        self.word_rows = word_rows
        found = sorted((entry for entry in catalog.values() if entry.kind == "item"), key=lambda entry: entry.id)
        hashes = _hashes([word_of("item", entry.id) for entry in found])
        self.hashes, first = np.unique(hashes, return_index=True)
        self.entries = tuple(found[at] for at in first.tolist())
        self.rows: Ints = word_rows.rows(self.hashes.astype("<u4").tobytes())
        named = [entry.category or "" for entry in self.entries]
        shelves = _hashes([word_of("category", name) for name in named])
        has_one = np.array([bool(name) for name in named], dtype=np.bool_)
        self.category_hashes = np.unique(shelves[has_one])
        self.category: Ints = np.full(len(self), NONE, dtype=np.int64)
        self.category[has_one] = np.searchsorted(self.category_hashes, shelves[has_one])
        self.log_price: Floats = np.array(
            [np.nan if entry.price is None else np.log1p(max(entry.price, 0.0)) for entry in self.entries],
            dtype=np.float32,
        )
        self._from_ms: Ints = np.array(
            [-_OPEN_MS if e.active_from_ms is None else e.active_from_ms for e in self.entries], dtype=np.int64
        )
        self._to_ms: Ints = np.array(
            [_OPEN_MS if e.active_to_ms is None else e.active_to_ms for e in self.entries], dtype=np.int64
        )
        self._always = bool((self._from_ms == -_OPEN_MS).all() and (self._to_ms == _OPEN_MS).all())

    def __len__(self) -> int:
        return len(self.entries)

    def places(self, hashes: Hashes) -> Ints:
        """Items of hashed words, (E,): :data:`NONE` of what is not offered."""
        return _find(self.hashes, hashes)

    def categories(self, hashes: Hashes) -> Ints:
        """Category numbers of hashed words, (E,): :data:`NONE` of those that no item is of."""
        return _find(self.category_hashes, hashes)

    def items(self, ids: tuple[str, ...]) -> Ints:
        """Places of items by id, those that are offered only, sorted."""
        found = np.unique(self.places(_hashes([word_of("item", item_id) for item_id in ids])))
        offered: Ints = found[found != NONE]
        return offered

    def offered(self, items: Ints, as_of_ms: Ints) -> npt.NDArray[np.bool_]:
        """Whether each item, (C,), is inside its window at a time, (C,)."""
        if self._always:
            return np.ones(len(items), dtype=np.bool_)
        inside: npt.NDArray[np.bool_] = (self._from_ms[items] <= as_of_ms) & (as_of_ms < self._to_ms[items])
        return inside

    def closed(self, as_of_ms: Ints) -> npt.NDArray[np.bool_] | None:
        """(B, N) items outside their window at each time; None where no item has one."""
        if self._always:
            return None
        outside: npt.NDArray[np.bool_] = (as_of_ms[:, None] < self._from_ms) | (self._to_ms <= as_of_ms[:, None])
        return outside


def _hashes(words: list[str]) -> Hashes:
    return np.frombuffer(b"".join(map(hash_of, words)), dtype=f"<u{HASH_BYTES}").astype(np.uint32)


def _find(known: Hashes, wanted: Hashes) -> Ints:
    if not len(known):
        return np.full(len(wanted), NONE, dtype=np.int64)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    found: Ints = np.where(known[at] == wanted, at, NONE).astype(np.int64)
    return found
