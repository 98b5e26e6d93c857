"""How many examples a property test takes."""

from __future__ import annotations

from typing import Final

from hypothesis import settings

MOST_EXAMPLES: Final = 100
"""Of a test that does not say how many, in a thorough run."""


def examples(count: int) -> int:
    """``count`` in a thorough run, and the profile's share of it under one that takes less: half in the usual one."""
    return max(1, count * settings().max_examples // MOST_EXAMPLES)
