"""The sandbox's own interpreter: warmed once, it forks contained processes for each job and reports what became of it.

Started by `holdfast.sandbox.pool` as `python -s -S -B -u worker.py SCRATCH [IMPORT DIRECTORY ...]`, with an
environment of its own. Jobs come on standard input and replies go to standard output, each a 4-byte length and that
much JSON. Behind a job of kind "run" come its tests, which only the process reads that runs them: they are never in the
memory of this one, nor in that of a program.
"""

from __future__ import annotations

import os
import sys

sys.path.append(sys.path.pop(0))  # this folder last: nothing in it may stand before the standard library

import contextlib
import fcntl
import gc
import importlib
import json
import random
import select
import signal
import time
from _thread import allocate_lock, stack_size, start_new_thread
from dataclasses import dataclass

import caller
import landlock
import limits
import program_side
import room
import test_side

sys.path.pop()

WARM = "bisect copy dataclasses datetime enum fractions heapq itertools math operator re statistics string typing"
"""What small programs import; loaded once here instead of in each of them."""

RESULT, FROM_OTHER, TO_OTHER, FREE = 3, 4, 5, 6
"""Descriptors of a contained process: its verdict, what the other process says, what it is told, the first unused."""


@dataclass(slots=True)
class Walls:
    """What this interpreter prepared for the processes it forks.

    Args:
        library: Where modules are imported from.
        work: The empty working directory.
        root: The file system that foreign code sees; empty: the whole one.
        program: The call filter's.
        rules: Landlock's for foreign code, and for the user's own functions.
        first_user: The first of the user ids that root gives to contained processes.
    """

    library: list[str]
    work: str
    root: str
    program: bytes | None
    rules: tuple[int | None, int | None]
    first_user: int


def serve_jobs() -> None:
    """Answer jobs until standard input ends."""
    scratch, path = sys.argv[1], sys.argv[2:]
    jobs, replies = os.dup(0), os.dup(1)
    outside, world = os.getpid(), room.enter_namespaces()
    if world["process_namespace"]:
        room.fork_first_process(jobs, replies)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.environ.clear()
    walls, standing = build_walls(scratch, path, outside, world)
    for name in WARM.split():
        importlib.import_module(name)
    random.seed(0)
    gc.freeze()  # the collector leaves what is here alone, so that forked pages stay shared
    send_message(replies, {"ready": True, **standing})
    number = 0
    while (job := receive_message(jobs)) is not None:
        number += 1
        send_message(replies, (handle_run if job["kind"] == "run" else handle_call)(job, walls, jobs, number))
    with contextlib.suppress(OSError):
        os.rmdir(walls.work)


def build_walls(scratch: str, path: list[str], outside: int, world: dict[str, bool]) -> tuple[Walls, dict]:
    """Prepare the walls; and which of them stand, for the people outside."""
    library = room.library_of(path)
    work, root = scratch + "/work", scratch + "/room"
    os.mkdir(work, 0o755)
    world["mount_namespace"] = world["mount_namespace"] and room.build_file_system(root, library)
    rules = landlock.make_rules([*library, work, *room.SYSTEM]), landlock.make_rules(None)
    walls = Walls(library, work, root if world["mount_namespace"] else "", limits.build_filter_program(), rules,
                  1_000_000_000 + outside % 1_000_000 * 1000)  # fmt: skip
    standing = {
        **world,
        "call_filter": walls.program is not None,
        "landlock": landlock.landlock_version() if rules[0] else 0,
    }
    return walls, {**standing, "own_user": os.geteuid() == 0}


def receive_message(source: int) -> dict | None:
    """The next message, or `None` at the end."""
    size = int.from_bytes(read_exactly(source, 4), "big")
    return json.loads(read_exactly(source, size)) if size else None


def read_exactly(source: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := os.read(source, size - len(data))):
        data += piece
    return data


def send_message(target: int, message: dict) -> None:
    data = json.dumps(message).encode()
    rest = memoryview(len(data).to_bytes(4, "big") + data)
    while rest:
        rest = rest[os.write(target, rest) :]


# ---- a program and its tests


def handle_run(job: dict, walls: Walls, jobs: int, number: int) -> dict:
    """Have a program run in one process and its tests in another; the verdict is that of the second."""
    limits.forget_native()
    result, output, requests, answers = os.pipe(), os.pipe(), os.pipe(), os.pipe()
    program = os.fork()
    if program == 0:
        run_contained(job, walls, number * 2, [-1, requests[0], answers[1]], output[1], run_program)
    tests = os.fork()
    if tests == 0:
        checks = receive_message(jobs)
        os.write(result[1], b"r")  # the next message is this interpreter's again
        run_contained(
            {**job, "checks": checks}, walls, number * 2 + 1, [result[1], answers[0], requests[1]], output[1], run_tests
        )
    for descriptor in (*requests, *answers, result[1], output[1]):
        os.close(descriptor)
    if os.read(result[0], 1) != b"r":
        os._exit(1)
    result_data, output_data, ending = collect_output(result[0], output[0], job, jobs)
    verdict = json.loads(result_data) if result_data and not ending else None
    is_lost = verdict is not None and verdict["status"] == "gone"
    program_status = reap_process(program, 0.5 if is_lost else 0.0)
    status = reap_process(tests, 0.0 if ending else 0.5)
    os.close(result[0])
    os.close(output[0])
    return {"verdict": verdict, "ending": ending, "status": status, "program_status": program_status,
            "output": output_data.decode("utf-8", "replace")}  # fmt: skip


