"""Fixtures shared by all tests: a broker for the session, topics of one's own.

``PULSEGRAPH_TEST_BROKER`` chooses the broker: ``embedded`` (the default), ``apache``, or the ``host:port`` of one that
runs already.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import pytest

from streams import admin
from streams.broker import EmbeddedBroker
from streams.broker_apache import ApacheBroker, missing_tools


class HasBootstrap(Protocol):
    @property
    def bootstrap(self) -> str: ...


class RunningElsewhere(NamedTuple):
    bootstrap: str


class MakeTopics(Protocol):
    def __call__(self, partitions: int = ...) -> str: ...


@pytest.fixture(scope="session")
def broker() -> Iterator[HasBootstrap]:
    """A running broker; its address is ``.bootstrap``."""
    choice = os.environ.get("PULSEGRAPH_TEST_BROKER", "embedded")
    if choice == "embedded":
        with EmbeddedBroker() as embedded:
            yield embedded
    elif choice == "apache":
        with ApacheBroker() as apache:
            yield apache
    elif re.fullmatch(r"[^\s:]+:\d+(,[^\s:]+:\d+)*", choice):
        yield RunningElsewhere(choice)
    else:
        raise pytest.UsageError(f"PULSEGRAPH_TEST_BROKER={choice!r}: use embedded, apache or host:port")


@pytest.fixture
def topics_prefix() -> str:
    """A topic prefix (and good stem for consumer groups) that no other test uses."""
    return f"t{uuid.uuid4().hex[:10]}."


@pytest.fixture
def make_topics(broker: HasBootstrap, topics_prefix: str) -> Iterator[Callable[..., str]]:
    """Create all topics of the contract under ``topics_prefix``; ``make_topics(partitions=4)`` returns the prefix."""
    client = admin.connect({"bootstrap.servers": broker.bootstrap})

    def make(partitions: int = 2) -> str:
        admin.create_topics(client, prefix=topics_prefix, partitions=partitions)
        return topics_prefix

    yield make
    admin.delete(client, prefix=topics_prefix)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``apache`` run everywhere but where Java or Maven is missing, and then say so."""
    marked = [item for item in items if item.get_closest_marker("apache")]
    lacking = missing_tools() if marked else None
    if lacking is not None:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=lacking))
