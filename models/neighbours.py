"""Who is most like some given customers: mean cosine with the nearest of them, where every direction counts alike.

A few directions hold most of the variance of embeddings, much of it how often and how lately a customer comes.
Whitened, what moves one other direction, such as a taste, weighs as much (docs/log.md has what that gives).
"""

from __future__ import annotations

from typing import Final

import faiss
import numpy as np

from models.wide import Floats

NEAREST: Final = 20
"""Of the seed, whose cosines are averaged: enough against chance, and few enough to keep the groups of a seed apart."""
EXACT: Final = 20_000
"""Seeds up to which every one of them is compared with; with more, a graph finds the nearest."""
_LINKS: Final = 32
_SEARCHED: Final = 128
_BLOCK: Final = 16_384
_ROWS_A_DIRECTION: Final = 10
_FLAT: Final = 1e-7  # of the largest variance: less is what rounding leaves


class Whitened:
    """Unit vectors in a space where everybody's variance is the same in all directions.

    Args:
        vectors: everybody's, (N, H). Of few customers only the leading directions are kept, N / 10 of them.
    """

    def __init__(self, vectors: Floats) -> None:
        self._origin: Floats = vectors.mean(axis=0)
        moved = vectors - self._origin
        variance, directions = np.linalg.eigh(moved.T.astype(np.float64) @ moved / len(vectors))
        most = max(1, min(len(variance), len(vectors) // _ROWS_A_DIRECTION))
        kept = max(1, min(most, int((variance > _FLAT * variance[-1]).sum())))  # ascending
        scale = np.sqrt(np.maximum(variance[-kept:], np.finfo(np.float32).tiny))
        self._scaled: Floats = (directions[:, -kept:] / scale).astype(np.float32)

    @property
    def width(self) -> int:
        """D, of the vectors it gives."""
        return int(self._scaled.shape[1])

    def __call__(self, vectors: Floats) -> Floats:
        """(N, H) to (N, D); zero where a vector is the mean of all."""
        moved = (vectors - self._origin) @ self._scaled
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        unit: Floats = np.ascontiguousarray(moved / np.maximum(length, np.float32(1e-9)), dtype=np.float32)
        return unit


class SeedIndex:
    """An index over the unit vectors of some customers, which others are compared with.

    A centroid would be somewhere between the groups that a seed consists of; the nearest few keep them apart.

    Args:
        seeds: (S, D), one row a customer, S at least 1.
        nearest: how many cosines are averaged; all where there are fewer seeds.

    Example:
        >>> index = SeedIndex(np.eye(2, dtype=np.float32), nearest=1)
        >>> index.scores(np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)).tolist()
        [1.0, 0.0]
    """

    def __init__(self, seeds: Floats, nearest: int = NEAREST) -> None:
        count, width = seeds.shape
        self._nearest = min(nearest, count)
        self._index: faiss.Index = faiss.IndexFlatIP(width) if count <= EXACT else _graph(width)
        self._index.add(seeds)

    def scores(self, vectors: Floats) -> Floats:
        """Mean cosine with the nearest seeds: unit vectors (N, D) to (N,), from -1 to 1."""
        found = np.empty(len(vectors), dtype=np.float32)
        for begin in range(0, len(vectors), _BLOCK):
            cosines, _ = self._index.search(vectors[begin : begin + _BLOCK], self._nearest)
            found[begin : begin + _BLOCK] = cosines.mean(axis=1)
        clipped: Floats = np.clip(found, -1.0, 1.0)
        return clipped


def _graph(width: int) -> faiss.Index:
    graph = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efSearch = _SEARCHED
    return graph
