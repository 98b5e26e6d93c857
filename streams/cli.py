"""The ``pulsegraph`` command: finds the sub-command, and says errors in one line."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Final, NoReturn, Protocol, cast

from schemas.errors import PulsegraphError
from streams.commands import (
    Subparsers,
    audience,
    broker,
    customer,
    dead_letters,
    demo,
    entity,
    predict,
    publish,
    replay,
    replay_to,
    settings,
    simulate,
    skip_snapshots,
    state,
    sweep,
    tail,
    topics,
    train,
    worker,
)

EXIT_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_PIPE: Final = 141
#: What a write says when there is no room for it. Files that cannot be opened are the commands' own matter.
_UNWRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


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
    publish,
    replay,
    simulate,
    tail,
    dead_letters,
    customer,
    predict,
    entity,
    audience,
    state,
    sweep,
    skip_snapshots,
    replay_to,
    settings,
)
#: Tools of the repository, which the wheel does not hold.
_TOOLS: Final = ("infra.faults.command", "infra.bench.command", "infra.evaluate.command")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error here; sub-parsers are of the same class."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"{self.prog}: {message}; `{self.prog} --help` explains it\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pulsegraph",
        description="Kafka event streams in, live customer embeddings and decisions out.",
        epilog="`pulsegraph COMMAND --help` explains a command and gives examples.",
    )
    parser.add_argument("--version", action="version", version=f"pulsegraph {_version()}")
    parser.add_argument("--debug", action="store_true", help="show a traceback with every error")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (*COMMANDS, *_tools()):
        command.add(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. 2: an error that its message explains. 130: Ctrl-C. 141: the reader has gone."""
    words = sys.argv[1:] if argv is None else argv
    refused = _unusable(words)
    if refused is not None:
        print(f"pulsegraph: {refused}", file=sys.stderr)
        return EXIT_ERROR
    try:
        args = build_parser().parse_args(words)
    except SystemExit as stop:
        if stop.code != EXIT_ERROR:
            raise  # --help, --version
        return EXIT_ERROR
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
        _discard_output()  # the reader has gone (`| head`)
        return EXIT_PIPE
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        return EXIT_PIPE  # rich ends the process by itself, with another code
    except OSError as error:
        if args.debug or error.filename is not None or error.errno not in _UNWRITABLE:
            raise
        _discard_output()
        print(f"pulsegraph {args.command}: output cannot be written: {error.strerror}", file=sys.stderr)
        return EXIT_ERROR


def _tools() -> list[Command]:
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "infra" / "bench" / "command.py").is_file():
        return []
    if str(checkout) not in sys.path:  # an editable install maps the packages of the wheel only
        sys.path.append(str(checkout))
    return [cast(Command, import_module(name)) for name in _TOOLS]


def _unusable(words: Sequence[str]) -> str | None:
    """Why no command can run with these arguments; None where one can."""
    if sys.stdout is None:
        # The number of a closed stdout goes to the next file that is opened: a database, for example.
        return "output cannot be written: stdout is closed; redirect it to /dev/null if you do not need it"
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            return f"argument {os.fsencode(word)!r} is not UTF-8: ids, names and paths must be text"
    return None


def _discard_output() -> None:
    """Python would complain once more while flushing at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version() -> str:
    try:
        return metadata.version("pulsegraph")
    except metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
