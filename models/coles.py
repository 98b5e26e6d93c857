"""Two windows of one customer against those of others.

A window holds what was done in it and neither numeric features nor edges, which would tell who it is by themselves. The
two do not overlap, so that what they share is the customer's ways.

Source of the idea: Babaev et al., "CoLES: Contrastive learning for event sequences with self-supervision" (2022).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from models.encoder import CustomerEncoder
from models.sequence import CUSTOMER, HISTORY, RECENT, SECTION_OF_KIND, Sequences, concatenated
from models.wide import Ints

TEMPERATURE: Final = 0.1
MIN_POSITIONS: Final = 4
"""Of sessions and events, for a customer to be split."""
_SECTIONS: Final = np.array(SECTION_OF_KIND)


def windows(batch: Sequences, random: np.random.Generator) -> tuple[Ints, Sequences, Sequences]:
    """The customers that have enough to be split, (K,), with the older and the newer part of what each did.

    The cut is drawn between a quarter and three quarters.
    """
    section = _SECTIONS[batch.kind]
    done = (section == RECENT) | (section == HISTORY)
    row = np.repeat(np.arange(len(batch)), batch.lengths)
    counts = np.bincount(row[done], minlength=len(batch))
    chosen = np.flatnonzero(counts >= MIN_POSITIONS)
    order = np.flatnonzero(done)[np.lexsort((-batch.age_days[done], row[done]))]
    place = np.empty(len(row), dtype=np.int64)
    place[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    cut = np.clip(np.round(counts * random.uniform(0.25, 0.75, len(counts))), 1, np.maximum(counts - 1, 1))
    older = done & (place < cut[row])
    everything = np.ones(len(batch.words), dtype=np.bool_)
    customer = section == CUSTOMER
    one, other = (batch.only(part | customer, everything) for part in (older, done & ~older))
    return chosen, one.take(chosen), other.take(chosen)


class Contrast(nn.Module):
    """Windows of one customer are found among those of the batch, both ways.

    Args:
        weight: of the loss against that of a yes-or-no label.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self, encoder: CustomerEncoder, batch: Sequences, customers: Ints, random: np.random.Generator
    ) -> Tensor:
        """A batch of B customers → a scalar.

        Args:
            customers: (B,): a number for each; other rows of one customer count neither for nor against.
        """
        chosen, one, other = windows(batch, random)
        device = encoder.words().weight.device
        if len(chosen) < 2:
            return torch.zeros((), device=device)
        hidden = torch.ones(2 * len(chosen), device=device)
        embedding = nn.functional.normalize(encoder(concatenated([one, other]), hidden), dim=-1)  # (2K, H)
        alike = embedding[: len(chosen)] @ embedding[len(chosen) :].T / TEMPERATURE  # (K, K)
        numbers = torch.from_numpy(customers[chosen]).to(device)
        own = torch.arange(len(chosen), device=device)
        same = (numbers[:, None] == numbers[None]) & (own[:, None] != own[None])
        alike = alike.float().masked_fill(same, float("-inf"))
        loss = nn.functional.cross_entropy(alike, own) + nn.functional.cross_entropy(alike.T, own)
        return self.weight * loss / 2
