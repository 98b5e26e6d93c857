"""Every kind of client gets into a broker that demands a password, and only with the right one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaConsumer

from schemas.errors import Retry
from streams import admin, settings
from streams.broker_apache import ApacheBroker
from streams.settings import Settings, load

_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


@pytest.fixture(scope="module")
def guarded() -> Iterator[ApacheBroker]:
    properties = {
        "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": f'{_LOGIN} required user_campaigns="right";',
    }
    with ApacheBroker(protocol="SASL_PLAINTEXT", properties=properties) as kafka:
        yield kafka


def _settings(broker: ApacheBroker, password: str) -> Settings:
    return load(
        env={
            "PULSEGRAPH_KAFKA_BOOTSTRAP": broker.bootstrap,
            "PULSEGRAPH_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "PULSEGRAPH_SECURITY_MECHANISM": "PLAIN",
            "PULSEGRAPH_SECURITY_USERNAME": "campaigns",
            "PULSEGRAPH_SECURITY_PASSWORD": password,
        }
    )


@pytest.mark.apache
def test_a_password_opens_the_broker(guarded: ApacheBroker) -> None:
    right = _settings(guarded, "right")
    client = admin.connect(settings.kafka_client_config(right))
    assert len(admin.create_topics(client, partitions=1)) > 0
    assert admin.check_topics(client, partitions=1) == 1
    lags = admin.consumer_lag(settings.kafka_client_config(right), "nobody", ["clickstream"])
    assert [lag.lag for lag in lags] == [0]

    async def topics() -> set[str]:
        consumer = AIOKafkaConsumer(**settings.aiokafka_config(right))
        await consumer.start()
        try:
            return set(await consumer.topics())
        finally:
            await consumer.stop()

    assert "clickstream" in asyncio.run(topics())


@pytest.mark.apache
@pytest.mark.parametrize("password", ["wrong"])
def test_a_wrong_password_does_not(guarded: ApacheBroker, password: str) -> None:
    client = admin.connect(settings.kafka_client_config(_settings(guarded, password)))
    with pytest.raises(Retry, match="does not answer") as error:
        admin.check_topics(client, timeout_s=2)
    assert password not in str(error.value)


def test_faust_gets_the_same_credentials() -> None:
    env = {
        "PULSEGRAPH_SECURITY_PROTOCOL": "SASL_SSL",
        "PULSEGRAPH_SECURITY_USERNAME": "u",
        "PULSEGRAPH_SECURITY_PASSWORD": "p",
    }
    credentials = settings.broker_credentials(load(env=env))
    assert credentials is not None
    assert credentials.protocol.value == "SASL_SSL"
    assert credentials.mechanism.value == "SCRAM-SHA-512"  # type: ignore[attr-defined]
    assert "'p'" not in repr(credentials)
    assert settings.broker_credentials(load(env={})) is None
    plain_tls = settings.broker_credentials(load(env={"PULSEGRAPH_SECURITY_PROTOCOL": "SSL"}))
    assert plain_tls is not None
    assert plain_tls.protocol.value == "SSL"
