"""How far probabilities are from rates: an error without the bias of small bins, and a slope.

**Error.** In ten bins of equal mass, the mean of ``label - probability`` is squared, and the variance that chance alone
gives this mean is taken off; the root of the bins' weighted mean is the error. Without the correction a perfect
forecast has an error above 0, the larger the fewer its rows. Source of the idea: Bröcker, "Estimating reliability and
resolution of probability forecasts through decomposition of the empirical score" (2012); Kumar, Liang and Ma, "Verified
uncertainty calibration" (2019), who correct with the binomial variance. Rows of one customer are not independent, so
the variance here is the cluster-robust one, over customers; with one row a customer it is Kumar's.

**Slope.** Logistic regression of the label on the logit: 1 is right, below 1 the probabilities are too extreme
(Cox, "Two further applications of a model for binary regression", 1958).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from infra.evaluate.statistics import ROUNDS, Bootstrap, Doubles, Interval, Ints, sigmoid

BINS: Final = 10


class Bin(NamedTuple):
    """One bin of a reliability diagram."""

    predicted: float
    observed: float
    low: float
    """Observed rate less, and plus, 1.96 of its cluster-robust standard errors."""
    high: float
    rows: int


class Binned:
    """Rows in bins of equal mass, summed by customer.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,).
        clusters: (N,) customer of each row.
    """

    def __init__(self, labels: npt.ArrayLike, probabilities: npt.ArrayLike, clusters: Ints, bins: int = BINS) -> None:
        label, probability = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
        rank = np.argsort(np.argsort(probability, kind="stable"), kind="stable")
        bin_of = rank * bins // len(rank)
        found, member = np.unique(clusters, return_inverse=True)
        self.clusters = len(found)
        cell = member * bins + bin_of
        shape = (len(found), bins)

        def summed(values: Doubles) -> Doubles:
            return np.bincount(cell, values, minlength=len(found) * bins).reshape(shape).astype(np.float64)

        self._rows = summed(np.ones(len(label)))  # (G, B)
        self._gap = summed(label - probability)  # (G, B)
        self._probability = summed(probability)

    def squared_error(self, times: Doubles) -> tuple[float, float]:
        """Corrected and uncorrected squared error with each cluster counted so often, (G,)."""
        rows = times @ self._rows  # (B,)
        known = rows > 0
        size = np.where(known, rows, 1.0)
        gap = times @ self._gap / size
        variance = self._variance(times, size, gap)
        share = rows / rows.sum()
        return float(share @ (gap**2 - variance)), float(share @ gap**2)

    def _variance(self, times: Doubles, size: Doubles, gap: Doubles) -> Doubles:
        """Of the mean gap of each bin: the spread of customers' sums around it."""
        squares = times @ self._gap**2 - 2 * gap * (times @ (self._gap * self._rows)) + gap**2 * (times @ self._rows**2)
        groups = np.maximum(times @ (self._rows > 0), 2.0)
        out: Doubles = squares / size**2 * groups / (groups - 1)
        return out

    def error(self, *, rounds: int = ROUNDS, seed: int = 0) -> Interval:
        """The corrected error with its interval.

        A resample's gaps scatter around the sample's, which scatter around the truth. So the resamples' deviations
        from what they scatter around are put around the corrected estimate, and the root is taken last.
        """
        ones = np.ones(self.clusters)
        corrected, plain = self.squared_error(ones)
        generator = np.random.default_rng(seed)
        drawn = np.empty(rounds)
        for number in range(rounds):
            times = np.bincount(generator.integers(0, self.clusters, self.clusters), minlength=self.clusters)
            drawn[number] = self.squared_error(times.astype(np.float64))[0] - plain + corrected
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Interval(*(float(np.sqrt(max(0.0, squared))) for squared in (corrected, low, high)))

    def curve(self) -> list[Bin]:
        """The bins, by probability."""
        ones = np.ones(self.clusters)
        rows = self._rows.sum(0)
        size = np.maximum(rows, 1.0)
        gap, predicted = self._gap.sum(0) / size, self._probability.sum(0) / size
        spread = 1.96 * np.sqrt(np.maximum(0.0, self._variance(ones, size, gap)))
        return [
            Bin(float(p), float(p + g), float(max(0.0, p + g - s)), float(min(1.0, p + g + s)), int(n))
            for p, g, s, n in zip(predicted, gap, spread, rows, strict=True)
            if n
        ]


def slope(
    labels: npt.ArrayLike, logits: npt.ArrayLike, clusters: Ints, *, rounds: int = 200, seed: int = 0
) -> Interval:
    """Calibration slope with its interval."""
    label, given = np.asarray(labels, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    measures = {"slope": lambda weights: float(_line(label, given, weights)[0])}
    return Bootstrap(measures, clusters, rounds=rounds, seed=seed).interval("slope")


def _line(label: Doubles, given: Doubles, weights: Doubles, steps: int = 25) -> Doubles:
    """Slope and intercept by Newton's method, which the identity starts close to."""
    design = np.stack([given, np.ones_like(given)], axis=1)
    found = np.array([1.0, 0.0])
    for _ in range(steps):
        probability = sigmoid(design @ found)
        gradient = design.T @ (weights * (label - probability))
        curvature = (design * (weights * probability * (1 - probability))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        found = found + step
        if np.abs(step).max() < 1e-7:
            break
    return found
