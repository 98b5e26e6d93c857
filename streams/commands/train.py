"""``pulsegraph train``: make a model from a log of events."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from streams.commands import Subparsers, add_settings_options, add_source_options, day_ms, new_parser, settings_from

if TYPE_CHECKING:
    from models.checkpoint import Card
    from models.metrics import Score


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "train",
        "train a model and write its directory",
        "Events before --until go through the same code that serves: it makes snapshots and, as event time passes, "
        "their labels. Training reads those labelled snapshots and nothing else. Needs no Kafka.",
        "  pulsegraph train --data complete-journey --until 2017-07-01 --out .cache/model\n"
        "  pulsegraph train --data simulation --customers 500 --budget 20 --out .cache/toy",
    )
    add_source_options(parser)
    parser.add_argument(
        "--until", default="2017-07-01", metavar="DAY", help="use events before this day, UTC (default 2017-07-01)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="model directory (PULSEGRAPH_MODEL_DIR)")
    parser.add_argument(
        "--budget", type=float, default=90.0, metavar="S", help="seconds of training, after the replay (default 90)"
    )
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from schemas.errors import ConfigError

    settings = settings_from(args, model_dir=args.out)
    if args.budget <= 0:
        raise ConfigError(f"--budget {args.budget:g}: give seconds above 0")
    until_ms = day_ms(args.until)

    from models.training import TrainSettings
    from streams.console.bars import training_bar
    from streams.sources import load_source
    from streams.training import train_on_events

    source = load_source(args.data, seed=args.seed, customers=args.customers)
    if until_ms <= source.from_ms:
        raise ConfigError(f"{args.data} has no event before {args.until}: give a later --until")
    with training_bar() as progress:
        progress(0.0, "reading events")
        card = train_on_events(
            source.history(until_ms),
            source.catalog(),
            settings.model_dir,
            config=settings.core,
            until_ms=until_ms,
            settings=TrainSettings(budget_s=args.budget, seed=args.seed),
            progress=progress,
        )
    print(f"model {card.model_version} written to {settings.model_dir}")
    for line in summary(card):
        print(f"  {line}")
    return 0


def summary(card: Card) -> Iterator[str]:
    """What training read and reached, a line per head."""
    report = card.report
    yield f"{report.outcomes:,} outcomes, {sum(report.seconds.values()):.0f} s"
    for name, head in report.heads.items():
        held_out = "other customers, later days" if head.split == "customers" else "campaigns not trained on"
        yield f"{name}: AUC {_auc(head.model)} on {head.model.rows:,} held-out outcomes ({held_out})"
        yield f"{name}: AUC {_auc(head.wide)} without the encoder, whose share is {head.gate:.2f}"


def _auc(score: Score) -> str:
    if score.auc is None:
        return "unknown (one label only)"
    if score.auc_low is None or score.auc_high is None:
        return f"{score.auc:.3f}"
    return f"{score.auc:.3f} ({score.auc_low:.3f} to {score.auc_high:.3f})"
