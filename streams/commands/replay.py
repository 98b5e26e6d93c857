"""``pulsegraph replay``: produce a log of events to Kafka."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from streams.commands import (
    Subparsers,
    add_settings_options,
    add_source_options,
    day_ms,
    new_parser,
    rate,
    settings_from,
)
from streams.inspect.moments import moment

if TYPE_CHECKING:
    from schemas.catalog import CatalogEntry
    from streams.settings.schema import Settings
    from streams.sources.datasets.record import EncodedRecord, SourceRecord
    from streams.sources.lateness import Late
    from streams.sources.replay import ReplayReport
    from streams.telemetry.progress_bars import Progress

_SAY_EVERY = 1_000


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "replay",
        "produce a data set's events to Kafka, in event-time order",
        "Publishes the catalog, then the events. Heartbeats carry event time along; the last one, at --to, fires "
        "everything that is due by then. Events behind what the topics have reached already are late, and counted. Of "
        "a second replay, events whose ids are still known are duplicates, and older ones are dead letters (too_late).",
        "  pulsegraph replay --data complete-journey --from 2017-07-01 --to 2018-01-01 --limit 20000 --rate 2000",
    )
    add_source_options(parser)
    parser.add_argument("--from", dest="start", metavar="DAY", help="first day, UTC (default: where the data begins)")
    parser.add_argument("--to", dest="stop", metavar="DAY", help="day after the last, UTC (default: where it ends)")
    parser.add_argument("--limit", type=int, metavar="N", help="replay about N events, of complete customers")
    parser.add_argument("--rate", type=rate, metavar="N", help="events per second (default: as fast as possible)")
    parser.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from schemas.errors import ConfigError
    from streams.sources.source import load_source

    settings = settings_from(args)
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit {args.limit}: give a number of events above 0, or omit it for all")
    source = load_source(args.data, seed=args.seed, customers=args.customers)
    from_ms = source.from_ms if args.start is None else day_ms(args.start)
    to_ms = source.until_ms if args.stop is None else day_ms(args.stop)
    if not (from_ms < to_ms and from_ms < source.until_ms and to_ms > source.from_ms):
        raise ConfigError(
            f"{args.data} has no events between {moment(from_ms)} and {moment(to_ms)}; it runs from "
            f"{moment(source.from_ms)} to {moment(source.until_ms)}"
        )
    records = source.records(from_ms, to_ms, args.limit)
    show(produce(settings, records, source.catalog().values(), from_ms, to_ms, args.rate), to_ms, args.json)
    return 0


class Produced(NamedTuple):
    """What a replay sent."""

    report: ReplayReport
    entries: int
    """Of the catalog."""
    late: Late


def produce(
    settings: Settings,
    records: Iterable[SourceRecord | EncodedRecord],
    catalog: Iterable[CatalogEntry],
    from_ms: int,
    to_ms: int,
    rate: float | None,
) -> Produced:
    """Publish a catalog, then records between two event times.

    Raises:
        ConfigError: the rate cannot be.
        TopicMismatch: topics are missing.
        Retry: no broker answers, or not everything was acknowledged.
    """
    from streams.kafka import admin
    from streams.kafka.reader import TopicReader
    from streams.settings.schema import kafka_client_config
    from streams.sources.lateness import LateCounter, reached_ms
    from streams.sources.pacing import Pacer
    from streams.sources.replay import OrderedProducer, publish_catalog, replay
    from streams.telemetry.progress_bars import training_bar

    pacer = Pacer(rate)
    client = kafka_client_config(settings)
    prefix = settings.kafka.prefix
    partitions = admin.check_topics(admin.connect(client), prefix=prefix)
    with TopicReader(client) as reader:
        counter = LateCounter(reached_ms(reader, prefix, partitions, settings.core), partitions, settings.core)
    producer = OrderedProducer(settings.kafka.bootstrap, config=client)
    with training_bar("replaying") as progress:
        progress(0.0, "catalog")
        entries = publish_catalog(catalog, producer, partitions=partitions, prefix=prefix)
        watched = _watched(counter.watch(records), from_ms, to_ms, progress)
        report = replay(watched, producer, partitions=partitions, prefix=prefix, until_ms=to_ms, pacer=pacer)
        progress(1.0, f"{report.events:,} events, up to {moment(to_ms)}")
    return Produced(report, entries, counter.found)


def _watched(
    records: Iterable[SourceRecord | EncodedRecord], from_ms: int, to_ms: int, progress: Progress
) -> Iterator[SourceRecord | EncodedRecord]:
    """The records, telling how far event time has come."""
    for number, record in enumerate(records):
        if number % _SAY_EVERY == 0:
            share = (record.event_ts_ms - from_ms) / (to_ms - from_ms)
            progress(min(1.0, max(0.0, share)), f"{number:,} events, up to {moment(record.event_ts_ms)}")
        yield record


def show(produced: Produced, to_ms: int, as_json: bool) -> None:
    """Print what was produced and acknowledged."""
    from msgspec import to_builtins

    from schemas.codec import json_encode

    report, entries, late = produced
    if as_json:
        more = {"events": report.events, "events_per_s": round(report.events_per_s, 1), "catalog": entries}
        more |= late._asdict()
        print(json_encode(to_builtins(report) | more | {"until_ms": to_ms}).decode())
        return
    print(f"{report.events:,} events in {report.wall_s:.1f} s ({report.events_per_s:,.0f}/s), all acknowledged")
    for topic, count in report.produced.items():
        print(f"  {count:>10,}  {topic}")
    print(f"  {entries:>10,}  catalog entries")
    print(f"  {report.heartbeats:>10,}  heartbeats, the last one at {moment(to_ms)}")
    if late.late:
        print(f"  {late.late:>10,}  of these events are late, {late.too_late:,} of them too late to be taken:")
        print(f"  {'':>10}  the topics had reached a later event time before")
