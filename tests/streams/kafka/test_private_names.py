"""Every name of Faust, mode and aiokafka that is relied on although nobody promises it: hooks overridden, members read.

After an upgrade the first test says which of them changed, and where to look. The second one holds the lists complete.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.structs import TopicPartition

ROOT = Path(__file__).parents[3]
#: Package -> distribution.
FOREIGN = {"faust": "faust-streaming", "mode": "mode-streaming", "aiokafka": "aiokafka"}
CUTS, PLACES = "streams/kafka/cut_positions.py", "streams/kafka/read_places.py"
TRANSPORT, RECORDS, APP = "streams/kafka/transport.py", "streams/kafka/tolerant_records.py", "streams/runtime/app.py"


class Name(NamedTuple):
    """One name, where it is relied on, and what for."""

    owner: str
    """Dotted path of the class or module."""
    name: str
    file: str
    why: str
    signature: str | None = None
    """Of what is called or overridden, without types; None for what holds a value."""


_THREAD = "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread"
_CONSUMER = "faust.transport.drivers.aiokafka.Consumer"
_APP = "faust.app.base.App"
_BOOT = "faust.app.base.BootStrategy"
_AIO = "aiokafka.consumer.consumer.AIOKafkaConsumer"
_COORDINATOR = "aiokafka.consumer.group_coordinator.GroupCoordinator"
_SUBSCRIPTION = "aiokafka.consumer.subscription_state"

OVERRIDDEN = [
    Name(_THREAD, "_create_worker_consumer", TRANSPORT, "makes the aiokafka consumer, with short fetch waits",
         "(self, transport)"),
    Name(_THREAD, "on_thread_stop", TRANSPORT, "leaves the group in generation 0, which aiokafka does not", "(self)"),
    Name(_THREAD, "on_partitions_assigned", TRANSPORT, "notes the new assignment before the app hears of it",
         "(self, assigned, generation_id=0)"),
    Name("faust.transport.consumer.ConsumerThread", "consumer", TRANSPORT, "the consumer that the thread fetches for"),
    Name(_CONSUMER, "_new_consumer_thread", TRANSPORT, "starts our thread instead of Faust's", "(self)"),
    Name(_CONSUMER, "_thread", TRANSPORT, "the thread to fetch and to commit through"),
    Name(_CONSUMER, "on_partitions_revoked", TRANSPORT, "has the role flush while the group waits", "(self, revoked)"),
    Name(_CONSUMER, "on_partitions_assigned", TRANSPORT, "has the role restore", "(self, assigned, generation_id=0)"),
    Name(_CONSUMER, "commit", TRANSPORT, "never commits what was acked",
         "(self, topics=None, start_new_transaction=True)"),
    Name(_CONSUMER, "perform_seek", TRANSPORT, "leaves seeking to next_batch", "(self)"),
    Name(_CONSUMER, "verify_event_path", TRANSPORT, "silences the livelock detector", "(self, now, tp)"),
    Name(_CONSUMER, "_drain_messages", TRANSPORT, "reports in instead of fetching", "(self, fetcher)"),
    Name("faust.transport.drivers.aiokafka.Transport", "Consumer", TRANSPORT, "makes our consumer"),
    Name("aiokafka.record.default_records._DefaultRecordBatchPy", "_maybe_uncompress", RECORDS,
         "reads header names from bytes whose decoding never fails", "(self)"),
    Name("aiokafka.record.default_records._DefaultRecordBatchPy", "_buffer", RECORDS, "the bytes it reads from"),
    Name(f"{_SUBSCRIPTION}.TopicPartitionState", "await_reset", CUTS, "is told that a position is gone",
         "(self, strategy)"),
    Name(f"{_SUBSCRIPTION}.TopicPartitionState", "reset_to", CUTS, "and where reading goes on", "(self, position)"),
    Name("aiokafka.consumer.fetcher.PartitionRecords", "_consumer_record", RECORDS, "makes a tuple of each record",
         "(self, tp, record)"),
    Name("faust.channels.Channel", "__anext__", APP, "asks the consumer for the agent's next batch", "(self)"),
    Name(_BOOT, "enable_kafka_producer", APP, "starts no producer"),
    Name(_BOOT, "enable_web", APP, "starts no web server"),
    Name(_BOOT, "enable_sensors", APP, "starts no sensors"),
    Name(_APP, "BootStrategy", APP, "chooses what is started"),
    Name(_APP, "_create_directories", APP, "writes no folders where a worker was started", "(self)"),
    Name(_APP, "on_start", APP, "subscribes to the role's topics", "(self)"),
    Name(_APP, "on_stop", APP, "flushes the role before the consumer goes", "(self)"),
]  # fmt: skip
READ = [
    Name(_THREAD, "_consumer", TRANSPORT, "the aiokafka consumer, if it was made"),
    Name(_THREAD, "_ensure_consumer", TRANSPORT, "the aiokafka consumer", "(self)"),
    Name(_AIO, "_subscription", TRANSPORT, "leads to the assignment, which holds the positions"),
    Name(_AIO, "_coordinator", TRANSPORT, "leads to the group's generation"),
    Name(_AIO, "_fetcher", TRANSPORT, "leads to what was fetched"),
    Name("aiokafka.consumer.fetcher.Fetcher", "_records", TRANSPORT, "partitions that have records at hand"),
    Name(_COORDINATOR, "_send_req", TRANSPORT, "leaves the group in generation 0", "(self, request)"),
    Name("mode.services.Service", "_crashed", APP, "serve waits for it"),
    Name("aiokafka.record.default_records", "_DefaultRecordBatchPy", RECORDS, "reads what the compiled reader cannot"),
    Name(_SUBSCRIPTION, "TopicPartitionState", CUTS, "is replaced, so that positions are ours"),
    Name("aiokafka.consumer.fetcher", "MemoryRecords", RECORDS, "is replaced, so that the fetcher unpacks with ours"),
    Name("aiokafka.consumer.fetcher", "PartitionRecords", RECORDS, "is replaced by ours, which makes tuples"),
]
#: Public names, but of objects that only private ones lead to.
BEHIND = [
    Name(f"{_SUBSCRIPTION}.SubscriptionState", "subscription", TRANSPORT, "leads to the assignment"),
    Name(f"{_SUBSCRIPTION}.SubscriptionState", "reassignment_in_progress", TRANSPORT, "nothing is fetched meanwhile"),
    Name(f"{_SUBSCRIPTION}.SubscriptionState", "fetch_context", TRANSPORT, "counts as having polled", "(self)"),
    Name(f"{_SUBSCRIPTION}.Subscription", "assignment", TRANSPORT, "the token that fetches are bound to"),
    Name(f"{_SUBSCRIPTION}.Assignment", "state_value", PLACES, "how far a partition was read", "(self, tp)"),
    Name(f"{_SUBSCRIPTION}.Assignment", "tps", PLACES, "the partitions that it is of"),
    Name(f"{_SUBSCRIPTION}.TopicPartitionState", "has_valid_position", TRANSPORT, "whether that is known"),
    Name(f"{_SUBSCRIPTION}.TopicPartitionState", "position", TRANSPORT, "the next offset to hand out"),
    Name(f"{_SUBSCRIPTION}.TopicPartitionState", "highwater", TRANSPORT, "where the partition ends"),
    Name(f"{_SUBSCRIPTION}.TopicPartitionState", "timestamp", TRANSPORT, "when the broker said so, in epoch ms"),
    Name(_COORDINATOR, "generation", TRANSPORT, "commits of an older one are refused here"),
    Name(_COORDINATOR, "group_id", TRANSPORT, "of the request to leave"),
    Name(_COORDINATOR, "member_id", TRANSPORT, "of the request to leave"),
    Name("faust.transport.consumer.Consumer", "flow_active", TRANSPORT, "nothing is fetched while it is False"),
    Name("faust.transport.consumer.Consumer", "can_resume_flow", TRANSPORT, "ends the wait for that"),
]
LISTED = OVERRIDDEN + READ + BEHIND


def _resolve(path: str) -> Any:
    """The module, or what stands in one; raises ImportError or AttributeError."""
    module, _, name = path.rpartition(".")
    try:
        return import_module(path)
    except ModuleNotFoundError:
        return getattr(_resolve(module), name)


def _holds(owner: Any, name: str) -> bool:
    """Whether a module has ``name``, or a class or one of its bases defines, declares or assigns it."""
    if isinstance(owner, ModuleType):
        return hasattr(owner, name)
    return any(name in vars(base) or name in _declared(base) for base in owner.__mro__)


@cache
def _declared(base: type) -> frozenset[str]:
    """Attributes that a class annotates or its methods assign."""
    assigned = re.findall(r"\bself\.(\w+)(?::[^=\n]*)? = ", inspect.getsource(base)) if _is_foreign(base) else []
    return frozenset(assigned) | inspect.get_annotations(base).keys()


def _is_foreign(thing: Any) -> bool:
    return str(thing.__module__).split(".")[0] in FOREIGN


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def _changed(entry: Name) -> str | None:
    """What an upgrade did to a name, in a sentence; None where it is as it was."""
    distribution = FOREIGN[entry.owner.split(".")[0]]
    where = f"in {distribution} {version(distribution)}; {entry.file} relies on it: {entry.why}"
    try:
        owner = _resolve(entry.owner)
    except (ImportError, AttributeError):
        return f"{entry.owner}, which has {entry.name}, is gone {where}"
    if not _holds(owner, entry.name):
        return f"{entry.owner}.{entry.name} is gone {where}"
    if entry.signature is not None:
        found = _signature(getattr(owner, entry.name))
        if found != entry.signature:
            return f"{entry.owner}.{entry.name}{entry.signature} takes {found} {where}"
    return None


@pytest.mark.parametrize("entry", LISTED, ids=lambda entry: f"{entry.owner.rpartition('.')[2]}.{entry.name}")
def test_a_name_that_is_relied_on_is_as_it_was(entry: Name) -> None:
    changed = _changed(entry)
    assert changed is None, changed


def test_a_change_is_told_in_a_sentence() -> None:
    gone = Name(_CONSUMER, "_drain_everything", TRANSPORT, "reports in", "(self)")
    moved = Name("faust.transport.drivers.elsewhere.Consumer", "commit", TRANSPORT, "never commits")
    other = Name(_CONSUMER, "_drain_messages", TRANSPORT, "reports in", "(self)")
    where = f"in faust-streaming {version('faust-streaming')}; {TRANSPORT} relies on it:"
    assert [_changed(entry) for entry in (gone, moved, other)] == [
        f"{_CONSUMER}._drain_everything is gone {where} reports in",
        f"{moved.owner}, which has commit, is gone {where} never commits",
        f"{_CONSUMER}._drain_messages(self) takes (self, fetcher) {where} reports in",
    ]


class Source:
    """One of our files, and what it relies on."""

    def __init__(self, path: Path) -> None:
        self.file = str(path.relative_to(ROOT))
        self.tree = ast.parse(path.read_text())
        self.module = import_module(self.file.removesuffix(".py").replace("/", "."))
        self.imported: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                self.imported |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                self.imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def overridden(self) -> Iterator[tuple[str, set[str]]]:
        """Names that our classes define or assign and that a foreign base has; and whose they are."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ClassDef):
                bases = [base for base in getattr(self.module, node.name).__mro__ if _is_foreign(base)]
                for name in set(_defined(node)):
                    owners = {f"{base.__module__}.{base.__qualname__}" for base in bases if _holds(base, name)}
                    if owners and not re.fullmatch("__(init|repr)__", name):
                        yield name, owners

    def read(self) -> set[str]:
        """Private names on objects that are not ours, private imports, and what is put into a foreign module."""
        classes = [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]
        ours = {name for node in classes for name in _defined(node)}
        found = {
            path.rpartition(".")[2]
            for path in self.imported.values()
            if path.startswith(tuple(FOREIGN)) and path.rpartition(".")[2].startswith("_")
        }
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute):
                root = self.imported.get(node.value.id, "") if isinstance(node.value, ast.Name) else ""
                patched = isinstance(node.ctx, ast.Store) and root.startswith(tuple(FOREIGN))
                private = re.fullmatch("_[a-zA-Z].*", node.attr) and node.attr not in ours
                if patched or (private and (not root or root.startswith(tuple(FOREIGN)))):
                    found.add(node.attr)
        return found

    def attributes(self) -> set[str]:
        return {node.attr for node in ast.walk(self.tree) if isinstance(node, ast.Attribute)}


