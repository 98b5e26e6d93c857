"""Evaluations: what is served, measured beside the floors that it has to beat, on the same rows in one run.

Every evaluation is a module here with ``ABOUT`` (one line) and ``run(options, say) -> EvaluationFindings``;
:data:`NAMES` lists them. Ours are model directories as :meth:`models.inference.Predictor.load` reads them, asked about
snapshots that the core made; floors (:mod:`infra.evaluate.floors`) are trained anew each time.
"""

from __future__ import annotations

from typing import Final

#: In the order of ``make evaluate``.
NAMES: Final = (
    "churn",
    "behaviour",
    "calibration",
    "drift",
    "categories",
    "redemption",
    "send-time",
    "online-retail",
    "cdnow",
    "next-basket",
    "audience",
)
ASKED_FOR: Final = ("text", "next-item")
"""Only where they are named: what they need is not in the lock, or a file of one's own."""


def module_of(name: str) -> str:
    """Full name of an evaluation's module.

    Example:
        >>> module_of("online-retail")
        'infra.evaluate.online_retail'
    """
    return f"{__name__}.{name.replace('-', '_')}"
