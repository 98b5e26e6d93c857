"""What sells: how many orders held an item, ever and lately, as training saw them.

While a model is trained, a row is told what had sold before it, week by week: nothing of a row's own order, nor of
anything after it, is in these numbers. A saved head keeps the last week's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from models.assortment import NONE, Assortment
from models.wide import Doubles, Floats, Ints

WEEK_MS: Final = 7 * 86_400_000
LATELY_WEEKS: Final = 4.0
"""Half-life of what sold lately."""
_COUNTS: Final = ("hashes", "counts", "lately")


@dataclass(frozen=True)
class Sales:
    """Of W weeks: what had sold before each began.

    Attributes:
        begin_ms: of the first week.
        counts: (W, N) orders that held an item.
        lately: (W, N) the same, decayed.
        orders: (W, 2) all orders: ever, and decayed.
    """

    begin_ms: int
    counts: Floats
    lately: Floats
    orders: Doubles

    def week(self, at_ms: Ints) -> Ints:
        """The week of each time; the last one of what comes later."""
        found: Ints = np.clip((at_ms - self.begin_ms) // WEEK_MS, 0, len(self.counts) - 1)
        return found


def sales_of(at_ms: Ints, items: Sequence[Ints], width: int) -> Sales:
    """Sales of some orders.

    Args:
        at_ms: (O,) of each order, at least one.
        items: of each, as places below ``width``.
    """
    begin_ms = int(at_ms.min())
    week = (at_ms - begin_ms) // WEEK_MS
    weeks = int(week.max()) + 1
    flat = np.concatenate(items)
    keys = np.repeat(week, [len(found) for found in items]) * width + flat
    sold = np.bincount(keys, minlength=weeks * width).reshape(weeks, width).astype(np.float32)
    sold_orders = np.bincount(week, minlength=weeks).astype(np.float64)
    fading = 2 ** (-1 / LATELY_WEEKS)
    # Before the first week nothing was known; behind the last is what a model is served with.
    counts = np.concatenate([np.zeros((1, width), dtype=np.float32), sold.cumsum(0)])
    lately, orders = np.zeros_like(counts), np.zeros((weeks + 1, 2))
    orders[1:, 0] = sold_orders.cumsum()
    for number in range(weeks):
        lately[number + 1] = lately[number] * fading + sold[number]
        orders[number + 1, 1] = orders[number, 1] * fading + sold_orders[number]
    return Sales(begin_ms, counts, lately, orders)


class Popularity(nn.Module):
    """What sold until the end of training, by the item's hash.

    Attributes:
        hashes: (K,) int64.
        counts: (K,) orders.
        lately: (K,) the same, decayed.
        orders: (2,) all orders: ever, and decayed.
    """

    hashes: Tensor
    counts: Tensor
    lately: Tensor
    orders: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("hashes", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(0))
        self.register_buffer("lately", torch.zeros(0))
        self.register_buffer("orders", torch.zeros(2))

    def load(self, assortment: Assortment, sales: Sales) -> None:
        """Take over what had sold when the last week ended."""
        counts, lately = sales.counts[-1], sales.lately[-1]
        sold = np.flatnonzero(counts > 0)
        device = self.orders.device
        self.hashes = torch.from_numpy(assortment.hashes[sold].astype(np.int64)).to(device)
        self.counts, self.lately = (torch.from_numpy(of[sold]).to(device) for of in (counts, lately))
        self.orders = torch.from_numpy(sales.orders[-1]).float().to(device)

    def of(self, assortment: Assortment) -> Sales:
        """The same of an assortment, as the only week there is."""
        places = assortment.places(self.hashes.cpu().numpy().astype(np.uint32))
        offered = places != NONE
        out = np.zeros((2, 1, len(assortment)), dtype=np.float32)
        for part, of in zip(out, (self.counts, self.lately), strict=True):
            part[0, places[offered]] = of.cpu().numpy()[offered]
        return Sales(0, out[0], out[1], self.orders.double().cpu().numpy()[None])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # What was sold differs from model to model, and so does the size.
        found = [state_dict.get(prefix + name) for name in _COUNTS]
        sizes = {len(one) for one in found if isinstance(one, Tensor) and one.ndim == 1}
        if len(sizes) == 1:
            size = sizes.pop()
            self.hashes, self.counts, self.lately = (
                of.new_zeros(size) for of in (self.hashes, self.counts, self.lately)
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)


def log_share(counts: Doubles | Floats, orders: Doubles | float) -> Doubles:
    """Of all orders, log, smoothed so that an item nobody has bought yet is a rare one."""
    found: Doubles = np.log((counts + 0.5) / (orders + 1.0))
    return found
