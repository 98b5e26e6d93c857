"""The head that ranks items: a wide part on columns, exact in its reasons, and a small network beside it.

Both say a logit of each item of a list, and are learned twice over: an item by itself (is it in the next order?), which
makes a probability of it, and against the others of its list, which puts it in order.

Source of the idea of the second: Cao et al., "Learning to rank: from pairwise approach to listwise approach" (2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.heads import Head, start_at_zero
from models.item_lists import BY_TOWER, COLUMN, COLUMN_NAMES, Lists
from models.item_sales import Popularity
from models.item_tower import ItemTower
from models.model import Ranking
from models.probability import weights_of
from models.wide import Doubles, Floats, Ints

BEST: Final = 10
_MIDDLE: Final = (64, 32)
_TOWER_AT: Final = [COLUMN[name] for name in BY_TOWER]
RATE: Final = 2e-3
EPOCHS: Final = 4
BATCH: Final = 64
"""Lists of a step."""
KEPT: Final = 0.3
"""Share of what did not come that a step looks at; it counts for the rest, too."""
STOPS: Final = 600
"""Lists that an epoch is judged by."""
_TRIED: Final = 8


class ItemsHead(Head):
    """Logit that an item is in the customer's next order, if one comes.

    Attributes:
        tower: finds new items, and says two of the columns.
        popularity: what sold in training.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__(len(COLUMN_NAMES))
        self.tower = ItemTower(hidden)
        self.popularity = Popularity()
        first, second = _MIDDLE
        entry, last = nn.Linear(len(COLUMN_NAMES), first), nn.Linear(second, 1)
        self.residual = nn.Sequential(entry, nn.GELU(), nn.Linear(first, second), nn.GELU(), last)
        start_at_zero(last)
        # At first no list has the tower's columns. What they weigh then is chance, and would be noise in those that do.
        with torch.no_grad():
            entry.weight[:, _TOWER_AT] = 0.0

    def standardised(self, columns: Tensor) -> Tensor:
        """Raw columns (C, len(COLUMNS)) → (C, len(COLUMNS))."""
        return self.wide.standardise(columns)

    def deep(self, z: Tensor) -> Tensor:
        """Standardised columns (C, D) → what is added to the wide part, before the gate: (C,)."""
        out: Tensor = self.residual(z).squeeze(-1)
        return out

    def forward(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Raw columns (C, D) → calibrated logits (C,) and what each column adds to the wide part of them, (C, D)."""
        z = self.standardised(columns)
        logits = self.calibrated(self.wide(z) + self.gate * self.deep(z))
        return logits, z * self.wide.weight * self.scale

    def of_tower(self, columns: Tensor) -> Tensor:
        """What the tower's columns change in calibrated logits, (C,)."""
        without = columns.clone()
        without[:, _TOWER_AT] = float("nan")
        out: Tensor = self(columns)[0] - self(without)[0]
        return out

    def trial(self, embedding: Tensor, table: Tensor) -> Tensor:
        items = torch.from_numpy(np.random.default_rng(1).integers(1, len(table), _TRIED)).to(embedding.device)
        towers = self.tower.customers(embedding, torch.zeros_like(embedding))
        taste = towers @ self.tower.items(table[items].float()).T  # (B, TRIED)
        columns = torch.full((taste.numel(), len(COLUMN_NAMES)), float("nan"), device=embedding.device)
        columns[:, COLUMN["taste"]] = taste.flatten()
        logits: Tensor = self(columns)[0].view(taste.shape)
        return logits

    @torch.no_grad()
    def standardise_tower(self, lists: Lists) -> None:
        """Learn mean and deviation of what the tower says."""
        said = lists.columns[:, _TOWER_AT].astype(np.float64)
        if np.isfinite(said).any():
            self.wide.mean[_TOWER_AT] = torch.from_numpy(np.nanmean(said, axis=0)).float().to(self.wide.mean.device)
            deviation = np.maximum(np.nanstd(said, axis=0), 1e-3)
            self.wide.deviation[_TOWER_AT] = torch.from_numpy(deviation).float().to(self.wide.mean.device)


@dataclass(frozen=True)
class Marked:
    """Lists of which it is known what came."""

    lists: Lists
    came: npt.NDArray[np.bool_]
    """(C,) whether the item is in the next order."""
    wanted: Ints
    """(B,) items of that order, listed or not."""
    groups: Ints
    """(B,) number of each list's customer."""

    def __len__(self) -> int:
        return self.lists.customers

    def take(self, rows: Ints) -> tuple[Ints, Ints]:
        """Places of the candidates of some lists, (c,), and which of these lists each is of."""
        bounds = np.searchsorted(self.lists.customer, np.stack([rows, rows + 1]))
        sizes = bounds[1] - bounds[0]
        owner = np.repeat(np.arange(len(rows)), sizes)
        return np.repeat(bounds[0] - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum())), owner


def mark(lists: Lists, orders: Sequence[Ints], wanted: Ints, groups: Ints, width: int) -> Marked:
    """Lists with what came.

    Args:
        orders: places of each list's next order, those in the assortment.
        wanted: (B,) items of the orders, in the assortment or not.
        width: items of the assortment.
    """
    counts = np.array([len(order) for order in orders], dtype=np.int64)
    flat = np.concatenate([np.zeros(0, dtype=np.int64), *orders])
    keys = np.repeat(np.arange(len(orders)), counts) * width + flat
    return Marked(lists, np.isin(lists.customer * width + lists.item, keys), wanted, groups)


