"""The topic ``recalibrations``: what learn counted, for learn after a restart and for encode while it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec
from confluent_kafka import Message

from schemas.codec import json_encode
from schemas.errors import DeliveryFailed, Retry
from schemas.recalibrations import RECALIBRATIONS_VERSION, OutcomeTallies
from schemas.records import OutputRecord
from streams.core.recalibration import Recalibration, Tallies, recalibration
from streams.kafka.clients import ClientConfig
from streams.kafka.reader import TopicReader
from streams.serving.recalibrated import Recalibrations

TOPIC: Final = "recalibrations"

logger: Final = logging.getLogger(__name__)

_decode: Final = msgspec.json.Decoder(OutcomeTallies).decode
_JOIN_S: Final = 10.0
_AGAIN_S: Final = 1.0


def record_of(counted: OutcomeTallies) -> OutputRecord:
    """On its way to the topic, into the partition of the same number."""
    return OutputRecord(TOPIC, b"%d" % counted.partition, json_encode(counted), partition=counted.partition)


def newest_tallies(client: ClientConfig, prefix: str, partitions: Collection[int]) -> dict[int, OutcomeTallies]:
    """What was counted last of each of these partitions, where the log that it accounts for is still the same one.

    Raises:
        TopicMismatch, ConfigError, Retry: as :meth:`streams.kafka.reader.TopicReader.partitions`.
    """
    found: dict[int, OutcomeTallies] = {}
    with TopicReader(client) as reader:
        places = [(prefix + TOPIC, partition) for partition in sorted(partitions)]
        for message in reader.up_to(reader.ends(places)):
            if (counted := _read(message)) is not None:
                found[counted.partition] = counted
        of_logs = [(prefix + topic, number) for number, counted in found.items() for topic in counted.next_offsets]
        ends = reader.ends(of_logs)
    return {
        number: counted
        for number, counted in found.items()
        # Beyond its end it is another log: a topic was made anew.
        if all(offset <= ends[prefix + topic, number] for topic, offset in counted.next_offsets.items())
    }


class RecalibrationFollower:
    """The recalibrations of every model, kept current by a thread.

    Args:
        client: confluent-kafka settings.
        topic: full name of the topic.
        shown: told of each after each change, with the model's version, head and kind; by the follower's thread,
            once by the starting one.
    """

    def __init__(
        self,
        client: ClientConfig,
        topic: str,
        shown: Callable[[str, str, str, Recalibration], None] = lambda model_version, head, kind, found: None,
    ) -> None:
        self._current: Mapping[str, Recalibrations] = {}
        """By model; replaced as a whole: readers are on other threads."""
        self._topic = topic
        self._shown = shown
        self._counted: dict[int, OutcomeTallies] = {}
        self._failure: Exception | None = None
        self._starts: dict[int, int] = {}
        self._stopping = threading.Event()
        self._client = client
        self._thread = threading.Thread(target=self._follow, name=TOPIC, daemon=True)

    def start(self) -> None:
        """Read what there is, then follow.

        Raises:
            TopicMismatch, ConfigError, Retry: as :meth:`streams.kafka.reader.TopicReader.ends_of`.
        """
        with TopicReader(self._client) as reader:
            ends = reader.ends_of(self._topic)
            for message in reader.up_to(ends):
                self._take(message)
        self._solve()
        self._starts = {partition: end for (_, partition), end in ends.items()}
        self._thread.start()

    def of(self, model_version: str) -> Recalibrations:
        """Those of a model, as far as its outcomes have come."""
        return self._current.get(model_version, {})

    def check(self) -> None:
        """Whether it is still followed.

        Raises:
            DeliveryFailed: it is not; what broke is the cause.
        """
        if self._failure is not None:
            raise DeliveryFailed(f"{self._topic} is no longer followed: {self._failure}") from self._failure

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_JOIN_S)

    def _follow(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._follow_on()
                except Retry as error:
                    logger.warning("%s is read again in a moment: %s", self._topic, error)
                    self._stopping.wait(_AGAIN_S)
        except Exception as error:  # noqa: BLE001 - raised where it is used, see EncodeRole.idle
            self._failure = error
            logger.error("%s is no longer followed: %s", self._topic, error)

    def _follow_on(self) -> None:
        changed = False
        with TopicReader(self._client) as reader:
            for message in reader.follow(self._topic, self._starts, logger.warning):
                if self._stopping.is_set():
                    return
                if message is not None:
                    changed = self._take(message) or changed
                elif changed:  # all that there was has been read
                    self._solve()
                    changed = False

    def _take(self, message: Message) -> bool:
        counted = _read(message)
        if counted is not None:
            self._counted[counted.partition] = counted
        return counted is not None

    def _solve(self) -> None:
        tallies = Tallies()
        for partition in sorted(self._counted):
            tallies.merge(self._counted[partition].tallies)
        current: dict[str, dict[tuple[str, str], Recalibration]] = {}
        for of in tallies.known():
            found = recalibration(tallies.weeks(of))
            current.setdefault(of.model_version, {})[of.head, of.snapshot_kind] = found
            self._shown(of.model_version, of.head, of.snapshot_kind, found)
        self._current = current


def _read(message: Message) -> OutcomeTallies | None:
    """None, and a word in the log, of what is no tallies of this version: nothing is recalibrated by it."""
    try:
        counted = _decode(message.value() or b"")
        if counted.version == RECALIBRATIONS_VERSION:
            return counted
        fault = f"version {counted.version}, and this release knows {RECALIBRATIONS_VERSION}"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fault = str(error)
    logger.warning("a record of %s is left out: %s", message.topic(), fault)
    return None
