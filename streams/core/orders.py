"""Which orders of a customer were counted already: the newest ids, by hash, with time and worth."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

Orders = dict[int, tuple[int, float]]
"""Hash of the order id -> (ms of its last line, what of its value still counts), longest untouched first."""


def is_new(orders: Orders, order_id: str, ts_ms: int, value: float, kept: int, window_ms: int) -> bool:
    """Take in one line of an order; whether it is the order's first, so that an order counts once.

    Lines of several orders may come in any order. An id is known while its last line is at most ``window_ms`` old and
    fewer than ``kept`` other orders had a line since; after that it is another order with the same id. Two ids of
    one customer share 64 bits of hash once in 2 ** 60 at 16 orders kept.

    Args:
        ts_ms: never decreases between calls.
        value: what the line adds to the order's value.
    """
    name = _hash(order_id)
    known = orders.pop(name, None)
    if known is not None and known[0] >= ts_ms - window_ms:
        orders[name] = (ts_ms, known[1] + value)
        return False
    orders[name] = (ts_ms, value)
    for oldest in list(orders):
        if len(orders) <= kept and orders[oldest][0] >= ts_ms - window_ms:
            break
        del orders[oldest]
    return True


def give_back(orders: Orders, order_id: str, value: float | None) -> float:
    """What giving an order back takes off: ``value``, or all that is left of the order's where None. Never below 0."""
    name = _hash(order_id)
    known = orders.get(name)
    if known is None:
        return value or 0.0
    last_ms, left = known
    taken = max(0.0, left) if value is None else value
    orders[name] = (last_ms, left - taken)  # in its place: being given back does not keep an order alive
    return taken


@lru_cache(maxsize=4_096)
def _hash(order_id: str) -> int:
    return int.from_bytes(blake2b(order_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
