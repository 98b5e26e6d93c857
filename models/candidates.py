"""The campaign side of a (customer, campaign) pair, built from the catalog only.

A campaign made a minute ago has no history, but it has offers, items, a category, a template, a channel, a title and a
price. :class:`Candidates` turns a set of campaigns into words for the candidate tower, and into sparse tables that
give the *cross features* of a whole batch of customers against all of them with a few array operations.

What a send itself adds to the customer's graph must not be an input, because at decision time there was no send yet:
the edge to the very campaign being scored is left out of the counts of campaigns received.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from models.entities import WordRows, word_of
from models.snapshot_columns import Edges
from models.wide import Floats, Ints
from schemas.catalog import CatalogEntry
from schemas.snapshot import Candidate, Snapshot
from schemas.words import hash_of, price_word

CROSS: Final[dict[str, str]] = {
    "bought_items": "decayed purchases of the campaign's items, log",
    "bought_items_distinct": "how many of the campaign's items the customer buys, log",
    "bought_items_share": "share of the customer's purchases that are the campaign's items",
    "bought_categories": "decayed purchases in the campaign's categories, weighted by their share in it, log",
    "bought_categories_share": "the same as a share of the customer's purchases",
    "viewed_items": "decayed views of the campaign's items, log",
    "carted_items": "decayed cart additions of the campaign's items, log",
    "engaged": "decayed opens and clicks of this very campaign, log",
    "redeemed_this": "decayed redemptions of this very campaign, log",
    "redeemed_offers": "decayed redemptions of the campaign's offers, log",
    "redeemed_alike": "decayed redemptions of campaigns with the same template or category, log",
    "received_alike": "other campaigns received, decayed, with the same template or category, log",
    "rate_alike": "smoothed ratio of the two",
    "channel_share": "share of the customer's sends that came by the campaign's channel",
    "channel_open_rate": "smoothed ratio of opens to sends by the campaign's channel, decayed",
    "channel_click_rate": "the same of clicks",
    "template_open_rate": "the same of opens of its template",
    "alike_open_rate": "the same of opens of other campaigns with the same template or category",
    "items": "items in the campaign, log",
    "offers": "offers in the campaign, log",
    "window_days": "length of the active window, log days; NaN where open",
    "price": "price of the campaign, or mean price of its items, log; NaN where unknown",
}
CROSS_NAMES: Final = tuple(CROSS)
CROSS_SIZE: Final = len(CROSS_NAMES)
ANSWERED: Final = tuple(at for at, name in enumerate(CROSS_NAMES) if name.endswith(("open_rate", "click_rate")))
"""Places of what says something only where it is known who opens messages."""

MAX_WORDS: Final = 24
TOP_CATEGORIES: Final = 12
MOST_OFFERS: Final = 4
MOST_VARIANTS: Final = 8
DAY_MS: Final = 86_400_000


class _Table:
    """Word of an entity -> (campaign column, value) pairs, in compressed rows.

    Args:
        field: what the entities' words begin with.
    """

    def __init__(self, field: str, per_campaign: Sequence[Mapping[str, float]]) -> None:
        self.width = len(per_campaign)
        entries: dict[int, list[tuple[int, float]]] = {}
        for column, values in enumerate(per_campaign):
            for entity, value in values.items():
                word = int.from_bytes(hash_of(f"{field}:{entity}"), "little")
                entries.setdefault(word, []).append((column, value))
        words = sorted(entries)
        self._words = np.array(words, dtype=np.uint32)
        self._start = np.cumsum([0, *(len(entries[word]) for word in words)])
        flat = [pair for word in words for pair in entries[word]]
        self._column = np.array([column for column, _ in flat], dtype=np.int64)
        self._value = np.array([value for _, value in flat], dtype=np.float64)

    def sums(self, edges: Edges, *, decayed: bool = True) -> Floats:
        """Sum over each customer's edges of weight (or 1) times value: (B, C)."""
        size = edges.customers * self.width
        if not len(self._words) or not size:
            return np.zeros((edges.customers, self.width), dtype=np.float32)
        place = np.minimum(np.searchsorted(self._words, edges.words), len(self._words) - 1)
        at = np.flatnonzero(self._words[place] == edges.words)
        begin, end = self._start[place[at]], self._start[place[at] + 1]
        length = end - begin
        inner = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
        pick = np.repeat(begin, length) + inner
        cell = np.repeat(edges.customer[at], length) * self.width + self._column[pick]
        weight = np.repeat(edges.weight[at], length) if decayed else np.ones(len(pick))
        return (
            np.bincount(cell, weight * self._value[pick], minlength=size)
            .reshape(edges.customers, self.width)
            .astype(np.float32)
        )


