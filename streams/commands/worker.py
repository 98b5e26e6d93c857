"""``pulsegraph worker``: run roles until stopped."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from streams.agents.registry import ROLES
from streams.commands import Subparsers, add_settings_options, new_parser, settings_from
from streams.telemetry.log_filter import OnceInAWhile


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "worker",
        "run one or more roles of the pipeline until SIGTERM or Ctrl-C",
        f"{'; '.join(f'{role.name} {role.does}' for role in ROLES.values())}. Each role is a consumer group of its "
        "own: start more workers to share the load. The changelog topics hold all state; --state-dir holds a copy of "
        "this worker's part.",
        "  pulsegraph worker --roles ingest,entities\n  pulsegraph worker --roles encode --model .cache/model",
    )
    parser.add_argument("--roles", default=",".join(ROLES), help="roles, separated by commas (default: all)")
    parser.add_argument("--model", type=Path, metavar="DIR", help="model directory (PULSEGRAPH_MODEL_DIR)")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="folder of local stores (PULSEGRAPH_STATE_DIR)")
    parser.add_argument(
        "--standby",
        action="store_true",
        default=None,
        help="keep standbys: copies of partitions that other workers own",
    )
    parser.add_argument(
        "--metrics-port", type=int, metavar="PORT", help="serve /metrics on this port; 0 takes a free one"
    )
    parser.add_argument("--verbose", action="store_true", help="log progress too, not only problems")
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from streams.worker import Worker

    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(OnceInAWhile("aiokafka", time.monotonic))
    settings = settings_from(
        args, model_dir=args.model, state_dir=args.state_dir, metrics_port=args.metrics_port, standby=args.standby
    )
    roles = [role.strip() for role in args.roles.split(",") if role.strip()]
    return Worker(settings, roles).run()
