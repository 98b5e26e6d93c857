"""Benchmarks: ours and what people would use instead, side by side in one run on one machine.

Every bench is a module here with ``ABOUT`` (one line) and ``run(options, say) -> Findings``; ``NAMES`` lists them.
Contenders take turns (:func:`infra.bench.report.take_turns`), so that a busy moment of the machine hits all of them;
medians and their ratios are what is quoted.
"""

from __future__ import annotations

from typing import Final

#: In the order of ``make bench``.
NAMES: Final = ("delivery", "state", "written", "ingest", "encode", "end-to-end", "start", "memory", "scale", "growth")
#: Those that take hours, and are no part of ``bench all``.
LONG: Final = ("soak",)


def module_of(name: str) -> str:
    """Full name of a bench's module.

    Example:
        >>> module_of("end-to-end")
        'infra.bench.end_to_end'
    """
    return f"{__name__}.{name.replace('-', '_')}"