class Candidates:
    """A set of campaigns ready to be scored; immutable, so it can be cached per catalog version.

    Columns may be of one campaign with several templates and channels. What is said of one does not depend on the
    others.

    Args:
        campaigns: the campaigns, in the order of the score's columns, each with the template and channel that it would
            be sent with.
        catalog: ``kind:id`` -> entry, for the items and offers that the campaigns name and for other campaigns.
        word_rows: of the model that will score them, and of the same catalog.
    """

    def __init__(
        self, campaigns: Sequence[CatalogEntry], catalog: Mapping[str, CatalogEntry], word_rows: WordRows
    ) -> None:
        self.word_rows = word_rows
        self.campaigns = tuple(campaigns)
        items = [_items(entry, catalog) for entry in self.campaigns]
        categories = [_categories(e, i, catalog) for e, i in zip(self.campaigns, items, strict=True)]
        self._items = _Table("item", [dict.fromkeys(names, 1.0) for names in items])
        self._categories = _Table("cat", categories)
        self._offers = _Table("offer", [dict.fromkeys(entry.offers, 1.0) for entry in self.campaigns])
        self._self = _Table("camp", [{entry.id: 1.0} for entry in self.campaigns])
        self._channel = _Table("chan", [{entry.channel: 1.0} if entry.channel else {} for entry in self.campaigns])
        self._template = _Table("tmpl", [{e.template_id: 1.0} if e.template_id else {} for e in self.campaigns])
        known = [e for e in catalog.values() if e.kind == "campaign"]
        self._alike = _Table(
            "camp", [{o.id: 1.0 for o in known if o.id != e.id and _alike(o, e)} for e in self.campaigns]
        )
        prices = [_price(e, i, catalog) for e, i in zip(self.campaigns, items, strict=True)]
        self._own = np.array(
            [
                [np.log1p(len(i)), np.log1p(len(e.offers)), _window(e), np.nan if p is None else np.log1p(max(p, 0.0))]
                for e, i, p in zip(self.campaigns, items, prices, strict=True)
            ],
            dtype=np.float32,
        ).reshape(-1, 4)
        self.words: Ints = np.zeros((len(self.campaigns), MAX_WORDS), dtype=np.int64)
        """Places of each campaign's words among its rows of words, 0 after the last: (C, MAX_WORDS)."""
        for row, (entry, shares, price) in enumerate(zip(self.campaigns, categories, prices, strict=True)):
            words = _words(entry, shares, price)[:MAX_WORDS]
            self.words[row, : len(words)] = word_rows.rows(b"".join(map(hash_of, words)))

    def __len__(self) -> int:
        return len(self.campaigns)

    @property
    def ids(self) -> tuple[str, ...]:
        """Campaign of each column."""
        return tuple(entry.id for entry in self.campaigns)

    def cross(self, snapshots: Sequence[Snapshot]) -> Floats:
        """Cross features of every customer with every campaign, (B, C, CROSS_SIZE); see :data:`CROSS`."""
        every = Edges(snapshots)
        edges = {
            name: every.of(name)
            for name in (
                "purchase>item", "purchase>category", "view>item", "cart>item", "opened>campaign", "clicked>campaign",
                "redeemed>campaign", "redeemed>offer", "received>campaign", "received>channel", "opened>channel",
                "clicked>channel", "received>template", "opened>template",
            )
        }  # fmt: skip
        bought, shelf = edges["purchase>item"], edges["purchase>category"]
        items = self._items.sums(bought)
        shelves = self._categories.sums(shelf)
        redeemed = self._alike.sums(edges["redeemed>campaign"])
        received = self._alike.sums(edges["received>campaign"])
        by_channel = edges["received>channel"]
        found = [
            np.log1p(items),
            np.log1p(self._items.sums(bought, decayed=False)),
            items / np.maximum(bought.totals(), 1e-6),
            np.log1p(shelves),
            shelves / np.maximum(shelf.totals(), 1e-6),
            np.log1p(self._items.sums(edges["view>item"])),
            np.log1p(self._items.sums(edges["cart>item"])),
            np.log1p(self._self.sums(edges["opened>campaign"]) + self._self.sums(edges["clicked>campaign"])),
            np.log1p(self._self.sums(edges["redeemed>campaign"])),
            np.log1p(self._offers.sums(edges["redeemed>offer"])),
            np.log1p(redeemed),
            np.log1p(received),
            (redeemed + 0.2) / (received + 1.0),
            self._channel.sums(by_channel) / np.maximum(by_channel.totals(), 1e-6),
            _rate(self._channel.sums(edges["opened>channel"]), of_channel := self._channel.sums(by_channel)),
            _rate(self._channel.sums(edges["clicked>channel"]), of_channel),
            _rate(self._template.sums(edges["opened>template"]), self._template.sums(edges["received>template"])),
            _rate(self._alike.sums(edges["opened>campaign"]), received),
        ]
        shape = (len(snapshots), len(self.campaigns), self._own.shape[1])
        return np.concatenate([np.stack(found, axis=-1), np.broadcast_to(self._own, shape)], axis=-1, dtype=np.float32)


