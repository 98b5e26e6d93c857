"""``pulsegraph faults``: kill workers and brokers, and compare with an undisturbed run."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from streams.commands import Subparsers, make_folder, new_parser, whole

if TYPE_CHECKING:
    from infra.faults.run import FaultsReport


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "faults",
        "kill workers and brokers, and compare with an undisturbed run",
        "Starts Apache Kafka and replays one recorded stream twice; the stream has duplicates, disorder, late and "
        "malformed records. The first replay goes through one undisturbed worker. The second goes through several, "
        "which are killed, paused, added and removed while brokers restart and connections are cut. State, outcomes "
        "and last snapshots must be equal byte for byte, predictions within 1e-3; else the exit code is 1. The seed "
        "reproduces the schedule.",
        "  pulsegraph faults --events 20000 --kills 4\n"
        "  pulsegraph faults --events 1000000 --kills 100 --seed 1 --no-encode --json",
    )
    parser.add_argument(
        "--events", type=whole(1, 10**9), default=20_000, metavar="N", help="records to replay (default 20000)"
    )
    parser.add_argument(
        "--kills",
        type=whole(1, 10_000),
        default=4,
        metavar="N",
        help="at least this many SIGKILLs to workers (default 4)",
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of the stream and the schedule (default 0)")
    parser.add_argument(
        "--workers", type=whole(1, 4), default=2, metavar="N", help="workers at the start, 1 to 4 (default 2)"
    )
    parser.add_argument("--nodes", type=int, default=3, choices=(1, 3), help="nodes of Apache Kafka (default 3)")
    parser.add_argument(
        "--partitions", type=whole(1, 1_000), default=4, metavar="N", help="partitions of every topic (default 4)"
    )
    parser.add_argument(
        "--broker",
        choices=("apache", "embedded"),
        default="apache",
        help="broker; embedded allows faults of workers only",
    )
    parser.add_argument("--no-encode", action="store_true", help="no predictions: the encoder needs the most CPU")
    parser.add_argument(
        "--erased", type=float, default=0.0, metavar="SHARE", help="share of customers erased at some point (default 0)"
    )
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="folder for logs, dumps and Kafka's data (default .cache/faults/...)"
    )
    parser.add_argument("--json", action="store_true", help="print only one line of JSON on stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from infra.faults.run import Plan
    from infra.faults.run import run as run_plan
    from schemas.codec import json_encode
    from schemas.errors import ConfigError, PulsegraphError

    if not 0 <= args.erased <= 1:
        raise ConfigError(f"--erased {args.erased:g}: give a share from 0 to 1")
    plan = Plan(
        events=args.events,
        kills=args.kills,
        seed=args.seed,
        workers=args.workers,
        nodes=args.nodes,
        broker=args.broker,
        partitions=args.partitions,
        encode=not args.no_encode,
        erased=args.erased,
    )
    folder = args.folder or Path(".cache/faults") / time.strftime(f"%Y%m%d-%H%M%S-seed{args.seed}")
    make_folder(folder, "--folder")
    if any(folder.iterdir()):
        raise ConfigError(f"--folder {folder} holds files, of an earlier run perhaps: give a new one, or remove it")
    started_s = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started_s:7.1f} s  {text}", file=sys.stderr, flush=True)

    try:
        report = run_plan(plan, folder, say)
    except PulsegraphError:
        print(f"failed; logs are in {folder}; to do it again: {plan.command()}", file=sys.stderr)
        raise
    if not args.json:
        for line in table(report):
            print(line)
    print(json_encode(report).decode())
    if not report.ok:
        print(f"FAILED; logs and dumps are in {folder}; to do it again: {plan.command()}", file=sys.stderr)
    return 0 if report.ok else 1


def table(report: FaultsReport) -> Iterator[str]:
    """The report for people, as Markdown."""
    from infra.faults.schedule import KINDS

    yield f"`{report.command}`"
    yield ""
    yield "| action | times | kills | to progress, p50 s | max s |"
    yield "|---|---|---|---|---|"
    for kind, text in KINDS.items():
        if (timing := report.actions.get(kind)) is not None:
            yield f"| {text} | {timing.count} | {timing.kills} | {timing.p50_s:.1f} | {timing.max_s:.1f} |"
    yield (
        f"| **kills, together** | | {report.kills} | {report.kill_to_progress_p50_s:.1f} "
        f"| {report.kill_to_progress_max_s:.1f} |"
    )
    yield ""
    yield "| compared | number | different |"
    yield "|---|---|---|"
    for name, check in report.checks.items():
        yield f"| {name} | {check.compared:,} | {check.different} |"
    yield ""
    for problem in report.problems:
        yield f"PROBLEM: {problem}"
