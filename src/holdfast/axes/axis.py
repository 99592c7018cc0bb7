"""The axes: what can be chosen in a recipe, and what each choice decides. Nothing else lists them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of choice.

    Args:
        key: Its key in a recipe.
        plural: What its methods are called together; their place in the registry.
        contract: The base class of its methods, as "module:Class".
        question: What a choice on it decides.
        default: The method where neither the recipe nor its `method` says; `None`: there is none then.
        several: Whether a recipe may choose several, one after another.
        in_method: Whether `method:` chooses on it, one for each run.
        trains: Whether the choice shapes the trained weights, so that a checkpoint belongs to it.
    """

    key: str
    plural: str
    contract: str
    question: str
    default: str | None = None
    several: bool = False
    in_method: bool = True
    trains: bool = False

    @property
    def noun(self) -> str:
        """What one of its methods is called: "curator"."""
        return self.contract.rpartition(":")[2].lower()

    @property
    def plural_noun(self) -> str:
        """What several are called in a sentence: "curators", but "inference methods"."""
        return f"{self.plural} methods" if self.plural == self.noun else self.plural


AXES: tuple[Axis, ...] = (
    Axis(
        "curate", "curators", "holdfast.axes.curator:Curator", "which rows are trained on, and who wrote them",
        several=True,
    ),
    Axis("objective", "objectives", "holdfast.axes.objective:Objective", "what is minimised", "sft", trains=True),
    Axis("tuner", "tuners", "holdfast.axes.tuner:Tuner", "which weights move", "full", trains=True),
    Axis("optimizer", "optimizers", "holdfast.axes.optimizer:Optimizer", "how they move", "adamw", trains=True),
    Axis(
        "inference", "inference", "holdfast.axes.inference:Inference", "what is done without, or after, training",
    ),
    Axis(
        "stages", "presets", "holdfast.axes.preset:Preset",
        "several runs, one after another: a recipe's stages by one name", several=True, in_method=False,
    ),
    Axis(
        "credit", "credits", "holdfast.axes.credit:Credit",
        "online learning: what each token of the model's own answers is worth",
    ),
    Axis(
        "environment", "environments", "holdfast.axes.environment:Environment",
        "what answers and rewards the model's turns in online learning", in_method=False,
    ),
    Axis(
        "analyses", "analyses", "holdfast.axes.analysis:Analysis", "what is looked at after training, beside the tasks",
        several=True, in_method=False,
    ),
    Axis("judge", "judges", "holdfast.axes.judge:Judge", "whether an answer is right", in_method=False),
)  # fmt: skip

BY_KEY: dict[str, Axis] = {axis.key: axis for axis in AXES}
"""By recipe key."""

METHOD_AXES: dict[str, Axis] = {key: axis for key, axis in BY_KEY.items() if axis.in_method}
"""By recipe key, the axes that `method` chooses on."""

BY_PLURAL: dict[str, Axis] = {axis.plural: axis for axis in AXES}
"""By the name of the registry's part."""
