"""What the encoder learns beside the heads' labels: what customers do in the weeks after a snapshot.

Categories are many yes-or-no questions; items are one choice among all of them, as often as they were chosen. Both are
answered from the embedding by a layer that is thrown away.

Sources of the ideas: Pancha et al., "PinnerFormer" (2022), for all that comes in a window instead of what comes next;
Klenitskiy and Vasilev, "Turning dross into gold loss: is BERT4Rec really better than SASRec?" (2023), for the softmax
over all items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from models.future import Future
from models.sequence import ranges
from models.wide import Ints

MOST_TARGETS: Final = 4_000
"""Items that are predicted: the most frequent of the vocabulary, whose rows run by frequency."""
WEIGHTS: Final = {"cat": 20.0, "item": 0.3}
"""Of the losses against that of a yes-or-no label: brings their gradients to one size (Complete Journey)."""


class FutureHeads(nn.Module):
    """An embedding → logits of what comes, for every field with at least one possible target."""

    def __init__(self, hidden: int, futures: Mapping[str, Future], rows: Ints) -> None:
        """
        Args:
            rows: those that are fitted on, for the rates at the start.
        """
        super().__init__()
        self.futures = {field: future for field, future in futures.items() if len(future.targets)}
        self.layers = nn.ModuleDict()
        for field, future in self.futures.items():
            size = min(MOST_TARGETS, len(future.targets))
            layer = nn.Linear(hidden, size)
            known = rows[future.known[rows]]
            begin = np.cumsum(future.counts) - future.counts
            found = future.columns[ranges(begin[known], future.counts[known])]
            seen = np.bincount(found[found < size], minlength=size)
            rate = (seen + 0.5) / (len(known) + 1)
            with torch.no_grad():
                layer.bias.copy_(torch.from_numpy(np.log(rate / (1 - rate)) if field == "cat" else np.log(rate)))
                layer.weight.mul_(0.1)
            self.layers[field] = layer

    def losses(self, embedding: Tensor, rows: Ints) -> list[Tensor]:
        """Weighted losses of (B, H) for these rows, one a field."""
        found = []
        for field, future in self.futures.items():
            known = np.flatnonzero(future.known[rows])
            if not len(known):
                continue
            layer = self.layers[field]
            logits = layer(embedding[torch.from_numpy(known)]).float()  # (K, C)
            target = torch.from_numpy(future.dense(rows[known])[:, : logits.shape[1]]).to(logits.device)
            if field == "cat":
                loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
            else:
                loss = -(logits.log_softmax(-1) * target).sum() / target.sum().clamp(min=1.0)
            found.append(WEIGHTS[field] * loss)
        return found
