"""These tests are about our own code: the embedded broker will do, and is there in milliseconds.

Integration and fault tests run on Apache Kafka where it is; ``PULSEGRAPH_TEST_BROKER`` overrules both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support import brokers
from support.brokers import HasBootstrap


@pytest.fixture(scope="session")
def broker() -> Iterator[HasBootstrap]:
    asked = os.environ.get(brokers.VARIABLE) or "embedded"
    with brokers.started(brokers.choose(asked, apache_lacks=None, docker=False)) as running:
        yield running
