"""What every benchmark shares: lines of the table, the machine, processes of their own, runs in turn.

A benchmark is a file with `measure(tiny)`, which gives its lines and its raw numbers, and with sides: functions that do
one piece of work each and return plain numbers. `run_side` runs a side in a process of its own, so that its memory and
its start are its own; `in_turn` runs several of them A B A B and keeps the best of each, so that other work on the
machine meets all alike. Nothing heavy is imported here: this is also the process that starts the others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

from holdfast.core.threads import tune_malloc

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PACKAGES = ("holdfast", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "numpy")
QUIET = {
    # Small models run many times slower when idle OpenMP threads spin beside other work; this is so for both sides.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "PYTHONWARNINGS": "ignore",
}
Measured = tuple[list["Line"], dict[str, Any]]
Side = Callable[..., dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio must be: at least, or at most, `bound`."""

    bound: float
    least: bool = True

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.bound:g}"

    def met(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound


def at_least(bound: float) -> Target:
    """The number must be `bound` or more."""
    return Target(bound)


def at_most(bound: float) -> Target:
    """The number must be `bound` or less."""
    return Target(bound, least=False)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table.

    Args:
        what: What is compared.
        ours, theirs: The two numbers, in `unit`; None where there is none.
        ratio: The number the target is about; None where a side failed.
        target: In words, such as "≥ 1.35"; empty for a line without one.
        met: Whether `ratio` reaches it; None without target or without ratio.
        unit: Of `ours` and `theirs`.
        note: The settings that were best, or why a side failed.
    """

    what: str
    ours: float | None
    theirs: float | None
    ratio: float | None
    target: str = ""
    met: bool | None = None
    unit: str = ""
    note: str = ""


def line(
    what: str,
    ours: float | None,
    theirs: float | None,
    unit: str,
    target: Target | None = None,
    *,
    less_is_better: bool = False,
    note: str = "",
) -> Line:
    """A line whose ratio is ours / theirs, or theirs / ours for times, where less is better."""
    top, bottom = (theirs, ours) if less_is_better else (ours, theirs)
    return judged(what, ours, theirs, top / bottom if top is not None and bottom else None, unit, target, note=note)


def judged(
    what: str,
    ours: float | None,
    theirs: float | None,
    ratio: float | None,
    unit: str,
    target: Target | None = None,
    *,
    note: str = "",
) -> Line:
    """A line whose ratio is given."""
    met = None if target is None or ratio is None else target.met(ratio)
    return Line(what, ours, theirs, ratio, "" if target is None else str(target), met, unit, note)


def alone(what: str, value: float | None, unit: str, target: Target | None = None, *, note: str = "") -> Line:
    """A line about ours only, whose number is held against the target itself."""
    return judged(what, value, None, value, unit, target, note=note)


def number(value: float | None) -> str:
    """A number with three significant digits, thousands apart."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(lines: Sequence[Line | Mapping[str, Any]]) -> str:
    """The lines as a Markdown table."""
    rows = ["| what | ours | theirs | ratio | target | met | note |", "|---|--:|--:|--:|--:|---|---|"]
    for entry in lines:
        at = entry if isinstance(entry, Mapping) else asdict(entry)
        met = {True: "yes", False: "**no**", None: ""}[at["met"]]
        amounts = [f"{number(at[side])} {at['unit']}".strip() if at[side] is not None else "-" for side in SIDES]
        ratio = number(at["ratio"]) if at["theirs"] is not None else ""
        cells = [at["what"], *amounts, ratio, at["target"], met, at["note"]]
        rows.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(rows)


SIDES = ("ours", "theirs")
PEERS = ("theirs", "explore")
"""Sides in whose processes a peer runs alone."""


def machine(torch_threads: bool = True) -> dict[str, Any]:
    """The processor, its cores, torch's threads, versions and the date."""
    found: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }
    if torch_threads:
        asked = "import torch; print(torch.get_num_threads(), torch.backends.cpu.get_cpu_capability())"
        told = subprocess.run([sys.executable, "-c", asked], env=environment(), capture_output=True, text=True)
        threads, _, capability = told.stdout.strip().partition(" ")
        found |= {"torch_threads": int(threads or 0), "cpu_capability": capability}
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for text in info.read_text().splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def environment() -> dict[str, str]:
    """The environment of every side."""
    return {**os.environ, **QUIET}


