"""A worker's HTTP: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for whoever restarts and routes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from prometheus_client import MetricsHandler

from schemas.errors import ConfigError
from streams.telemetry.metrics import Metrics

PATHS: Final = ("/metrics", "/healthz", "/readyz")


class Probes(NamedTuple):
    """What the two probes ask; called in threads of their own."""

    is_alive: Callable[[], bool]
    unready: Callable[[], list[str]]
    """What is missing before the worker is ready."""


class MetricsServer:
    """The server, in a thread."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def serve(
    metrics: Metrics,
    port: int | None,
    host: str = "127.0.0.1",
    probes: Probes = Probes(lambda: True, list),  # noqa: B008 - a tuple
) -> MetricsServer | None:
    """Serve :data:`PATHS`; 0 takes a free port (see :attr:`MetricsServer.port`), None serves nothing.

    Raises:
        ConfigError: the port is taken.
    """
    if port is None:
        return None
    scraped: type[MetricsHandler] = MetricsHandler.factory(metrics.registry)

    class Handler(scraped):  # type: ignore[misc, valid-type]  # a class made for this registry
        def do_GET(self) -> None:  # noqa: N802 - http.server's name
            match urlsplit(self.path).path:
                case "/metrics":
                    super().do_GET()
                case "/healthz":
                    alive = probes.is_alive()
                    self._say(200 if alive else 503, "alive" if alive else "the event loop hangs")
                case "/readyz":
                    missing = probes.unready()
                    self._say(503 if missing else 200, "\n".join(missing) or "ready")
                case _:
                    self._say(404, f"there is {', '.join(PATHS)}")

        def _say(self, status: int, text: str) -> None:
            body = f"{text}\n".encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    try:
        return MetricsServer(Server((host, port), Handler))
    except OSError as error:
        raise ConfigError(
            f"/metrics cannot be served on {host}:{port} ({error.strerror}): set PULSEGRAPH_METRICS_PORT to another "
            "port, to 0 for a free one or to none"
        ) from error
