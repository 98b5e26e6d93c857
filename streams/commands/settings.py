"""``pulsegraph settings``: every setting, its variable, default and meaning."""

from __future__ import annotations

import argparse
import sys

from streams.commands import Subparsers, add_settings_options, new_parser, settings_from


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "settings",
        "show every setting: its variable, value, default and meaning",
        "PULSEGRAPH_* variables override a TOML file (--config), and the file overrides the defaults. Secrets are "
        "never shown.",
        "  PULSEGRAPH_INGEST_CHECKPOINT_MS=250 pulsegraph settings --changed\n"
        "  pulsegraph settings --toml > pulsegraph.toml",
    )
    add_settings_options(parser)
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--changed", action="store_true", help="only settings that differ from their default")
    shape.add_argument("--toml", action="store_true", help="print all settings as a TOML file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape

    from streams.settings.schema import describe, to_toml

    settings = settings_from(args)
    if args.toml:
        print(to_toml(settings), end="")
        return 0
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    for entry in describe(settings):
        changed = entry.value != entry.default
        if args.changed and not changed:
            continue
        default = f"  (default {entry.default or 'empty'})" if changed else ""
        console.print(f"[bold]{entry.env}[/bold]={escape(entry.value)}{escape(default)}", soft_wrap=True)
        console.print(f"    {escape(entry.meaning)} Accepts {escape(entry.accepted)}.", soft_wrap=True)
    return 0