def _defined(node: ast.ClassDef) -> Iterator[str]:
    """Names of a class's body, and those that its methods assign on self."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            yield part.name
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            yield part.target.id
        elif isinstance(part, ast.Assign):
            yield from (target.id for target in part.targets if isinstance(target, ast.Name))
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and ast.unparse(inner.value) == "self":
            yield inner.attr


SOURCES = [Source(path) for folder in ("streams/kafka", "streams/runtime") for path in (ROOT / folder).rglob("*.py")]


def test_every_name_that_is_relied_on_is_listed() -> None:
    listed = {(entry.file, entry.name) for entry in OVERRIDDEN + READ}
    missing = {(source.file, name) for source in SOURCES for name in source.read()} - listed
    assert missing == set(), "private names of others: give each a line in READ, or do without it"
    by_owner = {(entry.file, entry.name, entry.owner) for entry in OVERRIDDEN}
    missing = {
        (source.file, name)
        for source in SOURCES
        for name, owners in source.overridden()
        if not any((source.file, name, owner) in by_owner for owner in owners)
    }
    assert missing == set(), "members of others are overridden: give each a line in OVERRIDDEN, or another name"


def test_nothing_is_listed_that_is_not_relied_on() -> None:
    read = {(source.file, name) for source in SOURCES for name in source.read()}
    assert {(entry.file, entry.name) for entry in READ} - read == set()
    overridden = {(s.file, name, owner) for s in SOURCES for name, owners in s.overridden() for owner in owners}
    assert {(entry.file, entry.name, entry.owner) for entry in OVERRIDDEN} - overridden == set()
    attributes = {(source.file, name) for source in SOURCES for name in source.attributes()}
    assert {(entry.file, entry.name) for entry in BEHIND} - attributes == set()


def test_every_rebalance_makes_a_new_assignment() -> None:
    """What a fetch is bound to is the object, also where the partitions are the same again."""

    async def main() -> None:
        state = SubscriptionState()
        state.subscribe({"clickstream"})
        tokens = []
        for _ in range(2):
            state.assign_from_subscribed({TopicPartition("clickstream", 0)})
            tokens.append(state.subscription.assignment)
        assert tokens[0] is not tokens[1] and tokens[0].active is False

    asyncio.run(main())
