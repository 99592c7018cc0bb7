"""`check_method`: all checks of a method's axis, one after another."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.axes.method import Method
from holdfast.axes.registry import axis_of, find_method, home_of
from holdfast.errors import UserError
from holdfast.testing import (
    analyses,
    credits,
    curators,
    environments,
    inference,
    judges,
    objectives,
    optimizers,
    tuners,
)
from holdfast.testing.failure import CheckFailed, expect_that

__all__ = ["CheckFailed", "check_method"]

Check = Callable[[Method, Path], None]

CHECKS: dict[str, tuple[Check, ...]] = {
    "objectives": objectives.CHECKS,
    "optimizers": optimizers.CHECKS,
    "tuners": tuners.CHECKS,
    "curators": curators.CHECKS,
    "inference": inference.CHECKS,
    "judges": judges.CHECKS,
    "environments": environments.CHECKS,
    "credits": credits.CHECKS,
    "analyses": analyses.CHECKS,
}
"""By axis, what its methods must do; presets, which are recipes, are held to their page only."""


def check_method(method: type[Method] | str, **knobs: Any) -> list[str]:
    """Hold a method to what its axis promises, on tiny models and random rows; a few seconds on one core.

    The models live where those of every verb do: on the accelerator that torch finds, or where HOLDFAST_DEVICE says.

    Objectives: finite sums with gradients, the same loss and gradients however a step is cut into micro-batches, a loss
    that falls, an interrupted run that ends bit for bit as an uninterrupted one (which takes the main thread).
    Optimizers: a falling loss, moves in proportion to the rate, a state that goes on bit for bit, no step into values
    that are not finite, clipping. Tuners: their kind, number of parameters and packing as declared; what is frozen
    stays bit for bit, the rest learns; saved and loaded, merged and taken off the model computes what it should.
    Curators: their declared effect, every row left out recorded, the seed decides, nothing sampled twice, no question
    from elsewhere. Inference: with neutral knobs the tuned model bit for bit, both models as they were. Judges: right
    answers pass, empty, cut and wrong ones do not, no text makes them raise or run away. Environments: the same turns
    each time, any action borne. Credits: a finite advantage for every label, in whatever order. Analyses: neither model
    changed, a section that can be written. All: a page, a description of every knob, and of what was published the
    paper.

    Args:
        method: The class, or a name as a recipe has it.
        knobs: Where the defaults are not to be tried.
    Returns:
        The names of the checks that were passed.
    Raises:
        CheckFailed: At the first promise that is not kept; an `AssertionError`, so that test runners know it.
        UserError: If there is no such method, or it is on no axis.
    """
    if isinstance(method, str):
        home = home_of(method)
        if home is None:
            raise UserError(f"{method} is not a method")
        cls = find_method(home.plural, method)
    else:
        cls, home = method, axis_of(method)
        if home is None:
            raise UserError(f"{cls.__name__} is on no axis: it must derive from Objective, Tuner or another contract")
    check_page(cls, needs_paper=home.plural not in ("judges", "presets"))
    passed_checks = ["check_page"]
    instance = cls(**knobs)
    for check in CHECKS.get(home.plural, ()):
        with tempfile.TemporaryDirectory() as folder:
            check(instance, Path(folder))
        passed_checks.append(check.__name__)
    return passed_checks


def check_page(cls: type[Method], needs_paper: bool = True) -> None:
    """A first line that ends with the paper in brackets, a paper, a description of every knob."""
    expect_that(cls.reference_page(), f"{cls.__name__} has no docstring, which is its page in `holdfast show`")
    expect_that(
        cls.summary_line().rstrip(".").endswith("]"),
        f"the first line of {cls.__name__}'s docstring must end with its paper in brackets: {cls.summary_line()!r}",
    )
    expect_that(cls.paper or not needs_paper, f"{cls.__name__} has no `paper`")
    for knob, field in cls.model_fields.items():
        expect_that(field.description, f"knob {knob} of {cls.__name__} has no description")
