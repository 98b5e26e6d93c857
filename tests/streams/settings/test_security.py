"""Every kind of client gets into a broker that demands a password, and only with the right one."""

from __future__ import annotations

import ast
import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import KafkaError
from support.guarded import USER, demanding_plain

from schemas.errors import ConfigError, PulsegraphError, Retry
from streams.brokers.apache import ApacheBroker
from streams.brokers.processes import free_port
from streams.inspect import dead_letters
from streams.kafka import admin, offsets
from streams.kafka.clients import Refusal
from streams.kafka.outbox import Outbox
from streams.kafka.reader import TopicReader
from streams.serving import catalog
from streams.settings import schema as settings
from streams.settings.schema import Settings, load
from streams.sources.replay import OrderedProducer

ROOT = Path(__file__).parents[3]
#: What makes a client by itself, with why it may.
OWN_CLIENTS = {
    "streams/brokers/embedded.py": "asks the broker that it starts whether it is ready",
    "infra/faults/cluster.py": "speaks to the cluster that it started itself",
    "streams/kafka/transport.py": "Faust's consumer: broker_credentials",
}
AT_ONCE_S = 10.0
"""A third of the time that a broker which is away is waited for, on a busy machine."""


@pytest.fixture(scope="module")
def guarded() -> Iterator[ApacheBroker]:
    with demanding_plain("right") as kafka:
        yield kafka


def _settings(broker: ApacheBroker, password: str, **more: str) -> Settings:
    named = {
        "PULSEGRAPH_KAFKA_BOOTSTRAP": broker.bootstrap,
        "PULSEGRAPH_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "PULSEGRAPH_SECURITY_MECHANISM": "PLAIN",
        "PULSEGRAPH_SECURITY_USERNAME": USER,
        "PULSEGRAPH_SECURITY_PASSWORD": password,
    }
    return load(env=named | more)


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


def _admin(client: dict[str, Any]) -> None:
    admin.check_topics(admin.connect(client))


def _read(client: dict[str, Any]) -> None:
    with TopicReader(client) as reader:
        reader.partitions("clickstream")


def _ends(client: dict[str, Any]) -> None:
    offsets.end_offsets(client, [("clickstream", 0)])


def _lag(client: dict[str, Any]) -> None:
    offsets.consumer_lag(client, "nobody", ["clickstream"])


def _letters(client: dict[str, Any]) -> None:
    list(dead_letters.read(client))


def _follow(client: dict[str, Any]) -> None:
    follower = catalog.CatalogFollower(client, "catalog", lambda *record: None)
    try:
        follower.start()
    finally:
        follower.stop()


def _produce(client: dict[str, Any]) -> None:
    OrderedProducer(client["bootstrap.servers"], config=client).partitions()


def _deliver(client: dict[str, Any]) -> None:
    producer = OrderedProducer(client["bootstrap.servers"], config=client, timeout_s=2.0)
    producer.send("clickstream", b"c1", b"{}", 0)
    producer.deliver()


def _send(client: dict[str, Any]) -> None:
    async def sent() -> None:
        outbox = Outbox(client["bootstrap.servers"], config=client)
        try:
            outbox.send("clickstream", b"c1", b"{}")
            await outbox.delivered(outbox.mark(), timeout_s=2.0)
        finally:
            outbox.close(timeout_s=0.1)

    asyncio.run(sent())


CLIENTS = [_admin, _read, _ends, _lag, _letters, _follow, _produce, _deliver, _send]


@pytest.mark.apache
@pytest.mark.parametrize("use", CLIENTS)
def test_a_wrong_password_is_reported_at_once(guarded: ApacheBroker, use: Callable[[dict[str, Any]], None]) -> None:
    client: dict[str, Any] = settings.kafka_client_config(_settings(guarded, "fish-7Qx-wrong"))
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"refused the login .*PULSEGRAPH_SECURITY_PASSWORD") as error:
        use(client)
    assert time.monotonic() - began < AT_ONCE_S
    assert "fish" not in str(error.value)


@pytest.mark.apache
def test_another_mechanism_than_the_brokers_is_reported_at_once(guarded: ApacheBroker) -> None:
    scram = _settings(guarded, "right", PULSEGRAPH_SECURITY_MECHANISM="SCRAM-SHA-512")
    with pytest.raises(ConfigError, match="PULSEGRAPH_SECURITY_MECHANISM"):
        admin.check_topics(admin.connect(settings.kafka_client_config(scram)))


