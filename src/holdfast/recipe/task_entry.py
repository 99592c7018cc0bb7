"""What is measured on, as a name or as a mapping that says how: with a judge, or in an environment."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

from holdfast.axes.registry import name_of
from holdfast.errors import UserError
from holdfast.recipe.choices import EnvironmentChoice, JudgeChoice
from holdfast.recipe.data_section import RecipeSection
from holdfast.recipe.yaml_reader import parse_yaml


class TaskEntry(RecipeSection):
    """A task with the judge, or the environment, that it is measured with."""

    path: str = Field(description="As a task's name alone: a file, `test`, `lab:SKILL`, ...")
    judge: JudgeChoice = Field(None, description="Decides on the answers of a file; default: guessed from its rows.")
    environment: EnvironmentChoice = Field(
        None, description="Plays an episode from each row; measured is the share of episodes that succeed."
    )
    name: str = Field("", description="What reports call it; default: its file's or skill's name.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.judge is not None and self.environment is not None:
            raise ValueError(
                "names a judge and an environment; keep one, or use environment: {name: judged, judge: ...}"
            )
        if self.judge is not None and self.judge.needs_engine:
            raise ValueError(f"judge {name_of(self.judge)} needs a model of its own, which only the recipe's judge has")
        if self.path in ("none", "auto", "probe") or (self.environment and self.path.startswith("text:")):
            raise ValueError(f"path {self.path} has no questions for a judge or an environment; write it as a name")
        if "/" in self.name or self.name.startswith("."):
            raise ValueError(f"name {self.name!r} must be one that a file can have")
        return self

    @model_serializer(mode="wrap")
    def _only_what_it_has(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value not in (None, "")}


def kind_of_task(value: Any) -> str:
    """Whether a task is written as a name or as a mapping."""
    return "|entry" if isinstance(value, (dict, TaskEntry)) else "|name"


def wrap_task(value: Any) -> Any:
    """A single task where a list is meant becomes the list of it."""
    is_one = isinstance(value, (str, TaskEntry)) or (isinstance(value, dict) and "path" in value)
    return (value,) if is_one else value


TaskChoice = Annotated[Annotated[str, Tag("|name")] | Annotated[TaskEntry, Tag("|entry")], Discriminator(kind_of_task)]
TaskChoices = Annotated[tuple[TaskChoice, ...], BeforeValidator(wrap_task)]


def path_of_task(task: str | TaskEntry) -> str:
    """The name of a task, however it is written."""
    return task if isinstance(task, str) else task.path


def takes_recipe_judge(target: str | TaskEntry) -> bool:
    """Whether the target is the held-out rows, judged as the recipe says."""
    is_judged_otherwise = isinstance(target, TaskEntry) and (target.judge is not None or target.environment is not None)
    return path_of_task(target) == "test" and not is_judged_otherwise


def parse_task(text: str) -> str | TaskEntry:
    """A task as typed on the command line: its name, or `{path: ..., environment: ...}`.

    Raises:
        UserError: If a mapping is no task.
    """
    if not text.lstrip().startswith("{"):
        return text
    tree, problems = parse_yaml(text, text)
    if problems:
        raise UserError(f"{text}: {problems[0][1]}")
    try:
        return TaskEntry.model_validate(tree.plain_data())
    except ValidationError as error:
        first = error.errors()[0]
        key, what = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise UserError(f"{text}: {f'{key}: ' if key else ''}{what}") from None
