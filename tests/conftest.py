"""Fixtures shared by all tests: a broker for the session, topics of one's own.

``PULSEGRAPH_TEST_BROKER`` chooses the broker: ``apache``, ``docker``, ``embedded``, the ``host:port`` of one that runs
already, or ``auto`` (the default): Apache Kafka where Java and Maven are, else in Docker, else the embedded one.

``make test-fast`` leaves out what is marked ``broker`` or ``slow``, and takes a tenth of the examples of every
property test.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest
from hypothesis import settings
from support import brokers
from support.brokers import Choice, HasBootstrap
from support.examples import MOST_EXAMPLES

from streams.brokers.apache import ApacheBroker, missing_tools
from streams.brokers.embedded import EmbeddedBroker
from streams.kafka import admin

# Hypothesis allows an example 200 ms by the wall clock: on a busy machine any of them takes longer now and then.
settings.register_profile("thorough", settings(deadline=None, max_examples=MOST_EXAMPLES))
# Half of them: so that the whole run ends within half an hour.
settings.register_profile("usual", settings(deadline=None, max_examples=MOST_EXAMPLES // 2))
settings.register_profile("fast", settings(deadline=None, max_examples=MOST_EXAMPLES // 10))
settings.load_profile("usual")


class MakeTopics(Protocol):
    def __call__(self, partitions: int = ...) -> str: ...


_CHOICE = pytest.StashKey[Choice]()


def pytest_configure(config: pytest.Config) -> None:
    lacking = missing_tools()
    try:
        config.stash[_CHOICE] = brokers.choose(
            os.environ.get(brokers.VARIABLE, ""),
            apache_lacks=lacking,
            docker=lacking is not None and brokers.docker_answers(),
        )
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_report_header(config: pytest.Config) -> str:
    return f"broker: {config.stash[_CHOICE]}"


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Iterator[HasBootstrap]:
    """A running broker; its address is ``.bootstrap``."""
    with brokers.started(pytestconfig.stash[_CHOICE]) as running:
        yield running


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


@pytest.hookimpl(tryfirst=True)  # before ``-m`` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use the fixture ``broker``, or are marked ``apache``, are marked ``broker``.

    Tests marked ``apache`` run everywhere but where Java or Maven is missing, and then say so.
    """
    for item in items:
        if "broker" in getattr(item, "fixturenames", ()) or item.get_closest_marker("apache"):
            item.add_marker("broker")
    marked = [item for item in items if item.get_closest_marker("apache")]
    lacking = missing_tools() if marked else None
    if lacking is not None:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=lacking))


@pytest.fixture(autouse=True)
def no_broker_without_the_mark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who starts a broker says so, or `make test-fast` would not be what it says."""
    if request.node.get_closest_marker("broker") is None:

        def refused(*_: object) -> None:
            pytest.fail("this test starts a broker: use the fixture `broker`, or mark it with `pytest.mark.broker`")

        monkeypatch.setattr(EmbeddedBroker, "start", refused)
        monkeypatch.setattr(ApacheBroker, "start", refused)
