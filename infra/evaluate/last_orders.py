"""The last order of each customer, what the core knew on its eve, and what may be learned without it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from infra.bench.report import Say
from infra.evaluate.cache import code_of, kept
from infra.evaluate.purchases import Purchases, SourceEvent
from infra.evaluate.replays import CODE, Replay
from infra.evaluate.statistics import Ints
from schemas import codec
from schemas.events import SOURCE_INDEX
from schemas.snapshot import Outcome, Recent, Snapshot
from streams.core.config import CoreConfig
from streams.offline.rebuild import SourceLogRecord, rebuild

_NOBODY: Final = Snapshot(
    question_id="", customer_id="", kind="refresh", as_of_ms=0, source=("clickstream", 0, 0), applied={}, event_ts_ms=0,
    ingest_ts_ms=0, features=b"", recent=Recent(), history=b"", edges=(), edge_half_life_ms=1, consent=None, sends=(),
    holdout=False,
)  # fmt: skip
"""Of which :func:`streams.offline.rebuild.rebuild` reads whose, of which kind and as of when."""


@dataclass(frozen=True)
class LastOrders:
    """Of customers with enough orders, guests aside.

    Attributes:
        begin_ms: customer → event time of the first line of the last order.
        wanted: customer → numbers of its items.
        before: customer → numbers of the items of all orders before it.
    """

    begin_ms: dict[str, int]
    wanted: dict[str, Ints]
    before: dict[str, Ints]

    def cut(self, events: Iterable[SourceEvent]) -> Iterator[SourceEvent]:
        """A log without the last orders, and without what their customers did after."""
        return (event for event in events if event[3] < self.begin_ms.get(event[1], event[3] + 1))

    def earlier(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Outcomes that know nothing of a last order: neither the snapshot nor the label reaches it."""
        found = []
        for outcome in outcomes:
            begin_ms, after_ms = self.begin_ms.get(outcome.customer_id), outcome.labels.get("order_after_ms")
            known_ms = outcome.as_of_ms + (int(after_ms) if isinstance(after_ms, int | float) else 0)
            if begin_ms is None or known_ms < begin_ms:
                found.append(outcome)
        return found


def last_orders(bought: Purchases, least: int) -> LastOrders:
    """Of customers with ``least`` orders and more, whose last one holds an item, as one before it does."""
    order = np.lexsort((bought.order, bought.ts_ms, bought.customer))
    customer, ts_ms, item, basket = (
        column[order] for column in (bought.customer, bought.ts_ms, bought.item, bought.order)
    )
    bounds = np.flatnonzero(np.r_[True, np.diff(customer) > 0, True]).tolist()
    found = LastOrders({}, {}, {})
    for begin, end in pairwise(bounds):
        name = str(bought.customers[customer[begin]])
        last = basket[begin:end] == basket[end - 1]
        named = item[begin:end] >= 0
        wanted, before = np.unique(item[begin:end][last & named]), np.unique(item[begin:end][~last & named])
        if name.startswith("guest-") or not len(wanted) or not len(before):
            continue
        if len(np.unique(basket[begin:end])) >= least:
            found.begin_ms[name] = int(ts_ms[begin:end][last].min())
            found.wanted[name], found.before[name] = wanted, before
    return found


def eves(replay: Replay, last: LastOrders, config: CoreConfig, say: Say) -> dict[str, Snapshot]:
    """Each customer just before the last order, as a sweep would have asked: by the core, of the events before it."""

    def make(fresh: Path) -> None:
        say(f"{len(last.begin_ms):,} customers as they were before their last order")
        records: dict[str, list[SourceLogRecord]] = {name: [] for name in last.begin_ms}
        for number, (topic, name, body, ts_ms) in enumerate(replay.events(replay.source.until_ms)):
            if ts_ms < last.begin_ms.get(name, 0):
                value = codec.json_encode(body)
                records[name].append(SourceLogRecord(SOURCE_INDEX[topic], number, name.encode(), value, (), ts_ms))
        made = [
            rebuild(msgspec.structs.replace(_NOBODY, customer_id=name, as_of_ms=last.begin_ms[name] - 1), log, config)
            for name, log in records.items()
        ]
        (fresh / "eves.msgpack").write_bytes(codec.msgpack_encode([one for one in made if one is not None]))

    key = {"replay": replay.name, "code": code_of(*CODE, "infra/evaluate/last_orders.py"), "count": len(last.begin_ms)}
    folder = kept(replay.folder.parent.parent, "eves", key, make)
    found = msgspec.msgpack.decode((folder / "eves.msgpack").read_bytes(), type=list[Snapshot])
    return {snapshot.customer_id: snapshot for snapshot in found}
