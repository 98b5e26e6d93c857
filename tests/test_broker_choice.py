"""Tests run on the broker that comes nearest to what people run, and say which it was."""

from __future__ import annotations

import pytest
from support.brokers import choose

LACKING = "Apache Kafka needs Java 17 or newer, and there is no `java` on the PATH"


@pytest.mark.parametrize("asked", ["", "auto"])
@pytest.mark.parametrize(
    ("apache_lacks", "docker", "kind"),
    [(None, False, "apache"), (None, True, "apache"), (LACKING, True, "docker"), (LACKING, False, "embedded")],
)
def test_the_nearest_to_real_that_is_there(asked: str, apache_lacks: str | None, docker: bool, kind: str) -> None:
    choice = choose(asked, apache_lacks=apache_lacks, docker=docker)
    assert choice.kind == kind
    assert (apache_lacks or "Java") in str(choice)


@pytest.mark.parametrize("asked", ["apache", "docker", "embedded", "kafka:9092", "10.0.0.1:9092,10.0.0.2:9092"])
@pytest.mark.parametrize("apache_lacks", [None, LACKING])
def test_what_is_asked_for_is_not_doubted(asked: str, apache_lacks: str | None) -> None:
    assert choose(asked, apache_lacks=apache_lacks, docker=False).kind == asked


@pytest.mark.parametrize("asked", ["Apache", "kafka", "kafka:", ":9092", "a:1, b:2"])
def test_what_is_no_broker_is_refused(asked: str) -> None:
    with pytest.raises(ValueError, match="use auto, apache, docker, embedded or host:port"):
        choose(asked, apache_lacks=None, docker=False)
