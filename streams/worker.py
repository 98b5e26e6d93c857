"""Puts a worker together: settings in, running roles out."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from schemas.errors import ConfigError, PulsegraphError
from streams.agents.registry import ROLES, STATEFUL
from streams.kafka import admin, offsets
from streams.kafka.clients import ClientConfig
from streams.runtime.app import RoleApp, build_app, run_worker
from streams.runtime.context import RoleContext
from streams.runtime.runner import Role
from streams.settings.schema import Settings, broker_credentials
from streams.state.folder_lock import FolderLock
from streams.telemetry.metrics import Metrics, serve

_LAG_EVERY_S: Final = 5.0
_SWITCH_S: Final = 0.0005

logger: Final = logging.getLogger(__name__)


class Worker:
    """The roles of one process and what they share.

    Args:
        roles: names from :data:`streams.agents.registry.ROLES`, each once.

    Raises:
        ConfigError: an unknown role, no model where one is needed, or a state folder that another worker holds.
        ModelRefused: the model directory is broken.
        TopicMismatch: the broker's topics are not what the contract says.
    """

    def __init__(self, settings: Settings, roles: Sequence[str]) -> None:
        _check_names(roles)
        self.settings = settings
        self.metrics = Metrics()
        with ExitStack() as closing:
            for name in roles:
                if name in STATEFUL:  # a folder for each: one worker's ingest and another one's entities do not meet
                    closing.callback(FolderLock(settings.state_dir / name).release)
            context = RoleContext(settings, self.metrics, closing)
            self._client = context.client
            admin.check_topics(
                admin.connect(self._client), prefix=settings.kafka.prefix, partitions=settings.kafka.partitions
            )
            self.apps: list[RoleApp] = [self._app(ROLES[name].build(context)) for name in roles]
            self._closing = closing.pop_all()

    def run(self) -> int:
        """Until SIGTERM or SIGINT; returns the exit code."""
        server = serve(self.metrics, self.settings.metrics_port, self.settings.metrics_host)
        if server is not None:
            logger.info("metrics on http://%s:%d/metrics", self.settings.metrics_host, server.port)
        committing = [app for app in self.apps if ROLES[app.runner.role.name].commits]
        lag = _LagWatcher(self._client, self.settings.kafka.prefix, self.metrics, committing)
        lag.start()
        # The encoder's thread needs the interpreter lock for every tensor operation, and by default waits up to 5 ms
        # each time while the event loop computes.
        sys.setswitchinterval(_SWITCH_S)
        try:
            return run_worker(*self.apps)
        finally:
            lag.stop()
            if server is not None:
                server.stop()
            self._closing.close()

    def _app(self, role: Role) -> RoleApp:
        kafka = self.settings.kafka
        self.metrics.reads(role.name, role.topics)
        return build_app(
            role,
            bootstrap=kafka.bootstrap,
            prefix=kafka.prefix,
            session_timeout_ms=kafka.session_timeout_ms,
            credentials=broker_credentials(self.settings),
            partitions=kafka.partitions,
            commits=ROLES[role.name].commits,
            missed=self.metrics.missed,
        )


class _LagWatcher:
    """Computes lag in a thread: liveness is progress of committed offsets, not an open port."""

    def __init__(self, client: ClientConfig, prefix: str, metrics: Metrics, apps: Sequence[RoleApp]) -> None:
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
                name = app.runner.role.name
                try:
                    found = offsets.consumer_lag(self._client, app.conf.id, app.topic_names)
                    self._metrics.lag(name, found, self._prefix)
                except PulsegraphError as error:
                    logger.warning("lag of %s is not known: %s", name, error)


def _check_names(roles: Sequence[str]) -> None:
    unknown = set(roles) - ROLES.keys()
    if unknown or not roles:
        raise ConfigError(f"unknown roles {sorted(unknown)}: choose from {', '.join(ROLES)}")
    twice = sorted({name for name in roles if list(roles).count(name) > 1})
    if twice:
        raise ConfigError(f"{', '.join(twice)} given twice: name every role once; more workers share the load")
