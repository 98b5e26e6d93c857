"""Topics on a broker: create, check against the contract, describe, delete.

Kafka never creates a topic here by itself: partition counts are part of the design, since one customer's events, state
and output share a partition number. All topics get the same count.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, OffsetSpec, ResourceType

from schemas import deadletter
from schemas.errors import ConfigError, Retry, TopicMismatch
from schemas.topics import TOPICS, Topic
from streams.kafka import clients
from streams.kafka.clients import AdminClient, ClientConfig
from streams.kafka.offsets import Lag, consumer_lag

__all__ = [
    "Lag", "TopicState", "check_topics", "connect", "consumer_lag", "create_topics", "delete", "describe",
    "topic_config", "topic_name",
]  # fmt: skip

_TIMEOUT_S: Final = 30.0
_PREFIX: Final = re.compile(r"[A-Za-z0-9._-]{0,100}")
# librdkafka's bounds: it makes no request beyond them.
_MAX_PARTITIONS: Final = 100_000
_MAX_REPLICAS: Final = 10_000
_CREATE: Final = "`pulsegraph topics create`"
_UPDATE: Final = "`pulsegraph topics create --update`"

_COMPACTION_LAG_MS: Final = 3_600_000
_DELETE_RETENTION_MS: Final = 86_400_000
# Room for a refused record, and for the state of a customer whose tail is full.
_MAX_STATE_BYTES: Final = 8 << 20
_MAX_BYTES: Final[Mapping[str, int]] = {deadletter.TOPIC: deadletter.MAX_DEAD_LETTER_BYTES} | {
    topic.name: _MAX_STATE_BYTES for topic in TOPICS.values() if topic.is_changelog
}


class TopicState(msgspec.Struct, frozen=True, kw_only=True):
    """One topic as the broker has it."""

    name: str
    partitions: int
    replicas: int
    config: dict[str, str]
    """What the broker reports; the embedded one reports only what was set."""


def connect(client_config: ClientConfig) -> AdminClient:
    """An admin client from confluent-kafka settings (``{"bootstrap.servers": ...}``)."""
    return AdminClient(client_config)


def topic_name(prefix: str, name: str) -> str:
    """The name on the broker of a topic of the contract."""
    return prefix + name


def topic_config(topic: Topic) -> dict[str, str]:
    """The topic settings that the contract demands."""
    config: dict[str, str] = {"cleanup.policy": topic.cleanup}
    if topic.cleanup != "compact":
        config["retention.ms"] = str(-1 if topic.retention_ms is None else topic.retention_ms)
    if topic.replaced_ms is not None:
        config["min.compaction.lag.ms"] = str(topic.replaced_ms)
        # Counted from the compaction: an erasure outlives the events before it, also for who begins at the beginning.
        config["delete.retention.ms"] = str(topic.replaced_ms)
    if topic.is_changelog:
        # Time to overwrite a zombie write before compaction drops the good record.
        config["min.compaction.lag.ms"] = str(_COMPACTION_LAG_MS)
        # How long a store may rest and still hear of every deletion, see streams.state.restore.REST_MS.
        config["delete.retention.ms"] = str(_DELETE_RETENTION_MS)
    if topic.name in _MAX_BYTES:
        config["max.message.bytes"] = str(_MAX_BYTES[topic.name])
    return config


def more_partitions(name: str, expected: int, found: int | None = None) -> str:
    """What to say of a topic that has another number of partitions than the settings."""
    return (
        f"topic {name} has {'more' if found is None else found} partitions, and the settings say {expected}. Keys hash "
        "to other partitions now: new events of customers whose partition moves would meet no state, and what is known "
        "of them would stay behind. Nothing was read of the new partitions. Kafka takes no partition away: create the "
        "topics with the new count under another PULSEGRAPH_KAFKA_PREFIX, have the producers write there, and replay "
        "the old events into them"
    )


def check_partitions(admin: AdminClient, *, prefix: str, partitions: int, timeout_s: float = _TIMEOUT_S) -> None:
    """Whether every topic that is there still has this many partitions: much less to ask than :func:`check_topics`.

    Raises:
        TopicMismatch: one has others.
        Retry: the broker did not answer.
    """
    for name, (found, _) in _present(admin, prefix, TOPICS.values(), timeout_s).items():
        if found > partitions:
            raise TopicMismatch(more_partitions(name, partitions, found))


def create_topics(
    admin: AdminClient,
    *,
    prefix: str = "",
    partitions: int,
    replicas: int | None = None,
    update: bool = False,
    topics: Iterable[Topic] = TOPICS.values(),
    timeout_s: float = _TIMEOUT_S,
) -> list[str]:
    """Create the topics that are missing and wait until each has its leaders; return their names.

    Args:
        prefix: put before every name.
        partitions: of every topic.
        replicas: the broker's ``default.replication.factor`` where None.
        update: also correct cleanup policy, retention and maximum size of topics that exist. Partition counts are
            never changed, since that would move customers.

    Raises:
        ConfigError: the prefix or the count cannot be used, or the broker refused the login.
        TopicMismatch: the broker refused a topic.
        Retry: the broker did not answer.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ConfigError(f"topic prefix {prefix!r}: use letters, digits, '.', '_' and '-', at most 100 of them")
    for name, count, most in (("partitions", partitions, _MAX_PARTITIONS), ("replicas", replicas, _MAX_REPLICAS)):
        if count is not None and not 1 <= count <= most:
            raise ConfigError(f"{name} is {count}: at least 1 is needed, and clients take {most} at most")
    wanted = {topic_name(prefix, topic.name): topic for topic in topics}
    present = _metadata(admin, timeout_s)
    new = [
        # -1 is Kafka's "whatever the broker's default is".
        NewTopic(name, partitions, replicas if replicas is not None else -1, config=topic_config(topic))
        for name, topic in wanted.items()
        if name not in present
    ]
    created = []
    for name, future in (admin.create_topics(new, request_timeout=timeout_s) if new else {}).items():
        try:
            future.result(timeout_s + 5)
            created.append(name)
        except KafkaException as error:
            code = error.args[0]
            if code.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise _foreign(f"creating topic {name}", code) from error
    if update:
        _alter(admin, prefix, [topic for name, topic in wanted.items() if name in present], timeout_s)
    _await_leaders(admin, set(wanted), timeout_s)
    return created


