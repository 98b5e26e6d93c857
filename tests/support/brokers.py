"""Which broker the tests run on, and how it is started."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol

from streams.brokers.apache import KAFKA_VERSION, ApacheBroker
from streams.brokers.embedded import EmbeddedBroker

VARIABLE: Final = "PULSEGRAPH_TEST_BROKER"
_ADDRESS: Final = re.compile(r"[^\s,:]+:\d+(,[^\s,:]+:\d+)*")


class HasBootstrap(Protocol):
    @property
    def bootstrap(self) -> str: ...


class Choice(NamedTuple):
    """What tests get, and why."""

    kind: str
    """``apache``, ``docker``, ``embedded``, or the ``host:port`` of a broker that runs already."""
    why: str

    def __str__(self) -> str:
        names = {
            "apache": f"Apache Kafka {KAFKA_VERSION}",
            "docker": "Apache Kafka in Docker",
            "embedded": "the embedded one",
        }
        return f"{names.get(self.kind, self.kind)} ({self.why})"


def choose(asked: str, *, apache_lacks: str | None, docker: bool) -> Choice:
    """What to run on.

    Args:
        asked: value of :data:`VARIABLE`; empty is ``auto``.
        apache_lacks: what Apache Kafka needs and this machine has not, as a sentence; None for nothing.
        docker: whether a Docker engine answers.

    Raises:
        ValueError: nothing of that name.
    """
    if asked in ("apache", "docker", "embedded") or _ADDRESS.fullmatch(asked):
        return Choice(asked, f"{VARIABLE} says so")
    if asked not in ("", "auto"):
        raise ValueError(f"{VARIABLE}={asked!r}: use auto, apache, docker, embedded or host:port")
    if apache_lacks is None:
        return Choice("apache", "Java and Maven are there")
    if docker:
        return Choice("docker", apache_lacks)
    return Choice("embedded", f"no Docker engine answers; {apache_lacks}")


def docker_answers() -> bool:
    """Whether there is a Docker engine to talk to; the command alone is not enough."""
    if shutil.which("docker") is None:
        return False
    try:
        return subprocess.run(["docker", "version"], capture_output=True, timeout=10.0, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@contextmanager
def started(choice: Choice) -> Iterator[HasBootstrap]:
    """The chosen broker, for as long as the block runs."""
    if choice.kind == "embedded":
        with EmbeddedBroker() as embedded:
            yield embedded
    elif choice.kind == "apache":
        with ApacheBroker() as apache:
            yield apache
    elif choice.kind == "docker":
        with _in_docker() as elsewhere:
            yield elsewhere
    else:
        yield RunningElsewhere(choice.kind)


class RunningElsewhere(NamedTuple):
    bootstrap: str


@contextmanager
def _in_docker() -> Iterator[HasBootstrap]:
    """Kafka in a container, on machines with Docker but without Java. CI (.ci/run) has none and never comes here."""
    from testcontainers.community.kafka import KafkaContainer

    with KafkaContainer().with_kraft().with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false") as container:
        yield RunningElsewhere(container.get_bootstrap_server())
