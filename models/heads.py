"""What is predicted from an embedding: churn of a customer, redemption of a (customer, campaign) pair.

Each head is a *wide* logistic regression, fitted to convergence and exact in its reasons, plus a *deep* part from the
embedding, scaled by a ``gate`` chosen on held-out data, so that it can help but not hurt. The sum is calibrated:
``probability = sigmoid(scale * logit + shift)`` (Platt, 1999). Churn's deep part says by itself what the embedding says
of the label, and the two opinions are mixed; redemption's is a residual of the campaign's tower.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from models.candidates import CROSS_SIZE
from models.wide import COLUMN_FEATURE, COLUMNS, PLAIN, Wide
from schemas import features

DEEP: Final = 64
TOWER: Final = 32

_NOT_OF_REDEMPTION: Final = ("days_since_event", "days_since_send", "hour_of_day", "day_of_week")
_LEFT_OUT: Final = [at for at in range(PLAIN) if features.NAMES[COLUMN_FEATURE[at]] in _NOT_OF_REDEMPTION]


class Calibrated(nn.Module):
    """Buffers every head has: the gate of its deep part and Platt's two numbers."""

    gate: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gate", torch.ones(()))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def calibrated(self, logit: Tensor) -> Tensor:
        return logit * self.scale + self.shift


class ChurnHead(Calibrated):
    """Logit of no activity within the horizon."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.wide = Wide(COLUMNS)
        self.deep = nn.Linear(hidden, 1)
        _start_at_zero(self.deep)

    def forward(self, embedding: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H) and raw columns (B, COLUMNS) → calibrated logits (B,) and wide contributions (B, COLUMNS)."""
        z = self.wide.standardise(columns)
        logit = self.wide(z) + self.gate * self.deep(embedding).squeeze(-1)
        return self.calibrated(logit), z * self.wide.weight


class RedemptionHead(Calibrated):
    """Logit that the customer uses the campaign's offer in its window: cross features, and two towers."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.wide = Wide(PLAIN + CROSS_SIZE)
        self.customer = nn.Linear(hidden + PLAIN, TOWER)
        self.candidate = nn.Sequential(nn.Linear(hidden, DEEP), nn.GELU(), nn.Linear(DEEP, TOWER))
        _start_at_zero(self.candidate[-1])

    def tower(self, words: Tensor, table: nn.Embedding) -> Tensor:
        """Word ids (C, W), 0 for none → candidate vectors (C, TOWER). The words' own vectors are not trained here."""
        mask = (words > 0).float()[:, :, None]  # (C, W, 1)
        vectors = nn.functional.embedding(words, table.weight.detach()).float()  # (C, W, H)
        mean = (vectors * mask).sum(1) / mask.sum(1).clamp(min=1)
        normal = nn.functional.normalize(mean, dim=-1) * math.sqrt(mean.shape[-1])
        out: Tensor = self.candidate(normal)
        return out

    def forward(
        self, embedding: Tensor, columns: Tensor, cross: Tensor, vectors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Customers against campaigns.

        Args:
            embedding: (B, H).
            columns: raw columns of the customers, (B, COLUMNS).
            cross: raw cross features, (B, C, CROSS_SIZE).
            vectors: from :meth:`tower`, (C, TOWER); or one campaign a customer, (B, 1, TOWER).

        Returns:
            Calibrated logits (B, C), and the wide contributions of the customer (B, PLAIN) and of the pair
            (B, C, CROSS_SIZE).
        """
        z = self.wide.standardise(usable(columns), end=PLAIN)  # (B, PLAIN)
        pair = self.wide.standardise(cross, begin=PLAIN)  # (B, C, CROSS_SIZE)
        own, crossed = z * self.wide.weight[:PLAIN], pair * self.wide.weight[PLAIN:]
        wide = own.sum(-1)[:, None] + crossed.sum(-1) + self.wide.bias  # (B, C)
        return self.calibrated(wide + self.gate * self.residual(embedding, columns, vectors)), own, crossed

    def deep_weights(self) -> list[nn.Parameter]:
        """What :meth:`residual` and :meth:`tower` learn."""
        return [*self.customer.parameters(), *self.candidate.parameters()]

    def residual(self, embedding: Tensor, columns: Tensor, vectors: Tensor) -> Tensor:
        """Both towers' product before the gate, arguments as in :meth:`forward`: (B, C)."""
        z = self.wide.standardise(usable(columns), end=PLAIN)  # (B, PLAIN)
        customer = self.customer(torch.cat([embedding, z], dim=-1)) / math.sqrt(TOWER)  # (B, TOWER)
        out: Tensor = (customer[:, None, :] * vectors).sum(-1)
        return out


def usable(columns: Tensor) -> Tensor:
    """Of the columns (B, COLUMNS), those a redemption is scored on (B, PLAIN).

    No squares, as rows are few. Not known is what the last send has just moved, as training scores a customer just
    before a send and serving mostly just after one; and the last event's hour and weekday, which followed noise
    (Complete Journey, log loss 0.359 without this and the choice of ridge across campaigns, 0.350 with both).
    """
    kept = columns[:, :PLAIN].clone()
    kept[:, _LEFT_OUT] = float("nan")
    return kept


def _start_at_zero(layer: nn.Module) -> None:
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
