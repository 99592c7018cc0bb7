"""Serving: `holdfast serve` at 64 clients beside the engine's own batch, in answer tokens a second.

The laboratory model on its own test questions, greedy. Engine: all prompts in one call, 64 slots. Server: the same
prompts, asked by 64 clients over connections of their own, each asking its next question once it has its answer; whole
answers, and streams. The server is a process of its own on the same cores as its clients, which take their share: they
write and read plain HTTP and do nothing else. Both run in turn, and the best of each counts. The latency is that of
the answers of the best run.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

from common import Line, at_least, environment, in_turn, line, main, reason, run_side

CLIENTS = 64
SIZES = {"prompts": 1024, "tokens": 60, "rounds": 3}
TINY = {"prompts": 64, "tokens": 4, "rounds": 1}
Result = dict[str, Any]


def race(prompts: int, tokens: int, rounds: int) -> Result:
    """The engine in this process, and a server beside it, in turn."""
    from sampling import asking, load, native, questions

    model, chat = load("lab")
    texts = questions("lab", prompts)
    how = {"tokens": tokens, "temperature": 0.0, "n": 1}
    server, port = start_server()
    try:
        bodies = [{"model": "lab", "messages": asking(text), "max_tokens": tokens, "temperature": 0} for text in texts]
        streams = [{**body, "stream": True, "stream_options": {"include_usage": True}} for body in bodies]
        ways = {
            "engine": lambda: native(model, chat, texts, how, slots=CLIENTS),
            "whole": lambda: asyncio.run(ask_all(port, bodies)),
            "stream": lambda: asyncio.run(ask_all(port, streams)),
        }
        asyncio.run(ask_all(port, bodies[:CLIENTS]))
        return in_turn(ways, rounds)
    finally:
        server.terminate()
        server.wait()


def start_server() -> tuple[subprocess.Popen[str], int]:
    """A server of the laboratory model, and its port."""
    command = [sys.executable, "-m", "holdfast", "serve", "lab", "--port", "0", "--slots", str(CLIENTS)]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**environment(), "HOLDFAST_DEVICE": "cpu"}
    )
    assert server.stdout is not None
    for said in server.stdout:
        if said.startswith("serving "):
            return server, int(said.strip().removesuffix("/v1").rpartition(":")[2])
    raise RuntimeError("the server does not start")


async def ask_all(port: int, bodies: list[Result]) -> Result:
    """All bodies, by so many clients; tokens a second by what the answers say."""
    waiting = list(enumerate(bodies))
    waiting.reverse()
    answers: dict[int, tuple[int, float]] = {}
    began = time.perf_counter()

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
        "rate": tokens / seconds, "tokens": tokens, "seconds": seconds, "median": times[len(times) // 2],
        "slowest": times[-1],
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
    raw = run_side(__file__, "race", **(TINY if tiny else SIZES))
    lines = []
    for kind, what in (("whole", "whole answers"), ("stream", "streams")):
        if error := reason(raw):
            lines.append(line(f"serving, 64 clients, {what}", None, None, "tokens/s", note=error))
            continue
        ours, engine = raw[kind], raw["engine"]
        note = f"median {ours['median']:.2f} s, slowest {ours['slowest']:.2f} s; {os.cpu_count()} cores for all"
        target = at_least(0.7) if kind == "whole" else None
        lines.append(line(f"serving, 64 clients, {what}", ours["rate"], engine["rate"], "tokens/s", target, note=note))
    return lines, raw


if __name__ == "__main__":
    main("serving", measure, {"race": race})
