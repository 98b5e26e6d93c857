"""Items that a customer may turn to next: a tower of customers and one of items, and what sells at all.

Both towers rest on vectors that the encoder has learned and are fitted after it: the customer's embedding and the mean
vector of what was bought before, against the vector of the item, which is of its id and of what the catalog says. So an
item of this minute can be found. They learn by a softmax over sampled items, each sampled as often as it sells; what is
sampled more often is corrected for.

Source of the idea: Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations" (2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from models.item_sales import Sales, log_share
from models.probability import weights_of
from models.wide import Doubles, Floats, Ints

TOWER: Final = 64
_MIDDLE: Final = 128
SAMPLED: Final = 1_024
"""Items that a step compares with."""
EPOCHS: Final = 4
BATCH: Final = 512
RATE: Final = 1e-3
MOST_PAIRS: Final = 60_000
_FLATTENED: Final = 0.75
"""Power of the counts that items are sampled by: the rare ones come a little more often."""


class ItemTower(nn.Module):
    """Scores of items for customers: ``customer . item + weights . log shares of the orders, ever and lately``."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.customer = nn.Sequential(nn.Linear(2 * hidden, _MIDDLE), nn.GELU(), nn.Linear(_MIDDLE, TOWER))
        self.item = nn.Sequential(nn.Linear(hidden, _MIDDLE), nn.GELU(), nn.Linear(_MIDDLE, TOWER))
        self.popular = nn.Parameter(torch.full((2,), 0.5))

    def customers(self, embedding: Tensor, past: Tensor) -> Tensor:
        """Embeddings (B, H) and :func:`past_of` (B, H) → (B, TOWER)."""
        out: Tensor = self.customer(torch.cat([embedding, past], dim=-1)) / math.sqrt(TOWER)
        return out

    def items(self, vectors: Tensor) -> Tensor:
        """Vectors of words (N, H) → (N, TOWER)."""
        out: Tensor = self.item(scaled(vectors))
        return out

    def bias(self, shares: Tensor) -> Tensor:
        """Log shares (..., 2) → (...)."""
        out: Tensor = shares @ self.popular
        return out


def scaled(vectors: Tensor) -> Tensor:
    """(..., H) at length √H, as embeddings are."""
    return nn.functional.normalize(vectors, dim=-1) * math.sqrt(vectors.shape[-1])


def past_of(table: Tensor, customers: int, customer: Ints, rows: Ints, weights: Doubles) -> Tensor:
    """Mean vector of what each customer bought, (B, H), 0 of those who bought nothing.

    Args:
        table: vectors of words, (R, H).
        customer: (E,) who bought, sorted.
        rows: (E,) place of each item in the table.
        weights: (E,).
    """
    counts = np.bincount(customer, minlength=customers)
    sums = nn.functional.embedding_bag(
        torch.from_numpy(rows).to(table.device),
        table,
        torch.from_numpy(np.cumsum(counts) - counts).to(table.device),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights).to(table.device, table.dtype),
    )
    return scaled(sums)


@dataclass(frozen=True)
class Choices:
    """What customers turned to, who had not bought it before: P pairs of R rows.

    Attributes:
        embedding, past: (R, H) each, as the tower takes them.
        bought: keys ``row * N + item`` of what was bought before, sorted.
        row, item: (P,) each.
        weight: (P,) so that a row of many pairs counts for little more than one of few.
        week: (R,) of :class:`models.item_sales.Sales`.
    """

    embedding: Tensor
    past: Tensor
    bought: Ints
    row: Ints
    item: Ints
    weight: Floats
    week: Ints

    def __len__(self) -> int:
        return len(self.row)


class TowerTraining:
    """Fits a tower.

    Args:
        vectors: of the items, (N, H).
        sales: of them.
    """

    def __init__(self, tower: ItemTower, vectors: Tensor, sales: Sales) -> None:
        self._tower, self._vectors = tower, vectors
        shares = log_share(sales.counts, sales.orders[:, :1]), log_share(sales.lately, sales.orders[:, 1:])
        self._shares = np.stack(shares, axis=-1).astype(np.float32)  # (W, N, 2)
        sampled = (sales.counts[-1].astype(np.float64) + 0.5) ** _FLATTENED
        self._chance = sampled / sampled.sum()
        self._ends = np.cumsum(self._chance)

    def fit(self, shown: Choices, stop: Choices, generator: np.random.Generator) -> None:
        """Train on some rows; keep what is best on others, if there are any."""
        tower = self._tower
        optimiser = torch.optim.AdamW(tower.parameters(), lr=RATE, weight_decay=0.05)
        least, best = self._loss_at(stop), weights_of(tower)
        for epoch in range(EPOCHS):
            order = generator.permutation(len(shown))[:MOST_PAIRS]
            for group in optimiser.param_groups:
                group["lr"] = RATE * (1 - epoch / EPOCHS)
            for begin in range(0, len(order), BATCH):
                loss = self._loss(shown, order[begin : begin + BATCH], generator)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            now = self._loss_at(stop)
            if now < least or not len(stop):
                least, best = now, weights_of(tower)
        tower.load_state_dict(best)

    @torch.no_grad()
    def _loss_at(self, stop: Choices) -> float:
        generator = np.random.default_rng(0)  # the same items are sampled each time
        some = generator.permutation(len(stop))[: 8 * BATCH]
        losses = [
            float(self._loss(stop, some[begin : begin + BATCH], generator)) for begin in range(0, len(some), BATCH)
        ]
        return float(np.mean(losses)) if losses else float("inf")

    def _loss(self, of: Choices, pick: Ints, generator: np.random.Generator) -> Tensor:
        """Negative log of the chosen items' share in a softmax over them and those that are sampled."""
        tower, device = self._tower, self._vectors.device
        drawn = np.searchsorted(self._ends, generator.random(SAMPLED) * self._ends[-1]).clip(max=len(self._ends) - 1)
        items = np.concatenate([of.item[pick], drawn])
        rows = torch.from_numpy(of.row[pick]).to(device)
        vectors = tower.items(self._vectors[torch.from_numpy(items).to(device)])
        week = of.week[of.row[pick]]
        own_bias, bias = (
            tower.bias(torch.from_numpy(self._shares[at]).to(device))
            for at in ((week, of.item[pick]), (week[:, None], drawn[None, :]))
        )
        customers = tower.customers(of.embedding[rows], of.past[rows])  # (P, T)
        chance = torch.from_numpy(np.log(SAMPLED * self._chance[items])).float().to(device)
        own = (customers * vectors[: len(pick)]).sum(-1) + own_bias - chance[: len(pick)]
        others = customers @ vectors[len(pick) :].T + bias - chance[len(pick) :]  # (P, S)
        keys = of.row[pick][:, None] * len(self._chance) + drawn
        out = of.item[pick][:, None] == drawn
        if len(of.bought):
            out |= of.bought[np.minimum(np.searchsorted(of.bought, keys), len(of.bought) - 1)] == keys
        others = others.masked_fill(torch.from_numpy(out).to(device), float("-inf"))
        every = torch.cat([own[:, None], others], dim=1)
        weight = torch.from_numpy(of.weight[pick]).to(device)
        loss: Tensor = ((every.logsumexp(1) - own) * weight).sum() / weight.sum()
        return loss
