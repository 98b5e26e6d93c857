"""The shop: items, campaigns, offers, templates and channels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Final

import msgspec
import numpy as np

from schemas.catalog import CatalogEntry

DAY_MS: Final = 86_400_000
CHANNELS: Final = ("email", "push", "sms")
_CHANNEL_COST: Final = {"email": 0.01, "push": 0.002, "sms": 0.05}
_NOUNS: Final = {
    "coffee": "beans", "tea": "leaves", "bakery": "bread", "dairy": "yogurt", "fruit": "apples", "snacks": "crackers",
    "drinks": "lemonade", "pasta": "noodles", "pets": "kibble", "home": "candles", "beauty": "lotion", "baby": "wipes",
}  # fmt: skip
CATEGORIES: Final = tuple(_NOUNS)
_ADJECTIVES: Final = ("dark", "fresh", "organic", "classic", "mild", "large", "light", "fine", "crisp", "wild")
_WINDOW_DAYS: Final = 10
_OFFER_ITEMS: Final = 20


class Item(msgspec.Struct, frozen=True, gc=False):
    id: str
    title: str
    category: str
    price: float


class SimulatedCampaign(msgspec.Struct, frozen=True, kw_only=True):
    """One offer on the items of one category, sent on its first day."""

    id: str
    offer_id: str
    category: int
    """Index into :data:`CATEGORIES`."""
    discount: float
    from_ms: int
    to_ms: int
    items: tuple[Item, ...]


class World(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[tuple[Item, ...], ...]
    """By category, most popular first."""
    popularity: tuple[tuple[float, ...], ...]
    """Cumulative probability within the category, for a binary search with a uniform number."""
    campaigns: tuple[SimulatedCampaign, ...]

    def catalog(self) -> list[CatalogEntry]:
        return list(_entries(self))


def build(rng: np.random.Generator, items: int, start_ms: int, days: int, campaign_every_days: int) -> World:
    """Draw a shop with about ``items`` items and a campaign every ``campaign_every_days`` days; 0 for none."""
    shelves = []
    for index, (category, noun) in enumerate(_NOUNS.items()):
        size = max(1, items // len(CATEGORIES))
        prices = np.round(np.exp(rng.normal(1.0 + 0.1 * index, 0.5, size)), 2).tolist()
        shelves.append(
            tuple(
                Item(
                    f"{category}-{number:04d}",
                    f"{_ADJECTIVES[number % len(_ADJECTIVES)]} {noun} no. {number // len(_ADJECTIVES) + 1}",
                    category,
                    max(0.1, price),
                )
                for number, price in enumerate(prices)
            )
        )
    campaigns = []
    for number, day in enumerate(range(1, days, campaign_every_days) if campaign_every_days > 0 else ()):
        about = int(rng.integers(len(CATEGORIES)))
        campaigns.append(
            SimulatedCampaign(
                id=f"campaign-{number:03d}",
                offer_id=f"offer-{number:03d}",
                category=about,
                discount=float(rng.choice([0.1, 0.2, 0.3, 0.5])),
                from_ms=start_ms + day * DAY_MS,
                to_ms=start_ms + (day + _WINDOW_DAYS) * DAY_MS,
                items=shelves[about][:_OFFER_ITEMS],
            )
        )
    return World(
        items=tuple(shelves), popularity=tuple(_zipf(len(shelf)) for shelf in shelves), campaigns=tuple(campaigns)
    )


def _zipf(size: int) -> tuple[float, ...]:
    weights = [1 / rank for rank in range(1, size + 1)]
    total = sum(weights)
    return (*(mass / total for mass in list(accumulate(weights))[:-1]), 1.0)


def template_id(channel: str) -> str:
    return f"{channel}-offer"


def _entries(world: World) -> Iterator[CatalogEntry]:
    for channel in CHANNELS:
        yield CatalogEntry(kind="channel", id=channel, title=channel, cost=_CHANNEL_COST[channel])
        yield CatalogEntry(kind="template", id=template_id(channel), title=f"an offer by {channel}", channel=channel)
    for campaign in world.campaigns:
        category = CATEGORIES[campaign.category]
        value = round(sum(item.price for item in campaign.items) / len(campaign.items) * (1 - campaign.discount), 2)
        yield CatalogEntry(
            kind="campaign",
            id=campaign.id,
            title=f"{campaign.discount:.0%} off {category}",
            category=category,
            channel="email",
            value=value,
            active_from_ms=campaign.from_ms,
            active_to_ms=campaign.to_ms,
            offers=[campaign.offer_id],
            attributes={"discount": campaign.discount},
        )
        yield CatalogEntry(
            kind="offer",
            id=campaign.offer_id,
            title=f"{campaign.discount:.0%} off {category}",
            category=category,
            value=value,
            items=[item.id for item in campaign.items],
            attributes={"discount": campaign.discount},
        )
    for shelf in world.items:
        for item in shelf:
            yield CatalogEntry(kind="item", id=item.id, title=item.title, category=item.category, price=item.price)
