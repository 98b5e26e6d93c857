"""How many examples a property test takes."""

from __future__ import annotations

from typing import Final

from hypothesis import settings

_USUAL: Final = settings.get_profile("default").max_examples


def examples(count: int) -> int:
    """``count`` in the whole run; less in the same share under a profile that takes less, such as ``fast``."""
    return max(1, count * settings.default.max_examples // _USUAL)
