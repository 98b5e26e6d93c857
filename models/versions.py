"""A model directory with several models: a folder each, and a link to the newest.

::

    DIR/2026-11-27-pg-0123456789abcdef/   a model, see models/saved_model.py; what is there is never changed
    DIR/current                           a symbolic link to the one that was trained last

A folder is written under another name and renamed, and so is the link: whoever reads finds the one before or the new
one, and never none. A folder that is itself a model is a model directory of one.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError
from schemas.model_versions import FOLDER_NAME

CARD_FILE: Final = "pulsegraph.json"
CURRENT: Final = "current"


def current(directory: Path) -> Path:
    """The folder of the model that a model directory stands for, as it is now: itself where nothing is linked.

    A reader of several files asks once, since the link may move.
    """
    link = directory / CURRENT
    return link.resolve() if link.is_symlink() else directory


def directory_of(served: Path) -> Path:
    """Where the versions beside a model lie: the model directory itself, or what a folder that is a model lies in."""
    is_one_model = (served / CARD_FILE).exists() and not (served / CURRENT).is_symlink()
    return served.resolve().parent if is_one_model else served


def folder_of(directory: Path, name: str) -> Path:
    """The folder of a version.

    Raises:
        ConfigError: the name is no plain name of a folder.
    """
    if not re.fullmatch(FOLDER_NAME, name):
        raise ConfigError(f"{name!r} is no name of a model's folder: letters, digits and . _ - only")
    return directory / name


def check_usable(directory: Path) -> None:
    """Whether models may be written below it.

    Raises:
        ConfigError: it is a file, or a folder of something else.
    """
    if not directory.exists() and not directory.is_symlink():
        return
    if not directory.is_dir() or (
        any(directory.iterdir())
        and not (directory / CURRENT).is_symlink()
        and not any(directory.glob(CARD_FILE))
        and not any(directory.glob(f"*/{CARD_FILE}"))
    ):
        raise ConfigError(f"{directory} exists and is no model directory; name a new or an empty one")


def new_folder(target: Path) -> Path:
    """An empty folder beside ``target``, to be filled and then renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    fresh.chmod(0o755)
    return fresh


def point(directory: Path, name: str) -> None:
    """Link :data:`CURRENT` to a version, in one step."""
    aside = Path(tempfile.mkdtemp(prefix=f".{CURRENT}.", dir=directory))
    try:
        (aside / CURRENT).symlink_to(name)
        os.replace(aside / CURRENT, directory / CURRENT)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def install(folder: Path, directory: Path) -> Path:
    """Copy a model's folder into a model directory, whole or not at all; nothing is done where it lies there.

    Raises:
        ConfigError: another folder has its name there, or the disk refuses.
    """
    target = folder_of(directory, folder.name)
    try:
        return _copied(folder, target)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be copied to {target} ({error.strerror or error})") from error


def _copied(folder: Path, target: Path) -> Path:
    if target.exists():
        if not target.samefile(folder) and (target / CARD_FILE).read_bytes() != (folder / CARD_FILE).read_bytes():
            raise ConfigError(f"{target} is another model than {folder}: rename one of the two folders")
        return target
    fresh = new_folder(target)
    try:
        for path in folder.iterdir():
            if path.is_file():
                shutil.copyfile(path, fresh / path.name)
        fresh.rename(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return target
