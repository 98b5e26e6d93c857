"""Tasks that say a probability of yes or no: how they are learned and measured.

1. The wide part is fitted before the encoder (seconds).
2. The encoder learns the label through a linear layer on the embedding alone.
3. A gate decides how much of the deep part is kept, none if it does not help; Platt's two numbers calibrate the sum;
   then metrics are taken, the wide weights are fitted once more on all rows, and the newest set the level.

Fitting, stopping, choosing the gate and reporting are done on different customers (:func:`models.outcomes.split`).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from models import calibration, metrics, outcomes
from models.heads import Head
from models.model import HeadReport, Model
from models.outcomes import Split
from models.task import Embed, Evidence, Lesson
from models.wide import Doubles, Fitted, Floats, Ints, fit

FIT_ROWS: Final = 60_000
"""Rows that a wide part is fitted on at most."""


class Stage:
    """Rows of one stage with what the parts of a head say of them.

    Attributes:
        chosen: (n,) row numbers.
        labels: (n,).
        embeddings: (n, H).
        wide: (n,) logits of the wide part.
    """

    def __init__(self, lesson: ProbabilityLesson, chosen: Ints, embed: Embed) -> None:
        self.chosen = chosen
        self.labels: Doubles = lesson.labels[chosen].astype(np.float64)
        self.embeddings = embed(lesson.rows.take(chosen))
        self.wide = lesson.wide(chosen)

    def __len__(self) -> int:
        return len(self.chosen)


class ProbabilityLesson(Lesson):
    """Rows with a label of 0 or 1.

    Args:
        name: of the task, as the model has its head.
        labels: (N,), NaN where the task says nothing of a row.
        split: of the rows that have one.
    """

    def __init__(self, name: str, evidence: Evidence, labels: Floats, split: Split) -> None:
        self.name, self.rows, self.labels, self.split = name, evidence.rows, labels, split
        self.missing = outcomes.one_sided(labels, split.fit)
        self._targets = np.full(len(labels), np.nan, dtype=np.float32)
        for shown in (split.fit, split.stop):
            self._targets[shown] = labels[shown]
        self.fitted: Fitted
        self.layer: nn.Module

    def inputs(self, chosen: Ints) -> Floats:
        """Columns of the wide part, (n, D)."""
        return self.rows.sequences.numbers[chosen]

    def groups(self, chosen: Ints) -> Ints:
        """(n,) what must not be on both sides where the ridge is chosen."""
        return self.rows.customers[chosen]

    def fit_wide(self, chosen: Ints) -> None:
        """Fit the wide part on these rows."""
        self.fitted = fit(self.inputs(chosen), self.labels[chosen], self.groups(chosen))
        self.head.wide.load(self.fitted)

    def choose_wide(self) -> None:
        """Choose among several wide parts, where there are several, on the gate's rows."""

    def wide(self, chosen: Ints) -> Doubles:
        """(n,) logits of the wide part as it was fitted."""
        return self.fitted.logits(self.inputs(chosen))

    def refit_wide(self, chosen: Ints) -> None:
        """Fit the same once more on these rows, which are all that there are."""
        self.fitted = self.fitted.refitted(self.inputs(chosen), self.labels[chosen])
        self.head.wide.load(self.fitted)

    @abstractmethod
    def layer_of(self, model: Model) -> nn.Module:
        """The linear layer that says what the embedding alone says."""

    def deepen(self, embed: Embed, generator: np.random.Generator) -> None:
        """Fit what of the deep part was not trained with the encoder."""

    def deep(self, stage: Stage) -> Doubles:
        """(n,) what the deep part says before the gate."""
        return self._alone_logits(stage.embeddings)

    def begin(self, model: Model, generator: np.random.Generator) -> nn.Module:
        head = model.heads[self.name]
        assert isinstance(head, Head)
        self.head = head
        self.fit_wide(some(self.split.fit, FIT_ROWS, generator))
        self.layer = self.layer_of(model)
        return self.layer

    def loss(self, embedding: Tensor, pick: Ints) -> Tensor:
        targets = self._targets[pick]
        of_task = np.flatnonzero(np.isfinite(targets))
        if not len(of_task):
            return embedding.new_zeros(())
        logits = self.layer(embedding[torch.from_numpy(of_task).to(embedding.device)]).squeeze(-1)
        labels = torch.from_numpy(targets[of_task]).to(embedding.device)
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)

    def alone(self, embeddings: Floats, pick: Ints) -> float | None:
        of_task = np.isfinite(self._targets[pick])
        return metrics.auc(self._targets[pick][of_task].astype(np.float64), self._alone_logits(embeddings[of_task]))

    @torch.no_grad()
    def finish(self, embed: Embed, generator: np.random.Generator, *, seed: int) -> HeadReport:
        rows, split, head = self.rows, self.split, self.head
        self.choose_wide()
        with torch.enable_grad():
            self.deepen(embed, generator)
        gate = Stage(self, split.gate, embed)
        found, visible = calibration.choose(gate.labels, gate.wide, self.deep(gate), rows.customers[split.gate])
        plain = calibration.Calibration(0.0, *calibration.platt(gate.labels, gate.wide))
        for name, value in found._asdict().items():
            getattr(head, name).fill_(value)
        stage = Stage(self, split.report, embed)
        deep = self.deep(stage)
        logits, customers, live = found.apply(stage.wide, deep), rows.customers[split.report], rows.live[split.report]
        report = HeadReport(
            split=split.by,
            train_rows=len(split.fit),
            gate_rows=len(split.gate),
            wide=metrics.score(stage.labels, plain.apply(stage.wide, deep), customers, seed=seed),
            model=metrics.score(stage.labels, logits, customers, seed=seed),
            live=metrics.score(stage.labels[live], logits[live], customers[live], seed=seed),
            trees=head.forest_share,
            gate=found.gate,
            visible_gain=visible,
            embedding_auc=metrics.auc(stage.labels, self._alone_logits(stage.embeddings)),
        )
        labelled = np.flatnonzero(np.isfinite(self.labels))
        self.refit_wide(labelled)
        if split.by not in ("campaigns", "overlapping"):  # new campaigns are the gate's already
            self._level(outcomes.newest(rows, labelled), embed)
        return report

    def _level(self, chosen: Ints, embed: Embed) -> None:
        """Shift the logit so that the mean probability of these rows is their rate.

        The gate's customers are few, and their rate is off by chance (Complete Journey, January to June: 0.085 where
        all have 0.103); and what a model says drifts in the course of a log.
        """
        head, labels = self.head, self.labels[chosen]
        if not len(labels) or not 0 < labels.mean() < 1:
            return
        if gate := float(head.gate):
            stage = Stage(self, chosen, embed)
            logits = stage.wide + gate * self.deep(stage)
        else:  # no embedding is needed
            logits = self.wide(chosen)
        head.shift.fill_(calibration.level(labels.astype(np.float64), float(head.scale) * logits))

    @torch.no_grad()
    def _alone_logits(self, embeddings: Floats) -> Doubles:
        device = next(self.layer.parameters()).device
        found: Doubles = self.layer(torch.from_numpy(embeddings).to(device))[:, 0].double().cpu().numpy()
        return found


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy, to come back to."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def some(rows: Ints, count: int, generator: np.random.Generator) -> Ints:
    """At most ``count`` of the row numbers, drawn evenly."""
    return rows if len(rows) <= count else np.sort(generator.permutation(rows)[:count])
