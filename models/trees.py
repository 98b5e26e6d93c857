"""A boosted forest of small trees, as arrays: fitted by LightGBM, saved as tensors, exact in its reasons.

Trees see bends and thresholds that a logistic regression does not; they are many opinions of few leaves, so a mean of
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
"""Trees at most; a forest of fewer is filled up with trees that say nothing."""
LEAVES: Final = 7
NODES: Final = 2 * LEAVES - 1
SPLITS: Final = LEAVES - 1
ANSWERS: Final = 2**SPLITS
PATIENCE: Final = 30
"""Trees without a gain after which fitting stops."""
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

    A row takes no steps from node to node. It answers every split of a tree at once, a bit each, and these bits are the
    place of its leaf in a table (as in Lucchese et al., "QuickScorer", 2015). So rows that differ in one column share
    the answers about the others.

    Args:
        columns: what a row has of them, D.
    """

    column: Tensor
    threshold: Tensor
    unknown_left: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    _split: Tensor
    """(SPLITS, TREES) nodes that split; of a tree with fewer, leaves, whose answers change nothing."""
    _reached: Tensor
    """(TREES, ANSWERS) node that answers lead to, counted through all trees."""
    _credit: Tensor
    """(TREES * NODES, D) what each column has added on the way to a node."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self._columns = columns
        leaf = torch.arange(NODES).repeat(TREES, 1)
        self.register_buffer("column", torch.zeros(TREES, NODES, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(TREES, NODES))
        self.register_buffer("unknown_left", torch.zeros(TREES, NODES, dtype=torch.bool))
        # A leaf leads to itself, so that all answers can be followed as far as the deepest tree goes.
        self.register_buffer("left", leaf.clone())
        self.register_buffer("right", leaf.clone())
        self.register_buffer("value", torch.zeros(TREES, NODES))
        for name, size, dtype in (
            ("_split", (SPLITS, TREES), torch.int64),
            ("_reached", (TREES, ANSWERS), torch.int64),
            ("_credit", (TREES * NODES, columns), torch.float32),
        ):
            self.register_buffer(name, torch.zeros(size, dtype=dtype), persistent=False)
        self._read()

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
        return self.logits(self.leaves(self.answers(columns)))

    def explained(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Logits as :meth:`forward`, and what each column adds, (B, D); with :attr:`base` they sum to the logit."""
        leaves = self.leaves(self.answers(columns))
        return self.logits(leaves), self.credit(leaves, torch.ones_like(leaves, dtype=self.value.dtype))

    def answers(self, columns: Tensor) -> Tensor:
        """Raw columns (B, D) → the answers to each tree's splits, (B, TREES) int64.

        Answers about some columns and about the others, where what is not asked about is -inf, add up to all.
        """
        tree, out = torch.arange(TREES, device=columns.device), columns.new_zeros((), dtype=torch.int64)
        for bit, split in enumerate(self._split):
            found, at = columns[:, self.column[tree, split]], (tree, split)
            right = torch.where(found.isnan(), ~self.unknown_left[at], found > self.threshold[at])
            out = out + (right.to(torch.int64) << bit)
        return out

    def leaves(self, answers: Tensor) -> Tensor:
        """Answers (..., TREES) → the leaf in each tree, (..., TREES), counted through all trees."""
        tree = torch.arange(TREES, device=answers.device) * ANSWERS
        return self._reached.flatten()[tree + answers]

    def logits(self, leaves: Tensor) -> Tensor:
        """Leaves (..., TREES) → logits (...)."""
        return self.value.flatten()[leaves].sum(-1)

    def credit(self, leaves: Tensor, weights: Tensor) -> Tensor:
        """What each column adds on the way to some leaves, (B, D).

        Args:
            leaves: (B, N), any number of a row's.
            weights: (B, N).
        """
        of_leaves = weights.new_zeros((len(leaves), TREES * NODES))
        return of_leaves.scatter_add_(1, leaves, weights) @ self._credit

    def sound(self) -> bool:
        """Whether every node is a leaf or leads on, and few enough do: what is read from a file need not."""
        node = torch.arange(NODES, device=self.left.device)
        is_leaf = (self.left == node) & (self.right == node)
        leads_on = (torch.minimum(self.left, self.right) > node) & (torch.maximum(self.left, self.right) < NODES)
        return (
            bool((is_leaf | leads_on).all())
            and int(leads_on.sum(1).max()) <= SPLITS
            and int(self.column.min()) >= 0
            and int(self.column.max()) < self._columns
        )

    @torch.no_grad()
    def _read(self) -> None:
        """Make the tables; none of a forest that has no values yet, or is not sound."""
        if self.left.is_meta or not self.sound():
            return
        device = self.left.device
        splits = self.left != torch.arange(NODES, device=device)
        order = torch.argsort(~splits, dim=1, stable=True)
        self._split.copy_(order[:, :SPLITS].T)
        bit = torch.argsort(order, dim=1)  # of each node's answer, where it splits
        tree = torch.arange(TREES, device=device)[:, None]
        node = torch.zeros((TREES, ANSWERS), dtype=torch.int64, device=device)
        for _ in range(SPLITS):
            right = torch.arange(ANSWERS, device=device) >> bit[tree, node].clamp(max=SPLITS) & 1
            node = torch.where(right > 0, self.right[tree, node], self.left[tree, node])
        self._reached.copy_(tree * NODES + node)
        credit = torch.zeros((TREES, NODES, self._columns), device=device)
        trees = tree[:, 0]
        for at in range(NODES):  # a node comes before those that it leads to
            for to in (self.left[:, at], self.right[:, at]):
                on = splits[:, at]
                credit[trees[on], to[on]] = credit[on, at]
                gained = self.value[trees[on], to[on]] - self.value[on, at]
                credit[trees[on], to[on], self.column[on, at]] += gained
        self._credit.copy_(credit.flatten(0, 1))

    def _load_from_state_dict(self, *rest: Any) -> None:
        super()._load_from_state_dict(*rest)
        self._read()

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
