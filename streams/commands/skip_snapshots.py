"""``pulsegraph skip-snapshots``: let encode pass over what waits for it."""

from __future__ import annotations

import argparse

from streams.commands import Subparsers, add_settings_options, new_parser, settings_from


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "skip-snapshots",
        "let encode begin behind the snapshots that are waiting",
        "For state that was warmed up: run `worker --roles ingest,entities` over a year of old events first, as fast "
        "as it goes, and no prediction need be made of what customers were then. Stop it, run this, and start workers "
        "with every role. Snapshots passed over get no prediction, so their outcomes judge nothing; training still "
        "has them. `pulsegraph sweep` then makes a prediction of everybody. Refused while an encode worker runs.",
        "  pulsegraph skip-snapshots",
    )
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from streams.kafka.skip import skip_to_end
    from streams.settings.schema import kafka_client_config

    settings = settings_from(args)
    prefix = settings.kafka.prefix
    passed = skip_to_end(kafka_client_config(settings), f"{prefix}pulsegraph-encode", f"{prefix}session-snapshots")
    print(f"encode begins behind {passed:,} snapshots that were waiting")
    return 0