def as_sent(candidate: Candidate, catalog: Mapping[str, CatalogEntry]) -> Candidate:
    """What of a send is scored: equal ones have equal scores.

    Of a campaign that the catalog has, the offers are the catalog's, and so is what the send did not name.
    """
    entry = catalog.get(f"campaign:{candidate.campaign_id}")
    if entry is None:
        return candidate
    return Candidate(
        candidate.campaign_id, None, candidate.template_id or entry.template_id, candidate.channel or entry.channel
    )


def named(candidate: Candidate, catalog: Mapping[str, CatalogEntry]) -> CatalogEntry:
    """A campaign as the catalog has it, sent with the template and by the channel that the send names.

    One that the catalog lacks is made of what the send itself said.
    """
    entry = catalog.get(f"campaign:{candidate.campaign_id}")
    if entry is not None:
        sent = as_sent(candidate, catalog)
        if (sent.template_id, sent.channel) == (entry.template_id, entry.channel):
            return entry
        return msgspec.structs.replace(entry, template_id=sent.template_id, channel=sent.channel)
    return CatalogEntry(
        kind="campaign",
        id=candidate.campaign_id,
        template_id=candidate.template_id,
        channel=candidate.channel,
        offers=[candidate.offer_id] if candidate.offer_id else [],
    )


def variants(campaign: CatalogEntry, templates: Iterable[CatalogEntry]) -> list[Candidate]:
    """The templates and channels that a campaign can be sent with, :data:`MOST_VARIANTS` at most.

    One that names no template may take any of its channel's, one that names no channel those of all channels.

    Args:
        templates: the catalog's, in the order in which they are taken.
    """
    if campaign.template_id is not None:
        of_template = [entry.channel for entry in templates if entry.id == campaign.template_id]
        channel = campaign.channel or next(iter(of_template), None)
        return [Candidate(campaign.id, None, campaign.template_id, channel)]
    fitting = [
        Candidate(campaign.id, None, entry.id, entry.channel)
        for entry in templates
        if entry.channel and campaign.channel in (None, entry.channel)
    ]
    return fitting[:MOST_VARIANTS] or [Candidate(campaign.id, None, None, campaign.channel)]


def _rate(answered: Floats, received: Floats) -> Floats:
    """Log odds of a ratio that is drawn towards one in five while little was received."""
    answered = np.minimum(answered, received)
    return np.log((answered + 0.2) / (received - answered + 0.8))


def _items(entry: CatalogEntry, catalog: Mapping[str, CatalogEntry]) -> list[str]:
    found = dict.fromkeys(entry.items)
    for offer_id in entry.offers:
        offer = catalog.get(f"offer:{offer_id}")
        if offer is not None:
            found.update(dict.fromkeys(offer.items))
    return list(found)


def _categories(entry: CatalogEntry, items: Iterable[str], catalog: Mapping[str, CatalogEntry]) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for item_id in items:
        item = catalog.get(f"item:{item_id}")
        if item is not None and item.category:
            counts[item.category] += 1
    total = counts.total()
    if not total:
        return {entry.category: 1.0} if entry.category else {}
    return {category: count / total for category, count in counts.items()}


def _price(entry: CatalogEntry, items: Iterable[str], catalog: Mapping[str, CatalogEntry]) -> float | None:
    if entry.price is not None:
        return entry.price
    listed = (catalog.get(f"item:{item_id}") for item_id in items)
    prices = [item.price for item in listed if item is not None and item.price is not None]
    return sum(prices) / len(prices) if prices else None


def _window(entry: CatalogEntry) -> float:
    if entry.active_from_ms is None or entry.active_to_ms is None:
        return float("nan")
    return float(np.log1p(max(0, entry.active_to_ms - entry.active_from_ms) / DAY_MS))


def _alike(one: CatalogEntry, other: CatalogEntry) -> bool:
    same_template = one.template_id is not None and one.template_id == other.template_id
    return same_template or (one.category is not None and one.category == other.category)


def _words(entry: CatalogEntry, shares: Mapping[str, float], price: float | None) -> list[str]:
    """The campaign, which has title and attributes with it, and what it is made of."""
    found = [word_of("campaign", entry.id)]
    for kind, entity_id in (
        ("template", entry.template_id),
        ("channel", entry.channel),
        ("category", entry.category),
    ):
        if entity_id is not None:
            found.append(word_of(kind, entity_id))
    top = sorted(shares, key=lambda category: (-shares[category], category))[:TOP_CATEGORIES]
    found += [word_of("category", category) for category in top if category != entry.category]
    found += [word_of("offer", offer) for offer in entry.offers[:MOST_OFFERS]]
    return found if price is None else [*found, price_word(price)]
