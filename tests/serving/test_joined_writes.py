"""What is written in one turn of the event loop goes out together, in order, and nothing is lost at the end."""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast.serving.joined_writes import JoinedWrites


class MemoryTransport(asyncio.Transport):
    """Keeps what is sent, call by call."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 5)})
        self.sent: list[Any] = []

    def write(self, data: Any) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.sent.append(None)


def test_parts_of_a_turn_are_one_call() -> None:
    async def write_some() -> list[Any]:
        transport = MemoryTransport()
        joined = JoinedWrites(transport, asyncio.get_running_loop())
        for part in (b"head ", b"body ", b""):
            joined.write(part)
        assert transport.sent == []
        await asyncio.sleep(0)
        assert transport.sent == [b"head body "]
        await asyncio.sleep(0)
        joined.write(b"next")
        await asyncio.sleep(0)
        joined.write(b"rest")
        joined.close()  # at once, and the rest before it
        await asyncio.sleep(0)
        assert joined.get_extra_info("peername") == ("127.0.0.1", 5)
        return transport.sent

    assert asyncio.run(write_some()) == [b"head body ", b"next", b"rest", None]
