"""Heads: what makes a task's logits of an embedding and of the columns that the wide part reads.

Each has a *wide* part on columns, exact in its reasons, and a *deep* part from the embedding, scaled by a ``gate`` that
is chosen on held-out data, so that it can help but not hurt. The sum is calibrated (Platt, 1999):
``probability = sigmoid(scale * logit + shift)``. Heads that say when something happens are in :mod:`models.hazards`.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from models.trees import Forest
from models.wide import COLUMNS, Wide


class TaskHead(nn.Module):
    """What every task's head is to those who know no task."""

    @property
    @abstractmethod
    def calibration(self) -> dict[str, float]:
        """Gates, scales and shifts by name, for people: a model's card says them."""

    @property
    def forest_share(self) -> float:
        """Of a boosted forest in the wide part."""
        return 0.0

    @abstractmethod
    def trial(self, embedding: Tensor, table: Tensor) -> Tensor:
        """Logits (B, ·) of customers (B, H) of whom nothing else is known: how far rounding moves them is tried.

        Args:
            table: the encoder's vectors of words, (R, H).
        """


class Head(TaskHead):
    """Of one probability: a wide part, the gate of the deep part, and Platt's two numbers."""

    gate: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.wide = Wide(columns)
        self.register_buffer("gate", torch.ones(()))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def calibrated(self, logit: Tensor) -> Tensor:
        return logit * self.scale + self.shift

    @property
    def calibration(self) -> dict[str, float]:
        return {part: float(getattr(self, part)) for part in ("gate", "scale", "shift")}


class CustomerHead(Head):
    """Of a customer alone.

    The wide part is a logistic regression, or the mean of it and of a boosted forest; the deep part is linear, and says
    by itself what the embedding says of the label.

    Attributes:
        share: of the forest in the wide part.
    """

    share: Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__(COLUMNS)
        self.trees = Forest(COLUMNS)
        self.register_buffer("share", torch.zeros(()))
        self.deep = nn.Linear(hidden, 1)
        start_at_zero(self.deep)

    @property
    def forest_share(self) -> float:
        return float(self.share)

    @property
    def base(self) -> float:
        """Calibrated logit of the wide part, of whoever is average in everything."""
        share = float(self.share)
        wide = (1 - share) * float(self.wide.bias) + share * self.trees.base
        return float(self.scale) * wide + float(self.shift)

    def forward(self, embedding: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H) and raw columns (B, COLUMNS) → calibrated logits (B,) and wide contributions (B, COLUMNS)."""
        z = self.wide.standardise(columns)
        wide, parts = self.wide(z), z * self.wide.weight
        if share := float(self.share):
            logits, of_trees = self.trees.explained(columns)
            wide, parts = torch.lerp(wide, logits, share), torch.lerp(parts, of_trees, share)
        return self.calibrated(wide + self.gate * self.deep(embedding).squeeze(-1)), parts

    def trial(self, embedding: Tensor, table: Tensor) -> Tensor:
        logits, _ = self(embedding, torch.full((len(embedding), COLUMNS), float("nan"), device=embedding.device))
        out: Tensor = logits[:, None]
        return out


def start_at_zero(layer: nn.Module) -> None:
    """What a layer that has learned nothing says: nothing."""
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
