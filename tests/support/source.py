"""What the source code names."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def attributes() -> set[str]:
    """Every name that stands behind a dot somewhere in the packages."""
    return {
        node.attr
        for top in ("schemas", "models", "streams")
        for path in (ROOT / top).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
