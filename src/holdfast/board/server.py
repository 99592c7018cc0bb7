"""The board behind an address."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from holdfast.board.app import Board, BoardSettings
from holdfast.errors import UserError
from holdfast.serving.address import describe_place, is_loopback, listen_at

TOKEN_VARIABLE = "HOLDFAST_BOARD_TOKEN"
SHORTEST_TOKEN = 16
"""Characters of a token that nobody guesses."""


def check_settings(root: Path, host: str, token: str) -> None:
    """See that the directory is there, and that whoever else can reach the board needs a token.

    Raises:
        UserError: If not.
    """
    if not root.is_dir():
        raise UserError(f"{root}: is no directory; give the one in which runs are, or will be")
    if not os.access(root, os.W_OK):
        raise UserError(f"{root}: cannot be written; the board keeps what it starts there")
    if not is_loopback(host) and not token:
        raise UserError(
            f"--host {host}: others can reach this address, so they need a token; set the environment variable "
            f"{TOKEN_VARIABLE} (or --token), or leave --host out to show the board on this machine only"
        )
    if token and len(token) < SHORTEST_TOKEN:
        raise UserError(f"--token, {TOKEN_VARIABLE}: a token of {SHORTEST_TOKEN} characters or more is needed")


def run_board(root: Path, host: str, port: int, token: str, most_runs: int, say: Callable[[str], Any]) -> None:
    """Show a directory until Ctrl-C.

    Args:
        most_runs: At work at once; others wait.
        say: Told where it is to be seen.
    Raises:
        UserError: If the address cannot be had, or what `check_settings` raises.
    """
    check_settings(root, host, token)
    with listen_at(host, port) as listener:
        board = Board(BoardSettings(root.resolve(), token, most_runs))
        say(f"the board of {root} is at {describe_place(listener, host).removesuffix('/v1')} (Ctrl-C ends it)")
        config = uvicorn.Config(
            board.build_app(), ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
            proxy_headers=False, timeout_graceful_shutdown=5,
        )  # fmt: skip
        threading.Thread(target=board.index.list_entries, daemon=True).start()  # the first page need not wait for it
        board.chats.close_all()  # of a board that was killed
        ends = threading.Event()
        threading.Thread(target=board.queue.keep_starting, args=[ends], daemon=True).start()
        try:
            with contextlib.suppress(KeyboardInterrupt):  # which is how it ends
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            ends.set()
            board.chats.close_all()
