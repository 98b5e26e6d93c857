"""Measures and intervals whose right answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from infra.evaluate.calibrated import Binned, slope
from infra.evaluate.floors import boosted
from infra.evaluate.linear import fit_probe
from infra.evaluate.online import recalibrated
from infra.evaluate.statistics import Bootstrap, auc, correlation, log_loss, logit, macro_auc, mean, sigmoid
from streams.core.config import DAY_MS


def test_auc_counts_pairs() -> None:
    generator = np.random.default_rng(1)
    labels, scores = generator.integers(0, 2, 60), generator.integers(0, 9, 60)
    positive, negative = scores[labels == 1], scores[labels == 0]
    pairs = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
    assert auc(labels, scores)(np.ones(60)) == pytest.approx(pairs)


def test_a_weight_of_two_is_a_row_twice() -> None:
    generator = np.random.default_rng(2)
    labels, scores, times = generator.integers(0, 2, 50), generator.normal(size=50), generator.integers(0, 3, 50)
    twice = np.repeat(np.arange(50), times)
    ones = np.ones(len(twice))
    assert auc(labels, scores)(times.astype(float)) == pytest.approx(auc(labels[twice], scores[twice])(ones))
    assert log_loss(labels, scores)(times.astype(float)) == pytest.approx(log_loss(labels[twice], scores[twice])(ones))


def test_a_correlation_counts_rows_by_weight() -> None:
    generator = np.random.default_rng(3)
    one, times = generator.normal(size=50), generator.integers(0, 3, 50)
    other = one + generator.normal(size=50)
    twice = np.repeat(np.arange(50), times)
    expected = np.corrcoef(one[twice], other[twice])[0, 1]
    assert correlation(one, other)(times.astype(float)) == pytest.approx(expected)
    assert np.isnan(correlation(one, np.ones(50))(np.ones(50)))


def test_macro_auc_is_the_mean_of_columns_with_both_classes() -> None:
    labels = np.array([[0, 1, 1], [1, 1, 0], [1, 1, 1]])
    scores = np.array([[0.1, 0.5, 0.9], [0.2, 0.5, 0.1], [0.05, 0.5, 0.5]])
    assert macro_auc(labels, scores)(np.ones(3)) == pytest.approx((0.5 + 1.0) / 2)
    assert np.isnan(macro_auc(labels[:, 1:2], scores[:, 1:2])(np.ones(3)))


def test_a_bootstrap_over_clusters_is_as_wide_as_their_number_says() -> None:
    generator = np.random.default_rng(3)
    clusters = np.repeat(np.arange(200), 25)
    rows = np.repeat(generator.normal(size=200), 25)
    of_customers = Bootstrap({"mean": mean(rows)}, clusters, rounds=400).interval("mean")
    of_rows = Bootstrap({"mean": mean(rows)}, np.arange(5000), rounds=400).interval("mean")
    half = 1.96 * rows.std() / np.sqrt(200)
    assert of_customers.high - of_customers.low == pytest.approx(2 * half, rel=0.15)
    assert of_rows.high - of_rows.low == pytest.approx(2 * half / 5, rel=0.15)


def test_differences_are_paired() -> None:
    generator = np.random.default_rng(4)
    rows = generator.normal(size=500)
    drawn = Bootstrap({"one": mean(rows + 0.01), "other": mean(rows)}, np.arange(500), rounds=100)
    difference = drawn.difference("one", "other")
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.01, 0.01, 0.01))
    assert drawn.interval("one").high - drawn.interval("one").low > 0.1


def _calibrated(seed: int, customers: int = 400, each: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of a forecast that is right about everybody, with customers who differ and repeat themselves."""
    generator = np.random.default_rng(seed)
    probability = generator.beta(1, 9, customers)
    same = generator.random(customers)
    draws = np.where(generator.random((customers, each)) < 0.5, same[:, None], generator.random((customers, each)))
    labels = (draws < probability[:, None]).astype(float)
    return labels.ravel(), np.repeat(probability, each), np.repeat(np.arange(customers), each)


def test_the_calibration_error_of_a_right_forecast_is_unbiased() -> None:
    found = [Binned(*_calibrated(seed)).squared_error(np.ones(400)) for seed in range(200)]
    corrected, plain = np.array(found).T
    standard_error = corrected.std() / np.sqrt(len(corrected))
    assert abs(corrected.mean()) < 3 * standard_error
    assert plain.mean() > 20 * standard_error


