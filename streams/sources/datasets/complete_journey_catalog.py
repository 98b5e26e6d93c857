"""The catalog entries that Complete Journey's events name.

Statistics here (mean prices, categories of a campaign, which items are frequent) are taken over the whole year. They
describe the catalog to a person and to the candidate's side of a model; nothing about a customer is in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import numpy as np

from schemas.catalog import CatalogEntry
from streams.sources.datasets.complete_journey_tables import Tables, day_end_ms, day_start_ms

CHANNEL: Final = "mail"
TEMPLATE: Final = "mail-coupon-booklet"
MIN_SOLD: Final = 10
"""Items sold on fewer lines are left out: 19,889 of 68,487 items carry 92 % of all lines at 10."""
REDEMPTION_VALUE: Final = 4.16
"""Mean sales value, in dollars, of the lines bought with the coupon of a redemption (1,130 redemptions have one in
their basket). Revenue, not margin, and not what would have been lost without the coupon: that is not in the data."""
MAIL_COST: Final = 0.50
"""Assumed cost of one mailing, in dollars; the data has none."""
#: Items of one offer, most sold first, so that an entry stays under the payload limit of 64 KiB.
MAX_OFFER_ITEMS: Final = 5_000
_CATEGORIES_IN_TITLE: Final = 3


def entries(tables: Tables, min_sold: int) -> list[CatalogEntry]:
    """Channel, template, campaigns, offers and the items sold on at least ``min_sold`` lines."""
    sold = np.bincount(tables.lines.product, minlength=len(tables.products.ids))
    return [
        CatalogEntry(kind="channel", id=CHANNEL, title="mail"),
        CatalogEntry(kind="template", id=TEMPLATE, title="booklet of coupons", channel=CHANNEL),
        *_campaigns_and_offers(tables, sold.tolist()),
        *_items(tables, sold.tolist(), min_sold),
    ]


def _campaigns_and_offers(tables: Tables, sold: list[int]) -> Iterator[CatalogEntry]:
    row_by_id = {id: row for row, id in enumerate(tables.products.ids)}
    rows_by_coupon: dict[int, set[int]] = {}
    ids_by_coupon: dict[int, set[str]] = {}
    coupons_by_campaign: dict[int, set[int]] = {}
    for campaign_id, coupon, product in tables.coupons:
        coupons_by_campaign.setdefault(campaign_id, set()).add(coupon)
        ids_by_coupon.setdefault(coupon, set()).add(str(product))
        if (row := row_by_id.get(str(product))) is not None:
            rows_by_coupon.setdefault(coupon, set()).add(row)

    def categories(coupons: set[int]) -> list[str]:
        """Most sold first: a coupon for everything in the shop is about what people buy with it."""
        count: Counter[str] = Counter()
        for row in {row for coupon in coupons for row in rows_by_coupon.get(coupon, ())}:
            if (category := tables.products.categories[row]) is not None:
                count[category] += sold[row]
        return [category for category, _ in sorted(count.items(), key=lambda pair: (-pair[1], pair[0]))]

    for campaign in tables.campaigns:
        offers = coupons_by_campaign.get(campaign.id, set())
        about = categories(offers)
        yield CatalogEntry(
            kind="campaign",
            id=str(campaign.id),
            title=f"{campaign.kind.lower()}: {', '.join(about[:_CATEGORIES_IN_TITLE])}",
            category=about[0] if about else None,
            value=REDEMPTION_VALUE,
            cost=MAIL_COST,
            active_from_ms=day_start_ms(campaign.start),
            active_to_ms=day_end_ms(campaign.end),
            channel=CHANNEL,
            template_id=TEMPLATE,
            offers=[str(offer) for offer in sorted(offers)],
            attributes={"type": campaign.kind, "inside_2017": campaign.inside_2017},
        )
    for coupon, items in sorted(ids_by_coupon.items()):
        about = categories({coupon})
        rank = {id: -sold[row_by_id[id]] if id in row_by_id else 0 for id in items}
        yield CatalogEntry(
            kind="offer",
            id=str(coupon),
            title=f"coupon: {', '.join(about[:_CATEGORIES_IN_TITLE])}",
            category=about[0] if about else None,
            value=REDEMPTION_VALUE,
            items=sorted(items, key=lambda id: (rank[id], id))[:MAX_OFFER_ITEMS],
            attributes={"items_total": len(items)},
        )


def _items(tables: Tables, sold: list[int], min_sold: int) -> Iterator[CatalogEntry]:
    products, lines = tables.products, tables.lines
    units = np.bincount(lines.product, weights=np.maximum(lines.quantity, 1.0), minlength=len(products.ids))
    revenue = np.bincount(lines.product, weights=lines.value, minlength=len(products.ids))
    prices = np.round(revenue / units, 2).tolist()
    for row, id in enumerate(products.ids):
        if sold[row] >= min_sold:
            yield CatalogEntry(
                kind="item",
                id=id,
                title=products.titles[row],
                category=products.categories[row],
                price=prices[row],
            )
