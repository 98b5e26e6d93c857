"""Rows of a protocol: who counts on its days, and the snapshot that the core gave of each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infra.evaluate.floors import Activity
from infra.evaluate.replays import Replay
from infra.evaluate.statistics import Ints
from schemas.errors import Stop
from schemas.snapshot import Snapshot


@dataclass(frozen=True)
class Asked:
    """By day and customer number."""

    snapshots: list[Snapshot]
    customer: Ints
    as_of_ms: Ints


def asked_rows(found: Replay, activity: Activity, days_ms: Sequence[int], within_days: int | None) -> Asked:
    """Customers who bought something in the last days before each day, by the log, with their snapshots.

    Raises:
        Stop: the core gave no snapshot of one of them.
    """
    customer, as_of_ms = activity.active(days_ms, within_days)
    names = found.purchases.customers
    by_row = {(snapshot.customer_id, snapshot.as_of_ms): snapshot for snapshot in found.asked}
    wanted = [(str(names[number]), at_ms) for number, at_ms in zip(customer.tolist(), as_of_ms.tolist(), strict=True)]
    guests = [name.startswith("guest-") for name, _ in wanted]
    missing = [row for row, guest in zip(wanted, guests, strict=True) if not guest and row not in by_row]
    if missing:
        raise Stop(f"the core gave no snapshot of {len(missing)} of {len(wanted)} rows, the first of them {missing[0]}")
    keep = [place for place, guest in enumerate(guests) if not guest]
    return Asked([by_row[wanted[place]] for place in keep], customer[keep], as_of_ms[keep])
