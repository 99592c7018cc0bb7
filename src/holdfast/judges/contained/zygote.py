"""The sandbox's own interpreter: warmed once, it forks one contained process per job and reports what became of it.

Started by `holdfast.judges.sandbox` as `python -s -S -B -u zygote.py SCRATCH`, with an environment of its own. Jobs
come on standard input and replies go to standard output, each a 4-byte length and that much JSON.
"""

from __future__ import annotations

import os
import sys

sys.path.append(sys.path.pop(0))  # this folder last: nothing in it may stand before the standard library

import builtins
import collections
import contextlib
import gc
import importlib
import json
import random
import select
import signal
import time
import types
import weakref
from _thread import allocate_lock, stack_size, start_new_thread
from functools import partial

import guard

sys.path.pop()

WARM = "bisect copy dataclasses datetime enum fractions heapq itertools math operator re statistics string typing"
"""What small programs import; loaded once here instead of in each of them."""

RESULT = 3
"""The descriptor on which a contained process reports."""


def serve() -> None:
    """Answer jobs until standard input ends."""
    jobs, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.environ.clear()
    network = not guard.leave_network()
    program = guard.filter_program()
    for name in WARM.split():
        importlib.import_module(name)
    random.seed(0)
    gc.freeze()  # the collector leaves what is here alone, so that forked pages stay shared
    send(replies, {"ready": True, "network_namespace": not network, "call_filter": program is not None})
    number = 0
    while (job := receive(jobs)) is not None:
        send(replies, contain(job, f"{sys.argv[1]}/{os.getpid()}-{number}", program, jobs))
        number += 1


def receive(source: int) -> dict | None:
    """The next message, or `None` at the end."""
    size = int.from_bytes(exactly(source, 4), "big")
    return json.loads(exactly(source, size)) if size else None


def exactly(source: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := os.read(source, size - len(data))):
        data += piece
    return data


def send(target: int, message: dict) -> None:
    data = json.dumps(message).encode()
    left = memoryview(len(data).to_bytes(4, "big") + data)
    while left:
        left = left[os.write(target, left) :]


def contain(job: dict, work: str, program: bytes | None, jobs: int) -> dict:
    """Run one job in a process of its own, in the empty directory `work`; say how it ended and what it wrote."""
    os.mkdir(work, 0o700)
    token = os.urandom(16).hex().encode()
    result, output = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        inside(job, work, program, token, result[1], output[1])
    os.close(result[1])
    os.close(output[1])
    said, printed, ending = listen(result[0], output[0], job, jobs)
    status = reap(child, 0.0 if ending else 0.5)
    os.close(result[0])
    os.close(output[0])
    try:
        os.rmdir(work)
    except OSError:  # not empty: something got a file into it; the sandbox removes the whole scratch folder in the end
        ending = ending or "left files behind"
    return {"token": token.decode(), "said": said.decode("utf-8", "replace"), "ending": ending,
            "status": status, "output": printed.decode("utf-8", "replace")}  # fmt: skip


def listen(result: int, output: int, job: dict, jobs: int) -> tuple[bytes, bytes, str]:
    """Collect what the process writes until it is done, too late or too loud ("time", "output": the third value)."""
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


def reap(child: int, patience: float) -> int:
    """Let the process end by itself for `patience` seconds, then kill it; in any case its group. Its wait status."""
    until = time.monotonic() + patience
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() < until:
        time.sleep(0.0005)
        ended, status = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):  # nothing is left of the group, or it does not exist yet
        os.killpg(child, signal.SIGKILL)
    if not ended:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    return status


def inside(job: dict, work: str, program: bytes | None, token: bytes, result: int, output: int) -> None:
    """In the forked process: raise the walls, do the job, never return."""
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(result, RESULT)
        os.closerange(RESULT + 1, 64)
        strict = enclose(job, work, program)
    except BaseException as error:  # without its walls nothing may run; the sandbox raises this where people see it
        os.write(RESULT, f"{type(error).__name__}: {error}".encode()[:500] + token + b"X")
        os._exit(70)
    try:
        run(job, token) if strict else call(job, token)
    finally:
        os._exit(71)