def fit_residual(head: ItemsHead, shown: Marked, stop: Marked, generator: np.random.Generator, rate: float) -> None:
    """Train the network on what the wide part leaves; keep what is best on other lists, if there are any."""
    useful = np.unique(shown.lists.customer[shown.came])
    if not len(useful):
        return
    device = head.gate.device
    columns, came = torch.from_numpy(shown.lists.columns).to(device), torch.from_numpy(shown.came).to(device)
    optimiser = torch.optim.AdamW(head.residual.parameters(), lr=rate, weight_decay=0.02)
    least, best = _loss_of(head, stop), weights_of(head.residual)
    for epoch in range(EPOCHS):
        order = generator.permutation(useful)
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - epoch / EPOCHS)
        for begin in range(0, len(order), BATCH):
            place, owner = shown.take(order[begin : begin + BATCH])
            kept = shown.came[place] | (generator.random(len(place)) < KEPT)
            at, of = (torch.from_numpy(found[kept]).to(device) for found in (place, owner))
            loss = _loss(head, columns[at], came[at], of, KEPT)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        now = _loss_of(head, stop)
        if len(stop) and now >= least:
            break
        least, best = now, weights_of(head.residual)
    head.residual.load_state_dict(best)


@torch.no_grad()
def _loss_of(head: ItemsHead, marked: Marked) -> float:
    useful = np.unique(marked.lists.customer[marked.came])
    useful = useful[:: max(1, len(useful) // STOPS)]
    losses = []
    for begin in range(0, len(useful), BATCH):
        place, owner = marked.take(useful[begin : begin + BATCH])
        columns, came = torch.from_numpy(marked.lists.columns[place]), torch.from_numpy(marked.came[place])
        device = head.gate.device
        losses.append(float(_loss(head, columns.to(device), came.to(device), torch.from_numpy(owner).to(device))))
    return float(np.mean(losses)) if losses else float("inf")


def _loss(head: ItemsHead, columns: Tensor, came: Tensor, owner: Tensor, kept: float = 1.0) -> Tensor:
    """Of lists with at least one item that came: by itself and against the others.

    Args:
        owner: (c,) number of each candidate's list, sorted.
        kept: share of those that did not come that are among the candidates.
    """
    z = head.standardised(columns)
    logits = head.wide(z) + head.deep(z)
    lists = int(owner[-1]) + 1
    weight = torch.where(came, 1.0, 1 / kept)
    alone = nn.functional.binary_cross_entropy_with_logits(logits, came.float(), weight, reduction="sum") / lists
    most = torch.full((lists,), float("-inf"), device=logits.device).scatter_reduce(0, owner, logits.detach(), "amax")
    total = torch.zeros(lists, device=logits.device).index_add(0, owner, (logits - most[owner]).exp() * weight)
    against = -(logits - most[owner] - total.log()[owner])
    count = torch.zeros(lists, device=logits.device).index_add(0, owner, came.float())
    loss: Tensor = alone + (against * came / count[owner]).sum() / lists
    return loss


@torch.no_grad()
def parts(head: ItemsHead, columns: Floats) -> tuple[Doubles, Doubles]:
    """Wide and deep part of each candidate's logit before gate and calibration, (C,) each."""
    found: list[tuple[Tensor, Tensor]] = []
    for begin in range(0, len(columns), 100_000):
        z = head.standardised(torch.from_numpy(columns[begin : begin + 100_000]).to(head.gate.device))
        found.append((head.wide(z).double().cpu(), head.deep(z).double().cpu()))
    if not found:
        return np.zeros(0), np.zeros(0)
    wide, deep = (torch.cat(each).numpy() for each in zip(*found, strict=True))
    return wide, deep


def best_of(scores: Doubles | Floats, customer: Ints, customers: int, count: int) -> Ints:
    """Places of each customer's ``count`` best candidates, by customer and then by rank."""
    order = np.lexsort((-scores, customer))
    sizes = np.bincount(customer, minlength=customers)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    found: Ints = order[rank < count]
    return found


def ranking(scores: Doubles, marked: Marked, best: int = BEST) -> Ranking:
    """How well scores put lists in order: of what came, listed or not, how much is among the best."""
    customers = marked.lists.customer
    top = best_of(scores, customers, len(marked), best)
    sizes = np.minimum(np.bincount(customers, minlength=len(marked)), best)
    rank = np.arange(len(top)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    hits, owner = marked.came[top].astype(np.float64), customers[top]
    kept = marked.wanted > 0
    found = np.bincount(owner, hits, minlength=len(marked))[kept]
    gain = np.bincount(owner, hits / np.log2(rank + 2), minlength=len(marked))[kept]
    ideal = np.cumsum(1 / np.log2(np.arange(best) + 2))[np.minimum(marked.wanted[kept], best) - 1]
    if not kept.any():
        return Ranking(lists=0, best=best, recall=0.0, ndcg=0.0)
    return Ranking(
        lists=int(kept.sum()),
        best=best,
        recall=round(float((found / marked.wanted[kept]).mean()), 4),
        ndcg=round(float((gain / ideal).mean()), 4),
    )
