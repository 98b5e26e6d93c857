"""Sequences of items, a line a user, split by leaving one out: what next-item models are compared on.

A line is the user's id and then the ids of items in the order in which they came, with spaces between. The last item is
the test's, the one before it is validation's, and what is before both is trained on.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.errors import ConfigError

Ints = npt.NDArray[np.int64]
PAD: Final = 0
LEAST: Final = 3
"""Items of a user who can be tested: one to read, one to validate on, one to test."""


@dataclass(frozen=True)
class LeaveOneOut:
    """Users with at least :data:`LEAST` items; items are numbered from 1, :data:`PAD` is none.

    Of two files that differ in test items alone, everything but ``test`` is equal.
    """

    train: list[Ints]
    """Of each user, without the last two."""
    valid: Ints
    """(U,)"""
    test: Ints
    """(U,)"""
    items: int
    """How many there are, in all parts: the catalog that is ranked."""

    def __len__(self) -> int:
        return len(self.train)

    def before_test(self) -> list[Ints]:
        """What a model may read when it is tested."""
        return [np.append(items, last) for items, last in zip(self.train, self.valid.tolist(), strict=True)]

    def counts(self) -> npt.NDArray[np.float64]:
        """How often each item is trained on, (items + 1,)."""
        return np.bincount(np.concatenate(self.train), minlength=self.items + 1).astype(np.float64)


def read_sequences(path: Path) -> LeaveOneOut:
    """A file of lines, gzipped where its name ends so.

    Raises:
        ConfigError: it cannot be read, or holds no user of enough items.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            return split(line.split()[1:] for line in file)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--sequences {path} cannot be read ({error}): give a file with a line a user, its id and then item ids"
        ) from error


def split(lines: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> LeaveOneOut:
    """The same of item ids in order, users one after the other.

    Raises:
        ConfigError: no user has enough items.
    """
    kept = [line for line in lines if len(line) >= LEAST]
    if not kept:
        raise ConfigError(f"no line holds a user with {LEAST} items or more, of which the last two are kept apart")
    names = {item: number for number, item in enumerate(sorted({item for line in kept for item in line}), 1)}
    numbered = [np.array([names[item] for item in line], dtype=np.int64) for line in kept]
    return LeaveOneOut(
        train=[items[:-2] for items in numbered],
        valid=np.array([items[-2] for items in numbered], dtype=np.int64),
        test=np.array([items[-1] for items in numbered], dtype=np.int64),
        items=len(names),
    )
