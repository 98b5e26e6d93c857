"""A boosted forest of small trees, as arrays: fitted by LightGBM, saved as tensors, exact in its reasons.

Forest see bends and thresholds that a logistic regression does not; they are many opinions of few leaves, so a mean of
both ranks and calibrates better than either (Complete Journey, weekly questions of July to December: AUC 0.8462 and
0.8519 alone, 0.8525 together; slope of calibration 0.83, 0.99 and 0.91).

Nothing of LightGBM is needed to serve, and no file of its own format is read. A contribution is what the expected
value gains at a split, credited to the column that is split; those of a row and the base sum to its logit.

Sources of the ideas: Ke et al., "LightGBM" (2017); Saabas, "Interpreting random forests" (2014), for the contributions.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from models.wide import Floats
from schemas.errors import ConfigError

TREES: Final = 150
"""Forest at most; a forest of fewer is filled up with trees that say nothing."""
LEAVES: Final = 7
NODES: Final = 2 * LEAVES - 1
PATIENCE: Final = 30
"""Forest without a gain after which fitting stops."""
_LARGEST: Final = float(np.finfo(np.float32).max)
_SETTINGS: Final[dict[str, Any]] = {
    "objective": "binary",
    "num_leaves": LEAVES,
    "learning_rate": 0.05,
    "min_data_in_leaf": 400,
    "lambda_l2": 10.0,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "seed": 0,
    "verbose": -1,
}


class Forest(nn.Module):
    """The forest; everything is a buffer, and a new one says 0 of everybody.

    Args:
        columns: what a row has of them, D.
    """

    column: Tensor
    threshold: Tensor
    unknown_left: Tensor
    left: Tensor
    right: Tensor
    value: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self._columns = columns
        leaf = torch.arange(NODES).repeat(TREES, 1)
        self.register_buffer("column", torch.zeros(TREES, NODES, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(TREES, NODES))
        self.register_buffer("unknown_left", torch.zeros(TREES, NODES, dtype=torch.bool))
        # A leaf leads to itself, so every row can take as many steps as the deepest tree has.
        self.register_buffer("left", leaf.clone())
        self.register_buffer("right", leaf.clone())
        self.register_buffer("value", torch.zeros(TREES, NODES))

    @property
    def base(self) -> float:
        """Logit of nobody in particular."""
        return float(self.value[:, 0].double().sum())

    @property
    def grown(self) -> int:
        """How many trees say something."""
        return int((self.left[:, 0] > 0).sum())

    def forward(self, columns: Tensor) -> Tensor:
        """Raw columns (B, D), NaN for unknown → logits (B,)."""
        node = self._begin(columns)
        for _ in range(LEAVES - 1):
            node = self._step(columns, node)[0]
        return self.value.flatten()[node].sum(1)

    def explained(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Logits as :meth:`forward`, and what each column adds, (B, D); with :attr:`base` they sum to the logit."""
        out = torch.zeros_like(columns)
        value, node = self.value.flatten(), self._begin(columns)
        for _ in range(LEAVES - 1):
            after, split = self._step(columns, node)
            out.scatter_add_(1, split, value[after] - value[node])
            node = after
        return value[node].sum(1), out

    def _begin(self, columns: Tensor) -> Tensor:
        roots = torch.arange(TREES, device=columns.device) * NODES
        return roots.expand(len(columns), TREES)

    def _step(self, columns: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
        """Next nodes (B, TREES), and the columns that these ones split."""
        split = self.column.flatten()[node]
        found = columns.gather(1, split)
        left = torch.where(found.isnan(), self.unknown_left.flatten()[node], found <= self.threshold.flatten()[node])
        tree = torch.arange(TREES, device=node.device) * NODES
        return tree + torch.where(left, self.left.flatten()[node], self.right.flatten()[node]), split

    def sound(self) -> bool:
        """Whether every node leads somewhere: what is read from a file need not."""
        columns, places = (0, self._columns - 1), (0, NODES - 1)
        return all(
            int(found.min()) >= low and int(found.max()) <= high
            for found, (low, high) in ((self.column, columns), (self.left, places), (self.right, places))
        )

    def load(self, said: dict[str, Any]) -> None:
        """Take over what LightGBM's ``dump_model`` says."""
        fresh = Forest(self._columns)
        for number, tree in enumerate(said["tree_info"][:TREES]):
            fresh._add(number, tree["tree_structure"], [0])
        self.load_state_dict(fresh.state_dict())

    def _add(self, tree: int, said: dict[str, Any], taken: list[int]) -> tuple[int, float]:
        """Put a node and what is below it into the arrays; returns its place and how many rows it saw."""
        place = taken[0]
        taken[0] += 1
        if "split_index" not in said:
            self.value[tree, place] = said["leaf_value"]
            return place, float(said.get("leaf_count", 1))
        wanted = min(max(float(said["threshold"]), -_LARGEST), _LARGEST)
        threshold = np.float32(wanted)
        if float(threshold) > wanted:  # so that a float32 is on the side it was fitted on
            threshold = np.nextafter(threshold, np.float32(-np.inf))
        self.column[tree, place] = said["split_feature"]
        self.threshold[tree, place] = float(threshold)
        # What was never unknown in fitting is taken for 0.
        left_of_unknown = said["default_left"] if said["missing_type"] == "NaN" else said["threshold"] >= 0.0
        self.unknown_left[tree, place] = left_of_unknown
        (left, of_left), (right, of_right) = (
            self._add(tree, said[f"{side}_child"], taken) for side in ("left", "right")
        )
        self.left[tree, place], self.right[tree, place] = left, right
        count = of_left + of_right
        self.value[tree, place] = (self.value[tree, left] * of_left + self.value[tree, right] * of_right) / count
        return place, count


def fit_trees(columns: Floats, labels: Floats, stop: tuple[Floats, Floats]) -> dict[str, Any]:
    """Fit until nothing is gained on ``stop``.

    Args:
        columns: (N, D).
        labels: (N,) of 0 and 1.
        stop: the same of rows that say when to stop; without any, all trees are grown.

    Returns:
        What :meth:`Forest.load` takes.
    """
    lightgbm = _lightgbm()
    data = lightgbm.Dataset(columns, labels)
    watched = [lightgbm.Dataset(*stop, reference=data)] if len(stop[1]) else []
    stopping = [lightgbm.early_stopping(PATIENCE, verbose=False)] if watched else []
    booster = lightgbm.train(_SETTINGS, data, TREES, valid_sets=watched, callbacks=stopping)
    said: dict[str, Any] = booster.dump_model(num_iteration=booster.best_iteration or None)
    return said


def refit_trees(columns: Floats, labels: Floats, count: int) -> dict[str, Any]:
    """A forest of so many trees on other rows, e.g. all once nothing is to be measured."""
    lightgbm = _lightgbm()
    said: dict[str, Any] = lightgbm.train(_SETTINGS, lightgbm.Dataset(columns, labels), max(1, count)).dump_model()
    return said


def _lightgbm() -> Any:
    try:
        import lightgbm
    except OSError as error:
        raise ConfigError(
            f"training needs LightGBM, which cannot be loaded ({error}); install libgomp "
            "(Debian: apt-get install libgomp1)"
        ) from error
    return lightgbm
