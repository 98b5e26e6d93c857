"""Dependencies point one way, the core is pure, and what is installed is what is there."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: Package -> packages of ours that it may import.
MAY_IMPORT = {
    "schemas": {"schemas"},
    "models": {"schemas", "models"},
    "streams/core": {"schemas", "streams.core"},
    "streams": {"schemas", "models", "streams"},
    "infra": {"schemas", "models", "streams", "infra"},
}
OURS = {"schemas", "models", "streams", "infra", "tests"}
#: Attributes that read a clock, the environment or a random source.
IMPURE = {
    ("time", "time"), ("time", "time_ns"), ("time", "monotonic"), ("time", "monotonic_ns"), ("time", "perf_counter"),
    ("time", "sleep"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"),
    ("os", "environ"), ("os", "getenv"), ("os", "urandom"), ("uuid", "uuid1"), ("uuid", "uuid4"),
}  # fmt: skip
IMPURE_MODULES = {"random", "secrets", "time", "os", "socket", "subprocess", "threading", "asyncio", "logging"}


def _files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    return [path for path in found if folder != "streams" or "core" not in path.relative_to(ROOT / "streams").parts]


def _imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            # `from streams import core` imports streams.core.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


CASES = [pytest.param(folder, path, id=str(path.relative_to(ROOT))) for folder in MAY_IMPORT for path in _files(folder)]


@pytest.mark.parametrize(("folder", "path"), CASES)
def test_imports_point_one_way(folder: str, path: Path) -> None:
    ours = {name for name in _imports(ast.parse(path.read_text())) if name.split(".")[0] in OURS}
    allowed = MAY_IMPORT[folder]
    wrong = {name for name in ours if not any(name == part or name.startswith(part + ".") for part in allowed)}
    assert wrong == set(), f"{path} is in {folder} and may import {sorted(allowed)}"


@pytest.mark.parametrize("path", [pytest.param(p, id=p.name) for p in sorted((ROOT / "streams/core").rglob("*.py"))])
def test_core_is_pure(path: Path) -> None:
    tree = ast.parse(path.read_text())
    roots = {name.split(".")[0] for name in _imports(tree)}
    foreign = roots - set(sys.stdlib_module_names) - {"schemas", "streams", "msgspec"}
    assert foreign == set(), "the core imports schemas, msgspec and the standard library only"
    assert roots & IMPURE_MODULES == set()
    read = {
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert read & IMPURE == set(), "time and chance are parameters in the core"
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert calls & {"open", "print", "input", "exec", "eval"} == set()


def test_schemas_are_pure() -> None:
    for path in _files("schemas"):
        roots = {name.split(".")[0] for name in _imports(ast.parse(path.read_text()))}
        assert roots & (IMPURE_MODULES | {"torch", "faust", "numpy"}) == set(), path


def test_packages_are_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {
        ".".join(path.relative_to(ROOT).parts)
        for top in ("schemas", "models", "streams")
        for path in [ROOT / top, *(ROOT / top).rglob("*")]
        if path.is_dir() and any(path.glob("*.py"))
    }
    assert set(listed) == there
    assert all((ROOT / name.replace(".", "/") / "__init__.py").exists() for name in there)


def test_class_names_are_unique() -> None:
    """One name, one thing. Of the two `Encoded`, one is still to be renamed."""
    places: dict[str, list[str]] = {}
    for top in ("schemas", "models", "streams", "infra"):
        for path in sorted((ROOT / top).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    double = {name: found for name, found in places.items() if len(found) > 1}
    assert double.keys() <= {"Encoded"}, double


def test_tests_are_no_package() -> None:
    # A tests/models with an __init__.py would shadow models.
    assert list((ROOT / "tests").rglob("__init__.py")) == []
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
