"""Whether an embedding knows which goods a customer takes next, beyond what counts of those goods say.

The floor of each good is boosted trees on 13 general features and three of the good. Ours has the same inputs and the
embedding: either in the same trees, or linearly on top of the floor's logit. Which of them is decided once, on the
last training days, before a test row is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from infra.bench.report import Say
from infra.evaluate.floors import boosted
from infra.evaluate.linear import newton, standardised
from infra.evaluate.report import Estimate, Goal, estimate, goal
from infra.evaluate.shelves import floor_columns
from infra.evaluate.statistics import Bootstrap, Doubles, Ints, macro_auc

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

RIDGES: Final = (300.0, 3_000.0, 30_000.0)
FOLDS: Final = 3
CHOOSE_EVERY: Final = 3
"""The choice is made on every third good: it is one choice for all of them."""
TREES: Final = 60
#: Small trees are as good here, and three times as fast, as 150 of 15 leaves (macro AUC on Complete Journey's first six
#: categories 0.7926 against 0.7922).
_OPTIONS: Final = {"learning_rate": 0.1, "num_leaves": 8, "max_bin": 63}


@dataclass(frozen=True)
class GoodsRows:
    """Rows of a span: everything that a way of predicting may look at, and the labels."""

    customer: Ints
    as_of_ms: Ints
    general: Floats
    """(N, features of :func:`infra.evaluate.floors.hand_made`)."""
    own: Floats
    """(N, G, 3), see :mod:`infra.evaluate.shelves`."""
    labels: Bools
    """(N, G)"""

    def __len__(self) -> int:
        return len(self.customer)

    def goods(self, every: int) -> GoodsRows:
        """Some of the goods only."""
        return GoodsRows(self.customer, self.as_of_ms, self.general, self.own[:, ::every], self.labels[:, ::every])

    def take(self, rows: npt.NDArray[np.bool_]) -> GoodsRows:
        return GoodsRows(
            self.customer[rows], self.as_of_ms[rows], self.general[rows], self.own[rows], self.labels[rows]
        )


def floor_logits(
    train: GoodsRows, test: GoodsRows, trees: int, embeddings: tuple[Floats, Floats] | None = None
) -> Doubles:
    """Logits of the test rows, (N, G); with ``embeddings`` of train and test rows among the trees' inputs."""
    out = np.zeros(test.labels.shape)
    for good in range(test.labels.shape[1]):
        columns = [floor_columns(rows.general, rows.own, good) for rows in (train, test)]
        if embeddings is not None:
            columns = [np.concatenate(pair, axis=1) for pair in zip(columns, embeddings, strict=True)]
        out[:, good] = boosted(columns[0], train.labels[:, good], columns[1], trees=trees, options=_OPTIONS)
    return out


def out_of_fold(train: GoodsRows, trees: int) -> Doubles:
    """The floor's logits of its own training rows, each from trees that did not see the customer."""
    fold = np.unique(train.customer, return_inverse=True)[1] * 7919 % FOLDS
    out = np.zeros(train.labels.shape)
    for number in range(FOLDS):
        out[fold == number] = floor_logits(train.take(fold != number), train.take(fold == number), trees)
    return out


def mixed(
    train: GoodsRows, floor_of_train: Doubles, floor_of_test: Doubles, embeddings: tuple[Floats, Floats], ridge: float
) -> Doubles:
    """``floor logit + linear in the embedding``, the linear part fitted where the floor's logit is out of fold."""
    seen, judged = embeddings
    mean, deviation = seen.mean(0, dtype=np.float64), np.maximum(seen.std(0, dtype=np.float64), 1e-6)
    design = np.concatenate([standardised(seen, mean, deviation), np.ones((len(seen), 1))], axis=1)
    test = np.concatenate([standardised(judged, mean, deviation), np.ones((len(judged), 1))], axis=1)
    out = np.empty_like(floor_of_test)
    for good in range(out.shape[1]):
        weights = newton(design, train.labels[:, good].astype(np.float64), floor_of_train[:, good], ridge, steps=4)
        out[:, good] = floor_of_test[:, good] + test @ weights
    return out


@dataclass(frozen=True)
class Choice:
    """How the embedding is used, as validation decided."""

    ridge: float | None
    """Of the mix; None: the embedding goes into the trees."""
    tried: dict[str, float]
    """Way → macro AUC on the validation rows."""

    def __str__(self) -> str:
        way = "in the trees" if self.ridge is None else f"linear on top of the floor's logit, ridge {self.ridge:g}"
        tried = ", ".join(f"{name} {value:.4f}" for name, value in self.tried.items())
        return f"{way} (macro AUC on validation days: {tried})"


