"""A network that fails: HTTP passes through to a server until a number of uploads have begun; the next one never arrives."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class Network:
    """Forwards connections to `endpoint`, and the first `uploads` requests that put something there."""

    def __init__(self, endpoint: str, uploads: int) -> None:
        server = urlsplit(endpoint)
        assert server.hostname and server.port
        self._server, self._left, self._lock = (server.hostname, server.port), uploads, threading.Lock()
        self.failed = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        """Until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(self._server)
                threading.Thread(target=self._pass_on, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, requests: bool) -> None:
        with contextlib.suppress(OSError), target:
            while data := source.recv(2**16):
                if requests and data.startswith(b"PUT ") and not self._may_pass():
                    self.failed.set()
                    threading.Event().wait()  # the other side waits for an answer as long as it likes
                target.sendall(data)

    def _may_pass(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0


@contextlib.contextmanager
def failing_after(uploads: int, endpoint: str) -> Iterator[Network]:
    """Serves until the end of the block."""
    network = Network(endpoint, uploads)
    with network.listener:
        threading.Thread(target=network.serve, daemon=True).start()
        yield network
