"""Which items a customer is ranked among, and the columns of each: what was bought before, and what might come new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.assortment import NONE, Assortment
from models.item_columns import OWN, ItemEdges
from models.item_sales import Popularity, Sales, log_share
from models.item_tower import ItemTower, past_of
from models.wide import Doubles, Floats, Ints
from schemas.snapshot import Snapshot

FOUND: Final = 64
"""New items that the tower finds for a customer."""
POPULAR: Final = 32
"""New items that sell most."""
CATEGORIES, OF_CATEGORY = 6, 8
"""New items that sell most in the customer's main categories."""

COLUMNS: Final[dict[str, str]] = OWN | {
    "popularity": "share of the orders that held it, log",
    "lately": "the same of the last weeks",
    "trend": "less the one, the other",
    "in_its_category": "its share in what its category sold lately, log",
    "price": "price, log",
    "taste": "what the tower says beside popularity",
    "match": "what the tower says, less what it says of its best new item",
}
"""What is known of a (customer, item) pair."""
COLUMN_NAMES: Final = tuple(COLUMNS)
COLUMN: Final = {name: at for at, name in enumerate(COLUMN_NAMES)}
BY_TOWER: Final = ("taste", "match")


@dataclass(frozen=True)
class Lists:
    """Candidates of B customers, by customer."""

    customers: int
    customer: Ints
    """(C,) row, sorted."""
    item: Ints
    """(C,) place in the assortment, each once a customer."""
    columns: Floats
    """(C, len(COLUMNS)), NaN for unknown."""

    def __len__(self) -> int:
        return len(self.item)

    @property
    def again(self) -> npt.NDArray[np.bool_]:
        """(C,) whether it was bought before."""
        return self.columns[:, COLUMN["bought"]] > 0