def check_topics(
    admin: AdminClient,
    *,
    prefix: str = "",
    partitions: int | None = None,
    topics: Iterable[Topic] = TOPICS.values(),
    timeout_s: float = _TIMEOUT_S,
) -> int:
    """Compare the broker's topics with the contract; return their partition count.

    A retention longer than the contract's is accepted, a shorter one is not: data would go before it is used.

    Args:
        partitions: the expected count; where None, only that all topics agree.

    Raises:
        TopicMismatch: names every difference and the command to run.
        ConfigError: the broker refused the login.
        Retry: the broker did not answer.
    """
    wanted = {topic_name(prefix, topic.name): topic for topic in topics}
    found = {state.name: state for state in describe(admin, prefix=prefix, topics=wanted.values(), timeout_s=timeout_s)}
    missing = [name for name in wanted if name not in found]
    if missing:
        raise TopicMismatch(f"{len(missing)} of {len(wanted)} topics are missing ({_some(missing)}): run {_CREATE}")
    counts: dict[int, list[str]] = {}
    for name, state in found.items():
        counts.setdefault(state.partitions, []).append(name)
    if len(counts) > 1:
        shown = "; ".join(f"{count}: {_some(names)}" for count, names in sorted(counts.items()))
        raise TopicMismatch(
            f"topics must have the same number of partitions, or a customer's events and state part ways, but they "
            f"have {shown}. Partitions cannot be changed on the way: stop the producers, run "
            f"`pulsegraph topics delete --yes` and {_CREATE}, or use another PULSEGRAPH_KAFKA_PREFIX"
        )
    (count,) = counts
    if partitions is not None and count != partitions:
        raise TopicMismatch(
            f"the topics have {count} partitions and the settings say {partitions}: set "
            f"PULSEGRAPH_KAFKA_PARTITIONS={count}, or run `pulsegraph topics delete --yes` and {_CREATE}"
        )
    wrong = [f"{name}: {reason}" for name, topic in wanted.items() for reason in _differences(topic, found[name])]
    if wrong:
        raise TopicMismatch(f"topic settings differ from the contract ({'; '.join(wrong)}): run {_UPDATE}")
    return count


def describe(
    admin: AdminClient,
    *,
    prefix: str = "",
    topics: Iterable[Topic] = TOPICS.values(),
    timeout_s: float = _TIMEOUT_S,
) -> list[TopicState]:
    """The contract's topics that exist, in the contract's order."""
    present = _present(admin, prefix, topics, timeout_s)
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in present]
    configs: dict[str, dict[str, str]] = {}
    for resource, future in (admin.describe_configs(resources, request_timeout=timeout_s) if present else {}).items():
        try:
            entries = future.result(timeout_s + 5)
        except KafkaException as error:
            raise _foreign(f"reading the settings of topic {resource.name}", error.args[0]) from error
        configs[resource.name] = {name: entry.value for name, entry in entries.items() if entry.value is not None}
    return [
        TopicState(name=name, partitions=partitions, replicas=replicas, config=configs[name])
        for name, (partitions, replicas) in present.items()
    ]


