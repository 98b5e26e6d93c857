"""Who is most like some given customers: the mean similarity to the nearest of them, less what anybody has."""

from __future__ import annotations

from typing import Final

import faiss
import numpy as np

from models.wide import Floats

NEAREST: Final = 5
"""Of the seed, whose similarities are averaged."""
EXACT: Final = 20_000
"""Seeds up to which every one of them is compared with; with more, a graph finds the nearest."""
_LINKS: Final = 32
_SEARCHED: Final = 128
_BLOCK: Final = 16_384


class SeedIndex:
    """An index over the vectors of some customers, which others are compared with.

    A centroid would be somewhere between the groups that a seed consists of; the nearest few keep them apart.

    Args:
        seeds: (S, H), one row a customer, S at least 1.
        origin: (H,), what all vectors have in common, such as the mean of everybody's: it is taken off first.
        nearest: how many similarities are averaged; all where there are fewer seeds.

    Example:
        >>> index = SeedIndex(np.eye(2, dtype=np.float32), np.zeros(2, dtype=np.float32), nearest=1)
        >>> index.scores(np.array([[2.0, 0.0], [-1.0, 0.0]], dtype=np.float32)).tolist()
        [1.0, 0.0]
    """

    def __init__(self, seeds: Floats, origin: Floats, nearest: int = NEAREST) -> None:
        count, width = seeds.shape
        self._origin = origin
        self._nearest = min(nearest, count)
        if count <= EXACT:
            self._index = faiss.IndexFlatIP(width)
        else:
            self._index = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
            self._index.hnsw.efSearch = _SEARCHED
        self._index.add(directions(seeds, origin))

    def scores(self, vectors: Floats) -> Floats:
        """Mean cosine with the nearest seeds: (N, H) to (N,), from -1 to 1."""
        found = np.empty(len(vectors), dtype=np.float32)
        for begin in range(0, len(vectors), _BLOCK):
            part = directions(vectors[begin : begin + _BLOCK], self._origin)
            cosines, _ = self._index.search(part, self._nearest)
            found[begin : begin + _BLOCK] = cosines.mean(axis=1)
        return np.clip(found, -1.0, 1.0)


def directions(vectors: Floats, origin: Floats) -> Floats:
    """Unit vectors as seen from an origin, (N, H); zero where a vector is the origin."""
    moved = vectors - origin
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    unit: Floats = np.ascontiguousarray(moved / np.maximum(length, np.float32(1e-9)), dtype=np.float32)
    return unit
