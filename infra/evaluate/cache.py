"""Folders of results that are kept under a name made of everything that decides them, the code included."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec

_ROOT: Final = Path(__file__).parents[2]


def kept(folder: Path, kind: str, key: object, make: Callable[[Path], None]) -> Path:
    """The folder of one result, made where it is not there yet; whole or not at all.

    Args:
        folder: of all results.
        kind: first part of the result's path.
        key: everything the result depends on, as msgspec can write it; ``key.json`` in the folder says it.
        make: fills the empty folder that it is given.
    """
    said = msgspec.json.encode(msgspec.to_builtins(key), order="sorted")
    name = hashlib.blake2b(said, digest_size=10).hexdigest()
    target = folder / kind / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=target.parent))
    try:
        make(fresh)
        (fresh / "key.json").write_bytes(msgspec.json.format(said, indent=1))
        os.replace(fresh, target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return target


@cache
def code_of(*places: str) -> str:
    """Hash of the code in files and folders of the checkout; comments, docstrings and layout do not count.

    Example:
        >>> code_of("schemas") == code_of("schemas") != code_of("models")
        True
    """
    digest = hashlib.blake2b(digest_size=10)
    for path in _files(places):
        text = path.read_bytes()
        said = ast.dump(_bare(text)).encode() if path.suffix == ".py" else text
        digest.update(f"{path.relative_to(_ROOT)}:{len(said)}:".encode() + said)
    return digest.hexdigest()


def versions_of(*packages: str) -> dict[str, str]:
    """Installed versions, for keys."""
    return {package: metadata.version(package) for package in packages}


def file_hash(path: Path) -> str:
    """Of a file's content."""
    return hashlib.blake2b(path.read_bytes(), digest_size=10).hexdigest()


def _bare(text: bytes) -> ast.AST:
    """What a file does: statements that are only a text say something, and do nothing."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                part
                for part in body
                if not (isinstance(part, ast.Expr) and isinstance(getattr(part.value, "value", None), str))
            ]
    return tree


def _files(places: Iterable[str]) -> list[Path]:
    found: list[Path] = []
    for place in places:
        path = _ROOT / place
        found += [path] if path.is_file() else [*path.rglob("*.py"), *path.rglob("*.c")]
    return sorted(found)
