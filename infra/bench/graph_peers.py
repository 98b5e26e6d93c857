"""What the peers need on this machine: Quix Streams in an environment of its own, Kafka Streams' jars. Fetched once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError
from streams.brokers import maven
from streams.brokers.apache import KAFKA_VERSION, jar_dir

QUIX_VERSION: Final = "3.28.1"
_BENCH: Final = Path(__file__).resolve().parent
QUIX_JOB: Final = _BENCH / "quix_graph.py"
STREAMS_JOB: Final = _BENCH / "GraphJob.java"
_POM: Final = _BENCH / "pom.xml"


def quix_python(folder: Path) -> Path:
    """The interpreter of an environment with Quix Streams, which pins another confluent-kafka than ours.

    Args:
        folder: the environment is kept below it.

    Raises:
        ConfigError: it cannot be installed.
    """
    home = folder / f"quixstreams-{QUIX_VERSION}"
    python, stamp = home / "bin" / "python", home / "installed"
    if not stamp.exists():
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)], "an environment for Quix Streams")
        _run([str(python), "-m", "pip", "install", "--quiet", f"quixstreams=={QUIX_VERSION}"], "Quix Streams")
        stamp.touch()
    return python


def streams_jars() -> Path:
    """The folder with Kafka Streams' jars, filled by Maven the first time.

    Raises:
        ConfigError: Maven is missing or could not fetch them.
    """
    target = jar_dir().with_name(f"kafka-streams-{KAFKA_VERSION}")
    jars = (f"kafka-streams-{KAFKA_VERSION}.jar",)
    if not maven.complete(target, jars) and shutil.which("mvn") is None:
        raise ConfigError(f"Kafka Streams' jars are not in {target} yet, and there is no `mvn` (Maven) to fetch them")
    return maven.fetch(_POM, target, jars, f"Kafka Streams {KAFKA_VERSION}")


def _run(argv: list[str], what: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ConfigError(f"{what} could not be installed: " + "\n".join(said[-6:]))
