"""Progress of one long job: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

_STEPS: Final = 20
_EVERY_S: Final = 5.0

Progress = Callable[[float, str], None]
"""Called with the share that is done, 0 to 1, and what is being done."""


@contextmanager
def training_bar(
    what: str = "training", stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Progress]:
    """A bar for a job that knows which share of it is done.

    Args:
        what: the job's name.
        stream: where to write; stderr where None. A bar needs a terminal; lines come at most every 5 % or 5 s.
        clock: seconds, monotonic.

    Example:
        >>> import io
        >>> log = io.StringIO()
        >>> with training_bar("counting", log) as progress:
        ...     progress(0.5, "half of it")
        >>> log.getvalue().splitlines()[0]
        'counting  50 %  half of it'
    """
    stream = stream if stream is not None else sys.stderr
    if not stream.isatty():
        yield _Lines(what, stream, clock)
        return
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn(what),
        rich_progress.BarColumn(),
        rich_progress.TaskProgressColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("{task.description}", markup=False),
    )
    with rich_progress.Progress(*columns, console=Console(file=stream)) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share, message: bar.update(task, completed=share, description=message)


class _Lines:
    """Progress for logs: a line when enough has changed or enough time has passed."""

    def __init__(self, what: str, stream: TextIO, clock: Callable[[], float]) -> None:
        self._what, self._stream, self._clock = what, stream, clock
        self._step, self._said_s = -1, clock()

    def __call__(self, share: float, message: str) -> None:
        now_s, step = self._clock(), int(share * _STEPS)
        if step > self._step or now_s - self._said_s >= _EVERY_S:
            self._stream.write(f"{self._what} {100 * share:>3.0f} %  {message}\n")
            self._stream.flush()
            self._step, self._said_s = step, now_s
