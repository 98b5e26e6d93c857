"""Puts a worker together: settings in, running roles out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from schemas.errors import ConfigError
from streams.agents.registry import ROLES, STATEFUL
from streams.kafka import admin
from streams.runtime.app import RoleApp, build_app, run_worker
from streams.runtime.broker_watch import BrokerWatch
from streams.runtime.context import RoleContext
from streams.runtime.health import Health
from streams.runtime.runner import Role
from streams.settings.schema import Settings, broker_credentials
from streams.state.folder_lock import FolderLock
from streams.telemetry.metrics import Metrics
from streams.telemetry.server import Probes, serve

_SWITCH_S: Final = 0.0005


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
        health = Health([app.runner for app in self.apps], silence_s=self.settings.broker_silence_ms / 1000)
        server = serve(
            self.metrics,
            self.settings.metrics_port,
            self.settings.metrics_host,
            Probes(lambda: health.is_alive, health.unready),
        )
        where = (
            "no metrics, since PULSEGRAPH_METRICS_PORT is not set"
            if server is None
            else f"metrics on http://{_in_url(self.settings.metrics_host)}:{server.port}/metrics"
        )
        watch = BrokerWatch(
            self._client,
            self.settings.kafka,
            self.metrics,
            health,
            {app.conf.id: app.runner.role for app in self.apps if app.commits_positions},
            # For people and for whoever started this process: on standard output, whatever is logged.
            ready=lambda: _say(f"pulsegraph worker is ready: {health.summary()}; {where}"),
        )
        watch.start()
        # The encoder's thread needs the interpreter lock for every tensor operation, and by default waits up to 5 ms
        # each time while the event loop computes.
        sys.setswitchinterval(_SWITCH_S)
        try:
            return run_worker(*self.apps, beat=health.beat)
        finally:
            watch.stop()
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


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check_names(roles: Sequence[str]) -> None:
    unknown = set(roles) - ROLES.keys()
    if unknown or not roles:
        raise ConfigError(f"unknown roles {sorted(unknown)}: choose from {', '.join(ROLES)}")
    twice = sorted({name for name in roles if list(roles).count(name) > 1})
    if twice:
        raise ConfigError(f"{', '.join(twice)} given twice: name every role once; more workers share the load")
