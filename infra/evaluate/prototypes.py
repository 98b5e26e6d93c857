"""Amortised inference: a few prototypes are scored, and whoever is near one shares its score."""

from __future__ import annotations

from typing import Final

import faiss
import numpy as np

from infra.evaluate.statistics import Doubles
from models.wide import Floats

_ROUNDS: Final = 20


def shared_scores(embeddings: Floats, scores: Doubles, prototypes: int, seed: int = 0) -> Doubles:
    """The score of the nearest prototype, (N,): the customer closest to the centre of each k-means cluster.

    Args:
        embeddings: (N, H)
        scores: (N,) of everybody; those of prototypes are read and no others.
        prototypes: how many, at most N.
    """
    # Not whitened: what varies most is what most heads go by.
    points = np.ascontiguousarray(embeddings, dtype=np.float32)
    # As many points a centre as there are: faiss warns of less than 39, and takes 256 at most by itself.
    means = faiss.Kmeans(
        points.shape[1],
        prototypes,
        niter=_ROUNDS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=max(256, len(points)),
    )
    means.train(points)
    assert means.centroids is not None
    everybody = faiss.IndexFlatL2(points.shape[1])
    everybody.add(points)
    _, chosen = everybody.search(means.centroids, 1)
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points[np.unique(chosen)])
    _, nearest = index.search(points, 1)
    shared: Doubles = scores[np.unique(chosen)][nearest[:, 0]]
    return shared
