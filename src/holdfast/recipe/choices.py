"""The fields of a recipe that choose a method: by name, by a mapping with knobs, or as an instance."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, SerializationInfo

from holdfast.axes.analysis import Analysis
from holdfast.axes.credit import Credit
from holdfast.axes.curator import Curator
from holdfast.axes.environment import Environment
from holdfast.axes.inference import Inference
from holdfast.axes.judge import Judge
from holdfast.axes.method import Method
from holdfast.axes.objective import Objective
from holdfast.axes.optimizer import Optimizer
from holdfast.axes.registry import find_method, name_of
from holdfast.axes.tuner import Tuner
from holdfast.errors import UserError
from holdfast.recipe.data_section import refuse_bool


def choose_method(axis: str, value: Any) -> Any:
    """The method meant by `name`, `{name: ..., knobs...}` or an instance.

    Raises:
        ValueError: If it is none of these, or the name is unknown (as pydantic wants it; knobs raise its own error).
    """
    if isinstance(value, Method) or value is None:
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("must be a name, or a mapping with a name")
    try:
        method = find_method(axis, value["name"])
    except UserError as error:
        raise ValueError(str(error)) from None
    knobs = {key: knob for key, knob in value.items() if key != "name"}
    for key, knob in knobs.items():
        if key in method.model_fields and isinstance(knob, bool):
            refuse_bool(method, key, knob)
    return method.model_validate(knobs)


def dump_choice(method: Method | None, info: SerializationInfo) -> dict[str, Any] | None:
    """A chosen method as the mapping that chooses it: its name and its knobs."""
    if method is None:
        return None
    knobs = method.model_dump(mode=info.mode, exclude_unset=info.exclude_unset)
    return {"name": name_of(method), **knobs}


JudgeChoice = Annotated[Judge | None, BeforeValidator(partial(choose_method, "judges")), PlainSerializer(dump_choice)]
CuratorChoice = Annotated[Curator, BeforeValidator(partial(choose_method, "curators")), PlainSerializer(dump_choice)]
ObjectiveChoice = Annotated[
    Objective, BeforeValidator(partial(choose_method, "objectives")), PlainSerializer(dump_choice)
]
TunerChoice = Annotated[Tuner, BeforeValidator(partial(choose_method, "tuners")), PlainSerializer(dump_choice)]
InferenceChoice = Annotated[
    Inference | None, BeforeValidator(partial(choose_method, "inference")), PlainSerializer(dump_choice)
]
CreditChoice = Annotated[
    Credit | None, BeforeValidator(partial(choose_method, "credits")), PlainSerializer(dump_choice)
]
EnvironmentChoice = Annotated[
    Environment | None, BeforeValidator(partial(choose_method, "environments")), PlainSerializer(dump_choice)
]
AnalysisChoice = Annotated[Analysis, BeforeValidator(partial(choose_method, "analyses")), PlainSerializer(dump_choice)]
OptimizerChoice = Annotated[
    Optimizer, BeforeValidator(partial(choose_method, "optimizers")), PlainSerializer(dump_choice)
]


def wrap_analysis(value: Any) -> Any:
    """A single analysis where several may stand becomes the list of it."""
    return (value,) if isinstance(value, (str, dict, Method)) else value
