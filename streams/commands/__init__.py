"""One file per command, each with ``add(subparsers)`` and ``run(args) -> int``; :mod:`streams.cli` lists them.

``run`` imports what is heavy (torch, faust, confluent_kafka) itself, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from streams.settings.schema import Settings

Subparsers = Any  # argparse gives this type no public name
#: What every random generator behind a ``--seed`` takes.
MOST: Final = 2**63 - 1
#: Their events are sorted day by day in memory.
MOST_CUSTOMERS: Final = 10_000_000


def new_parser(subparsers: Subparsers, name: str, summary: str, text: str, example: str) -> argparse.ArgumentParser:
    """A command's parser, with its examples at the end of ``--help``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=textwrap.fill(f"{summary[0].upper()}{summary[1:]}. {text}", 79),
        epilog=f"example:\n{example}" if "\n" not in example else f"examples:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def add_settings_options(parser: argparse.ArgumentParser) -> None:
    """Options that nearly every command has; ``settings_from`` reads them."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file with settings (PULSEGRAPH_CONFIG); see `settings`"
    )
    parser.add_argument(
        "--bootstrap", metavar="HOST:PORT", help="Kafka brokers to connect to first (PULSEGRAPH_KAFKA_BOOTSTRAP)"
    )
    parser.add_argument("--prefix", help="prefix of every topic and group name (PULSEGRAPH_KAFKA_PREFIX)")


def settings_from(args: argparse.Namespace, **overrides: object) -> Settings:
    """Settings of the environment, the file and the options of :func:`add_settings_options`.

    Args:
        overrides: further options, with ``__`` for the dot: ``kafka__partitions=args.partitions``. None is skipped.

    Raises:
        ConfigError: as :func:`streams.settings.schema.load`.
    """
    from streams.settings import schema as settings

    named = {name.replace("__", "."): value for name, value in overrides.items()}
    options = {"kafka.bootstrap": args.bootstrap, "kafka.prefix": args.prefix}
    return settings.load(args.config, overrides=options | named)


def day_ms(day: str) -> int:
    """A day (midnight) or moment in ISO 8601 as epoch ms; UTC where it names no offset.

    Raises:
        ConfigError: it is neither.

    Example:
        >>> day_ms("2017-07-01")
        1498867200000
    """
    from schemas.errors import ConfigError

    try:
        moment = datetime.fromisoformat(day)
    except ValueError as error:
        raise ConfigError(f"{day!r} is not a date: write it like 2017-07-01 or 2017-07-01T18:00") from error
    return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def whole(least: int, most: int = MOST) -> Callable[[str], int]:
    """The ``type`` of an option that takes a whole number within bounds, both included.

    Example:
        >>> whole(0, 9)("7")
        7
    """

    def parsed(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least} to {most}")
        return number

    return parsed


def above_zero(what: str, most: float) -> Callable[[str], float]:
    """The ``type`` of an option that takes a number above 0, ``most`` included.

    Example:
        >>> above_zero("seconds", 60)("0.5")
        0.5
    """

    def parsed(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 0 < number <= most:  # false of nan, too
            raise argparse.ArgumentTypeError(f"{text!r}: give {what} above 0 and at most {most:g}")
        return number

    return parsed


def rate(text: str) -> float:
    """The ``type`` of ``--rate``: events per second."""
    return above_zero("events per second", 1e9)(text)


def make_folder(path: Path, option: str) -> None:
    """Make a folder where there is none.

    Raises:
        ConfigError: it cannot be.
    """
    from schemas.errors import ConfigError

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be used as a folder ({error.strerror}): give another one") from error


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Options of commands that read a :mod:`streams.sources.source` source: ``--data``, ``--seed``, ``--customers``."""
    parser.add_argument(
        "--data",
        choices=("complete-journey", "online-retail", "cdnow", "simulation"),
        default="complete-journey",
        help="where events come from: purchases of 2,467 households in 2017 (default), invoices of a gift shop in 2011 "
        "(from PULSEGRAPH_DATA), purchases at a shop of records (as of 2014 and 2015), or the simulator's 2017",
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of every random choice (default 0)")
    parser.add_argument(
        "--customers",
        type=whole(1, MOST_CUSTOMERS),
        default=2_000,
        metavar="N",
        help="number of simulated customers (default 2000)",
    )
