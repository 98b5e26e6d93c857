"""The ``pulsegraph`` command: finds the sub-command, and says errors in one line."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from typing import Final, Protocol

from schemas.errors import PulsegraphError
from streams.commands import (
    Subparsers,
    bench,
    broker,
    customer,
    dead_letters,
    demo,
    entity,
    faults,
    replay,
    replay_to,
    settings,
    simulate,
    state,
    tail,
    topics,
    train,
    worker,
)

EXIT_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_PIPE: Final = 141


class Command(Protocol):
    """A module of :mod:`streams.commands`."""

    def add(self, subparsers: Subparsers) -> None:
        """Declare the command's options; ``set_defaults(run=run)`` at the end."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the exit code."""


#: In the order in which a new user meets them.
COMMANDS: Final[tuple[Command, ...]] = (
    demo,
    broker,
    topics,
    train,
    worker,
    replay,
    simulate,
    tail,
    dead_letters,
    customer,
    entity,
    state,
    replay_to,
    faults,
    bench,
    settings,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pulsegraph",
        description="Kafka event streams in, live customer embeddings and decisions out.",
        epilog="`pulsegraph COMMAND --help` explains a command and gives an example.",
    )
    parser.add_argument("--version", action="version", version=f"pulsegraph {_version()}")
    parser.add_argument("--debug", action="store_true", help="show a traceback with every error")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. 2: an error that its message explains. 130: Ctrl-C."""
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except PulsegraphError as error:
        if args.debug:
            traceback.print_exc()
        else:
            print(f"pulsegraph {args.command}: {error or type(error).__name__}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        if args.debug:
            traceback.print_exc()
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`). Python would complain once more while flushing at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE


def _version() -> str:
    try:
        return metadata.version("pulsegraph")
    except metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
