"""The head of a (customer, candidate) pair: two towers beside a wide part on cross features."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from models.candidates import CROSS_SIZE, MAX_WORDS
from models.heads import Head, start_at_zero
from models.wide import COLUMN_FEATURE, COLUMNS, PLAIN
from schemas import features

DEEP: Final = 64
TOWER: Final = 32
_TRIED: Final = 8

_NOT_USED: Final = ("days_since_event", "days_since_send", "hour_of_day", "day_of_week")
_LEFT_OUT: Final = [at for at in range(PLAIN) if features.NAMES[COLUMN_FEATURE[at]] in _NOT_USED]


class CandidateHead(Head):
    """Logit of what becomes of a candidate once it is sent: cross features, and two towers."""

    def __init__(self, hidden: int) -> None:
        super().__init__(PLAIN + CROSS_SIZE)
        self.customer = nn.Linear(hidden + PLAIN, TOWER)
        self.candidate = nn.Sequential(nn.Linear(hidden, DEEP), nn.GELU(), nn.Linear(DEEP, TOWER))
        start_at_zero(self.candidate[-1])

    def tower(self, words: Tensor, table: Tensor) -> Tensor:
        """Words (C, W) as places in a table (R, H), 0 for none → candidate vectors (C, TOWER).

        The table is not trained here.
        """
        mask = (words > 0).float()[:, :, None]  # (C, W, 1)
        vectors = nn.functional.embedding(words, table.detach()).float()  # (C, W, H)
        mean = (vectors * mask).sum(1) / mask.sum(1).clamp(min=1)
        normal = nn.functional.normalize(mean, dim=-1) * math.sqrt(mean.shape[-1])
        out: Tensor = self.candidate(normal)
        return out

    def forward(
        self, embedding: Tensor, columns: Tensor, cross: Tensor, vectors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Customers against candidates.

        Args:
            embedding: (B, H).
            columns: raw columns of the customers, (B, COLUMNS).
            cross: raw cross features, (B, C, CROSS_SIZE).
            vectors: from :meth:`tower`, (C, TOWER); or one candidate a customer, (B, 1, TOWER).

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

    def trial(self, embedding: Tensor, table: Tensor) -> Tensor:
        device = embedding.device
        ids = np.random.default_rng(1).integers(1, len(table), (_TRIED, MAX_WORDS))
        columns = torch.full((len(embedding), COLUMNS), float("nan"), device=device)
        cross = torch.full((len(embedding), _TRIED, CROSS_SIZE), float("nan"), device=device)
        logits: Tensor = self(embedding, columns, cross, self.tower(torch.from_numpy(ids).to(device), table))[0]
        return logits


def usable(columns: Tensor) -> Tensor:
    """Of the columns (B, COLUMNS), those that a candidate is scored on (B, PLAIN).

    No squares, as rows are few. Not known is what the last send has just moved, as training scores a customer just
    before a send and serving mostly just after one; and the last event's hour and weekday, which followed noise
    (Complete Journey, redemption, log loss 0.359 without this and the choice of ridge across campaigns, 0.350 with
    both).
    """
    kept = columns[:, :PLAIN].clone()
    kept[:, _LEFT_OUT] = float("nan")
    return kept
