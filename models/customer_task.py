"""Tasks that say one probability of a customer, whatever is offered."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from models import calibration, outcomes
from models.heads import CustomerHead
from models.model import Model
from models.probability import ProbabilityLesson
from models.reasons import customer_reasons
from models.task import Encoded, Evidence, Moment, Scorer, Task, common, on_device, rounded
from models.trees import Forest, fit_trees, refit_trees
from models.wide import PLAIN, Doubles, Floats, Ints, by_feature, typical
from schemas.predictions import Prediction, Reason
from schemas.snapshot import Outcome, Snapshot

FOREST_ROWS: Final = 4_096
"""Rows that a forest scores at once."""


class CustomerTask(Task):
    """What is left to say is the label and the record."""

    @abstractmethod
    def label(self, outcome: Outcome) -> int | None:
        """0 or 1; None of what says nothing."""

    @abstractmethod
    def record(
        self, snapshot: Snapshot, probability: float, reasons: list[Reason], horizon_days: int, fields: dict[str, Any]
    ) -> Prediction:
        """What is published of a snapshot.

        Args:
            horizon_days: the model's.
            fields: those that every record has, but how long it is valid.
        """

    def head(self, hidden: int) -> CustomerHead:
        return CustomerHead(hidden)

    def lesson(self, evidence: Evidence) -> CustomerLesson:
        said = [self.label(outcome) for outcome in evidence.outcomes]
        labels = np.array([np.nan if label is None else label for label in said], dtype=np.float32)
        return CustomerLesson(self.name, evidence, labels, outcomes.split(evidence.rows, labels))

    def scorer(self, model: Model, version: str) -> CustomerScorer:
        return CustomerScorer(self, model, version)


class CustomerLesson(ProbabilityLesson):
    """With a forest in the wide part, where it is better so."""

    def fit_wide(self, chosen: Ints) -> None:
        super().fit_wide(chosen)
        self._forest.load(fit_trees(*self._shown(chosen), self._shown(self.split.stop)))

    def choose_wide(self) -> None:
        """Mix the forest in where that is better for other customers."""
        gate = self.split.gate
        linear = super().wide(gate)
        mean = (linear + self._of_trees(gate)) / 2
        if calibration.better(self.labels[gate].astype(np.float64), mean, linear):
            self._customer_head.share.fill_(0.5)

    def wide(self, chosen: Ints) -> Doubles:
        linear, share = super().wide(chosen), float(self._customer_head.share)
        return linear + share * (self._of_trees(chosen) - linear) if share else linear

    def refit_wide(self, chosen: Ints) -> None:
        super().refit_wide(chosen)
        if self._customer_head.share:
            self._forest.load(refit_trees(*self._shown(chosen), self._forest.grown))

    def layer_of(self, model: Model) -> nn.Module:
        head = model.heads[self.name]
        assert isinstance(head, CustomerHead)
        return head.deep

    @property
    def _customer_head(self) -> CustomerHead:
        assert isinstance(self.head, CustomerHead)
        return self.head

    @property
    def _forest(self) -> Forest:
        return self._customer_head.trees

    def _shown(self, chosen: Ints) -> tuple[Floats, Floats]:
        """Columns and labels of these rows; trees need no squares."""
        return self.inputs(chosen)[:, :PLAIN], self.labels[chosen]

    @torch.no_grad()
    def _of_trees(self, chosen: Ints) -> Doubles:
        device = self._forest.value.device
        parts = [np.zeros(0)]
        for begin in range(0, len(chosen), FOREST_ROWS):
            columns = torch.from_numpy(self.inputs(chosen[begin : begin + FOREST_ROWS]))
            parts.append(self._forest(columns.to(device)).double().cpu().numpy())
        return np.concatenate(parts)


@dataclass(frozen=True)
class CustomerAnswers:
    """A batch of customers, row by row."""

    logits: Floats
    """(B,), calibrated."""
    probability: Floats
    """(B,)"""
    contributions: Floats
    """What each feature adds to the logit, (B, SIZE); with the scorer's ``base`` they sum to its wide part."""


class CustomerScorer(Scorer):
    """See :meth:`models.task.Task.scorer`.

    Attributes:
        base: the wide part of a customer who is average in everything.
        typical: feature values of the average customer, (SIZE,).
    """

    def __init__(self, task: CustomerTask, model: Model, version: str) -> None:
        head = model.heads[task.name]
        assert isinstance(head, CustomerHead)
        self._task, self._model, self._head, self._version = task, model, head, version
        self.base = head.base
        self.typical = typical(head.wide.mean.cpu().numpy())

    def __call__(self, encoded: Encoded) -> CustomerAnswers:
        """Score a batch."""
        with torch.inference_mode():
            logits, parts = self._head(*on_device(self._model, encoded.embeddings, encoded.columns))
            probability, scaled = torch.sigmoid(logits), parts * self._head.scale
        return CustomerAnswers(logits.cpu().numpy(), probability.cpu().numpy(), by_feature(scaled.cpu().numpy()))

    def predictions(self, encoded: Encoded, moment: Moment) -> Iterator[Prediction]:
        task, answers = self._task, self(encoded)
        for row, snapshot in enumerate(encoded.snapshots):
            if snapshot.kind in task.kinds:
                yield task.record(
                    snapshot,
                    rounded(answers.probability[row]),
                    customer_reasons(snapshot, answers.contributions[row], self.typical),
                    self._model.horizon_days,
                    common(task.name, snapshot, self._version, moment.now_ms),
                )
