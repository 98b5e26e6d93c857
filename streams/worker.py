"""Puts a worker together: settings in, running roles out."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from models.inference import Predictor, check
from models.saved_model import read_card
from models.tokenizer import FastLexicon
from schemas.deadletter import refuse
from schemas.errors import ConfigError, DeliveryFailed, InvalidField, PulsegraphError
from streams.agents.encode import EncodeRole
from streams.agents.entities import EntitiesRole
from streams.agents.ingest import IngestRole
from streams.agents.learn import LearnRole
from streams.core.batching import MicroBatcher
from streams.core.config import DAY_MS
from streams.core.refusal_limit import RefusalLimit
from streams.kafka import admin, offsets
from streams.kafka.outbox import Outbox
from streams.offline.ingest import LogRecord
from streams.runtime.app import RoleApp, build_app, run_worker
from streams.runtime.roles import Role
from streams.serving.catalog import CatalogFollower
from streams.serving.predict import Predictions
from streams.settings.schema import Settings, broker_credentials, kafka_client_config
from streams.state.contract import KeyValue
from streams.state.folder_lock import FolderLock
from streams.state.rocks import WORKER_BYTES, RocksStore, shared_memory
from streams.stateful.role import CheckpointSettings
from streams.telemetry.metrics import Metrics, serve

ROLES: Final = ("ingest", "encode", "entities", "learn")
_STATEFUL: Final = ("ingest", "entities")
_LAG_EVERY_S: Final = 5.0
_SWITCH_S: Final = 0.0005
_LETTERS_S: Final = 60.0

logger: Final = logging.getLogger(__name__)


def now_ms() -> int:
    """The wall clock, in epoch milliseconds."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """A clock that nobody sets, in milliseconds since some moment."""
    return time.monotonic_ns() // 1_000_000


class Worker:
    """The roles of one process and what they share.

    Args:
        roles: names from :data:`ROLES`, each once.

    Raises:
        ConfigError: an unknown role, no model where one is needed, or a state folder that another worker holds.
        ModelRefused: the model directory is broken.
        TopicMismatch: the broker's topics are not what the contract says.
    """

    def __init__(self, settings: Settings, roles: Sequence[str]) -> None:
        unknown = set(roles) - set(ROLES)
        if unknown or not roles:
            raise ConfigError(f"unknown roles {sorted(unknown)}: choose from {', '.join(ROLES)}")
        twice = sorted({name for name in roles if list(roles).count(name) > 1})
        if twice:
            raise ConfigError(f"{', '.join(twice)} given twice: name every role once; more workers share the load")
        self.settings = settings
        self.metrics = Metrics()
        self._client = kafka_client_config(settings)
        self._memory = shared_memory(WORKER_BYTES)
        self._closing: list[Any] = []
        with ExitStack() as held:
            for name in roles:
                if name in _STATEFUL:  # a folder for each: one worker's ingest and another one's entities do not meet
                    held.callback(FolderLock(settings.state_dir / name).release)
            admin.check_topics(
                admin.connect(self._client), prefix=settings.kafka.prefix, partitions=settings.kafka.partitions
            )
            self.apps: list[RoleApp] = [self._app(self._role(name)) for name in roles]
            self._held = held.pop_all()

    def run(self) -> int:
        """Until SIGTERM or SIGINT; returns the exit code."""
        server = serve(self.metrics, self.settings.metrics_port, self.settings.metrics_host)
        if server is not None:
            logger.info("metrics on http://%s:%d/metrics", self.settings.metrics_host, server.port)
        lag = _LagWatcher(self._client, self.settings.kafka.prefix, self.metrics, self.apps)
        lag.start()
        # The encoder's thread needs the interpreter lock for every tensor operation, and by default waits up to 5 ms
        # each time while the event loop computes.
        sys.setswitchinterval(_SWITCH_S)
        try:
            return run_worker(*self.apps)
        finally:
            lag.stop()
            for thing in self._closing:
                thing()
            if server is not None:
                server.stop()
            self._held.close()

    def _app(self, role: Role) -> RoleApp:
        kafka = self.settings.kafka
        return build_app(
            role,
            bootstrap=kafka.bootstrap,
            prefix=kafka.prefix,
            session_timeout_ms=kafka.session_timeout_ms,
            credentials=broker_credentials(self.settings),
        )

    def _role(self, name: str) -> Role:
        if name == "ingest":
            return IngestRole(
                config=self.settings.core,
                lexicon=self._lexicon(),
                cache_bytes=self.settings.ingest.cache_bytes,
                idle_ms=self.settings.ingest.idle_ms,
                refusals=RefusalLimit(self.settings.ingest.refused_share, self.settings.ingest.refused_min),
                **self._stateful(name),
            )
        if name == "entities":
            return EntitiesRole(**self._stateful(name))
        if name == "encode":
            return self._encode()
        return LearnRole(metrics=self.metrics, monotonic_ms=monotonic_ms)

    def _lexicon(self) -> FastLexicon:
        self._check_horizon(read_card(self.settings.model_dir).horizon_days)
        return FastLexicon.load(self.settings.model_dir)

    def _check_horizon(self, days: int) -> None:
        if days * DAY_MS != self.settings.core.churn_horizon_ms:
            raise ConfigError(
                f"the model in {self.settings.model_dir} was trained for a churn horizon of {days} days, and "
                f"core.churn_horizon_ms is {self.settings.core.churn_horizon_ms}: set it to {days * DAY_MS}, or train "
                "another model with `pulsegraph train`"
            )

    def _stateful(self, name: str) -> dict[str, Any]:
        ingest, folder = self.settings.ingest, self.settings.state_dir / name
        return {
            "outbox": self._outbox(),
            "client": self._client,
            "prefix": self.settings.kafka.prefix,
            "checkpoints": CheckpointSettings(ingest.checkpoint_ms, ingest.checkpoint_events),
            "open_store": lambda partition: self._open_store(folder / f"p{partition:05d}"),
            "quarantine": lambda partition: _quarantine(folder / f"p{partition:05d}"),
            "metrics": self.metrics,
            "monotonic_ms": monotonic_ms,
            "wall_ms": now_ms,
            "standby_partitions": self.settings.kafka.partitions if self.settings.standby else 0,
        }

    def _open_store(self, path: Path) -> KeyValue:
        return RocksStore(path, self._memory)

    def _outbox(self) -> Outbox:
        outbox = Outbox(self.settings.kafka.bootstrap, prefix=self.settings.kafka.prefix, config=self._client)
        self._closing.append(outbox.close)
        return outbox

    def _encode(self) -> EncodeRole:
        encode = self.settings.encode
        predictor = Predictor.load(
            self.settings.model_dir,
            device=None if encode.device == "auto" else encode.device,
            threads=encode.threads or None,
        )
        self._check_horizon(predictor.horizon_days)
        logger.info("model %s on %s: %s", predictor.version, predictor.device, predictor.embed.name)
        outbox = self._outbox()
        letters = self._outbox()  # of its own: an outbox belongs to one thread, and this one to the follower's
        topic = self.settings.kafka.prefix + "catalog"

        def refused(partition: int, offset: int, key: bytes | None, value: bytes | None, error: Exception) -> None:
            record = LogRecord(offset, key, value, (), now_ms())
            letter = refuse(InvalidField(str(error)), "catalog", partition, record)
            letters.send_all([letter])
            self.metrics.dead_letter("catalog", letter.reason)

        def delivered() -> None:
            asyncio.run(letters.delivered(letters.mark(), _LETTERS_S))

        catalog = CatalogFollower(self._client, topic, refused, delivered)

        def healthy() -> None:
            if catalog.failure is not None:
                raise DeliveryFailed(f"the catalog is no longer followed: {catalog.failure}") from catalog.failure

        catalog.start()
        self._closing.append(catalog.stop)
        return EncodeRole(
            predict=Predictions(predictor, catalog, self.settings.decide, now_ms),
            healthy=healthy,
            check=check,
            batcher=MicroBatcher(encode.batch_size, encode.batch_age_ms, encode.coalesce),
            outbox=outbox,
            metrics=self.metrics,
            monotonic_ms=monotonic_ms,
            wall_ms=now_ms,
            queue_bound=max(encode.queue_bound, encode.batch_size),
        )


class _LagWatcher:
    """Computes lag in a thread: liveness is progress of committed offsets, not an open port."""

    def __init__(self, client: Any, prefix: str, metrics: Metrics, apps: Sequence[RoleApp]) -> None:
        self._client, self._prefix, self._metrics, self._apps = client, prefix, metrics, apps
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lag", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _watch(self) -> None:
        while not self._stopping.wait(_LAG_EVERY_S):
            for app in self._apps:
                role = app.runner.role
                if role.name == "learn":
                    continue  # commits nothing
                try:
                    found = offsets.consumer_lag(self._client, app.conf.id, app.topic_names)
                    self._metrics.lag(role.name, found, self._prefix)
                except PulsegraphError as error:
                    logger.warning("lag of %s is not known: %s", role.name, error)


def _quarantine(path: Path) -> Path:
    """Move a folder out of the way; the newest one set aside is kept, older ones go."""
    aside = path.with_name(path.name + ".quarantine")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    return aside
