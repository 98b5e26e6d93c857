"""Pending labels: each holds the snapshot that it will belong to."""

from __future__ import annotations

from typing import Final

import msgspec

from schemas.events import CampaignSend, Redemption
from schemas.snapshot import Candidate, Head, Outcome, Snapshot

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Snapshot).decode


class Pending(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A label that event time or an event will resolve. The snapshot stays encoded: it is only passed on."""

    head: Head
    outcome_id: str
    due_ms: int
    snapshot: bytes
    campaign_id: str = ""
    offer_id: str = ""
    send_id: str = ""

    @staticmethod
    def of(head: Head, outcome_id: str, due_ms: int, snapshot: Snapshot, send: CampaignSend | None = None) -> Pending:
        names = (send.campaign_id, send.offer_id or "", send.send_id or "") if send else ("", "", "")
        return Pending(head, outcome_id, due_ms, _encode(snapshot), *names)

    def outcome(self, label: int, resolved_ms: int) -> Outcome:
        return Outcome(
            outcome_id=self.outcome_id,
            head=self.head,
            label=label,
            due_ms=self.due_ms,
            resolved_ms=resolved_ms,
            snapshot=_decode(self.snapshot),
        )


def candidate_of(send: CampaignSend) -> Candidate:
    return Candidate(send.campaign_id, send.offer_id, send.template_id, send.channel)


def add(pending: list[Pending], entry: Pending, limit: int) -> Pending | None:
    """Remember one more, or return it where so many of its head are open already.

    The newest is dropped, not the oldest: early resolved ones have left the list, so the old ones in it have one label.
    """
    if sum(known.head == entry.head for known in pending) >= limit:
        return entry
    pending.append(entry)
    return None


def pop_due(pending: list[Pending], due_ms: int) -> Outcome | None:
    """The oldest entry that is due, with the label that silence means: churned, or not redeemed."""
    for position, entry in enumerate(pending):
        if entry.due_ms <= due_ms:
            del pending[position]
            return entry.outcome(label=1 if entry.head == "churn" else 0, resolved_ms=entry.due_ms)
    return None


def active(pending: list[Pending], active_ms: int, now_ms: int, horizon_ms: int) -> list[Outcome]:
    """Activity resolves every pending churn label whose horizon it lies in: the customer came back.

    Args:
        active_ms: when it was; before ``now_ms`` where the event came late.
        now_ms: event time at which it is known.
        horizon_ms: length of a churn horizon.
    """
    answered = [entry for entry in pending if entry.head == "churn" and entry.due_ms - horizon_ms <= active_ms]
    if answered:
        pending[:] = [entry for entry in pending if entry not in answered]
    return [entry.outcome(label=0, resolved_ms=now_ms) for entry in answered]


def redeemed(pending: list[Pending], redemption: Redemption, ts_ms: int) -> Outcome | None:
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
            return pending.pop(position).outcome(label=1, resolved_ms=ts_ms)
    return None