def enclose(job: dict, work: str, program: bytes | None) -> bool:
    """Raise the walls around this process; True if the job is foreign code (`run`), False for the user's own."""
    os.setsid()
    os.chdir(work)
    sys.path[:0] = job["path"]
    library = [os.path.dirname(os.__file__), *job["path"]]
    strict = job["kind"] == "run"
    dropped = guard.drop_root(library, all_files=not strict)
    guard.limit(job["wall"], job["memory_mb"], 64 if dropped else None)
    filtered = guard.filter_calls(program)
    read = (*(p + "/" for p in library), *(p for p in library if p.endswith(".zip")), "/dev/null", "/dev/urandom")
    guard.watch(read if strict else None, strict, filtered)
    return strict


def run(job: dict, token: bytes) -> None:
    """Run a program and then its checks, and report whether every step was finished.

    The program runs in a thread whose frames lead to nothing of ours, step after step inside C functions; how many
    steps were finished is counted by a deque it cannot reach, and what follows it uses no name it could have rebound.
    """
    write, leave = os.write, os._exit
    steps = prepare(job)
    if isinstance(steps, str):
        write(RESULT, steps.encode("utf-8", "replace")[:2000] + token + b"S")
        leave(0)
    total = len(steps)
    finished: collections.deque[None] = collections.deque()
    count, ended = finished.__len__, allocate_lock()
    ended.acquire()
    wait, done, passed, failed = ended.acquire, ended.release, token + b"P", token + b"F%d"
    sys.unraisablehook = report
    work = partial(finished.extend, map(partial.__call__, steps))
    alarm = weakref.ref(work, lambda _: done())  # fires when the thread lets go of its work, however it ended
    stack_size(64 << 20)
    thread = start_new_thread(work, ())
    stack_size(0)
    del work, steps, thread
    wait()
    write(RESULT, passed if count() == total else failed % count())
    leave(0)
    del alarm


def prepare(job: dict) -> list[partial] | str:
    """The steps of a program, or why it cannot even be compiled."""
    module = types.ModuleType("program")
    sys.modules["program"] = sys.modules["__main__"] = module
    space, code, problem = vars(module), None, "no code"
    for source in job["candidates"]:
        try:
            code = compile(source, "<program>", "exec", dont_inherit=True)
            break
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
            problem = f"program: {type(error).__name__}: {error}"
    if code is None:
        return problem
    steps = [partial(exec, code, space), partial(vars(builtins).update, dict(vars(builtins)))]
    for number, source in enumerate(job["checks"], 1):
        try:
            steps.append(partial(exec, compile(source, "<test>", "exec", dont_inherit=True), space))
        except (SyntaxError, ValueError) as error:
            return f"broken test {number}: {type(error).__name__}: {error}"
    return steps


def report(failure) -> None:
    """Write down why the program stopped (as `sys.unraisablehook`); for people, not for the verdict."""
    text = f"{failure.exc_type.__name__}: {failure.exc_value}"[:1000]
    os.write(RESULT, text.encode("utf-8", "replace"))


def call(job: dict, token: bytes) -> None:
    """Load a function and call it on every input, reporting each value on a line of its own."""

    def tell(**message) -> None:
        data = memoryview(token + json.dumps(message).encode() + b"\n")
        while data:
            data = data[os.write(RESULT, data) :]

    signal.setitimer(signal.ITIMER_REAL, job["load_seconds"])  # nobody handles the alarm: it ends the process
    try:
        function = load(job["target"])
    except BaseException as error:
        tell(load=f"{type(error).__name__}: {error}"[:1000])
        return
    tell(loaded=True)
    for arguments in job["inputs"]:
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
        try:
            value = function(*arguments)
            message = {
                "value": value if isinstance(value, (bool, int, float, dict)) else None,
                "type": type(value).__name__,
            }
            json.dumps(message)
        except BaseException as error:
            message = {"error": f"{type(error).__name__}: {error}"[:1000]}
        signal.setitimer(signal.ITIMER_REAL, 0)
        tell(**message)


def load(target: str):
    """The function named by `module:function` or `file.py:function`."""
    place, _, name = target.rpartition(":")
    if place.endswith(".py"):
        from importlib import util

        spec = util.spec_from_file_location("judge", place)
        if spec is None or spec.loader is None:
            raise ImportError(f"{place} is not a Python file")
        module = util.module_from_spec(spec)
        sys.modules["judge"] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    return getattr(module, name)


if __name__ == "__main__":
    serve()
