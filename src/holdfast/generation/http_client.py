"""One HTTP exchange with a server that may be slow, broken or hostile: bounded in time and size, and never redirected.

The standard library's client follows redirects and hands the `Authorization` header to wherever they point, reads a
body of any size, and applies its time limit to every read by itself.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
import urllib.request
from typing import Any

LARGEST = 32 * 2**20
"""Bytes of an answer that are read; ten times the longest that a model gives."""
LARGEST_ERROR = 2**16
"""Bytes of an error page that are read; its first words are shown."""
BLOCK = 2**16


class TooLarge(Exception):
    """The server's answer is larger than any answer of a model."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like any other: the key goes to the server it was given for, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _TimedReader(io.RawIOBase):
    """The reading side of a socket up to a moment."""

    def __init__(self, sock: socket.socket, ends: float) -> None:
        self._sock, self._ends = sock, ends
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        seconds_left = self._ends - time.monotonic()
        if seconds_left <= 0:
            raise TimeoutError("no whole answer in time")
        self._sock.settimeout(seconds_left)
        return self._raw.readinto(buffer)  # type: ignore[attr-defined]  # it is a raw stream without buffering

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedSocket:
    """A socket with one time limit for the whole exchange; as much of one as `http.client` uses."""

    def __init__(self, sock: socket.socket, ends: float) -> None:
        self._sock, self._ends = sock, ends
        self.sendall, self.close = sock.sendall, sock.close

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._ends))


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        ends = time.monotonic() + float(self.timeout or 0)
        super().connect()
        self.sock: Any = _TimedSocket(self.sock, ends)


class _SecureConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        ends = time.monotonic() + float(self.timeout or 0)
        super().connect()
        self.sock: Any = _TimedSocket(self.sock, ends)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, req, context=ssl.create_default_context())


def build_opener(host: str) -> urllib.request.OpenerDirector:
    """An opener for one server; a proxy set in the environment is used, except for a server on this very machine."""
    local = host in ("localhost", "::1") or host.startswith("127.")
    proxies = [urllib.request.ProxyHandler({})] if local else []
    return urllib.request.build_opener(_NoRedirects, _Http, _Https, *proxies)


def fetch_body(opener: urllib.request.OpenerDirector, message: urllib.request.Request, timeout: float) -> bytes:
    """Send one request and read the whole answer.

    Args:
        timeout: Seconds for all of it, from the connection to the last byte.
    Raises:
        urllib.error.HTTPError: If the server answers with an error or a redirect.
        OSError, http.client.HTTPException: If it cannot be reached, is too slow, or breaks off.
        TooLarge: If the answer is beyond `LARGEST`.
    """
    with opener.open(message, timeout=timeout) as response:
        return read_bounded(response, LARGEST)


def read_bounded(response: Any, largest: int) -> bytes:
    """The body of an answer.

    Raises:
        TooLarge: If it is longer than `largest` bytes.
        http.client.IncompleteRead: If the server broke off.
    """
    parts, size = [], 0
    while block := response.read(BLOCK):
        size += len(block)
        if size > largest:
            raise TooLarge
        parts.append(block)
    if getattr(response, "length", None):  # bytes that were announced and did not come
        raise http.client.IncompleteRead(b"".join(parts), response.length)
    return b"".join(parts)
