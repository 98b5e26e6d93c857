"""Pre-training without labels: masked events, and windows of one customer drawn together.

One pass serves both losses. Two windows of each customer are masked and encoded; masked tokens are predicted from the
hidden states, and the two pooled windows must find each other among the batch.

Sources of the ideas: Devlin et al., "BERT" (2019); Babaev et al., "CoLES: contrastive learning for event sequences
with self-supervision" (2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from models.encoder import CustomerEncoder, Sequences, pool
from models.tokenizer import MASK_ID, SPECIALS
from models.wide import Ints

MASKED: Final = 0.15
PREDICTED: Final = 256
"""Masked tokens predicted per step: the softmax over the vocabulary is the costly part."""
SHORTEST: Final = 16
WINDOW: Final = (24, 127)
TEMPERATURE: Final = 0.1


class MaskedEvents(nn.Module):
    """Hidden states → logits over the vocabulary, tied to the word vectors. Thrown away after pre-training."""

    def __init__(self, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden))
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states: Tensor, words: Tensor) -> Tensor:
        """(M, H) and (V, H) → (M, V)."""
        out: Tensor = self.transform(states) @ words.T + self.bias
        return out


def windows(tokens: Sequence[bytes], generator: np.random.Generator, longest: int) -> list[bytes]:
    """Two random windows of every sequence: first all first ones, then all second ones."""
    out: list[bytes] = []
    for _ in range(2):
        for one in tokens:
            have = len(one) // 2
            size = min(have, longest, int(generator.integers(WINDOW[0], WINDOW[1] + 1)))
            begin = int(generator.integers(0, have - size + 1))
            out.append(one[2 * begin : 2 * (begin + size)])
    return out


def step_loss(
    encoder: CustomerEncoder, head: MaskedEvents, tokens: Sequence[bytes], generator: np.random.Generator
) -> Tensor:
    """Loss of one batch of customers, each with its own token sequence."""
    vocabulary, longest = head.bias.shape[0], encoder.positions - 1
    device = head.bias.device
    sequences = Sequences(windows(tokens, generator, longest), encoder.positions, vocabulary)
    ids, mask = (part.to(device) for part in sequences.padded(np.arange(2 * len(tokens))))  # (2B, T)
    draw = torch.from_numpy(generator.random(ids.shape)).to(device)
    chosen = (draw < MASKED) & (ids >= len(SPECIALS))
    states = encoder.states(ids.masked_fill(chosen, MASK_ID), mask)  # (2B, T, H)
    rows, places = chosen.nonzero(as_tuple=True)
    if len(rows) > PREDICTED:
        keep = torch.from_numpy(generator.permutation(len(rows))[:PREDICTED]).to(device)
        rows, places = rows[keep], places[keep]
    loss = contrast(pool(states, mask))
    if len(rows):
        logits = head(states[rows, places], encoder.words().weight)  # (M, V)
        loss = loss + nn.functional.cross_entropy(logits.float(), ids[rows, places])
    return loss


def contrast(pooled: Tensor) -> Tensor:
    """InfoNCE over (2B, H): row i and row i + B are one customer."""
    unit = nn.functional.normalize(pooled, dim=-1)
    likeness = unit @ unit.T / TEMPERATURE  # (2B, 2B)
    likeness.fill_diagonal_(float("-inf"))
    half = len(pooled) // 2
    partner = torch.arange(2 * half, device=pooled.device).roll(half)
    return nn.functional.cross_entropy(likeness, partner)


def longest_per_customer(tokens: Sequence[bytes], customers: Ints) -> list[bytes]:
    """One sequence a customer, its longest, where it is long enough to hold two windows."""
    best: dict[int, bytes] = {}
    for one, customer in zip(tokens, customers.tolist(), strict=True):
        if len(one) >= 2 * SHORTEST and len(one) >= len(best.get(customer, b"")):
            best[customer] = one
    return list(best.values())
