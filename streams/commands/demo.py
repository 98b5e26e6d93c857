"""``pulsegraph demo``: everything, on real data, with one command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from streams.commands import Subparsers, make_folder, new_parser, rate

if TYPE_CHECKING:
    from streams.demo.run import Summary


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "demo",
        "show the whole pipeline on real shopping data",
        "Trains a small model on January to June 2017 of the Complete Journey data (cached afterwards), starts a "
        "broker, and replays the same half year through ingest alone, so that its customers are known. Then two "
        "workers, one for the role encode and one for the others, get July to December through Kafka. The summary "
        "accounts for every event of both halves, and says how good the predictions of each kind were, measured "
        "against what the households did next.",
        "  pulsegraph demo\n  pulsegraph demo --limit 20000\n  pulsegraph demo --broker apache --json",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="replay about N events, of complete households")
    parser.add_argument("--rate", type=rate, metavar="N", help="events/s (default: as fast as predictions stay fresh)")
    parser.add_argument("--broker", choices=("embedded", "apache"), default="embedded", help="which broker to start")
    parser.add_argument("--fresh", action="store_true", help="train again even if a model is cached")
    parser.add_argument(
        "--json", action="store_true", help="no live screen; print one line of JSON on stdout at the end"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache/demo"), metavar="DIR", help="model, state and logs (.cache/demo)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from schemas.codec import json_encode
    from schemas.errors import ConfigError
    from streams.demo.run import DemoRun, ensure_model
    from streams.telemetry.progress_bars import training_bar

    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit {args.limit}: give a number of events above 0, or omit it for all")
    make_folder(args.cache, "--cache")
    model = ensure_model(args.cache, args.limit is not None, args.fresh, training_bar)
    demo = DemoRun(cache=args.cache, model=model, broker=args.broker, limit=args.limit, rate=args.rate)
    summary = demo.run(args.json)
    for line in describe(summary):
        print(line, file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json_encode(summary).decode())
    return 1 if summary.problems else 0


def describe(summary: Summary) -> list[str]:
    """The summary for a person."""

    def shown(value: float | None, format_spec: str) -> str:
        return "-" if value is None else format(value, format_spec)

    lines = [
        "",
        f"warm-up, January to June: {summary.warm_events:,} events produced = {summary.warm_applied:,} applied + "
        f"{summary.warm_duplicates:,} duplicates + {summary.warm_dead_lettered:,} dead-lettered, in "
        f"{summary.warm_s:.0f} s; {summary.warm_snapshots:,} snapshots without a prediction",
        f"{summary.events:,} events produced = {summary.applied:,} applied + {summary.duplicates:,} duplicates "
        f"+ {summary.dead_lettered:,} dead-lettered",
        f"{summary.snapshots:,} snapshots = {summary.encoded:,} encoded + {summary.coalesced:,} coalesced",
        *(f"{count:,} records on {topic}" for topic, count in summary.predictions.items()),
        f"{summary.events_per_s:,.0f} events/s; event to prediction p50 {shown(summary.freshness_p50_ms, ',.0f')} ms, "
        f"p95 {shown(summary.freshness_p95_ms, ',.0f')} ms",
        f"live churn AUC {shown(summary.churn_auc, '.3f')} over {summary.churn_scored:,} predictions whose outcome is "
        f"known; redemption {shown(summary.redemption_auc, '.3f')} over {summary.redemption_scored:,}",
        *_table(summary, shown),
        *(
            f"{name} in training, AUC on who was kept apart: features {shown(found.without, '.3f')}, with the encoder "
            f"{shown(found.beside, '.3f')} (share {found.gate:g}), the embedding alone {shown(found.alone, '.3f')}"
            for name, found in summary.encoder.items()
        ),
        f"model {summary.model_version}, {summary.broker} broker, {summary.wall_s:.0f} s",
    ]
    return lines + [f"PROBLEM: {problem}" for problem in summary.problems]


def _table(summary: Summary, shown: Callable[[float | None, str], str]) -> list[str]:
    """How good predictions were, a line for each kind that has outcomes."""
    head = f"{'by kind':<20}{'known':>9}{'AUC':>8}{'log loss':>10}{'predicted':>11}{'observed':>10}{'cal. error':>12}"
    rows = [
        f"{name + ' ' + kind:<20}{found.pairs:>9,}{shown(found.auc, '.3f'):>8}{shown(found.log_loss, '.4f'):>10}"
        f"{shown(found.predicted, '.4f'):>11}{shown(found.observed, '.4f'):>10}"
        f"{shown(found.calibration_error, '.4f'):>12}"
        for name, kinds in summary.quality.items()
        for kind, found in kinds.items()
        if found.pairs
    ]
    return [head, *rows] if rows else []
