"""Attacks on the sandbox that once won, or might: none does."""

from __future__ import annotations

import os
import sys
import tempfile

import pytest

from holdfast.sandbox.pool import CheckedProgram, Limits, Sandbox
from sandbox_programs import read_programs

LINUX_ONLY = {"owner of signals", "kind of signal", "owner of a socket", "own priority", "affinity", "scheduler",
              "message", "datagram", "priority", "environ", "own fd"}  # fmt: skip


@pytest.fixture(scope="module")
def box():
    with Sandbox(Limits(seconds=20, memory_mb=256), workers=2) as sandbox:
        yield sandbox


def test_no_fake_passes(box):
    programs = read_programs("fakes.txt")
    outcomes = dict(zip(programs, box.run_all(list(programs.values())), strict=True))
    assert {name: o for name, o in outcomes.items() if o.status not in ("failed", "exited")} == {}


def test_nothing_is_reached(box):
    """Programs that reach out; each must fail without a trace of what it reached."""
    tried = read_programs("reaches.txt", ("assert f(1) == 2",))
    tried = {name: p for name, p in tried.items() if sys.platform == "linux" or name not in LINUX_ONLY}
    with tempfile.NamedTemporaryFile("w", prefix="secret-", suffix=".txt") as file:
        file.write("canary-1234\n")
        file.flush()
        os.chmod(file.name, 0o644)
        programs = [CheckedProgram((p.candidates[0].replace("SECRET", file.name),), p.checks) for p in tried.values()]
        outcomes = dict(zip(tried, box.run_all(programs), strict=True))
    assert {n: o for n, o in outcomes.items() if "canary" in o.reason or o.status != "failed"} == {}
