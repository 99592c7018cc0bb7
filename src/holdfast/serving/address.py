"""Where a server listens: its address, and whether others than this machine can reach it."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys

from holdfast.errors import UserError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


CAN_SHARE = sys.platform == "linux"
"""Whether connections are dealt out among the processes that listen at one address; elsewhere the last gets all."""


def listen_at(host: str, port: int, joins: bool = False) -> socket.socket:
    """A socket that takes connections; they wait until somebody answers them.

    Args:
        joins: Whether others of this user's processes listen there already, and may; else nobody does.
    Raises:
        UserError: If the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]  # fmt: skip
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(f"--host {host}: no address of this machine ({error})") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if joins:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        if CAN_SHARE:  # after it is bound: whoever asked for the same address as its first would have got it, too
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        why = {
            errno.EADDRINUSE: "is in use; stop what listens there, or choose another --port (0 for any that is free)",
            errno.EACCES: "needs rights you do not have; choose a --port of 1024 or more",
            errno.EADDRNOTAVAIL: "is no address of this machine; choose another --host",
        }.get(error.errno or 0, f"cannot be had ({error.strerror})")
        raise UserError(f"{host}, port {port}: {why}") from error
    return listener


def describe_place(listener: socket.socket, host: str) -> str:
    """The address as clients write it."""
    name = f"[{host.strip('[]')}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}/v1"
