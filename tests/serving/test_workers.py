"""A server of several processes: connections are dealt out, deaths are made good, nobody stays behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from holdfast.errors import UserError
from holdfast.models.loading import load_model
from holdfast.serving.address import CAN_SHARE, listen_at
from holdfast.serving.workers import choose_worker_count
from processes import Process

pytestmark = pytest.mark.skipif(not CAN_SHARE, reason="Linux alone deals connections out")


def test_connections_are_dealt_out_among_those_that_join_and_others_are_refused() -> None:
    with listen_at("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match="is in use"):
            listen_at("127.0.0.1", port)
        with listen_at("127.0.0.1", port, joins=True) as second:
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
            counts = []
            for listener in (first, second):
                listener.setblocking(False)
                counts.append(count_waiting(listener))
            for client in clients:
                client.close()
    assert sum(counts) == 64
    assert min(counts) > 8  # of 64 throws of a coin fewer are one in a billion


def count_waiting(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_as_many_processes_as_cores_where_a_model_is_small_and_slots_are_enough() -> None:
    model = load_model("lab-small", device="cpu").model
    assert [choose_worker_count(model, cores, 64) for cores in (1, 2, 4, 32)] == [1, 2, 4, 4]
    assert [choose_worker_count(model, 8, slots) for slots in (1, 31, 32)] == [1, 1, 2]
    assert choose_worker_count(model.bfloat16(), 2, 64) == 1  # whose steps are not mostly the interpreter's


def test_a_process_that_dies_is_replaced_and_none_outlives_the_first() -> None:
    process = Process(["-m", "holdfast", "serve", "lab-small", "--workers", "2", "--port", "0"])
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        follow_server(process)


def follow_server(process: Process) -> None:
    said = process.stdout
    assert said is not None
    address = next(found[1] for line in said if (found := re.search(r"at (http://\S+)", line)))
    assert next(line for line in said if "processes" in line).startswith("2 processes answer")
    (worker,) = list_children(process.pid)

    def ask() -> str | None:
        client = openai.OpenAI(base_url=address, api_key="none", max_retries=2)
        talk = [{"role": "user", "content": "What is 3 + 4?"}]
        return (
            client.chat.completions.create(model="lab-small", messages=talk, temperature=0).choices[0].message.content
        )

    answers = {ask() for _ in range(12)}  # each over a connection of its own
    os.kill(worker, signal.SIGKILL)
    assert next(line for line in said if "ended" in line) == (
        "a process that answered ended (signal SIGKILL), and its clients with it; another takes its place\n"
    )
    assert answers == {ask() for _ in range(3)}
    wait_until(lambda: list_children(process.pid) != [])
    (other,) = list_children(process.pid)
    assert other != worker
    process.kill()
    process.wait()
    wait_until(lambda: not Path(f"/proc/{other}").exists())


def list_children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()  # a child is that of the thread that started it
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it does not come to that")
