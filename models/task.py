"""What a prediction task is: one file in :mod:`models.tasks`, and one entry there.

A task has three sides. :class:`Task` describes it and makes its head. A :class:`Lesson` holds its labelled questions
while a model is trained. A :class:`Scorer` answers snapshots with a trained head. The encoder, the trainer and the
encode role know these three and no task by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from models.entities import WordRows
from models.heads import TaskHead
from models.outcomes import Rows, Split
from models.wide import Floats, Ints
from schemas import ids
from schemas.catalog import CatalogEntry
from schemas.predictions import Prediction
from schemas.snapshot import Outcome, Snapshot, SnapshotKind

if TYPE_CHECKING:
    from models.model import HeadReport, Model

Embed = Callable[[Rows], Floats]
"""Rows to embeddings, (N, H)."""


@dataclass(frozen=True)
class Encoded:
    """A batch of customers, row by row."""

    snapshots: Sequence[Snapshot]
    embeddings: Floats
    """(B, H) float32."""
    columns: Floats
    """(B, COLUMNS), raw: the heads' other input."""
    words: int
    """Words that the encoder was shown."""
    unknown_words: int
    """Of those, how many have no row of their own."""

    def __len__(self) -> int:
        return len(self.snapshots)

    def take(self, rows: Sequence[int]) -> Encoded:
        """Some of them, in this order; words are still those of all."""
        chosen = np.array(rows, dtype=np.int64)
        return Encoded(
            [self.snapshots[row] for row in rows],
            self.embeddings[chosen],
            self.columns[chosen],
            self.words,
            self.unknown_words,
        )


@dataclass(frozen=True)
class Moment:
    """What is known beside the customers when they are answered."""

    catalog: Mapping[str, CatalogEntry]
    """By ``kind:id``."""
    catalog_version: int
    """Changes with it."""
    now_ms: int
    """Wall clock."""


@dataclass(frozen=True)
class Evidence:
    """Outcomes of one question, oldest first, as arrays, and what they speak of."""

    outcomes: Sequence[Outcome]
    rows: Rows
    catalog: Mapping[str, CatalogEntry]
    word_rows: WordRows


class Task(ABC):
    """One thing that is predicted of a customer."""

    name: ClassVar[str]
    """Of the head, in a model's card, in metrics and in the ids of predictions."""
    question: ClassVar[str]
    """Outcomes that it is learned from: :attr:`schemas.snapshot.Outcome.head`. Several tasks may read the same."""
    topic: ClassVar[str | None]
    """Of its records, one of :data:`schemas.topics.TOPICS`; None of what is only asked by others."""
    kinds: ClassVar[frozenset[SnapshotKind]]
    """Snapshots it is asked of when serving: each gets one record. None where it has no topic."""
    looks_ahead: ClassVar[bool] = False
    """Whether the encoder also learns what comes after the rows of its question: where everybody is asked again and
    again."""
    sent_when_moved: ClassVar[bool] = False
    """Whether a record about what holds now is published only where it says something new, see
    :class:`streams.serving.news.News`."""

    @abstractmethod
    def head(self, hidden: int) -> TaskHead:
        """An untrained head on embeddings of this width."""

    @abstractmethod
    def lesson(self, evidence: Evidence) -> Lesson:
        """Outcomes of its question with its labels."""

    @abstractmethod
    def scorer(self, model: Model, version: str) -> Scorer:
        """What answers snapshots with the model's head.

        Args:
            model: in evaluation mode, on the device that it will stay on.
            version: what predictions name.
        """


class Lesson(ABC):
    """A task's labelled questions during training.

    Attributes:
        rows: of its question, shared with the other tasks that read it.
        split: which of them are for what; they have a label.
        missing: why nothing can be learned; None where it can.
    """

    rows: Rows
    split: Split
    missing: str | None

    @abstractmethod
    def begin(self, model: Model, generator: np.random.Generator) -> nn.Module:
        """Fit what needs no encoder; returns the layer on the embedding alone that the encoder is trained through."""

    @abstractmethod
    def loss(self, embedding: Tensor, pick: Ints) -> Tensor:
        """Of the embedding alone: (B, H) of the rows ``pick``, of which not all need be the task's; a scalar."""

    @abstractmethod
    def alone(self, embeddings: Floats, pick: Ints) -> float | None:
        """AUC, or the like, of the embedding alone; None where it has none."""

    @abstractmethod
    def finish(self, embed: Embed, generator: np.random.Generator, *, seed: int) -> HeadReport:
        """Fit what needs the trained encoder, choose gate and calibration, and measure."""


class Scorer(ABC):
    """A trained head at work."""

    @abstractmethod
    def predictions(self, encoded: Encoded, moment: Moment) -> Iterable[Prediction]:
        """Records of a batch. What is said of a snapshot does not depend on the others."""


def common(task: str, snapshot: Snapshot, version: str, now_ms: int) -> dict[str, Any]:
    """Fields that every record has, but how long it is valid."""
    return {
        "prediction_id": ids.prediction_id(task, snapshot.question_id, version),
        "question_id": snapshot.question_id,
        "customer_id": snapshot.customer_id,
        "as_of_ms": snapshot.as_of_ms,
        "model_version": version,
        "source": snapshot.source,
        "event_ts_ms": snapshot.event_ts_ms,
        "latency_ms": max(0, now_ms - snapshot.ingest_ts_ms),
        "snapshot_kind": snapshot.kind,
    }


def rounded(probability: float) -> float:
    """As records give it."""
    return round(float(probability), 6)


def on_device(model: Model, *arrays: Floats) -> list[Tensor]:
    """Arrays as tensors beside the model's weights."""
    device = model.encoder.words().weight.device
    return [torch.from_numpy(array).to(device) for array in arrays]
