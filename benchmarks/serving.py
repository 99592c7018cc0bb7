"""Serving: `holdfast serve` at 64 clients beside the engine's own batch, in answer tokens a second.

The laboratory model on its own test questions, greedy: those of all its skills, whose answers are seven tokens long,
and word problems, whose answers are worked out in 28. Engine: all prompts in one call, 64 slots. Server: the same
prompts, asked by 64 clients over connections of their own, each asking its next question once it has its answer; whole
answers, and streams. The server is a process of its own on the same cores as its clients, which take their share: they
write and read plain HTTP and do nothing else. What their process takes of the processor is said beside the server's
rate, and not taken off it. All run in turn, and the best of each counts. The latency is that of the answers of the best
run.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Line, at_least, environment, in_turn, line, main, reason, run_side

Result = dict[str, Any]

CLIENTS = 64
JOBS: dict[str, Result] = {
    "all skills": {"source": "lab", "prompts": 1024, "tokens": 60, "rounds": 3},
    "word problems": {"source": "lab:story", "prompts": 512, "tokens": 60, "rounds": 3},
}
TINY = {"prompts": 64, "tokens": 4, "rounds": 1}


def race(source: str, prompts: int, tokens: int, rounds: int) -> Result:
    """The engine in this process, and a server beside it, in turn."""
    from sampling import asking, load, native

    from holdfast.skills.rows import lab_rows

    model, chat = load("lab")
    texts = [row.prompt[-1]["content"] for row in lab_rows(source, "test", prompts)]
    how = {"tokens": tokens, "temperature": 0.0, "n": 1}
    server, port = start_server()
    try:
        bodies = [{"model": "lab", "messages": asking(text), "max_tokens": tokens, "temperature": 0} for text in texts]
        streams = [{**body, "stream": True, "stream_options": {"include_usage": True}} for body in bodies]
        ways = {
            "engine": lambda: count_processor(os.getpid(), lambda: native(model, chat, texts, how, slots=CLIENTS)),
            "whole": lambda: count_processor(server.pid, lambda: asyncio.run(ask_all(port, bodies))),
            "stream": lambda: count_processor(server.pid, lambda: asyncio.run(ask_all(port, streams))),
        }
        asyncio.run(ask_all(port, bodies[:CLIENTS]))
        return in_turn(ways, rounds)
    finally:
        server.terminate()
        server.wait()


def count_processor(pid: int, work: Callable[[], Result]) -> Result:
    """What work gives, with the seconds of all cores that a process and its own took meanwhile (on Linux; else 0)."""

    def read_seconds(pid: int = pid) -> float:
        stat, own = Path(f"/proc/{pid}/stat"), Path(f"/proc/{pid}/task/{pid}/children")
        fields = stat.read_text().rpartition(")")[2].split() if stat.exists() else ["0"] * 13
        children = own.read_text().split() if own.exists() and pid != os.getpid() else []
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return seconds + sum(map(read_seconds, map(int, children)))

    before = read_seconds()
    result = work()
    return {**result, "processor": read_seconds() - before}


def start_server() -> tuple[subprocess.Popen[str], int]:
    """A server of the laboratory model, with all of its processes, and its port."""
    command = [sys.executable, "-m", "holdfast", "serve", "lab", "--port", "0", "--slots", str(CLIENTS)]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**environment(), "HOLDFAST_DEVICE": "cpu"},
    )  # fmt: skip
    assert server.stdout is not None
    port, is_alone = 0, (os.cpu_count() or 1) == 1 or sys.platform != "linux"
    for said in server.stdout:
        if said.startswith("serving "):
            port = int(said.strip().removesuffix("/v1").rpartition(":")[2])
        if port and (is_alone or "processes answer" in said):
            return server, port
    raise RuntimeError("the server does not start")


async def ask_all(port: int, bodies: list[Result]) -> Result:
    """All bodies, by so many clients; tokens a second by what the answers say."""
    waiting = list(enumerate(bodies))
    waiting.reverse()
    answers: dict[int, tuple[int, float]] = {}
    began, own = time.perf_counter(), time.process_time()

    async def ask_on() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while waiting:
            number, body = waiting.pop()
            asked = time.perf_counter()
            usage = await exchange(reader, writer, body)
            answers[number] = (usage["completion_tokens"], time.perf_counter() - asked)
        writer.close()

    await asyncio.gather(*(ask_on() for _ in range(CLIENTS)))
    seconds = time.perf_counter() - began
    tokens, times = sum(count for count, _ in answers.values()), sorted(t for _, t in answers.values())
    return {
        "rate": tokens / seconds, "tokens": tokens, "answers": len(times), "seconds": seconds,
        "median": times[len(times) // 2], "slowest": times[-1], "client": time.process_time() - own,
    }  # fmt: skip


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: Result) -> Result:
    """One request on an open connection; what its answer says of usage."""
    data = json.dumps(body).encode()
    head = ("POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    writer.write("\r\n".join([*head, f"Content-Length: {len(data)}", "", ""]).encode() + data)
    top = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not top.startswith(b"http/1.1 200"):
        raise RuntimeError(top.decode())
    if b"transfer-encoding: chunked" not in top:
        length = int(top.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return json.loads(await reader.readexactly(length))["usage"]
    text = b""
    while size := int(await reader.readline(), 16):
        text += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    events = [event.removeprefix(b"data: ") for event in text.split(b"\n\n") if event]
    return json.loads(events[-2])["usage"]  # before the last one, which says that it is the last


def measure(tiny: bool) -> tuple[list[Line], Result]:
    """Whole answers and streams against the engine."""
    raw = {name: run_side(__file__, "race", **{**job, **(TINY if tiny else {})}) for name, job in JOBS.items()}
    lines = []
    for name, result in raw.items():
        for kind, what in (("whole", "whole answers"), ("stream", "streams")):
            label = f"serving, 64 clients, {name}, {what}"
            if error := reason(result):
                lines.append(line(label, None, None, "tokens/s", note=error))
                continue
            ours, engine, target = result[kind], result["engine"], at_least(0.7) if kind == "whole" else None
            lines.append(line(label, ours["rate"], engine["rate"], "tokens/s", target, note=describe_run(ours, engine)))
    return lines, raw


def describe_run(run: Result, engine: Result) -> str:
    """Lengths, latencies and processor time of a run, in words."""
    cores = os.cpu_count() or 1
    of_engine = engine["processor"] / engine["tokens"]
    times = f"{run['processor'] / run['tokens'] / of_engine:.2f}" if of_engine else "an unknown number of"
    return (
        f"the server took {times} times the engine's processor time a token; "
        f"{run['tokens'] / run['answers']:.1f} tokens an answer; median {run['median']:.2f} s, slowest "
        f"{run['slowest']:.2f} s; {cores} cores for all, of which the clients took "
        f"{run['client'] / run['seconds'] / cores:.1%}"
    )


if __name__ == "__main__":
    main("serving", measure, {"race": race})
