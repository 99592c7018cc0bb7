"""The HTTP of a connection, with what is written in one turn of the event loop sent in one call."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class JoinedWrites:
    """A transport that sends what is written in one turn of the event loop together.

    Sending lets other threads run, and those that decode keep the interpreter for up to five milliseconds before the
    event loop has it again. Head, body and end of an answer written one by one would each wait that long, and every
    other client with them.

    Args:
        transport: The connection's.
        loop: That of the server.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Take `data`, to be sent once nothing else is ready to be done."""
        if not self._parts:
            self._loop.call_soon(self.send_parts)
        self._parts.append(data)

    def send_parts(self) -> None:
        """Send what there is."""
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(b"".join(parts))

    def close(self) -> None:
        """Send the rest, and close the connection."""
        self.send_parts()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class JoinedWritesProtocol(H11Protocol):
    """uvicorn's HTTP, over such a transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]
