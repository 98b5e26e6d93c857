"""How many examples a property test takes."""

from __future__ import annotations

from typing import Final

from hypothesis import settings

USUAL_EXAMPLES: Final = 100
"""Of a test that does not say how many, in the whole run."""


def examples(count: int) -> int:
    """``count`` in the whole run, and the profile's share of it under one that takes less, such as ``fast``."""
    return max(1, count * settings().max_examples // USUAL_EXAMPLES)