def run_program(job: dict) -> None:
    # in a thread: its first frame is the first frame there is, so that none leads to this module
    stack_size(64 << 20)
    start_new_thread(program_side.serve_requests, (FROM_OTHER, TO_OTHER, job["candidates"]))
    stack_size(0)
    del job
    forever = allocate_lock()
    forever.acquire()
    forever.acquire()


def run_tests(job: dict) -> None:
    test_side.judge_and_exit(FROM_OTHER, TO_OTHER, RESULT, job["checks"])


# ---- the user's own function


def handle_call(job: dict, walls: Walls, jobs: int, number: int) -> dict:
    """Have the user's function called in a process of its own; what it wrote stands behind a token."""
    token = os.urandom(16).hex().encode()
    result, output = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        job["token"] = token
        run_contained(
            job, walls, number * 2, [result[1], -1, -1], output[1], lambda job: caller.call_function(job, token, RESULT)
        )
    os.close(result[1])
    os.close(output[1])
    result_data, output_data, ending = collect_output(result[0], output[0], job, jobs)
    status = reap_process(child, 0.0 if ending else 0.5)
    os.close(result[0])
    os.close(output[0])
    return {"token": token.decode(), "said": result_data.decode("utf-8", "replace"), "ending": ending,
            "status": status, "output": output_data.decode("utf-8", "replace")}  # fmt: skip


# ---- any contained process


def collect_output(result: int, output: int, job: dict, jobs: int) -> tuple[bytes, bytes, str]:
    """Collect what a process writes until it is done, too late or too loud ("time", "output": the third value)."""
    heard = {result: b"", output: b""}
    still = [result, output, jobs]
    deadline = time.monotonic() + job["wall"]
    while result in still:
        ready = select.select(still, [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            return heard[result], heard[output], "time"
        for source in ready:
            piece = os.read(source, 65536) if source != jobs else b""
            if source == jobs:  # the sandbox itself is gone
                os._exit(1)
            heard[source] += piece
            if not piece:
                still.remove(source)
        if len(heard[output]) > job["output"] or len(heard[result]) > job["answer"]:
            return heard[result], heard[output][: job["output"]], "output"
    while output in still and output in select.select([output], [], [], 0)[0] and len(heard[output]) < job["output"]:
        if not (piece := os.read(output, 65536)):
            break
        heard[output] += piece
    return heard[result], heard[output], ""


def reap_process(child: int, patience: float) -> int:
    """Let the process end by itself for `patience` seconds, then kill it; in any case its group. Its wait status.

    That of a process killed here is "ended with 0": it did nothing wrong by not ending by itself.
    """
    until = time.monotonic() + patience
    ended_pid, status = os.waitpid(child, os.WNOHANG)
    while not ended_pid and time.monotonic() < until:
        time.sleep(0.0005)
        ended_pid, status = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):  # nothing is left of the group, or it does not exist yet
        os.killpg(child, signal.SIGKILL)
    if not ended_pid:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        status = 0
    return status


def run_contained(job: dict, walls: Walls, number: int, own: list[int], output: int, act) -> None:
    """In a forked process: keep its descriptors `own` and `output` alone, raise the walls, act, never return."""
    strict = job["kind"] == "run"
    try:
        rules = walls.rules[0 if strict else 1]
        descriptors = [
            fcntl.fcntl(fd, fcntl.F_DUPFD, 200) if fd is not None and fd >= 0 else -1 for fd in (*own, rules, output)
        ]
        for place, descriptor in zip((RESULT, FROM_OTHER, TO_OTHER, FREE, 1), descriptors, strict=True):
            if descriptor >= 0:
                os.dup2(descriptor, place)
            else:
                with contextlib.suppress(OSError):
                    os.close(place)
        os.dup2(1, 2)
        os.closerange(FREE + 1, 512)
        raise_walls(job, walls, walls.first_user + number % 1000, FREE if rules is not None else None, strict)
    except BaseException as error:  # without its walls nothing may run; the sandbox raises this where people see it
        report_refusal(own, f"{type(error).__name__}: {error}"[:500], job)
        os._exit(70)
    try:
        act(job)
    finally:
        os._exit(71)


def report_refusal(own: list[int], why: str, job: dict) -> None:
    """Tell the other process, or the interpreter, that the walls do not stand."""
    if own[0] < 0:
        send_message(TO_OTHER, {"told": why, "states": {}})
    elif job["kind"] == "run":
        os.write(RESULT, json.dumps({"status": "walls", "check": 0, "reason": why}).encode())
    else:
        os.write(RESULT, why.encode() + job["token"] + b"X")


def raise_walls(job: dict, walls: Walls, user: int, rules: int | None, strict: bool) -> None:
    """Raise the walls around this process: all of them for foreign code, those of the user's own function otherwise."""
    os.setsid()
    sys.path[:0] = job["path"]
    library = walls.library
    if strict and walls.root:
        os.chroot(walls.root)
        os.chdir(room.WORK)
    else:
        os.chdir(walls.work)
        if strict and os.geteuid() == 0 and not all(map(limits.open_to_all, library)):
            library = [*library, *room.hold_open(library)]
    has_dropped_root = limits.drop_root(user, reads_all=not strict)
    if strict or not has_dropped_root:
        limits.drop_capabilities()
    limits.set_limits(job["wall"], job["memory_mb"], 64 if has_dropped_root else None)
    landlock.restrict_process(rules)
    if rules is not None:
        os.close(rules)
    has_filter = limits.filter_calls(walls.program)
    read = (*(p + "/" for p in [*library, "/usr/share/zoneinfo"]), *(p for p in library if p.endswith(".zip")),
            *room.SYSTEM)  # fmt: skip
    limits.install_audit_hook(read if strict else None, strict, has_filter)


if __name__ == "__main__":
    serve_jobs()
