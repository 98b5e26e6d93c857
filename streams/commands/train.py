"""``pulsegraph train``: make a model from a log of events."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from streams.commands import Subparsers, add_settings_options, new_parser, settings_from

if TYPE_CHECKING:
    from models.checkpoint import Card


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "train",
        "train a model and write its directory",
        "Events before --until go through the same code that serves: it makes snapshots and, as event time passes, "
        "their labels.\nTraining reads those labelled snapshots and nothing else.",
        "  pulsegraph train --data complete-journey --until 2017-07-01 --out .cache/model",
    )
    parser.add_argument(
        "--data", choices=("complete-journey", "simulation"), default="complete-journey", help="where events come from"
    )
    parser.add_argument("--until", default="2017-07-01", metavar="DATE", help="use events before this day, UTC")
    parser.add_argument("--out", type=Path, metavar="DIR", help="model directory (PULSEGRAPH_MODEL_DIR)")
    parser.add_argument("--budget", type=float, default=90.0, metavar="S", help="seconds of training (default 90)")
    parser.add_argument("--seed", type=int, default=0, help="of training, and of the simulation")
    parser.add_argument("--customers", type=int, default=2_000, help="of the simulation")
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from models.training import TrainSettings
    from streams.console.bars import training_bar
    from streams.sources import load_source
    from streams.training import train_on_events

    settings = settings_from(args, model_dir=args.out)
    until_ms = day_ms(args.until)
    source = load_source(args.data, seed=args.seed, customers=args.customers)
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


def day_ms(day: str) -> int:
    """Midnight UTC of an ISO day, in epoch ms.

    Raises:
        ConfigError: it is no day.
    """
    from schemas.errors import ConfigError

    try:
        return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError as error:
        raise ConfigError(f"{day!r} is no day: write it like 2017-07-01") from error


def summary(card: Card) -> list[str]:
    """What training reached, a line per head."""
    return [
        f"{head.head}: AUC {head.auc:.3f} ({head.auc_low:.3f}-{head.auc_high:.3f}) on {head.validated:,} held-out outcomes"
        for head in card.report.heads
    ]
