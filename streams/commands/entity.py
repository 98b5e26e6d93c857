"""``pulsegraph entity``: the graph around an item, campaign, template, offer or channel."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from streams.commands import Subparsers, add_settings_options, day_ms, new_parser, settings_from
from streams.inspect.moments import moment

if TYPE_CHECKING:
    from streams.inspect.lookup import EntityView

_NEWEST_SHOWN = 10


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "entity",
        "look up an item, campaign, template, offer or channel: its customers and its popularity",
        "Reads the changelog of the entities role, so no worker needs to run.",
        "  pulsegraph entity item:123\n  pulsegraph entity campaign:18 --as-of 2017-10-01 --json",
    )
    parser.add_argument("entity", metavar="KIND:ID", help="item, campaign, template, offer or channel, and its id")
    parser.add_argument("--as-of", metavar="DAY", help="decay to this day or time, UTC (default: the last edge)")
    parser.add_argument("--json", action="store_true", help="print everything as one line of JSON")
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from schemas.codec import json_encode
    from streams.inspect import lookup
    from streams.inspect.render import plain
    from streams.kafka.reader import TopicReader
    from streams.settings.schema import kafka_client_config

    settings = settings_from(args)
    as_of_ms = None if args.as_of is None else day_ms(args.as_of)
    with TopicReader(kafka_client_config(settings)) as reader:
        view = lookup.entity(reader, settings.kafka.prefix, args.entity, settings.core, as_of_ms)
    if args.json:
        print(json_encode(plain(view)).decode())
        return 0
    for line in describe(view):
        print(line)
    return 0


def describe(view: EntityView) -> Iterator[str]:
    """The lookup for a person, line by line."""
    title = f" ({view.catalog.title})" if view.catalog is not None and view.catalog.title else ""
    yield f"{view.entity}{title}, partition {view.partition}, as of {moment(view.as_of_ms)} UTC"
    if view.catalog is None:
        yield "  not in the catalog"
    for edges in view.edges:
        yield ""
        yield f"{edges.type}: {edges.count:,} from {moment(edges.first_ms)} to {moment(edges.last_ms)}"
        yield f"  popularity {edges.popularity:.2f} (edges of the last 90 days, decayed)"
        for customer_id, last_ms in edges.newest[:_NEWEST_SHOWN]:
            yield f"  {moment(last_ms)}  customer {customer_id}"
