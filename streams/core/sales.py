"""What purchases and returns do to a customer's counters."""

from __future__ import annotations

from schemas.events import Clickstream
from streams.core import counters, money, orders
from streams.core.baskets import amount_of, basket_of
from streams.core.config import CoreConfig
from streams.core.state import Folded


def count_sale(
    state: Folded, ts_ms: int, body: Clickstream, rate: float | None, config: CoreConfig, *, gives_back: bool
) -> float:
    """Count a purchase, a return, or both in one: a line is a purchase, an order counts once, its value once.

    Args:
        rate: of the event's currency, see :func:`streams.core.money.rate_of`.
        gives_back: as :func:`streams.core.baskets.is_return` says.

    Returns:
        What it adds to the customer's value, below 0 for a return.
    """
    counts, order_id, amount = state.counters, body.order_id, body.value
    if amount is None or gives_back:
        amount = amount_of(body, gives_back)
    value = None if amount is None or rate is None else amount * rate
    if body.items is None:
        taken, returned = (0, 1) if gives_back else (1, 0)
    else:
        taken, returned = map(len, basket_of(body))
        returned = returned or int(gives_back)  # a list of discounts alone
    if returned:
        counters.add(counts, "returns", ts_ms, float(returned))
    if taken:
        counters.add(counts, "purchases", ts_ms, float(taken))
        if order_id is None or orders.is_new(
            state.orders, order_id, ts_ms, value or 0.0, config.orders_kept, config.order_window_ms
        ):
            counters.add(counts, "orders", ts_ms, 1.0)
    elif order_id is not None and (amount is None or value is not None):
        value = -orders.give_back(state.orders, order_id, None if value is None else -value)
    if value:
        counters.add(counts, "value", ts_ms, value)
    elif amount and rate is None and body.currency is not None:
        money.keep_apart(state.unconverted, body.currency, ts_ms, amount)
    return value or 0.0
