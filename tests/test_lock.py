"""One lock for every supported Python, and every file names the same ones; `make lock-check` asks the network, too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import requires, version
from pathlib import Path
from typing import Final

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parent.parent
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK: Final = (ROOT / "requirements.lock").read_text()
IMAGE_LOCK: Final = (ROOT / "infra/worker/requirements.lock").read_text()
MAKEFILE: Final = (ROOT / "Makefile").read_text()
PYTHONS: Final = re.findall(r"^PYTHONS := (.*)$", MAKEFILE, re.MULTILINE)[0].split()
_ENTRY: Final = re.compile(
    r"^(\S+)==(\S+)(?: ; (.+?))? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def _environment(python: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
    }


@cache
def _locked(python: str, lock: str = LOCK) -> dict[str, str]:
    """What a lock installs on Linux: version by name."""
    found = [
        (str(canonicalize_name(name)), pin)
        for name, pin, marker, _ in _ENTRY.findall(lock)
        if not marker or Marker(marker).evaluate(_environment(python))
    ]
    assert len(dict(found)) == len(found), "two versions of one package"
    return dict(found)


def _asked(python: str, *, with_extras: bool = True) -> Iterator[tuple[str, Requirement]]:
    """What pyproject.toml asks for, and what that asks for in turn, as installed here: who asks, and for what."""
    project = PROJECT["project"]
    extras = [text for group in project["optional-dependencies"].values() for text in group if with_extras]
    open_ = [("pyproject.toml", text, "") for text in (*project["dependencies"], *extras)]
    open_ += [("the build", text, "") for text in PROJECT["build-system"]["requires"]]
    seen: set[tuple[str, str]] = set()
    while open_:
        by, text, extra = open_.pop()
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate(_environment(python) | {"extra": extra}):
            continue
        yield by, wanted
        name = str(canonicalize_name(wanted.name))
        for asked in ("", *wanted.extras):
            if (name, asked) not in seen and name in _locked(python):
                seen.add((name, asked))
                open_ += [(name, further, asked) for further in requires(name) or ()]


@pytest.mark.parametrize("lock", [LOCK, IMAGE_LOCK], ids=["checkout", "image"])
def test_everything_is_pinned_and_has_hashes(lock: str) -> None:
    rest = _ENTRY.sub("", lock)
    assert len(_ENTRY.findall(lock)) > 80
    assert [line for line in rest.splitlines() if line.strip() and not line.lstrip().startswith("#")] == []
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host| @ ", lock)


@pytest.mark.parametrize("python", PYTHONS)
def test_the_image_installs_what_the_product_asks_for_and_nothing_else(python: str) -> None:
    wanted = {canonicalize_name(asked.name) for _, asked in _asked(python, with_extras=False)}
    installed = _locked(python, IMAGE_LOCK)
    assert installed.keys() == wanted, "run: make lock"
    assert installed.items() <= _locked(python).items(), "run: make lock"
    for tool in PROJECT["project"]["optional-dependencies"]["dev"]:
        assert canonicalize_name(Requirement(tool).name) not in installed


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_holds_what_each_python_asks_for(python: str) -> None:
    locked = _locked(python)
    asked = list(_asked(python))
    assert {canonicalize_name(wanted.name) for _, wanted in asked} == locked.keys()
    unmet = [
        (by, str(wanted))
        for by, wanted in asked
        if not wanted.specifier.contains(locked[canonicalize_name(wanted.name)], prereleases=True)
    ]
    assert unmet == []


def test_what_is_installed_is_what_is_locked() -> None:
    python = "{}.{}".format(*sys.version_info[:2])
    locked = _locked(python)
    assert {name: version(name) for name in locked} == locked


def test_every_file_names_the_same_pythons() -> None:
    oldest, newest = PYTHONS[0], PYTHONS[-1]
    allowed = SpecifierSet(PROJECT["project"]["requires-python"])
    minors = [f"3.{minor}" for minor in range(40)]
    assert [python for python in minors if f"{python}.0" in allowed] == PYTHONS
    named = [line.rsplit(" ", 1)[1] for line in PROJECT["project"]["classifiers"] if "Python ::" in line]
    assert named == PYTHONS
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert PROJECT["tool"]["mypy"]["python_version"] == oldest
    assert f"You need Python {oldest} to {newest}," in (ROOT / "README.md").read_text()
    image = re.search(r"^FROM python:(\S+)-slim AS base$", (ROOT / "infra/worker/Dockerfile").read_text(), re.MULTILINE)
    assert image is not None and image[1] in PYTHONS


def _tool(name: str) -> str:
    found = shutil.which(name)
    assert found is not None
    return found


def _bin(folder: Path, **scripts: str) -> dict[str, str]:
    """An environment whose PATH has these and no other Python."""
    folder.mkdir()
    for name, body in scripts.items():
        script = folder / name.replace("_", ".")
        script.write_text(f"#!/bin/bash\n{body}\n")
        script.chmod(0o755)
    (folder / "head").symlink_to(_tool("head"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTHON", "MFLAGS"))}
    return kept | {"PATH": str(folder)}


#: pyenv's, where its version is not chosen; one that is too old; one that fits.
SHIM: Final = 'echo "pyenv: $0: command not found" >&2; exit 127'
OLD: Final = 'if [ "$1" = --version ]; then echo Python 3.10.13; else exit 1; fi'
FITS: Final = f'exec "{sys.executable}" "$@"'


@pytest.mark.parametrize(
    ("scripts", "chosen"),
    [
        ({"python3_11": FITS, "python3_13": FITS, "python3": OLD}, "python3.11"),
        ({"python3_11": SHIM, "python3_12": SHIM, "python3_13": FITS, "python3": FITS}, "python3.13"),
        ({"python3_12": OLD, "python3": FITS}, "python3"),
        ({"python3_11": SHIM, "python3": OLD}, ""),
        ({}, ""),
    ],
)
def test_make_takes_the_first_python_that_fits(tmp_path: Path, scripts: dict[str, str], chosen: str) -> None:
    environment = _bin(tmp_path / "bin", **scripts)
    said = _make(environment, "--eval", "chosen: ; @echo $(PYTHON)", "chosen")
    assert (said.returncode, said.stdout.strip(), said.stderr) == (0, chosen, "")


@pytest.mark.parametrize(
    ("scripts", "given", "why"),
    [
        ({"python3_11": SHIM}, [], "none is on the PATH"),
        ({"python3_10": OLD, "python3_11": FITS}, ["PYTHON=python3.10"], "python3.10 is not: Python 3.10.13"),
        ({"python3_12": SHIM}, ["PYTHON=python3.12"], "python3.12 is not: pyenv: "),
    ],
)
def test_make_says_what_to_do_without_one(tmp_path: Path, scripts: dict[str, str], given: list[str], why: str) -> None:
    said = _make(_bin(tmp_path / "bin", **scripts), "install", f"VENV={tmp_path / 'venv'}", *given)
    assert said.returncode != 0
    assert why in said.stderr and " ".join(PYTHONS) in said.stderr
    assert "make PYTHON=/path/to/python3.13" in said.stderr
    assert not (tmp_path / "venv").exists()


def test_make_refuses_an_environment_of_another_python(tmp_path: Path) -> None:
    environment = _bin(tmp_path / "bin", python3=FITS)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").write_text(f"#!/bin/bash\n{OLD}\n")
    (tmp_path / "venv" / "bin" / "python").chmod(0o755)
    said = _make(environment, "install", f"VENV={tmp_path / 'venv'}")
    assert said.returncode != 0
    assert f"{tmp_path / 'venv'} has Python 3.10.13" in said.stderr and "remove" in said.stderr


def _make(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [_tool("make"), "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=60)
