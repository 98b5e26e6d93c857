"""``pulsegraph train``: make a model from a log of events."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from streams.commands import (
    Subparsers,
    above_zero,
    add_settings_options,
    add_source_options,
    day_ms,
    new_parser,
    settings_from,
    whole,
)

if TYPE_CHECKING:
    import torch

    from models.continued import Base
    from models.metrics import Score
    from models.model import TrainingReport
    from models.pretrained import PretrainedBody
    from models.saved_model import Card
    from models.training import TrainSettings
    from streams.settings.schema import Settings


_READING: Final = 0.2  # of the progress bar
_SIZE: Final = "demo"
_HELD_OUT: Final = {
    "later": "other customers, later days",
    "campaigns": "other customers, newer campaigns",
    "overlapping": "other customers, newer campaigns, horizons that overlap",
    "customers": "other customers, same days",
}
"""By :attr:`models.outcomes.Split.by`."""


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "train",
        "train a model and write it into a model directory",
        "Events before --until go through the serving code, which makes snapshots and, as event time passes, their "
        "labels. Training reads these outcomes and nothing else, and only those whose horizon has ended by then, since "
        "before that only one of the two labels can be known. --from-topics reads the outcomes and the catalog of a "
        "running deployment instead; without it, no Kafka is needed. The model gets a folder of its own below DIR, and "
        "DIR/current links to it; workers that run go on with theirs until `pulsegraph publish`.",
        "  pulsegraph train --data complete-journey --until 2017-07-01 --out .cache/model\n"
        "  pulsegraph train --data simulation --customers 500 --epochs 1 --out .cache/toy\n"
        "  pulsegraph train --from-topics --out .cache/model-2\n"
        "  pulsegraph train --encoder ./all-MiniLM-L6-v2 --out .cache/minilm",
    )
    add_source_options(parser)
    parser.add_argument(
        "--until", default="2017-07-01", metavar="DAY", help="use events before this day, UTC (default 2017-07-01)"
    )
    parser.add_argument(
        "--from-topics",
        action="store_true",
        help="learn from the outcomes of a deployment",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="model directory (PULSEGRAPH_MODEL_DIR)")
    parser.add_argument(
        "--epochs",
        type=above_zero("epochs", 1e4),
        default=3.0,
        metavar="N",
        help="how often the encoder sees every outcome, at most (default 3)",
    )
    parser.add_argument(
        "--budget",
        type=above_zero("seconds", 1e6),
        metavar="S",
        help="seconds of the encoder's training, at most; what has seen less than one epoch by then is no model",
    )
    parser.add_argument(
        "--size", choices=("demo", "cpu", "gpu"), help=f"size of the encoder (default {_SIZE}, or that of --base)"
    )
    parser.add_argument(
        "--encoder",
        metavar="NAME",
        help="begin with the weights of a Hugging Face encoder: a folder with config.json and model.safetensors, or a "
        "name on the hub; --size then says how many positions it gets",
    )
    parser.add_argument(
        "--input",
        choices=("positions", "text"),
        default="positions",
        help="what --encoder gets: our vectors of positions, or snapshots in plain words through its own tokeniser; "
        "then it is not trained, and slow (default positions)",
    )
    parser.add_argument(
        "--base",
        type=Path,
        metavar="DIR",
        help="go on from a model: its words, its encoder and its size are kept, more outcomes are learned",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train (default cpu)")
    parser.add_argument(
        "--threads",
        type=whole(1, 1024),
        default=1,
        metavar="N",
        help="CPU threads of one operation (default 1: several pay for large encoders, and wait for each other where "
        "anything else runs)",
    )
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from models.versions import current

    settings = settings_from(args, model_dir=args.out)
    until_ms = day_ms(args.until)
    card = _from_topics(args, settings) if args.from_topics else _from_events(args, settings, until_ms)
    print(f"model {card.model_version} written to {current(settings.model_dir)}")
    for line in summary(card):
        print(f"  {line}")
    return 0


def _train_settings(args: argparse.Namespace) -> TrainSettings:

    from models.encoder import SIZES, EncoderSize
    from models.text import SIZE
    from models.training import TrainSettings

    return TrainSettings(
        epochs=args.epochs,
        budget_s=args.budget,
        seed=args.seed,
        size=EncoderSize(sequence=SIZE) if args.input == "text" else SIZES[args.size or _SIZE],
        threads=args.threads,
    )


class _Begin(NamedTuple):
    """What training begins with, and what its card says of it."""

    body: PretrainedBody | None
    base: Base | None
    device: torch.device
    date: str


def _begin(args: argparse.Namespace) -> _Begin:
    """Everything that was asked for, before anything takes time."""
    from datetime import UTC, datetime

    from models.continued import load_base
    from models.device import training_device
    from models.encoder import SIZES
    from models.pretrained import load_body
    from models.text import load_text_body
    from schemas.errors import ConfigError

    if args.base and args.encoder:
        raise ConfigError("--base goes on with the encoder that it has: omit --encoder, or train without --base")
    body = None
    if args.input == "text":
        if not args.encoder:
            raise ConfigError("--input text is for an encoder that reads: name one (--encoder NAME)")
        body = load_text_body(args.encoder)
    elif args.encoder:
        body = load_body(args.encoder, SIZES[args.size or _SIZE].sequence)
    return _Begin(
        body=body,
        base=load_base(args.base, SIZES[args.size] if args.size else None) if args.base else None,
        device=training_device(args.device, lambda text: print(f"pulsegraph train: {text}", file=sys.stderr)),
        date=datetime.now(UTC).date().isoformat(),
    )


def _from_topics(args: argparse.Namespace, settings: Settings) -> Card:
    from streams.inspect.names import read_names
    from streams.kafka.reader import TopicReader
    from streams.offline.recorded import read_recorded
    from streams.offline.training import counted, train_on_outcomes, vocabulary_of
    from streams.settings.schema import kafka_client_config
    from streams.telemetry.progress_bars import training_bar

    begin = _begin(args)
    with training_bar() as progress:
        with TopicReader(kafka_client_config(settings)) as reader:
            found = read_recorded(
                reader,
                settings.kafka.prefix,
                lambda share, text: progress(share * _READING, text),
            )
            names = read_names(reader, settings.kafka.prefix)
        left_out = (
            f"{found.repeated:,} repeated, {found.foreign:,} of another version, {found.erased:,} of erased customers, "
            f"{len(found.early):,} whose horizon has not ended, {found.refused:,} of the catalog"
        )
        progress(_READING, f"{len(found.outcomes):,} outcomes, {len(found.catalog):,} entries; left out: {left_out}")
        return train_on_outcomes(
            found.outcomes,
            found.catalog,
            vocabulary_of(counted(found.outcomes), names, found.catalog),
            settings.model_dir,
            config=settings.core,
            settings=_train_settings(args),
            progress=lambda share, text: progress(_READING + share * (1 - _READING), text),
            early=found.early,
            source="topics of a deployment",
            **begin._asdict(),
        )


def _from_events(args: argparse.Namespace, settings: Settings, until_ms: int) -> Card:
    from schemas.errors import ConfigError
    from streams.offline.training import train_on_events
    from streams.sources.source import load_source
    from streams.telemetry.progress_bars import training_bar

    begin = _begin(args)
    source = load_source(args.data, seed=args.seed, customers=args.customers)
    if until_ms <= source.from_ms:
        raise ConfigError(f"{args.data} has no events before {args.until}: give a later --until")
    with training_bar() as progress:
        progress(0.0, "reading events")
        return train_on_events(
            source.history(until_ms),
            source.catalog(),
            settings.model_dir,
            config=settings.core,
            # Nothing is known of the time behind a log's end, least of all that everybody stayed away.
            until_ms=min(until_ms, source.until_ms),
            settings=_train_settings(args),
            progress=progress,
            source=f"{args.data} until {args.until}",
            **begin._asdict(),
        )


def summary(card: Card) -> Iterator[str]:
    """What training read and reached, a line per head."""
    report = card.report
    early = f", {report.early:,} more left out until their horizon ends" if report.early else ""
    yield f"{report.outcomes:,} outcomes{early}, {sum(report.seconds.values()):.0f} s"
    if report.base:
        yield f"encoder: went on from {report.base}"
    if report.encoder:
        yield f"encoder: began as {report.encoder}"
    yield f"encoder: {report.epochs:.1f} epochs, {report.steps:,} steps; best after {_best(report):.1f}"
    for name, head in report.heads.items():
        yield f"{name}: AUC {_auc(head.model)} on {head.model.rows:,} held-out outcomes ({_HELD_OUT[head.split]})"
        yield f"{name}: AUC {_auc(head.wide)} without the encoder, whose share is {head.gate:.2f}"
        if head.too_few_rows:
            unseen = "any gain of log loss"
            if head.visible_gain is not None:
                unseen = f"a gain of log loss below {head.visible_gain:.4f}"
            yield f"{name}: {head.gate_rows:,} rows are too few to see what the encoder adds: {unseen}"
        if (ranked := head.ranking) is not None:
            yield f"{name}: {ranked.recall:.3f} of what came among the {ranked.best} best (NDCG {ranked.ndcg:.3f})"
        if head.embedding_auc is not None:
            yield f"{name}: AUC {head.embedding_auc:.3f} of the embedding alone"
    for name, reason in report.left_out.items():
        yield f"{name}: not trained, {reason}"


def _best(report: TrainingReport) -> float:
    return min(report.checks, key=lambda check: check.loss).epoch if report.checks else report.epochs


def _auc(score: Score) -> str:
    if score.auc is None:
        return "unknown (one label only)"
    if score.auc_low is None or score.auc_high is None:
        return f"{score.auc:.3f}"
    return f"{score.auc:.3f} ({score.auc_low:.3f} to {score.auc_high:.3f})"
