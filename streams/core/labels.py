"""Pending labels: each waits for what becomes of the customer as a snapshot shows them.

The snapshot is not part of the customer's record: it is stored once under a key of its own, see
:class:`streams.core.customer.Customer`, and read again when its label is known.

A question that is asked of active customers is answered twice: whether they come back (``churn``), and with that the
snapshot leaves; then when and what they buy next (``order``), which goes on waiting under the same id. A send is asked
for its redemption and, beside that, for its response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from schemas.events import CampaignSend, Redemption
from schemas.snapshot import Candidate, Head, Label, Outcome, Snapshot
from streams.core.config import CoreConfig

CARRIERS: Final[frozenset[Head]] = frozenset({"churn", "redemption"})
"""Heads whose outcomes carry the snapshot."""
_FOLLOWED: Final[frozenset[Head]] = frozenset({"churn", "order"})
_MOST_BOUGHT: Final = 256


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
    first_ms: int = 0
    """Of an order, the first activity; of a response, the first open by a person; 0 where none came yet."""
    delivered_ms: int = 0
    """Of a response, when the message arrived; 0 where nobody said."""

    @staticmethod
    def of(head: Head, snapshot: Snapshot, due_ms: int, send: CampaignSend | None = None) -> Pending:
        names = (send.campaign_id or "", send.offer_id or "", send.send_id or "") if send else ("", "", "")
        return Pending(head, snapshot.question_id, snapshot.as_of_ms, due_ms, *names)


class Bought(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What was bought at one time in the open session."""

    at_ms: int
    value: float
    """In the company's currency."""
    items: tuple[str, ...]


class Awaiting(NamedTuple):
    """A label became pending."""

    pending: Pending
    snapshot: Snapshot


