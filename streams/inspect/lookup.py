"""What is known about one customer or entity, read from the changelog and the prediction topics.

Needs no worker: the changelog partition holds the whole state, and predictions lie on topics. What a worker has
taken in but not yet written (one checkpoint) is not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from confluent_kafka import Message

from models.readable import event_text, readable
from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError, StateCorrupt
from schemas.graph import EDGE_TYPES
from schemas.predictions import CampaignMatch, NextBestAction, Prediction, RedemptionPrediction
from schemas.snapshot import Head, Session, sessions
from schemas.topics import PREDICTION_TOPICS
from schemas.words import SESSION, SESSION_END, hash_of
from streams.core import counters, entities, graph
from streams.core.config import DAY_MS, CoreConfig
from streams.core.context import Context
from streams.core.customer import Customer
from streams.core.graph import Neighbour
from streams.core.labels import Pending
from streams.core.snapshots import in_holdout, snapshot_of
from streams.core.state import Folded
from streams.inspect.catalog_now import read_catalog
from streams.inspect.names import read_names
from streams.inspect.render import feature_values
from streams.inspect.stored_customer import newest_refusal, read_customer
from streams.inspect.titles import titles_of
from streams.kafka.partitioning import partition_for
from streams.kafka.reader import TopicReader
from streams.serving.catalog import UNREADABLE, read_entry
from streams.state import keys

_MONTH_MS: Final = 31 * DAY_MS
#: Fields of words -> kinds of entities.
_FIELDS: Final = {"item": "item", "camp": "campaign", "tmpl": "template", "offer": "offer", "chan": "channel"}


class _AsOf(msgspec.Struct):
    as_of_ms: int = 0


_decode_as_of: Final = msgspec.json.Decoder(_AsOf).decode


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """One session, or what happened between two: the events that are still known one by one."""

    start_ms: int
    end_ms: int
    text: str
    is_open: bool = False


class PendingView(msgspec.Struct, frozen=True, kw_only=True):
    """A label that is not known yet. Time or an event will resolve it."""

    head: Head
    as_of_ms: int
    due_ms: int
    campaign_id: str | None = None
    offer_id: str | None = None


class CustomerView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything kept about one customer, as of a time."""

    customer_id: str
    partition: int
    as_of_ms: int
    """Edge weights are decayed to this time."""
    features_as_of_ms: int
    """``as_of_ms``, or the last event where that is later: counters cannot be wound back."""
    first_ms: int
    last_ms: int
    events: int
    unsettled: int
    """Events younger than the lateness bound, which may still be overtaken."""
    late: dict[str, int]
    """Event name -> events that came too late to be put in their place."""
    erased_ms: int | None
    """Time of an erasure that is still remembered, so that older events stay out."""
    holdout: bool
    consent: tuple[str, ...] | None
    timezone: str | None
    """As in the profile; times are in the company's zone where it is unknown."""
    unconverted: dict[str, float]
    """Currency without a rate -> what was spent in it, half-life 84 days."""
    attributes: dict[str, str | bool | int | float | None]
    features: dict[str, float]
    sends: list[tuple[int, str, str]]
    """(ms, channel, campaign id), oldest first."""
    sessions: list[SessionView]
    edges: dict[str, list[Neighbour]]
    """Edge type -> neighbours, heaviest first."""
    pending: list[PendingView]
    history: list[Session]
    """Sessions that have ended, in brief: about a year."""
    predictions: dict[str, Prediction]
    """Topic -> record that holds for the newest event time that is not after ``as_of_ms``."""
    of_later: bool = False
    """Whether ``as_of_ms`` lies before the customer's last event. State cannot be wound back: what is not known as of
    then is left out, as features, counts, and edges that were touched since."""
    titles: dict[str, str] = {}
    """``kind:id`` -> title in the catalog, of what is named here beside the timeline."""
    refused: str | None = None
    """Newest dead letter of the customer, where no event is kept."""
    sequence: str = ""
    """What an encoder may see as of ``as_of_ms``, see :func:`models.readable.readable`; empty where it is not known."""


class InEdgesView(msgspec.Struct, frozen=True, kw_only=True):
    """All edges of one type into an entity."""

    type: str
    count: int
    first_ms: int
    last_ms: int
    popularity: float
    """Number of edges, decayed to the requested time; those of the last 90 days count."""
    newest: list[tuple[str, int]]
    """(customer id, ms of the last edge), newest first."""