def test_the_calibration_error_finds_a_shift() -> None:
    labels, probability, customers = _calibrated(5, customers=4000)
    found = Binned(labels, probability + 0.05, customers).error(rounds=200)
    assert found.value == pytest.approx(0.05, abs=0.01)
    assert found.low < 0.05 < found.high


def test_the_interval_of_a_right_forecast_reaches_zero() -> None:
    reached = [Binned(*_calibrated(seed)).error(rounds=100).low == 0.0 for seed in range(20)]
    assert sum(reached) >= 17


def test_bins_hold_equally_many_and_say_the_rate() -> None:
    labels, probability, customers = _calibrated(6)
    bins = Binned(labels, probability, customers).curve()
    assert [one.rows for one in bins] == [200] * 10
    assert sum(one.observed * one.rows for one in bins) == pytest.approx(labels.sum())
    assert [one.predicted for one in bins] == sorted(one.predicted for one in bins)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_the_slope_undoes_a_factor(factor: float) -> None:
    generator = np.random.default_rng(7)
    logits = generator.normal(-1, 1, 20_000)
    labels = (generator.random(20_000) < sigmoid(logits)).astype(float)
    found = slope(labels, logits * factor, np.arange(20_000), rounds=50)
    assert found.value == pytest.approx(1 / factor, rel=0.06)
    assert found.low < 1 / factor < found.high


def test_logit_is_the_inverse() -> None:
    assert sigmoid(logit([0.001, 0.5, 0.99])) == pytest.approx([0.001, 0.5, 0.99])
    assert np.isfinite(logit([0.0, 1.0])).all()


def test_a_probe_finds_weights_and_leaves_the_offset_alone() -> None:
    generator = np.random.default_rng(8)
    columns, offset = generator.normal(size=(20_000, 3)), generator.normal(size=20_000)
    columns[::50, 0] = np.nan
    labels = generator.random(20_000) < sigmoid(offset + np.nan_to_num(columns) @ [1.0, 0.0, -0.5] - 1)
    found = fit_probe(columns, labels, np.arange(20_000), offset=offset, ridges=(1.0,))
    assert found.weight / found.deviation == pytest.approx([1.0, 0.0, -0.5], abs=0.08)
    assert found.bias == pytest.approx(-1.0, abs=0.08)
    assert found.logits(columns[:5], 1.0) == pytest.approx(found.logits(columns[:5]) + 1.0)


def test_trees_are_the_same_twice() -> None:
    pytest.importorskip("lightgbm")
    generator = np.random.default_rng(9)
    columns = generator.normal(size=(3_000, 4))
    labels = generator.random(3_000) < sigmoid(2 * columns[:, 0])
    once, again = (boosted(columns, labels, columns, trees=20) for _ in range(2))
    assert (once == again).all()
    assert auc(labels, once)(np.ones(3_000)) > 0.8


def test_recalibration_knows_what_was_due_and_nothing_of_later() -> None:
    draws = np.random.default_rng(0)
    count, from_day = 6_000, 40
    as_of_ms = np.sort(draws.integers(0, 90, count)) * DAY_MS + 5
    due_ms = as_of_ms + 28 * DAY_MS
    probability = sigmoid(draws.normal(-1.0, 1.0, count))
    labels = (draws.random(count) < sigmoid(logit(probability) + 1.0)).astype(np.float64)
    order = draws.permutation(count)
    found = recalibrated(probability[order], labels[order], as_of_ms[order], due_ms[order])
    told, outcomes = np.empty(count), np.empty(count)
    told[order], outcomes[order] = found.probability, found.outcomes
    early = as_of_ms < 28 * DAY_MS
    assert told[early] == pytest.approx(probability[early]) and not outcomes[early].any()
    late = as_of_ms >= 80 * DAY_MS
    assert abs(float((told - labels)[late].mean())) < 0.05 < abs(float((probability - labels)[late].mean()))
    others = np.where(due_ms > from_day * DAY_MS, 1 - labels, labels)
    changed = recalibrated(probability, others, as_of_ms, due_ms).probability
    until = as_of_ms < (from_day + 1) * DAY_MS
    assert changed[until] == pytest.approx(told[until])
    assert np.abs(changed - told)[late].max() > 0.1
