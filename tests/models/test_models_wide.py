from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models import calibration, metrics, wide
from models.candidates import CROSS_NAMES
from models.model import WANTED_GAIN
from models.reasons import CROSS_FAMILIES, FAMILIES
from schemas import features

raw = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.just(features.SIZE)),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)


@given(raw)
def test_contributions_sum_to_the_logit_whatever_the_values(values) -> None:
    part = wide.Wide(wide.COLUMNS)
    generator = torch.Generator().manual_seed(1)
    part.mean.copy_(torch.rand(wide.COLUMNS, generator=generator))
    part.weight.copy_(torch.randn(wide.COLUMNS, generator=generator))
    with np.errstate(all="ignore"):
        z = part.standardise(torch.from_numpy(wide.columns(values)))
    assert torch.isfinite(z).all()
    assert z.abs().max() <= wide.CLIP
    by_feature = wide.by_feature((z * part.weight).numpy())
    assert by_feature.shape == values.shape
    assert np.allclose(by_feature.sum(1) + float(part.bias), part(z).numpy(), atol=1e-3)


def test_absent_is_the_mean_and_a_column_of_its_own() -> None:
    values = np.zeros((2, features.SIZE), dtype=np.float32)
    at = features.INDEX["days_since_send"]
    values[0, at], values[1, at] = -1, 5
    columns = wide.columns(values)
    mine = np.flatnonzero(np.equal(wide.COLUMN_FEATURE, at))
    assert np.isnan(columns[0, mine[0]])
    assert columns[0, mine[1]] == 1
    assert columns[1, mine[0]] == pytest.approx(np.log1p(5))
    assert columns[1, mine[1]] == 0


def test_newton_finds_the_truth() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(20_000, 3)).astype(np.float32)
    x[::50, 2] = np.nan
    truth = np.array([1.0, -0.5, 0.0])
    labels = (random.random(20_000) < 1 / (1 + np.exp(-(np.nan_to_num(x) @ truth - 1)))).astype(np.float32)
    found = wide.fit(x, labels, np.arange(20_000), ridges=(1.0,))
    assert np.allclose(found.weight / found.deviation, truth, atol=0.08)
    again = found.refitted(x, labels)
    assert np.allclose(again.weight, found.weight, atol=1e-6)


@pytest.mark.parametrize("labels", [np.zeros(8), np.ones(8)])
def test_one_class_stays_finite(labels) -> None:
    found = wide.fit(np.eye(8, dtype=np.float32), labels.astype(np.float32), np.arange(8))
    assert np.isfinite(found.logits(np.eye(8, dtype=np.float32))).all()


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=2, max_size=30))
def test_auc_counts_pairs(rows: list[tuple[bool, int]]) -> None:
    labels = np.array([float(label) for label, _ in rows])
    scores = np.array([float(score) for _, score in rows])
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels == 1] for n in scores[labels == 0]]
    found = metrics.auc(labels, scores)
    assert found is None if not pairs else found == pytest.approx(np.mean(pairs))


def test_calibration_undoes_a_distortion_and_ignores_noise() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=20_000)
    labels = (random.random(20_000) < 1 / (1 + np.exp(-logits))).astype(np.float64)
    scale, shift = calibration.platt(labels, 3 * logits + 1)
    assert scale == pytest.approx(1 / 3, rel=0.1)
    assert shift == pytest.approx(-1 / 3, abs=0.1)
    noise = calibration.choose(labels, logits, random.normal(size=20_000), np.arange(20_000))
    assert noise.calibration.gate == 0
    half = random.normal(size=20_000)
    useful = calibration.choose(labels, logits - half, half, np.arange(20_000))
    assert 0.95 < useful.calibration.gate <= 1
    few = calibration.choose(labels[:30], np.zeros(30), logits[:30], np.arange(30))
    assert few == (calibration.Calibration(0.0, *calibration.platt(labels[:30], np.zeros(30))), None), (
        "thirty rows open no gate, and show no gain"
    )


@pytest.mark.parametrize("of_each", [1, 5])
def test_the_error_of_a_gain_is_how_far_it_is_off_when_all_is_drawn_again(of_each: int) -> None:
    """Rows of a customer go up and down together, so five of them are hardly more than one."""
    random = np.random.default_rng(of_each)
    customers = np.repeat(np.arange(400), of_each)
    drawn = [
        np.repeat(random.normal(size=400), of_each) + 0.1 * random.normal(size=400 * of_each) for _ in range(1_000)
    ]
    expected = np.std([values.mean() for values in drawn])
    assert calibration.standard_error(drawn[0], customers) == pytest.approx(expected, rel=0.15)


def test_a_gate_opens_for_a_small_gain_on_many_rows_and_says_what_it_would_have_seen_on_few() -> None:
    def choices(rows: int) -> list[calibration.GateChoice]:
        found = []
        for seed in range(10):
            random = np.random.default_rng(seed)
            wide, deep = random.normal(size=rows), 0.15 * random.normal(size=rows)  # worth some 0.002 of log loss
            labels = (random.random(rows) < 1 / (1 + np.exp(-wide - deep))).astype(np.float64)
            found.append(calibration.choose(labels, wide, deep, np.arange(rows)))
        return found

    many, few = choices(20_000), choices(400)
    assert all(found.visible_gain is not None and found.visible_gain < WANTED_GAIN for found in many)
    assert all(found.visible_gain is not None and found.visible_gain > WANTED_GAIN for found in few)
    assert sum(found.calibration.gate > 0 for found in many) >= 9
    assert sum(found.calibration.gate > 0 for found in few) <= 5


def test_scores_have_an_interval_and_small_calibration_error() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=5_000)
    labels = (random.random(5_000) < 1 / (1 + np.exp(-logits))).astype(np.float64)
    found = metrics.score(labels, logits, np.arange(5_000) // 5)
    assert found.auc is not None
    assert found.auc_low is not None
    assert found.auc_high is not None
    assert found.auc_low < found.auc < found.auc_high < found.auc_low + 0.1
    assert found.calibration_error is not None
    assert found.calibration_error < 0.03
    empty = metrics.score(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64))
    assert empty.auc is None


def test_every_feature_is_in_one_family() -> None:
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(features.NAMES)
    assert sorted(name for names in CROSS_FAMILIES.values() for name in names) == sorted(CROSS_NAMES)


@pytest.mark.parametrize("name", ["calibration", "metrics", "tokenizer"])
def test_the_examples_in_docstrings_run(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"models.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
