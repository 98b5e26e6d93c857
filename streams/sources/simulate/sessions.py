"""What a customer does between arriving and leaving."""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import Any, Final

import numpy as np

from schemas.events import Clickstream, Redemption
from streams.sources.datasets.record import SourceRecord
from streams.sources.simulate.campaigns import RedeemingVisit
from streams.sources.simulate.population import SimulatedCustomer
from streams.sources.simulate.world import CATEGORIES, Item, World

_MEAN_STEPS: Final = 4.0
_MEAN_GAP_MS: Final = 35_000.0
_MIN_GAP_MS: Final = 3_000
_MAX_GAP_MS: Final = 600_000
#: Actions a visit that uses an offer takes at most; each is bounded, so it ends within the ten minutes given it.
_REDEEM_GAP_MS: Final = 45_000


def uniforms(rng: np.random.Generator, block: int = 8_192) -> Iterator[float]:
    """Uniform numbers one by one, drawn in blocks: thirty times cheaper than asking numpy for each."""
    while True:
        yield from rng.random(block).tolist()


class Visits:
    """Makes the events of one session after the other; event ids count through a run."""

    def __init__(self, rng: np.random.Generator, world: World) -> None:
        self._uniform = uniforms(rng)
        self._world = world
        self._number = 0

    def browse(self, customer: SimulatedCustomer, start_ms: int) -> Iterator[SourceRecord]:
        """A session that begins at ``start_ms`` and is cut off when the customer is gone."""
        uniform, world, gone_ms = self._uniform, self._world, customer.gone_ms
        ts_ms = start_ms
        if ts_ms >= gone_ms:
            return
        if next(uniform) < customer.app_share:
            yield self._click(customer, "app_open", ts_ms, channel="app")
        else:
            yield self._click(customer, "page_view", ts_ms, page="home", channel="web")
        cart: list[Item] = []
        for _ in range(1 + int(-log(1 - next(uniform)) * _MEAN_STEPS)):
            ts_ms += self._gap_ms()
            if ts_ms >= gone_ms:
                return
            kind = next(uniform)
            if kind < 0.15:
                yield self._click(customer, "search", ts_ms, query=CATEGORIES[customer.category(next(uniform))])
                continue
            if kind < 0.35:
                page = f"category/{CATEGORIES[customer.category(next(uniform))]}"
                yield self._click(customer, "page_view", ts_ms, page=page)
                continue
            item = customer.pick(world, next(uniform), next(uniform))
            yield self._item(customer, "item_view", ts_ms, item)
            if next(uniform) < 0.35:
                ts_ms += self._gap_ms()
                if ts_ms >= gone_ms:
                    return
                if item in cart:
                    cart.remove(item)
                    yield self._item(customer, "remove_from_cart", ts_ms, item)
                else:
                    cart.append(item)
                    yield self._item(customer, "add_to_cart", ts_ms, item)
        if cart and next(uniform) < customer.buys:
            ts_ms += self._gap_ms()
            if ts_ms < gone_ms:
                order_id = f"order-{self._number:010d}"
                for item in cart:
                    quantity = 1.0 + int(next(uniform) * next(uniform) * 4)
                    yield self._bought(customer, ts_ms, item, quantity, order_id, 0.0)

    def redeem(self, customer: SimulatedCustomer, visit: RedeemingVisit) -> Iterator[SourceRecord]:
        """A session that buys an item of an offer and uses the offer."""
        campaign = visit.campaign
        item = campaign.items[int(next(self._uniform) * len(campaign.items))]
        ts_ms = visit.start_ms
        yield self._item(customer, "item_view", ts_ms, item)
        ts_ms += int(next(self._uniform) * _REDEEM_GAP_MS)
        yield self._item(customer, "add_to_cart", ts_ms, item)
        ts_ms += 1 + int(next(self._uniform) * _REDEEM_GAP_MS)
        yield self._bought(customer, ts_ms, item, 1.0, f"order-{self._number:010d}", campaign.discount)
        body = Redemption(
            event_ts_ms=ts_ms,
            offer_id=campaign.offer_id,
            event_id=f"{visit.send_id}-redemption",
            send_id=visit.send_id,
            campaign_id=campaign.id,
            value=round(item.price * campaign.discount, 2),
        )
        yield SourceRecord("redemptions", customer.id, body, ts_ms)

    def _gap_ms(self) -> int:
        return min(_MAX_GAP_MS, _MIN_GAP_MS + int(-log(1 - next(self._uniform)) * _MEAN_GAP_MS))

    def _item(self, customer: SimulatedCustomer, event: str, ts_ms: int, item: Item) -> SourceRecord:
        return self._click(
            customer, event, ts_ms, item_id=item.id, title=item.title, category=item.category, price=item.price
        )

    def _bought(
        self, customer: SimulatedCustomer, ts_ms: int, item: Item, quantity: float, order_id: str, discount: float
    ) -> SourceRecord:
        return self._click(
            customer,
            "purchase",
            ts_ms,
            item_id=item.id,
            title=item.title,
            category=item.category,
            price=item.price,
            quantity=quantity,
            value=round(item.price * quantity * (1 - discount), 2),
            order_id=order_id,
        )

    def _click(self, customer: SimulatedCustomer, event: str, ts_ms: int, **fields: Any) -> SourceRecord:
        self._number += 1
        body = Clickstream(event=event, event_ts_ms=ts_ms, event_id=f"click-{self._number:010d}", **fields)
        return SourceRecord("clickstream", customer.truth.customer_id, body, ts_ms)
