"""A forest as arrays says what LightGBM says, and its reasons add up."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.trees import LEAVES, TREES, Forest, fit_trees, refit_trees
from models.wide import Floats

COLUMNS = 5


def rows(count: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Labels that follow a bend and a gap; the fourth column is never known, the fifth mostly not."""
    random = np.random.default_rng(seed)
    columns = random.normal(size=(count, COLUMNS)).astype(np.float32)
    columns[:, 3] = np.nan
    columns[random.random(count) < 0.7, 4] = np.nan
    chance = 1 / (1 + np.exp(-(2 * np.abs(columns[:, 0]) - 2 + np.where(np.isnan(columns[:, 4]), 1.0, -1.0))))
    return columns, (random.random(count) < chance).astype(np.float32)


def booster(columns: Floats, labels: Floats, trees: int = 40) -> lightgbm.Booster:
    settings = {"objective": "binary", "num_leaves": LEAVES, "min_data_in_leaf": 20, "verbose": -1, "num_threads": 1}
    return lightgbm.train(settings, lightgbm.Dataset(columns, labels), trees)


@pytest.fixture(scope="module")
def grown() -> tuple[Forest, lightgbm.Booster]:
    found = booster(*rows(4000))
    trees = Forest(COLUMNS)
    trees.load(found.dump_model())
    return trees, found


values = st.one_of(st.just(float("nan")), st.floats(-4, 4, width=32), st.sampled_from([0.0, -0.0, 1e30, -1e30]))


@given(st.lists(st.lists(values, min_size=COLUMNS, max_size=COLUMNS), min_size=1, max_size=8))
def test_any_row_gets_what_lightgbm_gives(grown: tuple[Forest, lightgbm.Booster], said: list[list[float]]) -> None:
    trees, found = grown
    columns = np.array(said, dtype=np.float32)
    logits = trees(torch.from_numpy(columns)).double().numpy()
    assert logits == pytest.approx(found.predict(columns, raw_score=True), abs=1e-4)
    same, parts = trees.explained(torch.from_numpy(columns))
    assert np.array_equal(same.double().numpy(), logits)
    assert parts.shape == columns.shape
    assert parts.double().sum(1).numpy() + trees.base == pytest.approx(logits, abs=1e-4)
    assert not parts[:, 3].any(), "a column that splits nothing adds nothing"


@given(st.lists(values, min_size=COLUMNS, max_size=COLUMNS), st.integers(1, COLUMNS - 1))
def test_answers_about_some_columns_and_the_others_add_up(
    grown: tuple[Forest, lightgbm.Booster], said: list[float], parted: int
) -> None:
    trees, row = grown[0], torch.tensor([said])
    first, second = row.clone(), row.clone()
    first[:, parted:], second[:, :parted] = -torch.inf, -torch.inf
    assert torch.equal(trees.answers(first) + trees.answers(second), trees.answers(row))


def test_rows_at_the_thresholds_themselves(grown: tuple[Forest, lightgbm.Booster]) -> None:
    trees, found = grown
    at = trees.threshold[trees.column == 0].numpy()
    columns = np.zeros((3 * len(at), COLUMNS), dtype=np.float32)
    columns[:, 0] = np.concatenate([at, np.nextafter(at, np.float32(9)), np.nextafter(at, np.float32(-9))])
    logits = trees(torch.from_numpy(columns)).double().numpy()
    assert logits == pytest.approx(found.predict(columns, raw_score=True), abs=1e-4)


def test_a_new_forest_says_nothing() -> None:
    trees, columns = Forest(COLUMNS), torch.randn(3, COLUMNS)
    assert (trees.grown, trees.base) == (0, 0.0)
    assert not trees(columns).any()
    assert not trees.explained(columns)[1].any()
    assert trees(columns[:0]).shape == (0,)


def test_fitting_stops_where_nothing_is_gained_and_can_be_repeated() -> None:
    columns, labels = rows(3000)
    trees, again = Forest(COLUMNS), Forest(COLUMNS)
    said = fit_trees(columns, labels, rows(1500, seed=1))
    trees.load(said)
    again.load(fit_trees(columns, labels, rows(1500, seed=1)))
    assert 1 < trees.grown <= TREES
    assert all(torch.equal(one, two) for one, two in zip(trees.buffers(), again.buffers(), strict=True))
    shuffled = np.random.default_rng(3).permutation(labels)
    noise = Forest(COLUMNS)
    noise.load(fit_trees(columns, shuffled, rows(1500, seed=1)))
    assert noise.grown < trees.grown
    more = Forest(COLUMNS)
    more.load(refit_trees(*rows(4000, seed=2), trees.grown))
    assert more.grown == trees.grown


def test_few_rows_without_any_to_stop_at_are_no_error() -> None:
    columns, labels = rows(30)
    trees = Forest(COLUMNS)
    trees.load(fit_trees(columns, labels, (columns[:0], labels[:0])))
    assert torch.isfinite(trees(torch.from_numpy(columns))).all()


@pytest.mark.parametrize(("name", "value"), [("column", COLUMNS), ("column", -1), ("left", 2 * LEAVES), ("right", -1)])
def test_trees_that_lead_nowhere_are_not_sound(name: str, value: int) -> None:
    trees = Forest(COLUMNS)
    assert trees.sound()
    getattr(trees, name)[3, 2] = value
    assert not trees.sound()


def test_a_tree_of_too_many_splits_or_one_that_leads_back_is_not_sound() -> None:
    trees = Forest(COLUMNS)
    for node in range(LEAVES):
        trees.left[5, node], trees.right[5, node] = node + 1, node + 2
    assert not trees.sound()
    trees = Forest(COLUMNS)
    trees.left[5, 0], trees.right[5, 0] = 1, 2
    assert trees.sound()
    trees.left[5, 2], trees.right[5, 2] = 1, 3
    assert not trees.sound()
