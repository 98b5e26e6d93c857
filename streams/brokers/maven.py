"""Jars from Maven, fetched once into a folder that is then complete or absent."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import ConfigError


def complete(folder: Path, jars: Sequence[str]) -> bool:
    """Whether a folder has all of these jars."""
    return all((folder / jar).is_file() for jar in jars)


def fetch(pom: Path, target: Path, jars: Sequence[str], what: str) -> Path:
    """The folder ``target`` with the dependencies of ``pom``, filled where it is not complete.

    Args:
        jars: file names without which the folder is not complete.
        what: named in errors.

    Raises:
        ConfigError: the folder cannot be written, or Maven could not fetch the jars.
    """
    if complete(target, jars):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".kafka-", dir=target.parent))
    except OSError as error:
        raise ConfigError(
            f"cannot write to {target.parent} ({error}); set PULSEGRAPH_CACHE to another folder"
        ) from error
    try:
        # The pom is copied, since Maven leaves a `target` folder beside the one it reads.
        shutil.copy(pom, scratch / "pom.xml")
        fetched = scratch / "jars"
        argv = ["mvn", "-q", "-B", "-f", str(scratch / "pom.xml"), "dependency:copy-dependencies"]
        done = subprocess.run([*argv, f"-DoutputDirectory={fetched}"], capture_output=True, text=True, check=False)
        if done.returncode != 0 or not complete(fetched, jars):
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise ConfigError(f"Maven could not fetch {what}: " + "\n".join(said[:6]))
        if not complete(target, jars):
            shutil.rmtree(target, ignore_errors=True)
            try:
                fetched.rename(target)
            except OSError:
                if not complete(target, jars):  # another process was faster
                    raise
        return target
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
