"""The proxy carries bytes, cuts connections and stalls them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from infra.faults.proxy import Proxy
from streams.brokers.processes import free_port


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends back what it gets."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while chunk := connection.recv(65_536):
                    connection.sendall(chunk)
            except OSError:
                return

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def _connect(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=5.0)


def _round_trip(connection: socket.socket, sent: bytes) -> bytes:
    connection.sendall(sent)
    got = b""
    while len(got) < len(sent):
        got += connection.recv(65_536)
    return got


def _is_closed(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1)
    except ConnectionError:
        return True


def test_bytes_go_both_ways(echo):
    with Proxy([echo]) as proxy, _connect(proxy.addresses[0]) as client:
        sent = bytes(range(256)) * 256
        assert _round_trip(client, sent) == sent


def test_a_cut_resets_what_is_connected_and_takes_new_connections(echo):
    with Proxy([echo]) as proxy:
        with _connect(proxy.addresses[0]) as client:
            _round_trip(client, b"x")
            assert proxy.cut() == 1
            assert _is_closed(client)
        with _connect(proxy.addresses[0]) as client:
            assert _round_trip(client, b"again") == b"again"


def test_a_stall_holds_bytes_back_and_loses_none(echo):
    with Proxy([echo]) as proxy, _connect(proxy.addresses[0]) as client:
        _round_trip(client, b"x")
        proxy.stall()
        client.sendall(b"later")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(16)
        proxy.flow()
        client.settimeout(5.0)
        assert client.recv(16) == b"later"


def test_a_target_that_is_down_refuses():
    with Proxy([f"127.0.0.1:{free_port()}"]) as proxy:
        try:
            connection = _connect(proxy.addresses[0])
        except ConnectionError:
            return  # the reset came before the client saw that it was connected
        with connection:
            assert _is_closed(connection)
