"""What purchases and returns do to a customer's counters."""

from __future__ import annotations

from schemas.events import Clickstream
from streams.core import counters, money, orders
from streams.core.baskets import amount_of, basket_of
from streams.core.config import CoreConfig
from streams.core.state import Folded


def count_sale(state: Folded, ts_ms: int, body: Clickstream, config: CoreConfig) -> None:
    """Count a purchase, a return, or both in one: a line is a purchase, an order counts once, its value once."""
    counts, order_id = state.counters, body.order_id
    taken, given_back = basket_of(body)
    amount, rate = amount_of(body), money.rate_of(body.currency, config)
    value = None if amount is None or rate is None else amount * rate
    if given_back or not taken:
        counters.add(counts, "returns", ts_ms, float(len(given_back) or 1))
    if taken:
        counters.add(counts, "purchases", ts_ms, float(len(taken)))
        if order_id is None or orders.is_new(
            state.orders, order_id, ts_ms, value or 0.0, kept=config.orders_kept, window_ms=config.order_window_ms
        ):
            counters.add(counts, "orders", ts_ms, 1.0)
    elif order_id is not None and (amount is None or value is not None):
        value = -orders.give_back(state.orders, order_id, None if value is None else -value)
    if value:
        counters.add(counts, "value", ts_ms, value)
    elif amount and rate is None and body.currency is not None:
        money.keep_apart(state.unconverted, body.currency, ts_ms, amount)
