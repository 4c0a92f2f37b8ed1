"""A TCP relay before a server that can cut every connection, refuse new ones, and be pointed elsewhere."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType


class Relay:
    """Listens at once. ``cut`` ends what is open; ``away`` also refuses what comes, until ``back``."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._todo: list[str] = []
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._pairs) // 2

    def cut(self) -> None:
        self._tell("cut")

    def away(self) -> None:
        self._tell("away")

    def back(self, port: int) -> None:
        self.target = port
        self._tell("back")

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell("end")
        self._thread.join()
        for each in (self._wake, self._waker):
            each.close()
        self._selector.close()

    def _tell(self, word: str) -> None:
        self._done.clear()
        self._todo.append(word)
        self._waker.send(b"x")
        assert self._done.wait(10)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        self._selector.register(listener, selectors.EVENT_READ)
        return listener

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                if ready is self._wake:
                    self._wake.recv(100)
                    while self._todo:
                        if not self._obey(self._todo.pop(0)):
                            return
                elif ready is self._listener:
                    self._accept()
                elif ready in self._pairs:
                    self._carry(ready)

    def _obey(self, word: str) -> bool:
        if word in ("cut", "away", "end"):
            for each in list(self._pairs):
                self._drop(each)
        if word in ("away", "end") and self._listener.fileno() >= 0:
            self._selector.unregister(self._listener)
            self._listener.close()
        if word == "back":
            self._listener = self._listen(self.port)
        self._done.set()
        return word != "end"

    def _accept(self) -> None:
        if self._listener.fileno() < 0:  # closed since select told of it
            return
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self.target))
        except ConnectionRefusedError:
            near.close()
            return
        for one, other in ((near, far), (far, near)):
            self._pairs[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _carry(self, source: socket.socket) -> None:
        try:
            data = source.recv(65536)
            if data:
                self._pairs[source].sendall(data)
                return
        except OSError:
            pass
        self._drop(source)

    def _drop(self, source: socket.socket) -> None:
        other = self._pairs.pop(source, None)
        if other is None:
            return
        for each in (source, other):
            self._pairs.pop(each, None)
            with contextlib.suppress(KeyError):
                self._selector.unregister(each)
            each.close()
