"""``pulsegraph topics``: create, check, list and delete the topics."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from streams.commands import Subparsers, add_settings_options, new_parser, settings_from

if TYPE_CHECKING:
    from streams.kafka.clients import AdminClient
    from streams.settings.schema import Settings


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "topics",
        "create, check, list or delete the topics",
        "All topics need the same number of partitions, so that a customer's events, state and predictions are in the "
        "same one. The broker never creates topics by itself.",
        "  pulsegraph topics create --partitions 8\n  pulsegraph topics check --bootstrap kafka-1:9092",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = new_parser(
        actions,
        "create",
        "create the topics that are missing",
        "Topics that exist are left alone, unless --update is given. Partition counts are never changed.",
        "  pulsegraph topics create --partitions 8 --replicas 3",
    )
    create.add_argument(
        "--partitions", type=int, help="partitions of every topic (PULSEGRAPH_KAFKA_PARTITIONS, default 4)"
    )
    create.add_argument("--replicas", type=int, help="copies of every partition (default: the broker's)")
    create.add_argument(
        "--update", action="store_true", help="also correct cleanup policy and retention of topics that exist"
    )
    check = new_parser(
        actions,
        "check",
        "compare the broker's topics with the contract",
        "Exit code 0 when all is well; else 2, and a message that says what to run.",
        "  pulsegraph topics check --bootstrap kafka-1:9092",
    )
    check.add_argument("--partitions", type=int, help="expected count (PULSEGRAPH_KAFKA_PARTITIONS, default 4)")
    listing = new_parser(
        actions,
        "list",
        "show every topic: key, retention, purpose, and what the broker has",
        "",
        "  pulsegraph topics list",
    )
    delete = new_parser(
        actions,
        "delete",
        "delete the topics and all their records",
        "Stop producers and workers first.",
        "  pulsegraph topics delete --prefix test. --yes",
    )
    delete.add_argument("--yes", action="store_true", help="confirm")
    for action in (create, check, listing, delete):
        add_settings_options(action)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from schemas.errors import ConfigError
    from streams.kafka import admin
    from streams.settings.schema import kafka_client_config

    settings = settings_from(
        args,
        kafka__partitions=getattr(args, "partitions", None),
        kafka__replicas=getattr(args, "replicas", None),
    )
    kafka = settings.kafka
    client = admin.connect(kafka_client_config(settings))
    if args.action == "create":
        created = admin.create_topics(
            client, prefix=kafka.prefix, partitions=kafka.partitions, replicas=kafka.replicas, update=args.update
        )
        count = admin.check_topics(client, prefix=kafka.prefix, partitions=kafka.partitions)
        print(f"{len(created)} topics created on {kafka.bootstrap}; all are there with {count} partitions")
    elif args.action == "check":
        count = admin.check_topics(client, prefix=kafka.prefix, partitions=kafka.partitions)
        print(f"all topics on {kafka.bootstrap} are correct, with {count} partitions")
    elif args.action == "list":
        _list(client, settings)
    else:
        if not args.yes:
            raise ConfigError(
                f"this deletes all topics with the prefix {kafka.prefix!r} on {kafka.bootstrap} and every record in "
                "them: repeat it with --yes"
            )
        print(f"{len(admin.delete(client, prefix=kafka.prefix))} topics deleted on {kafka.bootstrap}")
    return 0


def _list(client: AdminClient, settings: Settings) -> None:
    from rich.console import Console
    from rich.table import Table

    from schemas.topics import TOPICS
    from streams.kafka import admin

    prefix = settings.kafka.prefix
    found = {state.name: state for state in admin.describe(client, prefix=prefix, timeout_s=10)}
    table = Table(box=None, pad_edge=False)
    for column in ("topic", "key", "value", "kept", "partitions", "purpose"):
        table.add_column(column, no_wrap=column != "purpose")
    for topic in TOPICS.values():
        state = found.get(admin.topic_name(prefix, topic.name))
        there = str(state.partitions) if state else "missing"
        table.add_row(prefix + topic.name, topic.key, topic.format, topic.kept, there, topic.purpose)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