class EntityView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything kept about one item, campaign, template, offer or channel, as of a time."""

    entity: str
    partition: int
    as_of_ms: int
    catalog: CatalogEntry | None
    edges: list[InEdgesView]


def customer(
    reader: TopicReader, prefix: str, customer_id: str, config: CoreConfig, as_of_ms: int | None = None
) -> CustomerView:
    """Look a customer up.

    Args:
        as_of_ms: event time to decay to; the customer's last event where None.

    Raises:
        ConfigError: nothing is known about the customer.
        StateCorrupt: the record cannot be read.
    """
    key = customer_id.encode()
    found = _newest(reader, prefix, key, dict.fromkeys(PREDICTION_TOPICS, key), as_of_ms)
    stored = read_customer(reader, prefix, customer_id, config)
    known, context = stored.customer, stored.context
    titles = titles_of(read_catalog(reader, prefix))
    names = {hashed: _with_title(word, titles) for hashed, word in read_names(reader, prefix).items()}
    view = _customer_view(known, context, names, as_of_ms, _predictions(found, customer_id))
    refused = newest_refusal(reader, prefix, key) if not known.view().events else None
    return msgspec.structs.replace(view, titles=_named(titles, view), refused=refused)


def _with_title(word: str, titles: Mapping[str, str]) -> str:
    """A word of a timeline, with the title of the entity that it names."""
    field, _, identity = word.partition(":")
    title = titles.get(f"{_FIELDS[field]}:{identity}") if field in _FIELDS else None
    return f"{word} ({title})" if title else word


def _named(titles: Mapping[str, str], view: CustomerView) -> dict[str, str]:
    """Those of what a view names beside its timeline."""
    named = {
        f"{edge_type.partition('>')[2]}:{edge.entity_id}" for edge_type in view.edges for edge in view.edges[edge_type]
    }
    named |= {f"campaign:{entry.campaign_id}" for entry in view.pending}
    named |= {f"campaign:{campaign_id}" for _, _, campaign_id in view.sends}
    for prediction in view.predictions.values():
        if isinstance(prediction, NextBestAction):
            named |= {f"campaign:{one.campaign_id}" for one in (prediction.chosen, *prediction.alternatives)}
            named |= {f"campaign:{one.campaign_id}" for one in prediction.suppressed_by}
        elif isinstance(prediction, RedemptionPrediction):
            named.add(f"campaign:{prediction.campaign_id}")
        elif isinstance(prediction, CampaignMatch):
            named |= {f"campaign:{one.campaign_id}" for one in prediction.campaigns}
    return {name: title for name, title in titles.items() if name in named}


def entity(reader: TopicReader, prefix: str, name: str, config: CoreConfig, as_of_ms: int | None = None) -> EntityView:
    """Look an entity up.

    Args:
        name: ``kind:id``, e.g. ``item:123``.
        as_of_ms: event time to decay to; the entity's last edge where None.

    Raises:
        ConfigError: the name has no kind, or nothing is known about the entity.
        StateCorrupt: the record cannot be read.
    """
    kind, colon, identity = name.partition(":")
    if not (colon and identity) or kind not in graph.ENTITY_KINDS:
        kinds = ", ".join(sorted(graph.ENTITY_KINDS))
        raise ConfigError(f"{name!r} is no entity: write it kind:id, e.g. item:123, with a kind of {kinds}")
    key = name.encode()
    found = _newest(reader, prefix, key, {"entities-changelog": keys.record(name), "catalog": key})
    message = found["entities-changelog"]
    partition = partition_for(key, reader.partitions(prefix + "entities-changelog"))
    record = message.value() if message is not None else None
    if record is None:
        raise ConfigError(
            f"nothing is known about {name} in {prefix}entities-changelog[{partition}]: no event named it, or no "
            "entities worker has run yet (`pulsegraph worker --roles ingest,entities`)"
        )
    known = entities.decode_entity(record)
    when_ms = as_of_ms if as_of_ms is not None else max((edges.last_ms for edges in known.edges.values()), default=0)
    views = [
        InEdgesView(
            type=edge_type,
            count=edges.count,
            first_ms=edges.first_ms,
            last_ms=edges.last_ms,
            popularity=entities.weight(edges, when_ms, config.edge_half_life_ms),
            newest=entities.neighbours(edges, when_ms),
        )
        for edge_type, edges in sorted(known.edges.items())
    ]
    return EntityView(entity=name, partition=partition, as_of_ms=when_ms, catalog=_catalog_entry(found), edges=views)


def _customer_view(
    known: Customer,
    context: Context,
    names: Mapping[bytes, str],
    as_of_ms: int | None,
    predictions: Mapping[str, Any],
) -> CustomerView:
    seen, config = known.view(), context.config
    when_ms = as_of_ms if as_of_ms is not None else seen.last_ms
    features_ms, of_later = max(when_ms, seen.last_ms), when_ms < seen.last_ms
    is_known = not of_later or max(seen.consent_ms, seen.opt_out_ms, seen.profile_ms) <= when_ms
    snapshot = snapshot_of(seen, "event", features_ms, context)
    return CustomerView(
        customer_id=context.customer_id,
        partition=context.partition,
        as_of_ms=when_ms,
        features_as_of_ms=features_ms,
        first_ms=seen.first_ms,
        last_ms=min(when_ms, seen.last_ms),
        events=0 if of_later else seen.events,
        unsettled=0 if of_later else len(known.tail),
        late={} if of_later else seen.late,
        erased_ms=known.erased_ms if known.erased_ms >= 0 else None,
        holdout=in_holdout(context.customer_id, config.holdout_percent),
        consent=seen.consent if is_known else None,
        timezone=seen.timezone if is_known else None,
        unconverted={
            currency: round(counters.sums(seen.unconverted, currency, features_ms)[-1], 2)
            for currency in sorted(seen.unconverted)
            if not of_later
        },
        attributes=seen.attributes if is_known else {},
        features={} if of_later else feature_values(snapshot.features),
        sends=[sent for sent in seen.sends if sent[0] <= when_ms],
        sessions=_sessions(seen, names, when_ms),
        edges={
            edge_type: found
            for edge_type in EDGE_TYPES
            if (
                found := [
                    edge
                    for edge in graph.neighbours(seen.graph, edge_type, when_ms, config.edge_half_life_ms)
                    if edge.last_ms <= when_ms
                ]
            )
        },
        pending=[_pending_view(entry) for entry in seen.pending if as_of_ms is None or entry.as_of_ms <= as_of_ms],
        history=[
            entry for entry in sessions(seen.timeline.history.entries) if not of_later or _ended_ms(entry) <= when_ms
        ],
        predictions=dict(predictions),
        of_later=of_later,
        sequence="" if of_later else readable(snapshot, names),
    )


def _ended_ms(entry: Session) -> int:
    """When a session had ended; of a month of them, when all had."""
    lasted_ms = _MONTH_MS if entry.sessions > 1 else 60_000 * entry.minutes
    return 1000 * entry.start_s + lasted_ms


def _sessions(seen: Folded, names: Mapping[bytes, str], until_ms: int) -> list[SessionView]:
    timeline = seen.timeline
    found: list[SessionView] = []
    begin, end = hash_of(SESSION), hash_of(SESSION_END)
    entries: list[tuple[int, bytes]] = []

    def close(is_open: bool = False) -> None:
        if entries:
            text = event_text(b"".join([words for _, words in entries]), names)
            found.append(SessionView(start_ms=entries[0][0], end_ms=entries[-1][0], text=text, is_open=is_open))
            entries.clear()

    for at_ms, words in timeline.recent:
        if at_ms > until_ms:
            break
        if words.startswith(begin):
            close()
        entries.append((at_ms, words))
        if words.endswith(end):
            close()
    close(is_open=timeline.events > 0 or until_ms < seen.last_ms)
    return found


def _pending_view(entry: Pending) -> PendingView:
    return PendingView(
        head=entry.head,
        as_of_ms=entry.as_of_ms,
        due_ms=entry.due_ms,
        campaign_id=entry.campaign_id or None,
        offer_id=entry.offer_id or None,
    )


def _newest(
    reader: TopicReader, prefix: str, key: bytes, wanted: Mapping[str, bytes], as_of_ms: int | None = None
) -> dict[str, Message | None]:
    """Newest record per logical topic, all in the partition that ``key`` belongs to; ends are fetched once.

    Args:
        as_of_ms: of predictions, none that holds for a later event time; all where None.
    """

    def is_of_then(message: Message) -> bool:
        return as_of_ms is None or _as_of_ms(message) <= as_of_ms

    places = {name: (prefix + name, partition_for(key, reader.partitions(prefix + name))) for name in wanted}
    ends = reader.ends(places.values())
    return {
        name: reader.newest(
            *places[name],
            wanted[name],
            ends[places[name]],
            _as_of_ms if name in PREDICTION_TOPICS else _as_written,
            is_of_then if name in PREDICTION_TOPICS else _always,
        )
        for name in wanted
    }


def _as_of_ms(message: Message) -> int:
    """Snapshots with a pending label are never dropped, so one may be scored after a newer event snapshot."""
    try:
        return _decode_as_of(message.value() or b"{}").as_of_ms
    except UNREADABLE:
        return 0


def _always(_message: Message) -> bool:
    return True


def _as_written(_message: Message) -> int:
    return 0


def _predictions(found: Mapping[str, Message | None], customer_id: str) -> dict[str, Any]:
    decoded: dict[str, Any] = {}
    for topic, record in PREDICTION_TOPICS.items():
        message = found[topic]
        value = message.value() if message is not None else None
        if value is None:
            continue
        try:
            decoded[topic] = msgspec.json.decode(value, type=record)
        except UNREADABLE as error:
            name = record.__name__
            raise StateCorrupt(f"the newest record of {customer_id!r} on {topic} is no {name}: {error}") from error
    return decoded


def _catalog_entry(found: Mapping[str, Message | None]) -> CatalogEntry | None:
    message = found["catalog"]
    if message is None:
        return None
    try:
        return read_entry(message.key(), message.value())[1]
    except UNREADABLE:
        return None  # what producers put into the catalog is not ours to trust, and encode refuses it, too
