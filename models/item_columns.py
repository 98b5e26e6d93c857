"""What a customer's own past says of single items, as columns: how often, how lately, how due.

An edge holds three numbers of an item: how often it was bought (n), its decayed weight (w) and the age of the last time
(a). Where purchases came at even intervals of d days, ``w = sum over k < n of 2 ** -((a + k d) / half-life)``. That is
solved for d, which gives the usual interval, how due the item is, and its weight under any other half-life. The newest
events say the same without such an assumption, of a few orders.

Source of the idea of personal frequency and dueness for the next basket: Hu et al., "Modeling personalized item
frequency information for next-basket recommendation" (2020); Katz et al., "Learning buying patterns" (2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from models.assortment import NONE, Assortment
from models.sequence import ranges
from models.snapshot_columns import Edges, features_of
from models.wide import Doubles, Floats, Ints
from schemas import features
from schemas.snapshot import Snapshot
from schemas.words import hash_of

DAY_S: Final = 86_400.0
EVEN_HALF_LIVES: Final = (7.0, 14.0, 84.0, 224.0)
RECENT_HALF_LIVES: Final = (7.0, 28.0)

OWN: Final[dict[str, str]] = {
    "bought": "1 where the customer bought it",
    "count": "how often it was bought, log",
    "weight": "decayed purchases, log",
    **{f"weight_{days:g}d": f"the same at even intervals, half-life {days:g} days" for days in EVEN_HALF_LIVES},
    "age": "days since it was bought last, log",
    "interval": "usual days between two purchases of it, log; of those bought twice",
    "due": "days since the last time over the usual interval, log of the ratio",
    "overdue": "distance of that from 0",
    "count_share": "of all the customer's purchases",
    "weight_share": "of their decayed weight",
    "rank": "place among the customer's items by weight, log",
    "last_order": "1 where it is of the newest order",
    "recent_orders": "newest orders that hold it, log",
    **{f"recent_{days:g}d": f"the same, decayed with a half-life of {days:g} days" for days in RECENT_HALF_LIVES},
    "viewed": "decayed views, log",
    "viewed_age": "days since it was viewed last, log",
    "carted": "decayed cart additions, log",
    "returned": "decayed returns, log",
    "category_weight": "decayed purchases in its category, log",
    "category_share": "share of the category in the customer's purchases",
    "category_age": "days since something of the category was bought, log",
    "category_due": "as due, of the category",
    "in_category": "the item's share of the customer's purchases in its category",
    "basket": "items of an order, log",
    "items": "items the customer bought, log",
    "orders": "decayed orders, log",
    "silent": "days since the last activity, log",
}
OWN_NAMES: Final = tuple(OWN)
_PLACE: Final = {name: at for at, name in enumerate(OWN_NAMES)}
_PURCHASE: Final = int.from_bytes(hash_of("evt:purchase"), "little")
_ORDER_S: Final = 1_800.0
"""Events that are no further from the newest are of the same order."""
_LEAST_DAYS, _MOST_DAYS, _HALVINGS = 0.02, 2_000.0, 18


class ItemEdges:
    """A batch's edges to what the catalog offers.

    Attributes:
        keys: (E,) ``customer * N + item``, sorted, of purchases.
        edges: of those.
    """

    def __init__(self, snapshots: Sequence[Snapshot], assortment: Assortment) -> None:
        self.snapshots, self.assortment = snapshots, assortment
        every = Edges(snapshots)
        self.width = len(assortment)
        self.bought, self.viewed, self.carted, self.returned = (
            Keyed(every.of(name), assortment.places(every.of(name).words), self.width)
            for name in ("purchase>item", "view>item", "cart>item", "returned>item")
        )
        shelf = every.of("purchase>category")
        self.shelves = Keyed(shelf, assortment.categories(shelf.words), len(assortment.category_hashes))
        self.total_count = np.bincount(every.of("purchase>item").customer, minlength=len(snapshots))
        bought = every.of("purchase>item")
        self.total_weight: Doubles = bought.totals()[:, 0].astype(np.float64)
        self.total_times: Doubles = np.bincount(bought.customer, bought.count, minlength=len(snapshots)).astype(float)

    def known(self) -> Ints:
        """Keys of all items that a customer bought, viewed or put in the cart, some of them more than once."""
        return np.concatenate([self.bought.keys, self.viewed.keys, self.carted.keys])

    def columns(self, keys: Ints) -> Floats:
        """:data:`OWN` of (customer, item) pairs, (C, len(OWN)), NaN where it says nothing.

        Args:
            keys: (C,) ``customer * N + item``.
        """
        out = np.full((len(keys), len(OWN_NAMES)), np.nan, dtype=np.float32)
        customer, item = np.divmod(keys, max(1, self.width))

        def put(name: str, values: Doubles | Ints) -> None:
            out[:, _PLACE[name]] = values

        at, has = self.bought.find(keys)
        put("bought", has.astype(np.float64))
        count, weight, age = self.bought.of(at, has)
        put("count", np.log1p(count))
        put("weight", np.log1p(weight))
        days = self._intervals(self.bought, at, has)
        for half_life in EVEN_HALF_LIVES:
            faded = np.zeros(len(keys))
            faded[has] = even_weight(count[has], age[has], days[has], half_life)
            put(f"weight_{half_life:g}d", np.log1p(faded))
        put("age", np.where(has, np.log1p(age), np.nan))
        put("interval", np.where(count > 1, np.log1p(days), np.nan))
        due = np.where(count > 1, np.log((age + 0.5) / (days + 0.5)), np.nan)
        put("due", due)
        put("overdue", np.abs(due))
        put("count_share", count / np.maximum(self.total_times[customer], 1.0))
        put("weight_share", weight / np.maximum(self.total_weight[customer], 1e-9))
        put("rank", np.where(has, np.log1p(self.bought.rank[at] if len(self.bought) else 0), np.nan))
        self._recent(keys, customer, put)
        for name, of in (("viewed", self.viewed), ("carted", self.carted), ("returned", self.returned)):
            place, there = of.find(keys)
            _, decayed, since = of.of(place, there)
            put(name, np.log1p(decayed))
            if name == "viewed":
                put("viewed_age", np.where(there, np.log1p(since), np.nan))
        self._shelf(customer, item, weight, put)
        raw = features_of(self.snapshots).astype(np.float64) if self.snapshots else np.zeros((0, features.SIZE))
        orders = np.nan_to_num(raw[:, features.INDEX["orders_28d"]], nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
        silent = raw[:, features.INDEX["days_since_activity"]]
        put("basket", np.log1p(self.total_weight / np.maximum(orders, 1.0))[customer])
        put("items", np.log1p(self.total_count)[customer])
        put("orders", np.log1p(orders)[customer])
        put("silent", np.log1p(np.where(np.isfinite(silent) & (silent >= 0), silent, np.nan))[customer])
        return out

    def _intervals(self, of: Keyed, at: Ints, has: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Doubles:
        """Usual days between purchases, (C,), worked out once an edge; arguments as :meth:`Keyed.of` takes them."""
        if not len(of):
            return np.full(len(at), _MOST_DAYS)
        half_life_ms = np.array([snapshot.edge_half_life_ms for snapshot in self.snapshots], dtype=np.float64)
        half_life = half_life_ms[of.edges.customer[of.at]] / (1_000 * DAY_S)
        every = np.arange(len(of))
        days = intervals(*of.of(every, np.ones(len(of), dtype=np.bool_)), half_life)
        return np.where(has, days[at], _MOST_DAYS)

    def _shelf(self, customer: Ints, item: Ints, weight: Doubles, put: Callable[[str, Doubles], None]) -> None:
        category = self.assortment.category[item]
        groups = len(self.assortment.category_hashes)
        at, has = self.shelves.find(np.where(category != NONE, customer * groups + category, NONE))
        count, decayed, age = self.shelves.of(at, has)
        days = self._intervals(self.shelves, at, has)
        put("category_weight", np.log1p(decayed))
        put("category_share", decayed / np.maximum(self.shelves.edges.totals()[customer, 0], 1e-9))
        put("category_age", np.where(has, np.log1p(age), np.nan))
        put("category_due", np.where(count > 1, np.log((age + 0.5) / (days + 0.5)), np.nan))
        put("in_category", np.where(has, np.minimum(1.0, weight / np.maximum(decayed, 1e-9)), np.nan))

    def _recent(self, keys: Ints, customer: Ints, put: Callable[[str, Doubles], None]) -> None:
        """From the newest events: which of them are purchases, and of what."""
        snapshots = self.snapshots
        entries = np.array([len(s.recent.lengths) for s in snapshots], dtype=np.int64)
        length = np.frombuffer(b"".join([s.recent.lengths for s in snapshots]), dtype=np.uint8).astype(np.int64)
        at_s = np.frombuffer(b"".join([s.recent.at_s for s in snapshots]), dtype="<u4").astype(np.float64)
        words = np.frombuffer(b"".join([s.recent.words for s in snapshots]), dtype="<u4")
        event = np.repeat(np.arange(len(length)), length)
        owner = np.repeat(np.arange(len(snapshots)), entries)
        is_order = np.zeros(len(length), dtype=np.bool_)
        is_order[event[words == _PURCHASE]] = True
        newest = np.full(len(snapshots), -np.inf)
        np.maximum.at(newest, owner[is_order], at_s[is_order])
        item = self.assortment.places(words)
        taken = np.flatnonzero((item != NONE) & is_order[event])
        events = max(1, len(length))
        key, when = np.divmod(
            np.unique((owner[event[taken]] * self.width + item[taken]) * events + event[taken]), events
        )
        as_of_s = np.array([s.as_of_ms / 1000 for s in snapshots])
        age = np.maximum(0.0, as_of_s[owner[when]] - at_s[when]) / DAY_S
        different, inverse = np.unique(key, return_inverse=True)
        at, has = find_keys(different, keys)

        def summed(values: Doubles) -> Doubles:
            sums = np.bincount(inverse, values, minlength=len(different))
            return np.where(has, sums[at] if len(sums) else 0.0, 0.0)

        in_last = (at_s[when] >= newest[owner[when]] - _ORDER_S).astype(np.float64)
        put("last_order", np.minimum(1.0, summed(in_last)))
        put("recent_orders", np.log1p(summed(np.ones(len(key)))))
        for half_life in RECENT_HALF_LIVES:
            put(f"recent_{half_life:g}d", np.log1p(summed(np.exp2(-age / half_life))))


class Keyed:
    """Edges of one type by ``customer * width + place``, those to what is not offered left out.

    Attributes:
        keys: (E,), sorted.
        rank: (E,) place among the customer's, the heaviest first.
    """

    def __init__(self, edges: Edges, places: Ints, width: int) -> None:
        self.edges = edges
        offered = np.flatnonzero(places != NONE)
        keys = edges.customer[offered] * width + places[offered]
        order = np.argsort(keys, kind="stable")
        self.keys: Ints = keys[order]
        self.at: Ints = offered[order]
        customer, weight = edges.customer[self.at], edges.weight[self.at]
        heaviest = np.lexsort((self.keys, -weight, customer))
        sizes = np.bincount(customer, minlength=edges.customers)
        self.rank: Ints = np.empty(len(heaviest), dtype=np.int64)
        self.rank[heaviest] = ranges(np.zeros_like(sizes), sizes)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: Ints) -> tuple[Ints, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        """Place of each key, (C,), and whether there is such an edge."""
        return find_keys(self.keys, keys)

    def of(self, at: Ints, has: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[Doubles, Doubles, Doubles]:
        """Count, weight and age in days, (C,) each, 0 where there is none."""
        if not len(self):
            nothing = np.zeros(len(at))
            return nothing, nothing, nothing
        place, edges = self.at[at], self.edges
        found = edges.count[place].astype(np.float64), edges.weight[place], np.maximum(0, edges.age_s[place]) / DAY_S
        count, weight, age = (np.where(has, values, 0.0) for values in found)
        return count, weight, age


def intervals(count: Doubles, weight: Doubles, age: Doubles, half_life: Doubles) -> Doubles:
    """Days between purchases that came evenly, (C,); those of one purchase have the most there can be.

    Args:
        count: (C,) purchases.
        weight: (C,) their decayed sum.
        age: (C,) days since the last.
        half_life: (C,) of the weight, in days.

    Example:
        >>> four = 2 ** -(3 / 28) * sum(2 ** -(k * 7 / 28) for k in range(4))
        >>> round(float(intervals(np.array([4.0]), np.array([four]), np.array([3.0]), np.array([28.0]))[0]), 1)
        7.0
    """
    days: Doubles = np.full(len(count), _MOST_DAYS)
    several = np.flatnonzero(count > 1)
    count, weight, age, half_life = (of[several] for of in (count, weight, age, half_life))
    wanted = weight * np.exp2(np.minimum(age / half_life, 60.0))
    low, high = (np.full(len(several), np.log(bound)) for bound in (_LEAST_DAYS, _MOST_DAYS))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        more = _geometric(np.exp2(-np.exp(middle) / half_life), count) > wanted
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    days[several] = np.exp((low + high) / 2)
    return days


def even_weight(count: Doubles, age: Doubles, days: Doubles, half_life: float) -> Doubles:
    """Decayed sum of ``count`` purchases, the last so old, ``days`` apart, under a half-life: (C,)."""
    decayed: Doubles = np.exp2(-age / half_life) * _geometric(np.exp2(-days / half_life), count)
    return decayed


def _geometric(ratio: Doubles, count: Doubles) -> Doubles:
    rest = np.maximum(1 - ratio, 1e-9)
    total: Doubles = (1 - ratio**count) / rest
    return total


def find_keys(known: Ints, wanted: Ints) -> tuple[Ints, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Place of each of (C,) in sorted keys, and whether it is there."""
    if not len(known):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return at, known[at] == wanted
