"""Shares that are drawn towards a base while little is known: Dirichlet priors, their strength by empirical Bayes.

``posterior = (counts + strength * base) / (total + strength)``. The strength is the one of a few under which the counts
of everybody are most likely (the Pólya distribution: Minka, "Estimating a Dirichlet distribution", 2000).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from models.wide import Doubles

STRENGTHS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
_LEAST: Final = 1e-6


def strength_of(counts: Doubles, base: Doubles) -> float:
    """The strength of a prior with this mean; the greatest of all where nothing was counted.

    Args:
        counts: (N, K), of N things that each have a share of their own.
        base: (K,), or (N, K): what shares are drawn towards.

    Example:
        >>> even = np.full((50, 2), 10.0)
        >>> apart = np.array([[20.0, 0.0], [0.0, 20.0]] * 25)
        >>> [strength_of(found, np.array([0.5, 0.5])) for found in (even, apart)]
        [1024.0, 1.0]
    """
    return likeliest(likelihoods(counts, base))


def likeliest(likely: Doubles) -> float:
    """The strength that is most likely, of equal ones the greatest."""
    return STRENGTHS[len(likely) - 1 - int(np.argmax(likely[::-1]))]


def likelihoods(counts: Doubles, base: Doubles) -> Doubles:
    """Log likelihood of the counts under each of :data:`STRENGTHS`; those of several kinds of counts may be added."""
    n, mean = torch.from_numpy(counts), torch.from_numpy(np.clip(np.broadcast_to(base, counts.shape), _LEAST, None))
    total = n.sum(1)
    found = []
    for strength in STRENGTHS:
        prior = strength * mean  # (N, K)
        sums = prior.sum(1)
        each = torch.lgamma(sums) - torch.lgamma(total + sums)
        found.append(float(each.sum() + (torch.lgamma(n + prior) - torch.lgamma(prior)).sum()))
    return np.array(found)


def drawn(counts: Doubles, base: Doubles, strength: float) -> Doubles:
    """(N, K) shares: posterior means."""
    found: Doubles = (counts + strength * base) / (counts.sum(1, keepdims=True) + strength)
    return found
