"""Made-up customers for a model's canary, through the code that serves; see :mod:`models.canary`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from models.tokenizer import Vocabulary
from schemas.catalog import CatalogEntry
from schemas.events import CampaignSend, Clickstream
from schemas.snapshot import Snapshot
from streams.core.config import DAY_MS, CoreConfig
from streams.offline.ingest import replay_checkpoints

if TYPE_CHECKING:
    from streams.offline.training import SourceEvent

_BEGIN_MS: Final = 1_767_225_600_000
"""1 January 2026."""
_DAYS: Final = 60
_CUSTOMERS: Final = 6
_ITEMS: Final = 12
_SNAPSHOTS: Final = 24


def made_up(
    vocabulary: Vocabulary, catalog: Mapping[str, CatalogEntry], config: CoreConfig
) -> tuple[list[Snapshot], dict[str, CatalogEntry]]:
    """Snapshots of customers who never were, of every kind, and the entries of the catalog that they name.

    They buy what the vocabulary names first. Equal arguments give equal snapshots.
    """
    items = [name.removeprefix("item:") for name in vocabulary.names if name.startswith("item:")][:_ITEMS]
    campaigns = sorted(name for name, entry in catalog.items() if entry.kind == "campaign")
    campaign = catalog[campaigns[0]] if campaigns else CatalogEntry(kind="campaign", id="canary")
    named = [f"item:{item}" for item in items] + [f"offer:{offer}" for offer in campaign.offers] + [campaign.key]
    entries = {name: catalog[name] for name in named if name in catalog}
    events = sorted(_events(items, entries, campaign), key=lambda event: event[3])
    # One event a checkpoint: with more, a customer has one live snapshot of them.
    found = [
        snapshot
        for checkpoint in replay_checkpoints(events, config, until_ms=_BEGIN_MS + _DAYS * DAY_MS, checkpoint_events=1)
        for snapshot in (*checkpoint.snapshots, *checkpoint.awaiting_label)
    ]
    by_kind: dict[str, list[Snapshot]] = {}
    for snapshot in found:
        by_kind.setdefault(snapshot.kind, []).append(snapshot)
    most = _SNAPSHOTS // max(1, len(by_kind))
    # The newest, which have most to tell.
    return [snapshot for kind in sorted(by_kind) for snapshot in by_kind[kind][-most:]], entries


def _events(items: Sequence[str], entries: Mapping[str, CatalogEntry], campaign: CatalogEntry) -> Iterator[SourceEvent]:
    for number in range(_CUSTOMERS):
        customer_id = f"canary-{number}"
        for visit in range(2 + 2 * number):
            at_ms = _BEGIN_MS + (visit * _DAYS * DAY_MS) // (3 + 2 * number) + number * 3_600_000
            if items:
                item = items[(number + visit * visit) % len(items)]
                entry = entries.get(f"item:{item}")
                body = Clickstream(
                    event="purchase" if visit % 3 else "item_view",
                    event_ts_ms=at_ms,
                    item_id=item,
                    category=entry.category if entry else None,
                    price=2.0 + visit % 5,
                )
            else:
                body = Clickstream(event="page_view", event_ts_ms=at_ms, page=f"page-{visit}")
            yield "clickstream", customer_id, body, at_ms
        sent_ms = _BEGIN_MS + (_DAYS - 10) * DAY_MS + number * 60_000
        send = CampaignSend(
            event="send",
            event_ts_ms=sent_ms,
            campaign_id=campaign.id,
            channel=campaign.channel or "mail",
            offer_id=campaign.offers[0] if campaign.offers else None,
        )
        yield "campaign-sends", customer_id, send, sent_ms
