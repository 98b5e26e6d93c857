"""Whole events are hidden, and the encoder says their words from the others.

Not single words: a category can be read off the item beside it. And not single positions: a session stands in the
history as well as event by event, so all that a customer did on a drawn day is hidden together, with the edges that
were last drawn on it.

Source of the idea: Devlin et al., "BERT" (2019), there with words.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.sequence import GRAPH, HISTORY, RECENT, SECTION_OF_KIND, Sequences, ranges
from models.tokenizer import MASK_ID, SPECIALS
from models.wide import Ints
from schemas.words import FIXED

SHARE: Final = 0.15
"""Of days, that are hidden."""
MOST_TARGETS: Final = 4_000
"""Words that are told apart: the most frequent ones."""
_FIRST: Final = len(SPECIALS) + len(FIXED)
"""Words before it say when and how much, not what."""
_SECTIONS: Final = np.array(SECTION_OF_KIND)


class Masked(NamedTuple):
    """A batch with hidden events, and what they were."""

    sequences: Sequences
    at: Ints
    """(M,): hidden positions, in the flat order of ``sequences``."""
    owner: Ints
    """(W,): place in ``at`` of each hidden word."""
    words: Ints
    """(W,): rows of the vocabulary."""


def hide(batch: Sequences, share: float, random: np.random.Generator) -> Masked:
    """Hide what was done on a share of the days of each customer."""
    section = _SECTIONS[batch.kind]
    row = np.repeat(np.arange(len(batch)), batch.lengths)
    done = (section == RECENT) | (section == HISTORY)
    day = np.floor(np.clip(batch.age_days, 0, 1e6)).astype(np.int64)
    _, of_day = np.unique(row * 10_000_000 + day, return_inverse=True)
    drawn = (random.random(int(of_day.max(initial=-1)) + 1) < share)[of_day]
    hidden = done & drawn & (batch.counts > 0)
    kept = ~((section == GRAPH) & drawn)
    # The first word of a hidden position becomes the mask, the others go.
    first = (np.cumsum(batch.counts) - batch.counts)[hidden]
    of_word = np.repeat(np.arange(len(batch.kind)), batch.counts)
    said = ~hidden[of_word]
    said[first] = True
    masked = batch.only(kept, said)
    now_hidden = hidden[kept]
    first_now = (np.cumsum(masked.counts) - masked.counts)[now_hidden]
    masked.words[first_now], masked.weights[first_now] = MASK_ID, 1.0
    masked.amounts[now_hidden] = 0.0
    counts = batch.counts[hidden]
    words = batch.words[ranges(first, counts)].astype(np.int64)
    owner = np.repeat(np.arange(len(counts)), counts)
    meant = (words >= _FIRST) & (words < _FIRST + MOST_TARGETS)
    return Masked(masked, np.flatnonzero(now_hidden), owner[meant], words[meant])


class MaskedEvents(nn.Module):
    """States of hidden positions → the loss of their words, a choice among the vocabulary.

    Args:
        weight: of the loss against that of a yes-or-no label.
    """

    def __init__(self, hidden: int, vocabulary: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.layer = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden))
        self.targets = max(0, min(MOST_TARGETS, vocabulary - _FIRST))
        self.out = nn.Linear(hidden, max(1, self.targets))

    def forward(self, states: Tensor, masked: Masked) -> Tensor:
        """(B, P, H) → a scalar."""
        lengths = masked.sequences.lengths
        if not len(masked.words):
            return states.new_zeros(())
        row = np.repeat(np.arange(len(lengths)), lengths)
        column = ranges(np.zeros_like(lengths), lengths)
        at = torch.from_numpy((row * states.shape[1] + column)[masked.at]).to(states.device)
        logits = self.out(self.layer(states.flatten(0, 1)[at])).float().log_softmax(-1)  # (M, targets)
        target = masked.words - _FIRST
        is_target = target < self.targets  # places behind the vocabulary are of no word of these
        if not is_target.any():
            return states.new_zeros(())
        owner, word = (torch.from_numpy(each[is_target]).to(states.device) for each in (masked.owner, target))
        loss: Tensor = -self.weight * logits[owner, word].mean()
        return loss
