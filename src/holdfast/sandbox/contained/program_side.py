"""The process in which a program runs: it does what the process of the tests asks, and knows nothing of the tests."""

from __future__ import annotations

import builtins
import io
import os
import random
import sys
import types

import values
from exchange import Exchange, Gone

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
        self.given: dict[str, object] = {}  # what the tests have by name
        self.printed: list[tuple[str, bytes]] = []
        self.size = 0
        self.input: io.TextIOWrapper | None = None

    def send(self, **parts) -> None:
        if "told" not in parts and "ask" not in parts:
            rebound = [(name, now) for name, then in self.given.items()
                       if (now := self.space.get(name, MISSING)) is not then and now is not MISSING]  # fmt: skip
            if rebound:
                self.given.update(rebound)
                parts["names"] = tuple(rebound)
        printed, self.printed, self.size = self.printed, [], 0
        if printed:
            parts["printed"] = tuple((where, text.decode("utf-8", "replace")) for where, text in printed)
        super().send(**parts)

    def take(self, message: dict) -> None:
        super().take(message)
        for name, value in self.decode(message.get("names", ["t"])):
            self.space[name] = value
            if name in self.given:
                self.given[name] = value
        if message.get("stdin") and (self.input is None or sys.stdin is self.input):
            self.input = sys.stdin = io.TextIOWrapper(io.BufferedReader(Asked(self)), encoding="utf-8")

    def perform(self, what: str, *args, **named):
        if what == "run":
            return self.run()
        if what == "name":
            return self.name(args[0])
        if what == "seed":
            return random.seed(*args, **named)
        return values.perform(what, *args, **named)

    def run(self) -> tuple[str, ...]:
        """Run the program; the names it uses and does not define."""
        code = self.compiled()
        exec(code, self.space)
        names, codes = set[str](), [code]
        while codes:
            at = codes.pop()
            names.update(at.co_names)
            codes += [constant for constant in at.co_consts if isinstance(constant, types.CodeType)]
        return tuple(name for name in sorted(names) if name not in self.space and not hasattr(builtins, name))

    def compiled(self) -> types.CodeType:
        problem: BaseException = SyntaxError("no code")
        for source in self.candidates:
            try:
                return compile(source, "<program>", "exec", dont_inherit=True)
            except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
                problem = error
        raise problem

    def name(self, name: str):
        value = self.space[name]
        self.given[name] = value
        return value

    def wire(self) -> None:
        """Let what the program prints, and what it asks for, go to the tests, who may change their standard streams."""
        sys.modules["program"] = sys.modules["__main__"] = self.module
        sys.stdout = io.TextIOWrapper(Printed(self, "out"), encoding="utf-8", errors="replace", write_through=True)
        sys.stderr = io.TextIOWrapper(Printed(self, "err"), encoding="utf-8", errors="replace", write_through=True)
        sys.stdin = self.input = io.TextIOWrapper(io.BufferedReader(Asked(self)), encoding="utf-8")

        def input(prompt="", /):
            return self.request("input", str(prompt))

        builtins.input = input


class Printed(io.RawIOBase):
    """A stream that is passed on."""

    def __init__(self, end: ProgramEnd, where: str) -> None:
        self.end, self.where = end, where

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        with self.end.lock:
            self.end.printed.append((self.where, bytes(data)))
            self.end.size += len(data)
            if self.end.size > SOON:
                self.end.send(told="printed")
        return len(data)


class Asked(io.RawIOBase):
    """Standard input: each line is asked for."""

    def __init__(self, end: ProgramEnd) -> None:
        self.end, self.left = end, b""

    def readable(self) -> bool:
        return True

    def readinto(self, into) -> int:
        data = self.left or self.end.request("stdin").encode("utf-8", "surrogateescape")
        into[: len(data[: len(into)])] = data[: len(into)]
        self.left = data[len(into) :]
        return min(len(data), len(into))


def serve(source: int, target: int, candidates: list[str]) -> None:
    """Do what the tests ask until they are done. Never returns."""
    leave = os._exit
    try:
        end = ProgramEnd(source, target, candidates)
        end.send(told="ready")  # before anything of the program
        end.wire()
        while True:
            message = end.receive()
            if "ask" in message:
                end.answer(message)
            del message
    except Gone:
        pass
    finally:
        leave(0)
