"""What a newcomer does in the first hour, by the README, in a fresh directory: does it work, how long does it take?

Installing the package into an environment of its own (with pip's cache as it is), the demo, training in one line on a
file of one's own, an odd file that `check` must refuse by its line, and export, server and chat of what was trained.
Each check is held against what a person is told to expect, not only its exit code. A person needs the time to read
besides; what is measured is how long the machine makes one wait, and all of it shall take less than 15 minutes.

    python benchmarks/first_hour.py              # a wheel is built and installed; 4 minutes on two cores
    python benchmarks/first_hour.py --tiny       # this interpreter's programs, without the demo; half a minute
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import HERE, Line, alone, at_most, environment, main, say

ROOT = HERE.parent
MINUTES = 15
ROWS, ODD = 48, 7
TRAIN = ["train", "--model", "lab-small", "--data", "mine.jsonl", "--map", "prompt=question", "answer=reply"]


class Newcomer:
    """Who tries the package in a directory of their own.

    Args:
        place: The directory.
        programs: Where `holdfast` is.
    """

    def __init__(self, place: Path, programs: Path) -> None:
        self.place, self.programs = place, programs

    def environment(self) -> dict[str, str]:
        """As a newcomer has it: nothing of this repository, caches of their own."""
        kept = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
        path = f"{self.programs}{os.pathsep}{kept['PATH']}"
        return {**kept, "PATH": path, "HOLDFAST_CACHE": str(self.place / "cache"), "COLUMNS": "100"}

    def run(self, *words: str, code: int = 0, stdin: str | None = None) -> str:
        """What a command says; it must end with `code`."""
        done = subprocess.run(
            [str(self.programs / "holdfast"), *words],
            cwd=self.place, env=self.environment(), input=stdin, capture_output=True, text=True,
        )  # fmt: skip
        said = done.stdout + done.stderr
        if done.returncode != code:
            raise RuntimeError(f"holdfast {' '.join(words)}: exit code {done.returncode}: {said[-300:]}")
        return said

    def expect(self, said: str, pattern: str) -> None:
        """See that a text holds what a person is told to look for."""
        if not re.search(pattern, said):
            raise RuntimeError(f"nothing like {pattern!r} in: {said[-300:]}")

    def install(self) -> None:
        """A wheel of the package into a new environment, which is used from now on."""
        wheels = self.place / "wheels"
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)]
        subprocess.run(pip, check=True)
        subprocess.run([sys.executable, "-m", "venv", str(self.place / "env")], check=True)
        self.programs = self.place / "env" / "bin"
        (wheel,) = wheels.glob("holdfast-*.whl")
        quiet = ["--quiet", "--disable-pip-version-check", "--constraint", str(ROOT / "pins.txt")]
        subprocess.run([str(self.programs / "pip"), "install", *quiet, str(wheel)], check=True)
        self.expect(self.run("env"), r"holdfast")

    def see_demo(self) -> None:
        """The comparison of four methods, and its page."""
        self.expect(self.run("demo", "--out", "demo"), r"(?s)s3ft.*on the gain/loss front")
        self.expect((self.place / "demo" / "report.html").read_text(encoding="utf-8"), "<svg")

    def train_on_own_file(self) -> None:
        """In one line, on a file with columns of one's own."""
        rows = [{"question": f"What is {i} + {i + 3}?", "reply": f"It is {2 * i + 3}."} for i in range(ROWS)]
        (self.place / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        fast = ["train.max_steps=20", "evaluate.items=20", "evaluate.live_items=0", "output=runs/mine"]
        said = self.run(*TRAIN, *fast)
        self.expect(said, r"held-out loss")
        self.expect(said, r"report\.html")

    def be_refused(self) -> None:
        """A file with an empty answer in one line, and a setting that there is not."""
        rows = [{"question": "Why?", "reply": "" if i == ODD else "Because."} for i in range(1, ROWS)]
        (self.place / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        check = ["check", "runs/mine", "data.train=odd.jsonl"]
        self.expect(self.run(*check, code=2), rf"odd\.jsonl:{ODD}\b")
        self.expect(self.run("check", "runs/mine", "train.max_step=5", code=2), "max_steps")

    def use_it(self) -> None:
        """Merged weights that were read back, a line of chat, and an answer over HTTP."""
        self.expect(self.run("export", "runs/mine", "merged", "--merge"), r"verified: .* agree to")
        if not self.run("chat", "merged", "--once", stdin="What is 2 + 5?\n").strip():
            raise RuntimeError("chat says nothing")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [str(self.programs / "holdfast"), "serve", "merged", "--port", str(port)]
        server = subprocess.Popen(command, cwd=self.place, env=self.environment(), stdout=-3, stderr=-3)
        try:
            said = self.ask(f"http://127.0.0.1:{port}/v1/chat/completions", server)
        finally:
            server.terminate()
            server.wait(60)
        self.expect(said["choices"][0]["message"]["content"], r"\S")

    def ask(self, address: str, server: subprocess.Popen[bytes]) -> Any:
        """The server's answer, as soon as there is one."""
        question = {"model": "merged", "messages": [{"role": "user", "content": "What is 2 + 5?"}], "max_tokens": 24}
        request = urllib.request.Request(address, json.dumps(question).encode(), {"Content-Type": "application/json"})
        for _ in range(600):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.URLError:
                if server.poll() is not None:
                    raise
                time.sleep(0.5)
        raise RuntimeError("the server does not answer")


def measure(tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """All checks, one after another; one that fails has its reason in the note."""
    place = Path(tempfile.mkdtemp(prefix="first-hour-"))
    newcomer = Newcomer(place, Path(sys.executable).parent)
    checks: dict[str, Callable[[], None]] = {
        "install": newcomer.install, "demo": newcomer.see_demo, "train on one's own file": newcomer.train_on_own_file,
        "an odd file is refused": newcomer.be_refused, "export, chat and serve": newcomer.use_it,
    }  # fmt: skip
    lines, raw = list[Line](), dict[str, Any]()
    for name, check in checks.items():
        if tiny and check in (newcomer.install, newcomer.see_demo):
            continue
        began, cpu, note = time.perf_counter(), os.times(), ""
        try:
            check()
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            note = f"FAILED: {error}"
        seconds, now = time.perf_counter() - began, os.times()
        busy = now.children_user + now.children_system - cpu.children_user - cpu.children_system
        raw[name] = {"seconds": seconds, "processor_seconds": busy, "failed": note}
        say(f"  {name}: {seconds:.0f} s {note}")
        lines.append(
            alone(f"first hour: {name}", None if note else seconds, "s", note=note or f"{busy:.0f} s of processor")
        )
    total = sum(part["seconds"] for part in raw.values()) / 60
    failed = any(part["failed"] for part in raw.values())
    lines.append(alone("first hour: together", None if failed else total, "min", None if tiny else at_most(MINUTES)))
    say(f"  removing {place}")
    shutil.rmtree(place)
    return lines, raw


if __name__ == "__main__":
    main("first_hour", measure, {})
