"""Right programs pass, however careless they are with names and whatever their tests do with what they give back."""

from __future__ import annotations

import pytest

from holdfast.sandbox.pool import CheckedProgram, Limits, Sandbox
from sandbox_programs import read_programs


@pytest.fixture(scope="module")
def box():
    with Sandbox(Limits(seconds=20), workers=2) as sandbox:
        yield sandbox


def test_right_programs_pass(box):
    programs = read_programs("honest_programs.txt")
    outcomes = dict(zip(programs, box.run_all(list(programs.values())), strict=True))
    assert {name: o.reason for name, o in outcomes.items() if o.status != "passed"} == {}


def test_a_test_that_needs_the_programs_class_as_a_base_is_not_judged(box):
    check = "class B(A):\n    def h(self): return 1\nassert B().g() == 1"
    (outcome,) = box.run_all([CheckedProgram(("class A:\n    def g(self): return self.h()",), (check,))])
    assert outcome.status == "broken"
    assert "built on a class of the program" in outcome.reason