def choose(
    train: GoodsRows, embeddings: Floats, fit_before_ms: int, validate_from_ms: int, trees: int, say: Say
) -> Choice:
    """The better way on the last training days.

    Args:
        fit_before_ms: rows before it are fitted on; their labels end before ``validate_from_ms``.
    """
    fit, check = train.as_of_ms < fit_before_ms, train.as_of_ms >= validate_from_ms
    pair = embeddings[fit], embeddings[check]
    some = train.goods(CHOOSE_EVERY)
    rows, judged = some.take(fit), some.take(check)
    say(f"choosing how to use the embedding: {len(rows):,} rows, {len(judged):,} to validate on")
    ones = np.ones(len(judged))
    floor = floor_logits(rows, judged, trees)
    tried = {"floor": macro_auc(judged.labels, floor)(ones)}
    held_out = out_of_fold(rows, trees)
    for ridge in RIDGES:
        tried[f"mix, ridge {ridge:g}"] = macro_auc(judged.labels, mixed(rows, held_out, floor, pair, ridge))(ones)
    tried["in the trees"] = macro_auc(judged.labels, floor_logits(rows, judged, trees, pair))(ones)
    mixes: list[tuple[str, float | None]] = [(f"mix, ridge {ridge:g}", ridge) for ridge in RIDGES]
    ways: Sequence[tuple[str, float | None]] = [*mixes, ("in the trees", None)]
    best = max(ways, key=lambda way: tried[way[0]])
    return Choice(best[1], tried)


@dataclass(frozen=True)
class Judged:
    """Test logits of every way, and how the embedding is used."""

    choice: Choice
    logits: dict[str, tuple[str, Doubles]]
    """Name → role and (N, G)."""


FLOOR: Final = "LightGBM, counts"
OURS: Final = "LightGBM, counts + embedding"
RANDOM: Final = "LightGBM, counts + random encoder"
SHUFFLED: Final = "LightGBM, counts + embeddings of other rows in training"


def judge(
    train: GoodsRows,
    test: GoodsRows,
    embeddings: Mapping[str, tuple[Floats, Floats]],
    choice: Choice,
    trees: int,
    say: Say,
) -> Judged:
    """Fit the floor and what is beside it on all training rows.

    Args:
        embeddings: :data:`OURS`, :data:`RANDOM` and further names → of train and test rows.
    """
    say(f"the floor of {test.labels.shape[1]} goods on {len(train):,} rows")
    floor = floor_logits(train, test, trees)
    logits: dict[str, tuple[str, Doubles]] = {FLOOR: ("floor", floor)}
    held_out = None if choice.ridge is None else out_of_fold(train, trees)
    seen, judged = embeddings[OURS]
    shuffled = np.random.default_rng(0).permutation(seen)
    for name, pair in (*embeddings.items(), (SHUFFLED, (shuffled, judged))):
        say(name)
        if choice.ridge is None or held_out is None:
            scores = floor_logits(train, test, trees, pair)
        else:
            scores = mixed(train, held_out, floor, pair, choice.ridge)
        logits[name] = ("ours" if name == OURS else "control", scores)
    return Judged(choice, logits)


def figures(
    group: str, test: GoodsRows, judged: Judged, target: float | None, rounds: int
) -> tuple[list[Estimate], list[Goal]]:
    """Macro AUC of every way, gains over the floor and the random encoder, and the targets."""
    measures = {name: macro_auc(test.labels, scores) for name, (_, scores) in judged.logits.items()}
    drawn = Bootstrap(measures, test.customer, rounds=rounds)
    count = len(test)
    results = [
        estimate(group, name, "macro AUC", drawn.interval(name), rows=count, role=role)
        for name, (role, _) in judged.logits.items()
    ]
    for name, other in ((OURS, FLOOR), (OURS, RANDOM), (RANDOM, FLOOR), (SHUFFLED, FLOOR)):
        both = f"{name} less {other}"
        results.append(estimate(group, both, "macro AUC", drawn.difference(name, other), rows=count, role="difference"))
    targets = [
        goal("gain of the embedding over counts", drawn.difference(OURS, FLOOR), 0.0, floor=0.0, surely=True),
        goal("gain over a random encoder", drawn.difference(OURS, RANDOM), 0.0, floor=0.0, surely=True),
    ]
    if target is not None:
        targets.insert(0, goal("macro AUC", drawn.interval(OURS), target, floor=drawn.values[FLOOR]))
    return results, targets
