"""Quality: the measures against their definitions in numpy, and what they say of probabilities that are right."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import metrics
from streams.core.quality import quality

PAIRS = st.lists(st.tuples(st.floats(0.001, 0.999), st.integers(0, 1)), min_size=1, max_size=60)


@given(pairs=PAIRS)
def test_the_measures_are_those_of_training(pairs: list[tuple[float, int]]) -> None:
    found = quality(pairs)
    probabilities, labels = np.array([p for p, _ in pairs]), np.array([float(label) for _, label in pairs])
    assert found.pairs == len(pairs)
    assert found.log_loss == pytest.approx(metrics.log_loss(labels, np.log(probabilities / (1 - probabilities))))
    assert found.predicted == pytest.approx(probabilities.mean())
    assert found.observed == pytest.approx(labels.mean())
    assert found.calibration_error is not None
    assert found.calibration_error >= abs(probabilities.mean() - labels.mean()) - 1e-9
    if len(pairs) % 10 == 0 and len(set(probabilities)) == len(pairs):
        assert found.calibration_error == pytest.approx(metrics.calibration_error(labels, probabilities))


def test_what_is_right_is_calibrated_and_what_is_half_of_it_is_not() -> None:
    draw = random.Random(1)
    said = [draw.random() * 0.2 for _ in range(20_000)]
    pairs = [(probability, int(draw.random() < probability)) for probability in said]
    right, half = quality(pairs), quality([(probability / 2, label) for probability, label in pairs])
    assert right.calibration_error is not None and right.calibration_error < 0.01
    assert half.calibration_error == pytest.approx(0.05, abs=0.005)
    assert half.auc == right.auc
    assert half.observed is not None and half.predicted is not None
    assert half.observed / half.predicted == pytest.approx(2, rel=0.05)


def test_nothing_has_no_quality_and_no_number_counts_for_nothing() -> None:
    assert quality([]).pairs == quality([(math.nan, 1)]).pairs == 0
    assert quality([]).log_loss is None
    assert quality([(0.5, 1), (math.nan, 0)]) == quality([(0.5, 1)])


def test_a_rounded_certainty_costs_no_infinite_loss() -> None:
    loss = quality([(0.0, 1), (1.0, 0)]).log_loss
    assert loss is not None and loss < 14
