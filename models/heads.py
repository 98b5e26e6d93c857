"""Heads: what makes a task's logits of an embedding and of the columns that the wide part reads.

Each is a *wide* logistic regression, fitted to convergence and exact in its reasons, plus a *deep* part from the
embedding, scaled by a ``gate`` chosen on held-out data, so that it can help but not hurt. The sum is calibrated:
``probability = sigmoid(scale * logit + shift)`` (Platt, 1999).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from models.wide import COLUMNS, Wide


class Head(nn.Module):
    """A wide part, and the buffers every head has: the gate of its deep part and Platt's two numbers."""

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

    @abstractmethod
    def trial(self, embedding: Tensor, words: nn.Embedding) -> Tensor:
        """Logits (B, ·) of customers (B, H) of whom nothing else is known: how far rounding moves them is tried.

        Args:
            words: the encoder's table.
        """


class CustomerHead(Head):
    """Of a customer alone; the deep part is linear, and says by itself what the embedding says of the label."""

    def __init__(self, hidden: int) -> None:
        super().__init__(COLUMNS)
        self.deep = nn.Linear(hidden, 1)
        start_at_zero(self.deep)

    def forward(self, embedding: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H) and raw columns (B, COLUMNS) → calibrated logits (B,) and wide contributions (B, COLUMNS)."""
        z = self.wide.standardise(columns)
        logit = self.wide(z) + self.gate * self.deep(embedding).squeeze(-1)
        return self.calibrated(logit), z * self.wide.weight

    def trial(self, embedding: Tensor, words: nn.Embedding) -> Tensor:
        logits, _ = self(embedding, torch.full((len(embedding), COLUMNS), float("nan"), device=embedding.device))
        out: Tensor = logits[:, None]
        return out


def start_at_zero(layer: nn.Module) -> None:
    """What a layer that has learned nothing says: nothing."""
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