def memory_mib(peak: bool = True) -> float:
    """Resident memory of this process in MiB: the greatest so far, or now (0 where that is not known).

    On Linux from /proc: `ru_maxrss` of a new process begins with the size of the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        key = "VmHWM:" if peak else "VmRSS:"
        return next(int(text.split()[1]) for text in status.read_text().splitlines() if text.startswith(key)) / 1024
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit if peak else 0.0


@dataclass(slots=True)
class Clock:
    """Times training steps: `tick` after every step; those up to `warm` are not counted.

    From the end of step `warm` to the end of the last one everything counts: fetching rows, padding them, the passes,
    the update, and what the trainer does between steps.

    Args:
        warm: Steps that are not timed.
        limit: Give up (`slow`) when the warm steps took longer than this many seconds.
    """

    warm: int
    limit: float = float("inf")
    times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    before_mib: float = field(default_factory=lambda: memory_mib(peak=False))
    peak_mib: float = 0.0

    def tick(self, tokens: int) -> None:
        """A step has ended; `tokens` real ones have been read since the start."""
        self.times.append(time.perf_counter())
        self.tokens.append(tokens)
        self.peak_mib = memory_mib()

    @property
    def slow(self) -> bool:
        """Whether the warm steps took so long that this way need not be measured further."""
        return len(self.times) <= self.warm and time.perf_counter() - self.began > self.limit

    def result(self) -> dict[str, Any]:
        """Tokens a second, seconds (of each step, too) and tokens of the timed steps, and memory in MiB."""
        if len(self.times) <= self.warm:
            return {"error": f"slower than {self.limit:.0f} s for {len(self.times)} steps; not measured further"}
        seconds = self.times[-1] - self.times[self.warm - 1]
        tokens, steps = self.tokens[-1] - self.tokens[self.warm - 1], len(self.times) - self.warm
        return {
            "rate": tokens / seconds,
            "seconds": seconds,
            "each": [b - a for a, b in pairwise(self.times[self.warm - 1 :])],
            "steps": steps,
            "tokens_per_step": tokens / steps,
            "peak_mib": self.peak_mib,
            "before_mib": self.before_mib,
            "training_mib": self.peak_mib - self.before_mib,
        }


def run_side(script: str | Path, side: str, timeout: float = 600, **spec: Any) -> dict[str, Any]:
    """The numbers of a side run in a process of its own, or `{"error": reason}`."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out.json"
        command = [sys.executable, str(script), "--side", side, "--spec", json.dumps(spec), "--out", str(out)]
        try:
            done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            return {"error": f"no result after {timeout:.0f} s"}
        if done.returncode or not out.exists():
            return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]}
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def kill_group_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Kill a process that leads a group, and the group (SIGKILL), after so long; whether it had not ended before."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def in_turn(ways: Mapping[str, Callable[[], dict[str, Any]]], rounds: int, key: str = "rate") -> dict[str, Any]:
    """Run all ways in turn, `rounds` times; of each the result with the greatest `key`, with all of them in `runs`."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            runs[name].append(way())
            say(f"    {name}: {runs[name][-1].get(key, runs[name][-1].get('error'))}")
    return {name: {**best(found, key), "runs": found} for name, found in runs.items()}


def measure_cases(cases: Mapping[str, Any], measure_case: Callable[[str, Any], Measured]) -> Measured:
    """Measure one case after another: the lines of all, and the numbers of each by its name."""
    lines: list[Line] = []
    raw: dict[str, Any] = {}
    for name, case in cases.items():
        say(f"  {name}")
        case_lines, raw[name] = measure_case(name, case)
        lines += case_lines
    return lines, raw


def best(found: Sequence[dict[str, Any]], key: str = "rate") -> dict[str, Any]:
    """The result with the greatest `key`; an error when none has one."""
    good = [result for result in found if key in result]
    return max(good, key=lambda result: result[key]) if good else dict(found[0])


def reason(*sides: Mapping[str, Any]) -> str:
    """Why a side has no number."""
    return "; ".join(side["error"] for side in sides if "error" in side)


def say(text: str) -> None:
    """A line for whoever watches."""
    print(text, file=sys.stderr, flush=True)


def options_of(parser: argparse.ArgumentParser, sides: Mapping[str, Side]) -> argparse.Namespace:
    """What the command line says; in the process of one side (`--side`), its work is done here and the process ends."""
    os.environ.update(QUIET)
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, to see that it works")
    parser.add_argument("--side", choices=sorted(sides), help=argparse.SUPPRESS)
    parser.add_argument("--spec", default="{}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        if options.side not in PEERS:
            tune_malloc()  # as our command line does before anything else
        options.out.write_text(json.dumps(sides[options.side](**json.loads(options.spec))))
        sys.exit(0)
    return options


def main(name: str, measure: Callable[[bool], Measured], sides: Mapping[str, Side]) -> None:
    """The command line of a benchmark: it measures and prints its table; with `--side` it is one side's process."""
    parser = argparse.ArgumentParser(description=f"The benchmark {name}; see its docstring.")
    parser.add_argument("--out", type=Path, help="write the JSON here")
    options = options_of(parser, sides)
    began = time.perf_counter()
    lines, raw = measure(options.tiny)
    print(table(lines))
    if options.out:
        seconds = round(time.perf_counter() - began, 1)
        part = {"seconds": seconds, "tiny": options.tiny, "machine": machine(), "lines": lines, "raw": raw}
        options.out.write_text(json.dumps(part, default=plain, indent=1) + "\n")


def plain(value: Any) -> Any:
    """Lines as JSON objects, anything else as text."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
