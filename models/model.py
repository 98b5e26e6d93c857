"""Encoder, heads and tokeniser together, with what was measured about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec
from torch import Tensor, nn
from transformers import PretrainedConfig

from models.encoder import CustomerEncoder
from models.entities import WordRows
from models.heads import TaskHead
from models.metrics import Score
from models.sequence import SequenceSize
from models.text import TextEncoder, reads_text
from models.tokenizer import Vocabulary
from schemas.catalog import CatalogEntry

if TYPE_CHECKING:
    from models.task import Task


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """How well a head puts candidates in order, mean over lists of which something came."""

    lists: int
    best: int
    """Places that count."""
    recall: float
    """Share of what came that is among them."""
    ndcg: float
    """Discounted gain, over that of the best order."""


WANTED_GAIN: Final = 0.002
"""What a gate should be able to see, in nats of log loss."""


class HeadReport(msgspec.Struct, frozen=True, kw_only=True):
    """A head on customers (or campaigns) that nothing else has seen, before the final fit on all rows."""

    split: str
    """What gate and report are apart by, beside their customers, see :class:`models.outcomes.Split`."""
    train_rows: int
    gate_rows: int
    """Rows that gate and calibration were chosen on."""
    wide: Score
    """The wide part alone."""
    model: Score
    """With the deep part behind its gate."""
    live: Score
    """The same on snapshots that were taken within a session, as those that are served mostly are."""
    trees: float = 0.0
    """Share of the boosted forest in the wide part, 0 where it was no better."""
    gate: float
    """Share of the deep part that is used, 0 where it did not help."""
    visible_gain: float | None = None
    """Least gain of log loss by the deep part that the gate's rows would have shown, in nats a row, see
    :class:`models.calibration.GateChoice`; None where they were too few to show any."""
    embedding_auc: float | None
    """Of a linear layer on the embedding alone: how much of the label the embedding carries."""
    others: dict[str, Score] = {}
    """What else the head says, by name, where it says more than one probability; ``wide``, ``model`` and ``live`` are
    of the one that its task names first."""
    measures: dict[str, float] = {}
    """What is no probability, by name with its unit."""
    ranking: Ranking | None = None
    """Of a head that ranks candidates; its scores above are then of candidates."""

    @property
    def too_few_rows(self) -> bool:
        """Whether the gate may be shut because its rows could not show a gain of :data:`WANTED_GAIN`."""
        return self.visible_gain is None or self.visible_gain > WANTED_GAIN


class EncoderCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A look at the encoder during its training."""

    epoch: float
    loss: float
    auc: dict[str, float | None]
    """By task, of a linear layer on the embedding alone."""


class DataRead(msgspec.Struct, frozen=True, kw_only=True):
    """What a model has learned from."""

    source: str = ""
    """Where the outcomes came from, in words."""
    outcomes: int = 0
    from_ms: int = 0
    """Event time of the first snapshot."""
    until_ms: int = 0
    """Event time of the last one."""


class TrainingReport(msgspec.Struct, frozen=True, kw_only=True):
    """What training did and reached. ``heads`` lacks tasks that had no usable outcomes."""

    heads: dict[str, HeadReport] = {}
    """By task."""
    left_out: dict[str, str] = {}
    """Task that was not trained → why."""
    outcomes: int = 0
    early: int = 0
    """Outcomes that were left out because their horizon has not ended."""
    recipe: int = 0
    """See :data:`models.training.RECIPE`; 0: made before there were numbers."""
    date: str = ""
    """When it was trained, as whoever trained it says."""
    data: DataRead = DataRead()
    settings: dict[str, int | float | str | None] = {}
    """All of :class:`models.training.TrainSettings`, those of its parts as ``size.hidden``."""
    device: str = ""
    """Type of the device, e.g. ``cpu``."""
    seed: int = 0
    base: str = ""
    """Version of the model that training went on from."""
    encoder: str = ""
    """Name of the pretrained encoder that the body began as; empty: its weights were drawn."""
    steps: int = 0
    epochs: float = 0.0
    checks: list[EncoderCheck] = []
    """What was seen on customers that are not fitted on; the weights of the least loss were kept."""
    seconds: dict[str, float] = {}


class Model(nn.Module):
    """Everything a saved model holds.

    Args:
        tasks: those that it has a head for: their probabilities mean something.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        vocabulary: Vocabulary,
        size: SequenceSize,
        tasks: Iterable[Task],
        *,
        horizon_days: int = 28,
        report: TrainingReport | None = None,
    ) -> None:
        super().__init__()
        self.encoder: CustomerEncoder = (
            TextEncoder(config, vocabulary, size)
            if reads_text(config)
            else CustomerEncoder(config, len(vocabulary), size)
        )
        self.tasks = tuple(tasks)
        self.heads = nn.ModuleDict({task.name: task.head(self.encoder.hidden) for task in self.tasks})
        self.vocabulary = vocabulary
        self.word_rows = WordRows(vocabulary)
        """What words mean, see :meth:`know`."""
        self.horizon_days = horizon_days
        self.report = report or TrainingReport()

    def know(self, catalog: Mapping[str, CatalogEntry]) -> None:
        """From now on, entities are what this catalog says: ``kind:id`` -> entry."""
        self.word_rows = WordRows(self.vocabulary, catalog, self.word_rows)

    def table(self) -> Tensor:
        """Vectors of all places of words, (R, H), of weights that are not trained any more."""
        return self.encoder.input.freeze(self.word_rows)


def task_heads(model: Model) -> dict[str, TaskHead]:
    """A model's heads, by task."""
    return {name: head for name, head in model.heads.items() if isinstance(head, TaskHead)}