@pytest.mark.apache
@pytest.mark.parametrize("protocol", ["SSL", "PLAINTEXT"])
def test_another_protocol_than_the_brokers_is_named(guarded: ApacheBroker, protocol: str) -> None:
    config = {"bootstrap.servers": guarded.bootstrap, "security.protocol": protocol}
    with pytest.raises(PulsegraphError, match="PULSEGRAPH_SECURITY_PROTOCOL"):
        admin.check_topics(admin.connect(config), timeout_s=4)


def test_a_broker_that_is_away_is_waited_for() -> None:
    """It may be starting: only what it says ends the wait."""
    began = time.monotonic()
    with pytest.raises(Retry, match=r"does not answer on 127\.0\.0\.1:\d+ \(.*refused.*`pulsegraph broker` starts one"):
        admin.check_topics(admin.connect({"bootstrap.servers": f"127.0.0.1:{free_port()}"}), timeout_s=1.5)
    assert time.monotonic() - began > 1.4


def test_settings_that_make_no_client_are_reported(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    config = {
        "bootstrap.servers": "127.0.0.1:1",
        "security.protocol": "SSL",
        "ssl.ca.location": str(tmp_path / "ca.pem"),
    }
    with pytest.raises(ConfigError, match=r"ssl\.ca\.location .*PULSEGRAPH_SECURITY_"):
        admin.connect(config)
    with pytest.raises(ConfigError, match=r"ssl\.ca\.location"):
        TopicReader(config)
    with pytest.raises(ConfigError, match=r"ssl\.ca\.location"):
        OrderedProducer("127.0.0.1:1", config=config)


@pytest.mark.parametrize(
    ("code", "said", "setting"),
    [
        (KafkaError._AUTHENTICATION, "SASL authentication error", "PULSEGRAPH_SECURITY_PASSWORD"),
        (KafkaError._SSL, "broker certificate could not be verified", "PULSEGRAPH_SECURITY_CA_FILE"),
        (KafkaError._SSL, "certificate verify failed: hostname mismatch", "PULSEGRAPH_SECURITY_VERIFY_HOSTNAME"),
        (KafkaError._SSL, "certificate verify failed: IP address mismatch", "PULSEGRAPH_SECURITY_VERIFY_HOSTNAME"),
        (KafkaError._SSL, "tlsv13 alert certificate required", "PULSEGRAPH_SECURITY_CERT_FILE"),
        (KafkaError._SSL, "wrong version number", "PULSEGRAPH_SECURITY_PROTOCOL"),
    ],
)
def test_what_a_broker_says_names_the_setting(code: int, said: str, setting: str) -> None:
    passed_on: list[KafkaError] = []
    refusal = Refusal("here:9092", passed_on.append)
    refusal.check()
    refusal(KafkaError(KafkaError._TRANSPORT, "connection refused"))
    refusal.check()
    refusal(KafkaError(code, said))
    refusal(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    with pytest.raises(ConfigError, match=setting):
        refusal.check()
    assert refusal.heard == said
    assert len(passed_on) == 3


def test_a_refusal_that_was_not_repeated_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Refusal("here:9092")
    refusal(KafkaError(KafkaError._AUTHENTICATION, "no"))
    later_s = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: later_s)
    refusal.check()


def _makes_clients(path: Path) -> bool:
    makers = {"AdminClient", "Consumer", "Producer", "AIOKafkaConsumer", "AIOKafkaProducer"}
    modules = {"confluent_kafka", "confluent_kafka.admin", "aiokafka"}
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported = {a.name for n in nodes if isinstance(n, ast.ImportFrom) and n.module in modules for a in n.names}
    called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    return bool(imported & makers or called & {f"{module}.{maker}" for module in modules for maker in makers})


def test_clients_are_made_in_one_place() -> None:
    """So each of them presents what the settings say and remembers a refusal."""
    paths = [path for top in ("streams", "infra") for path in (ROOT / top).rglob("*.py")]
    assert {str(path.relative_to(ROOT)) for path in paths if _makes_clients(path)} == OWN_CLIENTS.keys()


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
