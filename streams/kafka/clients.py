"""Kafka clients that distinguish a refused login or certificate from a broker that is away.

librdkafka takes both for faults that may pass: it tries again until the caller's time is over, and then says that
nobody answered. What the broker really said goes to ``error_cb`` alone, so the clients made here keep it, and
:func:`metadata`, which every command begins with, ends at once with the setting to check.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import admin as kafka_admin
from confluent_kafka.admin import ClusterMetadata

from schemas.errors import ConfigError, Retry, TopicMismatch

ClientConfig = Mapping[str, Any]
"""confluent-kafka settings, ``{"bootstrap.servers": ...}`` at least; see ``settings.kafka_client_config``."""

_LOGIN: Final = "PULSEGRAPH_SECURITY_USERNAME, PULSEGRAPH_SECURITY_PASSWORD and PULSEGRAPH_SECURITY_MECHANISM"
#: Settings to check, by what OpenSSL or the broker says of a TLS connection; the first that fits.
_TLS: Final = (
    ("mismatch", "PULSEGRAPH_SECURITY_VERIFY_HOSTNAME and the names in the broker's certificate"),
    ("verif", "PULSEGRAPH_SECURITY_CA_FILE"),
    ("alert", "PULSEGRAPH_SECURITY_CERT_FILE and PULSEGRAPH_SECURITY_KEY_FILE"),
    ("", "PULSEGRAPH_SECURITY_PROTOCOL"),
)
#: librdkafka connects again within ``reconnect.backoff.max.ms``, 10 s: a refusal that was not repeated is over.
_FRESH_S: Final = 15.0
#: A leader, coordinator or controller has just changed, or is not ready yet.
_MOVING: Final = (
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_CONTROLLER,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
)
_METADATA_MS: Final = 5_000
_FIRST_WAIT_S: Final = 0.5
_SERVE_S: Final = 0.05


class Refusal:
    """The ``error_cb`` of one client: remembers what brokers said, and passes it on.

    Args:
        bootstrap: shown in messages.
        then: called with every error as well.
    """

    def __init__(self, bootstrap: str, then: Callable[[KafkaError], None] | None = None) -> None:
        self.bootstrap = bootstrap
        self.heard: str | None = None
        """The last error of any kind."""
        self._then = then
        self._refused: KafkaError | None = None
        self._refused_s = 0.0

    def __call__(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
            self._refused, self._refused_s = error, time.monotonic()
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # says nothing that was not said before
            self.heard = error.str()
        if self._then is not None:
            self._then(error)

    def check(self) -> None:
        """Call it where nothing was answered.

        Raises:
            ConfigError: a broker has just refused this client.
        """
        error = self._refused
        if error is None or time.monotonic() - self._refused_s > _FRESH_S:
            return
        if error.code() == KafkaError._AUTHENTICATION:
            raise ConfigError(f"the broker refused the login ({error.str()}): check {_LOGIN}")
        said = error.str()
        settings = next(settings for phrase, settings in _TLS if phrase in said.lower())
        raise ConfigError(f"no TLS connection to the broker ({said}): check {settings}")


class _Remembering:
    """A client that remembers a refusal; comes before confluent-kafka's class.

    Raises:
        ConfigError: the settings make no client, for example a certificate that cannot be read.
    """

    def __init__(self, config: ClientConfig) -> None:
        settings, self.refusal = _watched(config)
        try:
            super().__init__(settings)  # type: ignore[call-arg]
        except KafkaException as error:
            raise _unusable(error) from error


class AdminClient(_Remembering, kafka_admin.AdminClient):
    """confluent-kafka's, see :class:`_Remembering`."""


class Consumer(_Remembering, confluent_kafka.Consumer):
    """confluent-kafka's, see :class:`_Remembering`. Reads what is committed, unless ``config`` says otherwise."""

    def __init__(self, config: ClientConfig) -> None:
        super().__init__({"isolation.level": "read_committed", **config})


class Producer(_Remembering, confluent_kafka.Producer):
    """confluent-kafka's, see :class:`_Remembering`. Notices within seconds that a topic has more partitions."""

    def __init__(self, config: ClientConfig) -> None:
        super().__init__({"topic.metadata.refresh.interval.ms": _METADATA_MS, **config})


def metadata(
    client: AdminClient | Consumer | Producer, topic: str | None = None, *, timeout_s: float
) -> ClusterMetadata:
    """``list_topics`` that does not wait for a broker which has said no. A consumer must have no assignment yet.

    Raises:
        ConfigError: the broker refused the login or the certificate.
        TopicMismatch: the broker refused the request.
        Retry: nobody answered in time.
    """
    deadline, wait_s = time.monotonic() + timeout_s, _FIRST_WAIT_S
    while True:
        left_s = max(0.0, deadline - time.monotonic())
        try:
            found: ClusterMetadata = client.list_topics(topic, timeout=min(wait_s, left_s))
            return found
        except KafkaException as error:
            client.poll(_SERVE_S)  # calls error_cb
            client.refusal.check()
            kafka_error = error.args[0]
            if not may_pass(kafka_error):
                raise TopicMismatch(f"reading the list of topics: the broker refused ({kafka_error.str()})") from error
            if time.monotonic() >= deadline:
                raise no_answer(client.refusal, kafka_error) from error
            wait_s *= 2


def may_pass(error: KafkaError) -> bool:
    """Whether the same request may succeed later. ``retriable()`` covers transactions only."""
    return bool(error.code() < 0 or error.code() in _MOVING)  # below 0: librdkafka's own, of connections and time


def no_answer(refusal: Refusal, error: KafkaError) -> Retry:
    """What to report when time is over."""
    said = refusal.heard or error.str()
    # A listener of another protocol takes connections and closes them; librdkafka may find that not worth an error.
    spoken_to = refusal.heard is None or "listener" in said
    hint = "check PULSEGRAPH_SECURITY_PROTOCOL" if spoken_to else "`pulsegraph broker` starts one"
    return Retry(f"the broker does not answer on {refusal.bootstrap} ({said}); {hint}")


def _watched(config: ClientConfig) -> tuple[dict[str, Any], Refusal]:
    refusal = Refusal(str(config.get("bootstrap.servers", "")), config.get("error_cb"))
    # What librdkafka would log comes through error_cb.
    return {"log_level": 0, **config, "error_cb": refusal}, refusal


def _unusable(error: KafkaException) -> ConfigError:
    said = error.args[0].str()
    return ConfigError(f"no Kafka client can be made of these settings ({said}): check PULSEGRAPH_SECURITY_*")
