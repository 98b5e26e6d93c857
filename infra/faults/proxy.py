"""A small TCP proxy whose connections can be cut and stalled, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final, Self

_CHUNK: Final = 1 << 18
_START_S: Final = 10.0


class Proxy:
    """Listens on one address per target and carries bytes both ways.

    Args:
        targets: ``host:port`` of each.

    Example:
        with Proxy(["127.0.0.1:9092"]) as proxy:
            client_connects_to = proxy.addresses[0]
            proxy.cut()
    """

    def __init__(self, targets: list[str]) -> None:
        self._targets = [(host, int(port)) for host, port in (target.rsplit(":", 1) for target in targets)]
        self._listening = [_listener() for _ in targets]
        self.addresses = [f"127.0.0.1:{listening.getsockname()[1]}" for listening in self._listening]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._flowing = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._flowing.set()
        self._thread.start()
        for listening, (host, port) in zip(self._listening, self._targets, strict=True):
            self._call(self._serve(listening, host, port))

    def cut(self) -> int:
        """Reset every connection there is now; how many. New ones are taken at once."""
        return int(self._call(self._cut()))

    def stall(self) -> None:
        """Carry nothing, and let nobody notice: connections stay, bytes wait."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def flow(self) -> None:
        """End a stall."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._call(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_START_S)
        for listening in self._listening:
            listening.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_S)

    async def _serve(self, listening: socket.socket, host: str, port: int) -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._carry(reader, writer, host, port)

        await asyncio.start_server(connected, sock=listening, limit=_CHUNK)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port, limit=_CHUNK)
        except OSError:
            _reset(writer)  # the target is down: refuse as it would
            self._writers.discard(writer)
            self._tasks.discard(task)
            return
        self._writers.add(far_writer)
        try:
            pumps = [
                asyncio.create_task(self._pump(reader, far_writer)),
                asyncio.create_task(self._pump(far_reader, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            for end in (writer, far_writer):
                self._writers.discard(end)
                with contextlib.suppress(OSError, RuntimeError):
                    end.close()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()

    async def _cut(self) -> int:
        cut = list(self._writers)
        for writer in cut:
            _reset(writer)
        return len(cut) // 2

    async def _end(self) -> None:
        self._flowing.set()
        await self._cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _listener() -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    return listening


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST and not FIN, as a lost host or a firewall would."""
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
