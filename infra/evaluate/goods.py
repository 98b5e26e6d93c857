"""Whether an embedding knows which goods a customer takes next, beyond what counts of those goods say.

The floor of each good is boosted trees on 13 general features and three of the good. Ours is the floor's logit and a
linear function of the embedding on top of it. That function is fitted on training rows of customers whom the encoder
was not fitted on: of the others it knows what they did next, which no embedding of a test row does. Its ridge is
chosen once, on the last training days, before a test row is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
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

RIDGES: Final = (100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
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

    def take(self, rows: Bools) -> GoodsRows:
        return GoodsRows(
            self.customer[rows], self.as_of_ms[rows], self.general[rows], self.own[rows], self.labels[rows]
        )


def floor_logits(train: GoodsRows, test: GoodsRows, trees: int) -> Doubles:
    """Logits of the test rows, (N, G)."""
    out = np.zeros(test.labels.shape)
    for good in range(test.labels.shape[1]):
        columns = [floor_columns(rows.general, rows.own, good) for rows in (train, test)]
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
    """How stiff the linear function is, as validation decided."""

    ridge: float
    tried: dict[str, float]
    """Way → macro AUC on the validation rows."""

    def __str__(self) -> str:
        tried = ", ".join(f"{name} {value:.4f}" for name, value in self.tried.items())
        return f"with a ridge of {self.ridge:g} (macro AUC on validation days: {tried})"


def choose(
    train: GoodsRows,
    embeddings: Floats,
    fresh: Bools,
    fit_before_ms: int,
    validate_from_ms: int,
    trees: int,
    say: Say,
) -> Choice:
    """The best ridge on the last training days.

    Args:
        fresh: training rows of customers whom the encoder was not fitted on, (N,).
        fit_before_ms: rows before it are fitted on; their labels end before ``validate_from_ms``.
    """
    fit, check = train.as_of_ms < fit_before_ms, train.as_of_ms >= validate_from_ms
    pair = embeddings[fit & fresh], embeddings[check & fresh]
    some = train.goods(CHOOSE_EVERY)
    rows, judged = some.take(fit), some.take(check & fresh)
    say(f"choosing how to use the embedding: {len(pair[0]):,} rows, {len(judged):,} to validate on")
    ones = np.ones(len(judged))
    floor = floor_logits(rows, judged, trees)
    tried = {"floor": macro_auc(judged.labels, floor)(ones)}
    of_fit = fresh[fit]
    held_out, known = out_of_fold(rows, trees)[of_fit], rows.take(of_fit)
    found = {ridge: macro_auc(judged.labels, mixed(known, held_out, floor, pair, ridge))(ones) for ridge in RIDGES}
    tried |= {f"ridge {ridge:g}": value for ridge, value in found.items()}
    return Choice(max(found, key=lambda ridge: found[ridge]), tried)


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
    fresh: Bools,
    choice: Choice,
    trees: int,
    say: Say,
) -> Judged:
    """Fit the floor and what is beside it on all training rows.

    Args:
        embeddings: :data:`OURS`, :data:`RANDOM` and further names → of train and test rows.
        fresh: as in :func:`choose`.
    """
    say(f"the floor of {test.labels.shape[1]} goods on {len(train):,} rows")
    floor = floor_logits(train, test, trees)
    logits: dict[str, tuple[str, Doubles]] = {FLOOR: ("floor", floor)}
    held_out, known = out_of_fold(train, trees)[fresh], train.take(fresh)
    seen, judged = embeddings[OURS]
    shuffled = np.random.default_rng(0).permutation(seen)
    for name, pair in (*embeddings.items(), (SHUFFLED, (shuffled, judged))):
        say(name)
        scores = mixed(known, held_out, floor, (pair[0][fresh], pair[1]), choice.ridge)
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