class ReadyItems:
    """An assortment as a head sees it; immutable, so that it can be cached."""

    def __init__(self, assortment: Assortment, table: Tensor, tower: ItemTower, popularity: Popularity) -> None:
        self.assortment, self.table, self.tower = assortment, table, tower
        self.sales = popularity.of(assortment)
        with torch.inference_mode():
            rows = torch.from_numpy(assortment.rows).to(table.device)
            self.vectors = tower.items(table[rows])  # (N, T)
        groups, category = len(assortment.category_hashes), assortment.category
        self._groups = groups
        # What sells now comes before what sold once.
        sold = self.sales.lately[0] + 1e-3 * self.sales.counts[0]
        order = np.lexsort((np.arange(len(category)), -sold))
        self._popular = order[:POPULAR]
        self._best = np.full((groups, OF_CATEGORY), NONE, dtype=np.int64)
        by_category = order[np.argsort(category[order], kind="stable")]
        by_category = by_category[category[by_category] != NONE]
        sizes = np.bincount(category[by_category], minlength=groups)
        rank = np.arange(len(by_category)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        first = rank < OF_CATEGORY
        self._best[category[by_category][first], rank[first]] = by_category[first]

    def lists(
        self,
        snapshots: Sequence[Snapshot],
        embeddings: Floats | None,
        sales: Sales | None = None,
    ) -> Lists:
        """Candidates of a batch: what was bought, viewed or put in a cart, and new items.

        Args:
            embeddings: (B, H); None: the tower is not asked, and says nothing in the columns.
            sales: what had sold at the times of the snapshots; None: until the end of training.
        """
        assortment, customers = self.assortment, len(snapshots)
        width = len(assortment)
        as_of_ms = np.array([snapshot.as_of_ms for snapshot in snapshots], dtype=np.int64)
        edges = ItemEdges(snapshots, assortment)
        known = self.sales if sales is None else sales
        week = known.week(as_of_ms)
        towers = None if embeddings is None else self._towers(edges, embeddings)
        keys = np.unique(np.concatenate([edges.known(), self._new(edges, towers, as_of_ms, known)]))
        customer, item = np.divmod(keys, max(1, width))
        kept = assortment.offered(item, as_of_ms[customer])
        keys, customer, item = keys[kept], customer[kept], item[kept]
        columns = np.concatenate(
            [edges.columns(keys), self._of_items(item, week[customer], known), np.full((len(keys), 2), np.nan)],
            axis=1,
            dtype=np.float32,
        )
        found = Lists(customers, customer, item, columns)
        if towers is not None and len(keys):
            self._ask(found, towers, known, week)
        return found

    def _towers(self, edges: ItemEdges, embeddings: Floats) -> Tensor:
        past = bought_before(edges, self.table)
        with torch.inference_mode():
            return self.tower.customers(torch.from_numpy(embeddings).to(past.device), past)

    def _new(self, edges: ItemEdges, towers: Tensor | None, as_of_ms: Ints, sales: Sales) -> Ints:
        """Keys of items that sell, and of those that the tower finds, where they were not bought before."""
        width, customers = edges.width, len(as_of_ms)
        everybody = np.arange(customers)[:, None] * width
        shelves = edges.shelves
        top = np.flatnonzero(shelves.rank < CATEGORIES)
        of = shelves.keys[top]
        owner, category = np.divmod(of, max(1, len(self.assortment.category_hashes)))
        best = self._best[category]
        found = [
            (everybody + self._popular).ravel(),
            (owner[:, None] * width + best)[best != NONE],
        ]
        if towers is not None and width:
            with torch.inference_mode():
                scores = towers @ self.vectors.T + self._bias(sales, sales.week(as_of_ms))
                rows, items = np.divmod(edges.bought.keys, width)
                scores[torch.from_numpy(rows), torch.from_numpy(items)] = float("-inf")
                if (closed := self.assortment.closed(as_of_ms)) is not None:
                    scores.masked_fill_(torch.from_numpy(closed).to(scores.device), float("-inf"))
                value, place = scores.topk(min(FOUND, width), dim=1)
            found.append((everybody + place.cpu().numpy())[np.isfinite(value.cpu().numpy())])
        return np.concatenate(found)

    def _bias(self, sales: Sales, week: Ints) -> Tensor:
        """What the tower says of each item whoever asks, (B, N)."""
        weeks, at = np.unique(week, return_inverse=True)
        shares = _shares(sales, weeks[:, None], np.arange(len(self.assortment))[None, :])
        found = self.tower.bias(torch.from_numpy(shares).to(self.vectors.device)).detach()
        return found if len(weeks) == 1 else found[torch.from_numpy(at).to(found.device)]

    def _of_items(self, item: Ints, week: Ints, sales: Sales) -> Doubles:
        ever = log_share(sales.counts[week, item], sales.orders[week, 0])
        lately = log_share(sales.lately[week, item], sales.orders[week, 1])
        weeks, at = np.unique(week, return_inverse=True)
        category = self.assortment.category
        sold = np.array(
            [
                np.bincount(category[category != NONE], of_week[category != NONE], minlength=self._groups)
                for of_week in sales.lately[weeks]
            ]
        ).reshape(len(weeks), self._groups)
        has_one = category[item] != NONE
        share = np.full(len(item), np.nan)
        share[has_one] = np.log(
            (sales.lately[week, item][has_one] + 0.5) / (sold[at[has_one], category[item][has_one]] + 10.0)
        )
        return np.stack([ever, lately, lately - ever, share, self.assortment.log_price[item]], axis=1)

    def _ask(self, found: Lists, towers: Tensor, sales: Sales, week: Ints) -> None:
        with torch.inference_mode():
            customer, item = (torch.from_numpy(one).to(towers.device) for one in (found.customer, found.item))
            taste = (towers[customer] * self.vectors[item]).sum(-1)
            shares = _shares(sales, week[found.customer], found.item)
            score = taste + self.tower.bias(torch.from_numpy(shares).to(taste.device))
            new = torch.from_numpy(~found.again).to(towers.device)
            best = torch.full((found.customers,), float("-inf"), device=towers.device)
            best = best.scatter_reduce(0, customer[new], score[new], "amax")
            match = score - torch.where(best.isfinite(), best, 0.0)[customer]
            found.columns[:, COLUMN["taste"]] = taste.cpu().numpy()
            found.columns[:, COLUMN["match"]] = match.cpu().numpy()


def _shares(sales: Sales, week: Ints, item: Ints) -> Floats:
    """Log shares of items in weeks that fit each other, (..., 2)."""
    both = (sales.counts[week, item], sales.lately[week, item])
    return np.stack([log_share(of, sales.orders[week, part]) for part, of in enumerate(both)], -1).astype(np.float32)


@torch.no_grad()
def bought_before(edges: ItemEdges, table: Tensor) -> Tensor:
    """Mean vector of what each customer bought, weighted by the logarithm of how often: (B, H)."""
    bought = edges.bought
    customer, item = np.divmod(bought.keys, max(1, edges.width))
    weight = np.log1p(bought.edges.count[bought.at].astype(np.float64))
    return past_of(table, len(edges.snapshots), customer, edges.assortment.rows[item], weight)