class Resolved(NamedTuple):
    """Labels of a pending entry are known."""

    pending: Pending
    labels: Mapping[str, Label]
    resolved_ms: int

    def outcome(self, customer_id: str, snapshot: Snapshot | None) -> Outcome:
        """With the snapshot that it belongs to, where it carries that."""
        pending = self.pending
        return Outcome(
            question_id=pending.question_id,
            head=pending.head,
            labels=dict(self.labels),
            due_ms=pending.due_ms,
            resolved_ms=self.resolved_ms,
            customer_id=customer_id,
            as_of_ms=pending.as_of_ms,
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


def pop_due(
    pending: list[Pending], due_ms: int, bought: Sequence[Bought], config: CoreConfig
) -> list[Resolved | Pending]:
    """What the oldest entry that is due comes to by silence; empty where none is due.

    Args:
        bought: in the open session, up to now.

    Returns:
        The answer, and the entry that would have followed it where there is no room for that.
    """
    for position, entry in enumerate(pending):
        if entry.due_ms > due_ms:
            continue
        del pending[position]
        match entry.head:
            case "churn":
                dropped = _follow(pending, entry, 0, config)
                return [Resolved(entry, {"churn": 1}, entry.due_ms), *dropped]
            case "order":
                return [Resolved(entry, _order_labels(entry, bought, config), entry.due_ms)]
            case "response":
                return [Resolved(entry, _response_labels(entry, None), entry.due_ms)]
            case "redemption":
                return [Resolved(entry, {"redemption": 0}, entry.due_ms)]
    return []


def active(pending: list[Pending], active_ms: int, now_ms: int, config: CoreConfig) -> list[Resolved | Pending]:
    """Activity resolves every pending churn label whose horizon it lies in: the customer came back.

    Args:
        active_ms: when it was; before ``now_ms`` where the event came late.
        now_ms: event time at which it is known.

    Returns:
        Answers, and entries that would have followed them where there is no room for those.
    """
    found: list[Resolved | Pending] = []
    answered: list[Pending] = []
    for position, entry in enumerate(pending):
        if entry.head == "churn" and entry.due_ms - config.churn_horizon_ms <= active_ms:
            answered.append(entry)
        elif entry.head == "order" and _asks(entry, active_ms, config) and not 0 < entry.first_ms <= active_ms:
            pending[position] = replace(entry, first_ms=active_ms)
    if answered:
        pending[:] = [entry for entry in pending if entry not in answered]
    for entry in answered:
        labels: dict[str, Label] = {"churn": 0, "after_ms": active_ms - entry.as_of_ms}
        found += [Resolved(entry, labels, now_ms), *_follow(pending, entry, active_ms, config)]
    return found


def _follow(pending: list[Pending], churn: Pending, active_ms: int, config: CoreConfig) -> list[Pending]:
    """Churn is answered; the order is waited for. Returns the entry where there is no room for it."""
    ahead_ms = max(0, config.order_horizon_ms - config.churn_horizon_ms)
    order = replace(churn, head="order", due_ms=churn.due_ms + ahead_ms, first_ms=active_ms)
    dropped = add(pending, order, config.pending_limit)
    return [] if dropped is None else [dropped]


def _asks(order: Pending, at_ms: int, config: CoreConfig) -> bool:
    """Whether something lies within the horizon of an order."""
    ahead_ms = max(config.order_horizon_ms, config.churn_horizon_ms)
    return order.due_ms - ahead_ms <= at_ms < order.due_ms


def is_followed(pending: Sequence[Pending]) -> bool:
    """Whether somebody wants to know what is bought."""
    return any(entry.head in _FOLLOWED for entry in pending)


def buy(bought: list[Bought], line: Bought) -> None:
    """Remember what was bought in the open session; of very long ones the value alone."""
    if bought and bought[-1].at_ms == line.at_ms:
        same = bought.pop()
        line = Bought(line.at_ms, same.value + line.value, same.items + line.items)
    held = sum(len(known.items) for known in bought)
    bought.append(replace(line, items=line.items[: max(0, _MOST_BOUGHT - held)]))


def ordered(pending: list[Pending], bought: Sequence[Bought], now_ms: int, config: CoreConfig) -> list[Resolved]:
    """A session with purchases has ended, or one came late: whoever waits for an order from before has it."""
    found = [
        Resolved(entry, _order_labels(entry, bought, config), now_ms)
        for entry in pending
        if entry.head == "order" and any(_asks(entry, line.at_ms, config) for line in bought)
    ]
    if found:
        answered = [known.pending for known in found]
        pending[:] = [entry for entry in pending if entry not in answered]
    return found


def _order_labels(entry: Pending, bought: Sequence[Bought], config: CoreConfig) -> dict[str, Label]:
    mine = [line for line in bought if _asks(entry, line.at_ms, config)]
    labels: dict[str, Label] = {"order": int(bool(mine))}
    if mine:
        labels["order_after_ms"] = mine[0].at_ms - entry.as_of_ms
        labels["order_items"] = tuple(sorted({item for line in mine for item in line.items}))
        labels["order_value"] = sum(line.value for line in mine)
    if entry.first_ms:
        labels["active_after_ms"] = entry.first_ms - entry.as_of_ms
    return labels


def answered_send(pending: list[Pending], body: CampaignSend, ts_ms: int, config: CoreConfig) -> Resolved | None:
    """What a delivery, an open or a click says of its send: of that it names, else of the newest of its campaign.

    An open is remembered, since a click may follow; a click answers.
    """
    at_ms, name = body.event_ts_ms, body.event
    for position in range(len(pending) - 1, -1, -1):
        entry = pending[position]
        if entry.head != "response" or not entry.as_of_ms <= at_ms <= entry.due_ms:
            continue
        if body.send_id and entry.send_id:
            if body.send_id != entry.send_id:
                continue
        elif not body.campaign_id or body.campaign_id != entry.campaign_id:
            continue
        if name == "delivered":
            pending[position] = replace(entry, delivered_ms=max(entry.delivered_ms, at_ms))
        elif at_ms <= max(entry.as_of_ms, entry.delivered_ms) + config.machine_open_ms:
            return None
        elif name == "click":
            del pending[position]
            return Resolved(entry, _response_labels(entry, at_ms), ts_ms)
        elif not 0 < entry.first_ms <= at_ms:
            pending[position] = replace(entry, first_ms=at_ms)
        return None
    return None


def _response_labels(entry: Pending, click_ms: int | None) -> dict[str, Label]:
    labels: dict[str, Label] = {"response": int(bool(entry.first_ms or click_ms is not None))}
    if entry.first_ms:
        labels["open_after_ms"] = entry.first_ms - entry.as_of_ms
    if click_ms is not None:
        labels["click_after_ms"] = click_ms - entry.as_of_ms
        labels["open_after_ms"] = min(entry.first_ms or click_ms, click_ms) - entry.as_of_ms
    return labels


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
            labels: dict[str, Label] = {"redemption": 1, "after_ms": redemption.event_ts_ms - entry.as_of_ms}
            return Resolved(pending.pop(position), labels, ts_ms)
    return None
