"""What was bought, as columns: what labels and floors are made from. Reads events, never state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from schemas.events import Body, CampaignSend, Clickstream, Line, Redemption

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Names = npt.NDArray[np.str_]
SourceEvent = tuple[str, str, Body, int]


@dataclass(frozen=True)
class Purchases:
    """A log's purchase lines in event-time order, and its sends and redemptions; names are numbered."""

    customers: Names
    """Name of each customer number, sorted."""
    items: Names
    categories: Names
    campaigns: Names
    customer: Ints
    """(N,) of each line, as all columns below."""
    ts_ms: Ints
    item: Ints
    """-1 where none was named."""
    category: Ints
    """-1 where none was named."""
    order: Ints
    """Lines of one visit have one number: of an order, else of an event."""
    value: Doubles
    sent: Ints
    """(S, 4): ms, customer, campaign, end of the window in ms (0: none given)."""
    redeemed: Ints
    """(R, 4): ms, customer, campaign or -1, event ms."""

    def save(self, path: Path) -> None:
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @staticmethod
    def load(path: Path) -> Purchases:
        with np.load(path) as stored:
            return Purchases(**{field.name: stored[field.name] for field in fields(Purchases)})

    def number_of(self, names: Iterable[str]) -> Ints:
        """Customer numbers of names; -1 for one who is not in the log."""
        known = {name: number for number, name in enumerate(self.customers.tolist())}
        return np.array([known.get(name, -1) for name in names], dtype=np.int64)


def read_purchases(events: Iterable[SourceEvent]) -> Purchases:
    """The columns of a log in event-time order."""
    rows: list[tuple[str, int, str, str, str, float]] = []
    sent: list[tuple[int, str, str, int]] = []
    redeemed: list[tuple[int, str, str, int]] = []
    for _, customer, body, ts_ms in events:
        if isinstance(body, Clickstream) and body.event == "purchase":
            order = body.order_id or body.event_id or str(ts_ms)
            if body.items is None:
                value = body.value if body.value is not None else _worth(body)
                rows.append((customer, ts_ms, body.item_id or "", body.category or "", order, float(value)))
            for line in body.items or ():
                rows.append((customer, ts_ms, line.item_id or "", line.category or "", order, _worth(line)))  # noqa: PERF401
        elif isinstance(body, CampaignSend) and body.event == "send":
            sent.append((ts_ms, customer, body.campaign_id or "", body.window_end_ms or 0))
        elif isinstance(body, Redemption):
            redeemed.append((ts_ms, customer, body.campaign_id or "", body.event_ts_ms))
    names, ts_ms_of, items, categories, orders, values = zip(*rows, strict=True) if rows else ((),) * 6
    customers = _numbered([*names, *(c for _, c, _, _ in sent), *(c for _, c, _, _ in redeemed)])
    campaigns = _numbered([*(c for _, _, c, _ in sent), *(c for _, _, c, _ in redeemed)])
    item_numbers, category_numbers = _numbered(items), _numbered(categories)
    order_numbers = {pair: number for number, pair in enumerate(dict.fromkeys(zip(names, orders, strict=True)))}
    return Purchases(
        customers=np.array(list(customers), dtype=np.str_),
        items=np.array(list(item_numbers), dtype=np.str_),
        categories=np.array(list(category_numbers), dtype=np.str_),
        campaigns=np.array(list(campaigns), dtype=np.str_),
        customer=np.array([customers[name] for name in names], dtype=np.int64),
        ts_ms=np.array(ts_ms_of, dtype=np.int64),
        item=np.array([item_numbers.get(item, -1) for item in items], dtype=np.int64),
        category=np.array([category_numbers.get(category, -1) for category in categories], dtype=np.int64),
        order=np.array([order_numbers[pair] for pair in zip(names, orders, strict=True)], dtype=np.int64),
        value=np.array(values, dtype=np.float64),
        sent=np.array([(t, customers[c], campaigns[n], e) for t, c, n, e in sent], dtype=np.int64).reshape(-1, 4),
        redeemed=np.array(
            [(t, customers[c], campaigns.get(n, -1), e) for t, c, n, e in redeemed], dtype=np.int64
        ).reshape(-1, 4),
    )


def _worth(line: Line | Clickstream) -> float:
    return float((line.price or 0.0) * (1 if line.quantity is None else line.quantity))


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(sorted({name for name in names if name}))}
