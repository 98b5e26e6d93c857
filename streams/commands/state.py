"""``pulsegraph state``: all state in a canonical form, to compare two runs."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from streams.commands import Subparsers, add_settings_options, new_parser, settings_from


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "state",
        "dump all customer and entity state in a canonical form",
        "Writes one line of JSON per customer and entity, sorted by role and id. Equal state gives equal bytes, "
        "whether read from the changelog topics or from a worker's folder. No worker needs to run. "
        "Stop a worker before you read its folder.",
        "  pulsegraph state dump --prefix a. --out a.jsonl\n"
        "  pulsegraph state dump --state-dir .cache/state --out b.jsonl",
    )
    parser.add_argument("what", choices=("dump",), help="what to do with the state")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--from-changelog", action="store_true", help="read the changelog topics (default)")
    source.add_argument(
        "--state-dir",
        type=Path,
        action="append",
        metavar="DIR",
        help="read a stopped worker's folder; may be repeated: the newest copy of each partition counts",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to this file instead of stdout")
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from schemas.errors import ConfigError
    from streams.inspect import dump
    from streams.settings.schema import kafka_client_config

    settings = settings_from(args)
    opened = (
        dump.opened_folders(args.state_dir)
        if args.state_dir
        else dump.opened_changelogs(kafka_client_config(settings), settings.kafka.prefix)
    )
    with contextlib.ExitStack() as stack:
        out = sys.stdout.buffer
        if args.out is not None:
            try:
                out = stack.enter_context(open(args.out, "wb"))
            except OSError as error:
                raise ConfigError(f"{args.out} cannot be written: {error.strerror}") from error
        out.writelines(line + b"\n" for line in dump.lines(stack.enter_context(opened)))
        out.flush()
    return 0
