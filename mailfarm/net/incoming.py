"""The content of one transaction while it comes in, and what became of it when the disk would not take it."""

from __future__ import annotations

from twisted.logger import Logger

from .content import SpillContent
from .incoming_room import IncomingRoom


class Incoming:
    """Takes octets until the transaction ends. Once one is not taken the rest is dropped too: the client goes on until
    its dot, and hears of it there."""

    __slots__ = ("_client", "_log", "_room", "content", "error")

    def __init__(self, room: IncomingRoom, client: str, log: Logger) -> None:
        self._room = room
        self._client = client
        self._log = log
        self.content: SpillContent | None = None
        self.error: OSError | None = None

    def add(self, data: bytes) -> None:
        """More of it."""
        if self.error is not None:
            return
        if self.content is None:
            self.content = SpillContent(room=self._room)
        try:
            self.content.write(data)
        except OSError as error:
            self.drop()
            self.error = error
            self._log.error(
                "Content from {client} cannot be kept in {folder}: {why}. Make room there, or name another folder.",
                client=self._client,
                folder=str(self._room.folder or "the temporary folder"),
                why=error.strerror or str(error),
            )

    def take(self) -> SpillContent:
        """All of it, now the caller's to close. Raises the OSError that kept it from being whole."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        content, self.content = self.content, None
        return content if content is not None else SpillContent(room=self._room)  # empty content is content

    def drop(self) -> None:
        """Forget it."""
        self.error = None
        if self.content is not None:
            self.content.close()
            self.content = None
