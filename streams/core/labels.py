"""Pending labels: each waits for what becomes of the customer as a snapshot shows them.

The snapshot is not part of the customer's record: it is stored once under a key of its own, see
:class:`streams.core.customer.Customer`, and read again when its label is known.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from schemas.events import CampaignSend, Redemption
from schemas.snapshot import Candidate, Head, Label, Outcome, Snapshot


class Pending(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A label that event time or an event will resolve."""

    head: Head
    question_id: str
    as_of_ms: int
    """Of the snapshot that it will belong to."""
    due_ms: int
    campaign_id: str = ""
    offer_id: str = ""
    send_id: str = ""

    @staticmethod
    def of(head: Head, snapshot: Snapshot, due_ms: int, send: CampaignSend | None = None) -> Pending:
        names = (send.campaign_id or "", send.offer_id or "", send.send_id or "") if send else ("", "", "")
        return Pending(head, snapshot.question_id, snapshot.as_of_ms, due_ms, *names)


class Awaiting(NamedTuple):
    """A label became pending."""

    pending: Pending
    snapshot: Snapshot


class Resolved(NamedTuple):
    """A pending label is known."""

    pending: Pending
    label: int
    resolved_ms: int
    happened_ms: int | None = None
    """When the customer came back or redeemed; None where that did not happen."""

    def outcome(self, snapshot: Snapshot) -> Outcome:
        """With the snapshot that it belongs to."""
        labels: dict[str, Label] = {self.pending.head: self.label}
        if self.happened_ms is not None:
            labels["after_ms"] = self.happened_ms - self.pending.as_of_ms
        return Outcome(
            question_id=self.pending.question_id,
            head=self.pending.head,
            labels=labels,
            due_ms=self.pending.due_ms,
            resolved_ms=self.resolved_ms,
            snapshot=snapshot,
        )


def candidate_of(send: CampaignSend) -> Candidate:
    return Candidate(send.campaign_id or "", send.offer_id, send.template_id, send.channel)


def add(pending: list[Pending], entry: Pending, limit: int) -> Pending | None:
    """Remember one more, or return it where so many of its head are open already.

    The newest is dropped, not the oldest: early resolved ones have left the list, so the old ones in it have one label.
    """
    if sum(known.head == entry.head for known in pending) >= limit:
        return entry
    pending.append(entry)
    return None


def pop_due(pending: list[Pending], due_ms: int) -> Resolved | None:
    """The oldest entry that is due, with the label that silence means: churned, or not redeemed."""
    for position, entry in enumerate(pending):
        if entry.due_ms <= due_ms:
            del pending[position]
            return Resolved(entry, label=1 if entry.head == "churn" else 0, resolved_ms=entry.due_ms)
    return None


def active(pending: list[Pending], active_ms: int, now_ms: int, horizon_ms: int) -> list[Resolved]:
    """Activity resolves every pending churn label whose horizon it lies in: the customer came back.

    Args:
        active_ms: when it was; before ``now_ms`` where the event came late.
        now_ms: event time at which it is known.
        horizon_ms: length of a churn horizon.
    """
    answered = [entry for entry in pending if entry.head == "churn" and entry.due_ms - horizon_ms <= active_ms]
    if answered:
        pending[:] = [entry for entry in pending if entry not in answered]
    return [Resolved(entry, label=0, resolved_ms=now_ms, happened_ms=active_ms) for entry in answered]


def redeemed(pending: list[Pending], redemption: Redemption, ts_ms: int) -> Resolved | None:
    """The pending label that a redemption resolves: by send, else newest of its campaign, else of its offer."""
    for field in ("send_id", "campaign_id", "offer_id"):
        wanted = getattr(redemption, field)
        if wanted is None:
            continue
        for position in range(len(pending) - 1, -1, -1):
            entry = pending[position]
            if entry.head != "redemption" or getattr(entry, field) != wanted:
                continue
            if redemption.send_id and entry.send_id and entry.send_id != redemption.send_id:
                continue  # of another send, which says so
            if redemption.event_ts_ms < entry.as_of_ms:
                continue  # it came late, and was before the send
            happened_ms = redemption.event_ts_ms
            return Resolved(pending.pop(position), label=1, resolved_ms=ts_ms, happened_ms=happened_ms)
    return None
