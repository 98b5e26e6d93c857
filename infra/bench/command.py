"""``pulsegraph bench``: ours and its peers, side by side."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from infra.bench import LONG, NAMES, module_of
from streams.commands import Subparsers, above_zero, make_folder, new_parser, whole


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "bench",
        "measure speed and memory, compared with the alternatives",
        "Each bench runs its contenders in turns and prints a table of medians, minima and maxima, and whether the "
        "targets were met; --json adds one line of JSON. Run it on an otherwise idle machine. Needs Java 17 and Maven "
        "for Apache Kafka and Kafka Streams; Quix Streams gets its own environment under .cache/bench.",
        "  pulsegraph bench delivery\n  pulsegraph bench soak --json --scale 0.04\n"
        "  pulsegraph bench all --json\n  pulsegraph bench state --scale 0.05 --rounds 1",
    )
    parser.add_argument("name", choices=(*NAMES, *LONG, "all"), help="which bench")
    parser.add_argument(
        "--rounds", type=whole(1, 1_000), default=3, metavar="N", help="runs of every contender (default 3)"
    )
    parser.add_argument(
        "--scale",
        type=above_zero("a share", 1_000),
        default=1.0,
        metavar="X",
        help="share of events and customers, for a quick try (default 1)",
    )
    parser.add_argument(
        "--broker", choices=("apache", "embedded"), default="apache", help="which broker (default apache)"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where `bench encode` embeds (default cpu)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(".cache/bench"),
        metavar="DIR",
        help="folder for data (default .cache/bench)",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON after each table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import importlib

    from infra.bench import report
    from schemas.codec import json_encode

    options = report.Options(
        rounds=args.rounds,
        scale=args.scale,
        broker=args.broker,
        device=args.device,
        folder=args.folder.absolute(),
    )
    make_folder(options.folder, "--folder")
    for name in NAMES if args.name == "all" else (args.name,):
        started_s = time.monotonic()

        def say(text: str, started_s: float = started_s, name: str = name) -> None:
            print(f"{name} {time.monotonic() - started_s:7.1f} s  {text}", file=sys.stderr, flush=True)

        found = report.report(
            name,
            importlib.import_module(module_of(name)).run(options, say),
            command=_command(name, args),
            date=report.now(),
            seconds=time.monotonic() - started_s,
        )
        print("\n".join(report.table(found)), flush=True)
        if args.json:
            print(json_encode(found).decode(), flush=True)
    return 0


def _command(name: str, args: argparse.Namespace) -> str:
    said = "".join(
        f" --{option} {getattr(args, option)}"
        for option, default in (("rounds", 3), ("scale", 1.0), ("broker", "apache"), ("device", "cpu"))
        if getattr(args, option) != default
    )
    return f"pulsegraph bench {name}{said}"
