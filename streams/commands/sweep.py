"""``pulsegraph sweep``: have ingest emit snapshots of known customers, though nothing happened to them."""

from __future__ import annotations

import argparse

from schemas.sweep import MOST_PER_S
from streams.commands import Subparsers, add_settings_options, new_parser, settings_from, whole

_TIMEOUT_S = 30.0


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "sweep",
        "emit snapshots of known customers anew, so that predictions of them are made again",
        "For a new model, a campaign that starts, decisions that have expired. Every ingest partition walks through "
        "its customers, a bounded number a second and only while no event waits, and emits a `refresh` snapshot of "
        "those to whom every kind of condition applies. It goes on after a restart; 16 may wait, and more are dead "
        "letters. The metrics pulsegraph_swept_total and "
        'pulsegraph_snapshots_total{kind="refresh"} show how far it has come.',
        "  pulsegraph sweep --active-days 28\n"
        "  pulsegraph sweep --channel email --entity item:1082185 --entity item:995242 --per-second 500",
    )
    parser.add_argument(
        "--active-days",
        type=whole(1, 36_500),
        metavar="N",
        help="only customers whose last event is at most N days old",
    )
    parser.add_argument(
        "--channel",
        action="append",
        default=[],
        metavar="NAME",
        help="only who agreed to this channel, or another given",
    )
    parser.add_argument(
        "--entity",
        action="append",
        default=[],
        metavar="KIND:ID",
        help="only whose graph leads to this, or another given: item:5, category:coffee, campaign:26",
    )
    parser.add_argument(
        "--per-second",
        type=whole(1, MOST_PER_S),
        default=200,
        metavar="N",
        help="customers looked at per second and partition (default 200)",
    )
    parser.add_argument("--id", metavar="NAME", help="name of the sweep (default: the time)")
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import time

    import msgspec

    from schemas.codec import json_encode
    from schemas.errors import ConfigError
    from schemas.graph import EDGE_TYPES
    from schemas.sweep import SWEEPS, Sweep
    from streams.core.config import DAY_MS
    from streams.kafka.reader import TopicReader
    from streams.settings.schema import kafka_client_config
    from streams.sources.replay import OrderedProducer

    kinds = sorted({edge_type.partition(">")[2] for edge_type in EDGE_TYPES})
    for entity in args.entity:
        kind, _, entity_id = entity.partition(":")
        if kind not in kinds or not entity_id:
            raise ConfigError(f"--entity {entity!r}: write it kind:id, with a kind of {', '.join(kinds)}")
    settings = settings_from(args)
    client, topic = kafka_client_config(settings), settings.kafka.prefix + SWEEPS
    said = {
        "sweep_id": args.id or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "active_within_ms": None if args.active_days is None else args.active_days * DAY_MS,
        "channels": args.channel,
        "entities": args.entity,
        "per_s": args.per_second,
    }
    try:
        sweep = msgspec.convert(said, Sweep)
    except msgspec.ValidationError as error:
        raise ConfigError(f"this is no sweep: {error}") from None
    with TopicReader(client) as reader:
        partitions = reader.partitions(topic)
    producer = OrderedProducer(settings.kafka.bootstrap, timeout_s=_TIMEOUT_S, config=client)
    for partition in range(partitions):
        producer.send(topic, sweep.sweep_id.encode(), json_encode(sweep), partition)
    producer.deliver()
    print(f"sweep {sweep.sweep_id} was ordered of {partitions} partition{'s' * (partitions != 1)}")
    return 0
