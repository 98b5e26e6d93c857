"""Child processes that cannot outlive this one: used for brokers and for worker processes in tests and the demo."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

# Reads until this process's end of the pipe closes, which the kernel does on any kind of death. PR_SET_PDEATHSIG
# would be shorter, but it fires when the *thread* that forked ends, and it exists on Linux only.
_GUARD: Final = 'read -r _; kill -TERM "$1" 2>/dev/null || exit 0; sleep 2; kill -KILL "$1" 2>/dev/null'


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Different TCP ports that nobody listens on, taken at once: the kernel might repeat one otherwise."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((host, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def tail_of(path: Path, lines: int = 12) -> str:
    """The last lines of a log, for error messages; empty where there is none."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def worker_environment(settings: Mapping[str, object]) -> dict[str, str]:
    """The environment of a worker that takes nothing from ours but these settings.

    Args:
        settings: by dotted name, as in ``pulsegraph settings``.

    Example:
        >>> worker_environment({"ingest.idle_ms": 0})["PULSEGRAPH_INGEST_IDLE_MS"]
        '0'
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PULSEGRAPH_")}
    return inherited | {f"PULSEGRAPH_{name.replace('.', '_').upper()}": str(value) for name, value in settings.items()}


class Child:
    """One guarded process: its output in a file, its end by pid, its death with ours.

    Args:
        argv: program and arguments.
        log_path: receives stdout and stderr, appended.
        env: the whole environment; this process's where None.
        cwd: where it works; this process's folder where None.
        stop_signal: the signal that ends the program cleanly.
    """

    def __init__(
        self,
        argv: Sequence[str],
        log_path: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._stop_signal = stop_signal
        with open(log_path, "ab") as log:
            # A session of its own: Ctrl-C reaches us alone, and we stop the children in the right order.
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=cwd, start_new_session=True
            )
        try:
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "pulsegraph-guard", str(self._process.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            self._process.kill()
            self._process.wait()
            raise
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def send_signal(self, number: int) -> None:
        """Pass a signal on, for example SIGSTOP and SIGCONT in fault tests."""
        if self.running:
            self._process.send_signal(number)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end; the exit status.

        Raises:
            subprocess.TimeoutExpired: it is still running.
        """
        status = self._process.wait(timeout_s)
        self._release_guard()
        return status

    def request_stop(self) -> None:
        """Send the stop signal and return at once."""
        if self.running:
            self._process.send_signal(self._stop_signal)

    def stop(self, timeout_s: float = 15.0) -> None:
        """Request its end, and kill it if it still runs after ``timeout_s``. Safe to repeat."""
        if self.running:
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._release_guard()

    def kill(self) -> None:
        """SIGKILL, as a power cut would. Safe to repeat."""
        if self.running:
            self._process.kill()
        self._process.wait()
        self._release_guard()

    def _release_guard(self) -> None:
        # The guard goes before its pipe closes, or it would signal a pid that may belong to someone else by now.
        with self._lock:
            if self._guard.poll() is None:
                self._guard.kill()
            self._guard.wait()
            if self._guard.stdin is not None:
                self._guard.stdin.close()
