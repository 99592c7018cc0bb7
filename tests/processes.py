"""Processes for tests, that have the heavy libraries imported from their first moment on.

Importing PyTorch and transformers takes seconds, and that is not what the tests of whole processes are about. A server
imports them, once for each process of pytest, computes nothing, and forks what is started. What it forks is a process
as any other, with its own output, environment and directory, and can be killed at any moment. One thing it shares with
its siblings: the seed of the hashes of strings. Where sets in another order matter, start one with `sys.executable`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

IMPORTED = [
    "torch.distributed.fsdp", "torch.distributed.device_mesh", "transformers.modeling_utils", "transformers.generation",
    "transformers.models.auto.modeling_auto", "peft", "accelerate", "holdfast.cli.app", "holdfast.pipeline.run",
    "holdfast.pipeline.check", "holdfast.pipeline.evaluate", "holdfast.training.trainer", "holdfast.testing.examples",
]  # fmt: skip


class Process:
    """A Python program that runs in a process of its own.

    Args:
        program: `-m MODULE`, `-c CODE` or a script, and what it is given, as after the name of the interpreter.
        cwd: Its directory; default: this process's.
        env: Its environment; default: this process's.
        stdout: Descriptor of an open file for what it says; default: a pipe, `self.stdout`.
        stderr: The same for its errors; default: together with what it says.
        stdin: Descriptor of an open file of what it is told; default: nothing.
    """

    def __init__(
        self,
        program: Sequence[str | Path],
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        stdin: int | None = None,
    ) -> None:
        own, answers = os.pipe()
        readable, writable = (None, stdout) if stdout is not None else os.pipe()
        asked = {"program": [str(part) for part in program], "cwd": str(cwd or Path.cwd())}
        asked["env"] = dict(os.environ if env is None else env)
        with tempfile.TemporaryFile("w+") as letter:
            json.dump(asked, letter)
            letter.flush()
            fds = [letter.fileno(), answers, writable, writable if stderr is None else stderr]
            socket.send_fds(server(), [b"!"], fds if stdin is None else [*fds, stdin])
        os.close(answers)
        self.answers = open(own, encoding="ascii")  # noqa: SIM115
        self.stdout = None
        if readable is not None:
            os.close(writable)
            self.stdout = open(readable, encoding="utf-8")  # noqa: SIM115
        self.returncode: int | None = None
        self.pid = int(self.answers.readline())

    def wait(self, timeout: float = 300) -> int:
        """Its exit code, or minus the signal that ended it; after `timeout` seconds it is killed (`TimeoutError`)."""
        if self.returncode is None:
            if not self.has_ended(timeout):
                self.kill()
                raise TimeoutError(f"process {self.pid} does not end")
            self.returncode = int(self.answers.readline())
            self.answers.close()
        return self.returncode

    def has_ended(self, timeout: float = 0) -> bool:
        """Whether it has ended, or does within `timeout` seconds."""
        return self.returncode is not None or bool(select.select([self.answers], [], [], timeout)[0])

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, if it still runs."""
        if self.returncode is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                self.wait()

    def communicate(self) -> str:
        """What it still says, after which it has ended."""
        assert self.stdout is not None
        with self.stdout:
            said = self.stdout.read()
        self.wait()
        return said


class LineProcess(Process):
    """One that is spoken with in lines, as `subprocess.Popen` makes it with pipes.

    Args:
        program: As of `Process`.
        env: Its environment.
    """

    def __init__(self, program: Sequence[str | Path], env: Mapping[str, str]) -> None:
        readable, writable = os.pipe()
        heard, said = os.pipe()
        super().__init__(program, env=env, stdout=said, stderr=2, stdin=readable)
        os.close(readable)
        os.close(said)
        self.stdin = open(writable, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
        self.stdout = open(heard, encoding="utf-8")  # noqa: SIM115


def run(
    program: Sequence[str | Path],
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run a program (see `Process`) to its end."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        code = Process(program, cwd, env, out.fileno(), err.fileno()).wait(timeout)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(program), code, out.read(), err.read())


def launch(
    program: Sequence[str | Path], directory: Path, env: Mapping[str, str] | None = None, machines: int = 1
) -> None:
    """Run a program on two processes that find each other as those of `torchrun` do; what they say is kept.

    Args:
        machines: How many they believe to be on.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = 2 // machines
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": str(here), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    said = [directory / f"said-{rank}.txt" for rank in range(2)]
    started = []
    for rank, path in enumerate(said):
        with open(path, "w", encoding="utf-8") as file:
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank % here), "GROUP_RANK": str(rank // here)}
            own = {**(os.environ if env is None else env), **group, **place}
            started.append(Process(program, env=own, stdout=file.fileno()))
    codes = [process.wait() for process in started]
    assert codes == [0, 0], "".join(path.read_text(encoding="utf-8")[-3000:] for path in said)


@functools.cache
def server() -> socket.socket:
    """The connection to this process's server, which ends with it."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, __file__, str(theirs.fileno())]
        subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
    return ours


def serve(connection: socket.socket) -> list[str]:
    """Fork for each letter that comes; returns, in the forked process only, the program that it is to run."""
    while True:
        said, fds, _, _ = socket.recv_fds(connection, 1, 5)
        if not said:
            sys.exit()
        if os.fork() == 0:
            break
        for fd in fds:
            os.close(fd)
        with contextlib.suppress(ChildProcessError):  # there is none
            while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG):
                pass  # those that have done waiting
    connection.close()
    letter, answers, out, err, *told = fds
    if child := os.fork():  # this one only waits for it
        os.write(answers, f"{child}\n".encode())
        for fd in (letter, out, err, *told):
            os.close(fd)
        _, status = os.waitpid(child, 0)
        os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    os.close(answers)
    with open(letter, encoding="utf-8") as file:
        file.seek(0)
        asked = json.load(file)
    for fd, place in (*((fd, 0) for fd in told), (out, 1), (err, 2)):
        os.dup2(fd, place)
    for fd in {out, err, *told}:
        os.close(fd)
    # Those of the server are made for what it was started with: a file can be sought in, a pipe cannot.
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115
    if told:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    if "OMP_NUM_THREADS" in os.environ:  # read when PyTorch was imported
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return asked["program"]


def become(program: list[str]) -> None:
    """Run the program as the interpreter would."""
    first, *rest = program
    if first == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = program
        sys.path.insert(0, str(Path(first).parent))  # before this file's, where other helpers are
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    code = 1  # of a program that ends with an exception

    def end_at_once() -> None:
        """The last that is called at the end: taking down what was imported would copy the memory that is shared."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(end_at_once)
    gc.disable()  # nothing of what is imported goes away again
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # a collection would copy it too
    gc.enable()
    try:
        become(serve(socket.socket(fileno=int(sys.argv[1]))))
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