def delete(
    admin: AdminClient,
    *,
    prefix: str = "",
    topics: Iterable[Topic] = TOPICS.values(),
    timeout_s: float = _TIMEOUT_S,
) -> list[str]:
    """Delete the contract's topics under the prefix, with all their records; return the names deleted."""
    names = list(_present(admin, prefix, topics, timeout_s))
    for name, future in (admin.delete_topics(names, operation_timeout=timeout_s) if names else {}).items():
        try:
            future.result(timeout_s + 5)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise _foreign(f"deleting topic {name}", error.args[0]) from error
    deadline = time.monotonic() + timeout_s
    while names and not set(names).isdisjoint(_metadata(admin, timeout_s)):
        if time.monotonic() > deadline:
            raise Retry(f"topics are still there {timeout_s:.0f} s after their deletion: {_some(names)}")
        time.sleep(0.1)
    return names


def _differences(topic: Topic, state: TopicState) -> Iterable[str]:
    for name, value in topic_config(topic).items():
        actual = state.config.get(name)
        if actual == value:
            continue
        if name != "cleanup.policy" and actual is not None and (actual == "-1" or -1 < int(value) <= int(actual)):
            continue
        yield f"{name} is {'not set' if actual is None else actual} and must be {value}"


def _alter(admin: AdminClient, prefix: str, topics: list[Topic], timeout_s: float) -> None:
    def differing() -> dict[str, Topic]:
        states = {state.name: state for state in describe(admin, prefix=prefix, topics=topics, timeout_s=timeout_s)}
        named = {topic_name(prefix, topic.name): topic for topic in topics}
        return {name: named[name] for name, state in states.items() if any(_differences(named[name], state))}

    wrong = differing()
    resources = [
        ConfigResource(
            ResourceType.TOPIC,
            name,
            incremental_configs=[
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                for key, value in topic_config(topic).items()
            ],
        )
        for name, topic in wrong.items()
    ]
    if not resources:
        return
    for resource, future in admin.incremental_alter_configs(resources, request_timeout=timeout_s).items():
        try:
            future.result(timeout_s + 5)
        except KafkaException as error:
            raise _foreign(f"changing the settings of topic {resource.name}", error.args[0]) from error
    # Kafka's controller acknowledges before every broker shows the change.
    deadline = time.monotonic() + timeout_s
    while wrong := differing():
        if time.monotonic() > deadline:
            raise Retry(f"the settings of {_some(list(wrong))} have not changed after {timeout_s:.0f} s")
        time.sleep(0.05)


def _metadata(admin: AdminClient, timeout_s: float) -> dict[str, tuple[int, int]]:
    """Topic -> (partitions, replicas of the least replicated one); topics in error are left out."""
    listed = clients.metadata(admin, timeout_s=timeout_s)
    return {
        name: (len(topic.partitions), min((len(p.replicas) for p in topic.partitions.values()), default=0))
        for name, topic in listed.topics.items()
        if topic.error is None
    }


def _present(admin: AdminClient, prefix: str, topics: Iterable[Topic], timeout_s: float) -> dict[str, tuple[int, int]]:
    """As :func:`_metadata`, of the contract's topics alone and in its order."""
    present = _metadata(admin, timeout_s)
    names = (topic_name(prefix, topic.name) for topic in topics)
    return {name: present[name] for name in names if name in present}


def _await_leaders(admin: AdminClient, names: set[str], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        listed = clients.metadata(admin, timeout_s=timeout_s).topics
        led = {
            name
            for name in names & listed.keys()
            # A broker that has only just heard of a topic lists it without partitions.
            if listed[name].partitions and all(p.leader >= 0 for p in listed[name].partitions.values())
        }
        places = [TopicPartition(name, number) for name in sorted(led) for number in listed[name].partitions]
        if led == names and _serving(admin, places, timeout_s):
            return
        if time.monotonic() > deadline:
            raise Retry(f"topics have no leader after {timeout_s:.0f} s: {_some(sorted(names - led))}")
        time.sleep(0.05)


def _serving(admin: AdminClient, places: list[TopicPartition], timeout_s: float) -> bool:
    """Whether every leader knows that it is one: metadata may name it before it does."""
    earliest = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
    answers = admin.list_offsets(dict.fromkeys(places, earliest), request_timeout=timeout_s)
    for place, future in answers.items():
        try:
            future.result(timeout_s + 5)
        except KafkaException as error:
            unknown = error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
            if not (unknown or clients.may_pass(error.args[0])):
                raise _foreign(f"asking for {place.topic}[{place.partition}]", error.args[0]) from error
            return False
    return True


def _foreign(doing: str, error: KafkaError) -> Retry | TopicMismatch:
    """A Kafka error as one of ours: what may pass is retried, what the broker refused stops the worker."""
    if clients.may_pass(error):
        return Retry(f"{doing}: the broker does not answer ({error.str()}); `pulsegraph broker` starts one")
    return TopicMismatch(f"{doing}: the broker refused ({error.str()})")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
