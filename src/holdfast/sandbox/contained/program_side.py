"""The process in which a program runs: it does what the process of the tests asks, and knows nothing of the tests."""

from __future__ import annotations

import builtins
import io
import os
import random
import sys
import types

import values
from exchange import ChannelLost, Exchange

SOON = 8192
"""Characters of printed text that are passed on before they are asked for."""
MISSING = object()


class ProgramEnd(Exchange):
    """The program's end of the channel.

    Args:
        candidates: Readings of the program; the first that compiles is run.
    """

    to_tests = True

    def __init__(self, source: int, target: int, candidates: list[str]) -> None:
        super().__init__(source, target, 2)
        self.candidates = candidates
        self.module = types.ModuleType("program")
        self.space = vars(self.module)
        self.given_names: dict[str, object] = {}  # what the tests have by name
        self.output_chunks: list[tuple[str, bytes]] = []
        self.size = 0
        self.input: io.TextIOWrapper | None = None

    def send_message(self, **parts) -> None:
        if "told" not in parts and "ask" not in parts:
            rebound = [(name, now) for name, then in self.given_names.items()
                       if (now := self.space.get(name, MISSING)) is not then and now is not MISSING]  # fmt: skip
            if rebound:
                self.given_names.update(rebound)
                parts["names"] = tuple(rebound)
        chunks, self.output_chunks, self.size = self.output_chunks, [], 0
        if chunks:
            parts["printed"] = tuple((where, text.decode("utf-8", "replace")) for where, text in chunks)
        super().send_message(**parts)

    def apply_updates(self, message: dict) -> None:
        super().apply_updates(message)
        for name, value in self.decode_value(message.get("names", ["t"])):
            self.space[name] = value
            if name in self.given_names:
                self.given_names[name] = value
        if message.get("stdin") and (self.input is None or sys.stdin is self.input):
            self.input = sys.stdin = io.TextIOWrapper(io.BufferedReader(InputStream(self)), encoding="utf-8")

    def perform_request(self, what: str, *args, **kwargs):
        if what == "run":
            return self.run_program()
        if what == "name":
            return self.look_up_name(args[0])
        if what == "seed":
            return random.seed(*args, **kwargs)
        return values.perform_operation(what, *args, **kwargs)

    def run_program(self) -> tuple[str, ...]:
        """Run the program; the names it uses and does not define."""
        code = self.compile_program()
        exec(code, self.space)
        names, codes = set[str](), [code]
        while codes:
            at = codes.pop()
            names.update(at.co_names)
            codes += [constant for constant in at.co_consts if isinstance(constant, types.CodeType)]
        return tuple(name for name in sorted(names) if name not in self.space and not hasattr(builtins, name))

    def compile_program(self) -> types.CodeType:
        problem: BaseException = SyntaxError("no code")
        for source in self.candidates:
            try:
                return compile(source, "<program>", "exec", dont_inherit=True)
            except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
                problem = error
        raise problem

    def look_up_name(self, name: str):
        value = self.space[name]
        self.given_names[name] = value
        return value

    def redirect_streams(self) -> None:
        """Let what the program prints, and what it asks for, go to the tests, who may change their standard streams."""
        sys.modules["program"] = sys.modules["__main__"] = self.module
        sys.stdout = io.TextIOWrapper(OutputStream(self, "out"), encoding="utf-8", errors="replace", write_through=True)
        sys.stderr = io.TextIOWrapper(OutputStream(self, "err"), encoding="utf-8", errors="replace", write_through=True)
        sys.stdin = self.input = io.TextIOWrapper(io.BufferedReader(InputStream(self)), encoding="utf-8")

        def request_input(prompt="", /):
            return self.request_operation("input", str(prompt))

        builtins.input = request_input


class OutputStream(io.RawIOBase):
    """A stream that is passed on."""

    def __init__(self, end: ProgramEnd, where: str) -> None:
        self.end, self.where = end, where

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        with self.end.lock:
            self.end.output_chunks.append((self.where, bytes(data)))
            self.end.size += len(data)
            if self.end.size > SOON:
                self.end.send_message(told="printed")
        return len(data)


class InputStream(io.RawIOBase):
    """Standard input: each line is asked for."""

    def __init__(self, end: ProgramEnd) -> None:
        self.end, self.rest = end, b""

    def readable(self) -> bool:
        return True

    def readinto(self, into) -> int:
        data = self.rest or self.end.request_operation("stdin").encode("utf-8", "surrogateescape")
        into[: len(data[: len(into)])] = data[: len(into)]
        self.rest = data[len(into) :]
        return min(len(data), len(into))


def serve_requests(source: int, target: int, candidates: list[str]) -> None:
    """Do what the tests ask until they are done. Never returns."""
    leave = os._exit
    try:
        end = ProgramEnd(source, target, candidates)
        end.send_message(told="ready")  # before anything of the program
        end.redirect_streams()
        while True:
            message = end.receive_message()
            if "ask" in message:
                end.answer_request(message)
            del message
    except ChannelLost:
        pass
    finally:
        leave(0)
