"""Step 5 of reading a recipe: the strict nested configuration of a run, the only place where a key is documented."""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from holdfast.axes.axis import METHOD_AXES
from holdfast.axes.method import Method
from holdfast.axes.registry import name_of
from holdfast.core.safe_text import hide_keys_in_data
from holdfast.data.row_shapes import shape_of
from holdfast.recipe.aliases import Aliases
from holdfast.recipe.choices import (
    AnalysisChoice,
    CreditChoice,
    CuratorChoice,
    EnvironmentChoice,
    InferenceChoice,
    JudgeChoice,
    ObjectiveChoice,
    OptimizerChoice,
    TunerChoice,
    wrap_analysis,
)
from holdfast.recipe.data_section import Data, RecipeSection, Texts
from holdfast.recipe.gate_section import Gate
from holdfast.recipe.in_memory import name_objects as named_objects
from holdfast.recipe.online_section import Online
from holdfast.recipe.rules import RULES, STAGED_RULES
from holdfast.recipe.sampling_section import Sampling
from holdfast.recipe.search_section import Search
from holdfast.recipe.seeds_section import Seeds, list_given_seeds
from holdfast.recipe.shorthand import label_of
from holdfast.recipe.stages import BASE, OF_STAGES, fill_recipe, preset_of
from holdfast.recipe.task_entry import TaskChoice, TaskChoices
from holdfast.recipe.tree import Node, Path, Problems, format_path

if TYPE_CHECKING:
    from typing_extensions import Self

    from holdfast.data.row_shapes import RowShape

STAGE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
DEVICE = re.compile(r"[a-z]+(:\d+)?")
WITH_KEYS = {"keys": True}
"""Context of a dump that is run, not kept: an address with a key in it stays as it is."""
OUTPUT_FIELDS = ("method", "data", "model", "seed", "time")
"""What `output` may hold in braces."""


class Train(RecipeSection):
    """The loop."""

    epochs: float = Field(
        3.0,
        gt=0,
        description="Passes over the curated rows; default: what the objective's paper takes (`holdfast show dpo`: 1), "
        "for laboratory models 3; not used where max_steps is given.",
    )
    max_steps: int | None = Field(
        None,
        ge=0,
        description="Steps of the run, however many passes over the rows that takes; goes before epochs. 0 = nothing "
        "is trained: the model as it is answers through the recipe's inference method.",
    )
    batch_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Tokens per step, over all ranks and micro-batches. auto = derived from the rows: 16 rows of mean "
        "length or more, up to what the objective's paper takes (sft: 64), at least 30 steps an epoch where there are "
        "rows for it, at most 32,768 tokens.",
    )
    micro_tokens: int | None = Field(
        None, ge=1, description="Tokens per forward pass; default: derived, halved until it fits."
    )
    max_length: int | None = Field(
        None, ge=2, description="Longest row in tokens, at most the model's context; default: that, at most 2,048."
    )
    layout: Literal["auto", "padded", "packed"] = Field(
        "auto",
        description="packed where that costs nothing (CUDA in bf16, where attention goes by the lengths of rows; "
        "models like Llama on a CPU), else rows of like length padded. The plan of `holdfast check` says why.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16 autocast where the machine is good at it."
    )
    weights: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Type of the weights while they train. auto = fp32 for what moves, and what is frozen below an "
        "adapter as it was loaded; fp32 = all of them; bf16 = all but an adapter's own, for models that are bf16 in "
        "their files: less memory on a GPU, and no small step is lost, since `adamw` keeps what rounding takes.",
    )
    vision: Literal["frozen", "trained"] = Field(
        "frozen",
        description="Whether the eyes of a model that sees train too, and what leads from them into its language part.",
    )
    stop_at: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Stop after this share of the steps, measure and report what there is. It shapes no weights: run "
        "again with a later one, training goes on from there, and ends as it would have in one go.",
    )
    save_every: float = Field(0.25, gt=0, description="Checkpoint interval as a share of the run.")
    keep_checkpoints: int = Field(
        1, ge=1, description="Newest checkpoints kept; with 1 a finished arm of a comparison keeps none."
    )
    keep: Literal["last", "best"] = Field(
        "last",
        description="Weights the run ends with: the last step's, or those of the best evaluation during training "
        "(lowest held-out loss; the best target without held-out answers, or where that is the order of pairs).",
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after this many evaluations in a row that are no better than the best before."
    )
    gradient_checkpointing: Literal["off", "full", "selective"] = Field(
        "off",
        description="Compute activations again in the backward pass, for memory: `full` (or true) all of a layer, a "
        "third slower; `selective` all but the matrix products and attention, little slower.",
    )
    deterministic: bool | Literal["auto"] = Field(
        "auto",
        description="true = an interrupted run ends bit for bit as one that was not, on an accelerator too, where "
        "attention's backward pass is then slower. auto, false = so on a CPU only, where it costs nothing.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Compile the decoder layers with torch.compile: seconds once, each step quicker. auto = on CUDA. "
        "Where it fails they run as they are, with a line that says so.",
    )
    residual_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Dropout on what the last layer's attention and MLP add to the residual stream, falling linearly "
        "to 0 in the first layer; LIMA: 0.3, in smaller models 0.2.",
    )
    mixout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the weights of each trained linear map that are in a pass what they were before "
        "training, drawn anew each time (Lee et al. 2020, arXiv 1909.11299): seeds end nearer to each other. Du and "
        "Nguyen 2023: 0.1. It keeps a copy of these weights.",
    )
    seed: int = Field(
        0,
        ge=0,
        description="Seeds all that is random: sampling and curation, and what `seeds` gives no seed of its own.",
    )
    seeds: Seeds = Field(
        Seeds(),
        description="Sources of randomness apart: with `{init: 0, noise: 0}` runs of several seeds differ in the order "
        "of rows alone. Each that is not given is `seed`.",
    )

    def list_given_seeds(self) -> dict[str, int]:
        """Those of `seeds` that are given, by name."""
        return list_given_seeds(self.seeds)

    @property
    def order_seed(self) -> int:
        """Of the order of rows."""
        return self.list_given_seeds().get("order", self.seed)

    @property
    def init_seed(self) -> int:
        """Of what tuner and value head draw."""
        return self.list_given_seeds().get("init", self.seed)

    @property
    def noise_seed(self) -> int:
        """Of what every pass draws."""
        return self.list_given_seeds().get("noise", self.seed)

    @field_validator("gradient_checkpointing", "compile", mode="before")
    @classmethod
    def _bool_as_word(cls, value: Any, info: ValidationInfo) -> Any:
        """`true` and `false`: as YAML reads `on` and `off`, and as `gradient_checkpointing` was once said."""
        words = {True: "on" if info.field_name == "compile" else "full", False: "off"}
        return words[value] if isinstance(value, bool) else value


class Evaluate(RecipeSection):
    """What is measured before and after."""

    target: TaskChoice = Field(
        "test",
        description="`test` (the held-out rows), a file, `lab:SKILL`, an lm-eval task, or `none`; or a mapping "
        "`{path, judge or environment, name}`, which says how it is measured.",
    )
    keep: TaskChoices = Field(
        ("auto",),
        description="What must not be lost: `probe` (bundled prompts and text, with the base as the reference), files, "
        "`text:FILE` (bits per byte), lm-eval tasks, `lab` (all skills but the target), `lab:SKILL`, `none`; `auto` = "
        "`lab` for laboratory models, `probe` for all others. A mapping `{path, judge or environment, name}` says how "
        "one is measured.",
    )
    every: float = Field(
        0.25, ge=0, le=1, description="Evaluate during training at this share of the run; 0 = only at the end."
    )
    items: int = Field(200, ge=1, description="Questions per task.")
    live_items: int = Field(40, ge=0, description="Questions per task for the evaluations during training.")
    max_tokens: int = Field(128, ge=1, description="Longest answer.")
    max_thinking_tokens: int = Field(
        1024,
        ge=1,
        description="Longest thought before it, of a model that thinks; one that reaches this is closed, counted as a "
        "thought that did not end, and the answer follows.",
    )
    gate: Gate = Field(Gate(), description="When to refuse the result.")


TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""Names of trackers, which are those of their libraries."""


class Common(RecipeSection):
    """What a recipe says, and each of its stages too."""

    _unnamed: set[str] = PrivateAttr(default_factory=set)
    """Axes of which some knobs were given and no method, so that another `method` may bring another."""

    model: str = Field(description="Path, run directory, Hugging Face name, or a laboratory model, such as `lab`.")
    method: str = Field(
        "sft", description="Shorthand for choices on the axes, `+` joins several; any axis below overrides it."
    )
    data: Data = Field(description="Where the rows come from.")
    judge: JudgeChoice = Field(None, description="Decides whether an answer is right.")
    curate: tuple[CuratorChoice, ...] = Field(
        (), description="Which rows are trained on; several run one after another."
    )
    # Defaults are names, validated into methods like any other: importing them here would import all their modules.
    objective: ObjectiveChoice = Field("sft", description="What is minimised.")  # type: ignore[assignment]
    credit: CreditChoice = Field(
        None,
        description="Online learning: what each token of the model's own answers is worth, from their rewards; with it "
        "the rows are prompts.",
    )
    environment: EnvironmentChoice = Field(
        None, description="What answers and rewards the model's turns in online learning; default: `judge`, one turn."
    )
    online: Online = Field(Online(), description="Online learning: the rounds in which the model plays and learns.")
    tuner: TunerChoice = Field("full", description="Which weights move.")  # type: ignore[assignment]
    optimizer: OptimizerChoice = Field("adamw", description="How they move.")  # type: ignore[assignment]
    inference: InferenceChoice = Field(
        None, description="What is done after training: `dial` goes back towards the base."
    )
    sampling: Sampling = Field(Sampling(), description="How the base model answers during curation.")
    train: Train = Field(Train(), description="The loop.")
    evaluate: Evaluate = Field(Evaluate(), description="What is measured.")
    analyses: Annotated[tuple[AnalysisChoice, ...], BeforeValidator(wrap_analysis)] = Field(
        (),
        description="What is looked at after training beside the tasks: `lost_and_found`; each a part of the report.",
    )
    device: str = Field(
        "auto",
        description="Where models live: auto (HOLDFAST_DEVICE, else an accelerator, else the CPU), cpu, cuda, cuda:1, "
        "mps, xpu, ...",
    )

    @field_validator("device")
    @classmethod
    def _like_a_device(cls, value: str) -> str:
        if not DEVICE.fullmatch(value):
            raise ValueError(f"must be auto, cpu, cuda, cuda:1, mps, xpu or the like, not {value!r}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        stages = getattr(self, "stages", ())  # of these each is looked at; the recipe itself trains nothing then
        for rule in STAGED_RULES if stages else RULES:
            rule(self)
        return self

    def row_shape(self) -> RowShape:
        """What its rows must be: prompts where the model answers itself, else what the objective takes."""
        return shape_of("prompt") if self.credit is not None else self.objective.row_shape()

    @property
    def method_label(self) -> str:
        """Its method, or if none was named what was chosen on the axes, as a method would say it."""
        if "method" in self.model_fields_set or self.method != "sft":
            return label_of(self.method)
        axes = [axis for axis in METHOD_AXES.values() if axis.default]
        chosen = [method for a in axes if name_of(method := getattr(self, a.key)) != a.default]
        every = [*self.curate, *chosen, *([self.inference] if self.inference else [])]
        return "+".join(name_of(method).rpartition(":")[2] for method in every) or self.method

    def __eq__(self, other: object) -> bool:
        """Whether both say the same: what was given and what a default does not count."""
        return type(self) is type(other) and dict(self) == dict(other)

    def _dump_given(self) -> dict[str, Any]:
        """What was given, in plain data."""
        out = self.model_dump(mode="json", exclude_unset=True, context=WITH_KEYS)
        return out | {key: {knob: out[key][knob] for knob in out[key] if knob != "name"} for key in self._unnamed}


class Stage(Common):
    """A run inside a run: the recipe's settings with the stage's over them, all of them spelled out."""

    name: str = Field("sft", description="What `stage:NAME` and `stages.NAME.` call it; default: its method.")

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not STAGE_NAME.fullmatch(value) or value == BASE:
            raise ValueError(f"must begin with a letter, hold only letters, digits, - and _, and not be {BASE}")
        return value

    @model_serializer(mode="wrap")
    def _name_first(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        out = handler(self)
        return {"name": out.pop("name"), **out} if "name" in out else out


class Recipe(Common):
    """One run.

    Takes the same mapping as a recipe file: `Recipe(model="lab", method="s3ft", data={"train": "lab:story"})`. The
    method's shorthand is expanded and derived defaults are filled in; `model_fields_set` holds only what was given, so
    that `user_settings()` is the recipe as the user wrote it.
    """

    stages: tuple[Stage, ...] = Field(
        (),
        description="Runs one after another, each a method or a partial recipe over this one, each starting from the "
        "model the last one left; with a preset such as `zephyr`, changes to its stages by name.",
    )
    output: str = Field("runs/{method}-{data}-{time}", description="Output directory.")
    track: Texts = Field(
        (),
        description="Where runs are shown too, beside OUTPUT: tensorboard, wandb, mlflow, trackio, one or several. "
        "Nothing is sent anywhere unless it stands here.",
    )
    search: Search | None = Field(
        None, description="What `holdfast search` varies, and how it chooses; no other verb reads it."
    )

    @field_validator("track")
    @classmethod
    def _known_trackers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in names if name not in TRACKERS]:
            raise ValueError(f"knows {', '.join(TRACKERS)}, not {unknown[0]!r}")
        return tuple(dict.fromkeys(names))

    @model_validator(mode="wrap")
    @classmethod
    def _fill_defaults(cls, data: Any, handler: ModelWrapValidatorHandler[Recipe]) -> Recipe:
        if not isinstance(data, (dict, Node)):
            return handler(data)
        if isinstance(data, dict):  # of a tree, `loader.py` has done it, and tells the user of all problems itself
            tree, problems = Node.from_data(named_objects(data), "recipe"), Problems()
            Aliases(tree, problems)
            data = fill_recipe(tree, problems)
            if problems:
                raise ValueError("; ".join(f"{format_path(path)}: {text}" for path, text in problems))
        recipe = handler(data.plain_data())
        _forget_defaults(recipe, data)
        if (stages := data.value.get("stages")) is not None:
            for stage, node in zip(recipe.stages, stages.value, strict=True):
                _forget_defaults(stage, node, ("stages",))
            if stages.written is None:  # changes to a preset's stages, which `user_settings` tells from these
                recipe.model_fields_set.discard("stages")
        return recipe

    @model_serializer(mode="wrap")
    def _dump_kept(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Without what only stages use; and, as files of a run are shared, without the keys in addresses."""
        unused_keys = [key for key in OF_STAGES if key not in self.model_fields_set] if self.stages else ["stages"]
        unused_keys += ["search"] if self.search is None else []
        data = {key: value for key, value in handler(self).items() if key not in unused_keys}
        return data if info.context is WITH_KEYS else hide_keys_in_data(data)

    @field_validator("output")
    @classmethod
    def _known_braces(cls, value: str) -> str:
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(value) if name is not None]
        except ValueError as error:
            raise ValueError(f"is not a pattern: {error}") from None
        unknown = [name for name in names if name not in OUTPUT_FIELDS]
        if unknown:
            raise ValueError(f"must not hold {{{unknown[0]}}}; known: {', '.join(f'{{{f}}}' for f in OUTPUT_FIELDS)}")
        return value

    @property
    def label(self) -> str:
        """What the run is called by: its method, the names of its stages, or what was chosen on the axes."""
        if not self.stages:
            return self.method_label
        return self.method if preset_of(self.method)[1] else ", ".join(stage.name for stage in self.stages)

    def user_settings(self) -> dict[str, Any]:
        """What the user gave, without defaults, shorthand expansions and derived values; itself a valid recipe."""
        out = self._dump_given()
        if "stages" not in self.model_fields_set:
            stage_changes = {stage.name: stage._dump_given() for stage in self.stages}
            stage_changes = {name: own for name, own in stage_changes.items() if own}
            out |= {"stages": stage_changes} if stage_changes else {}
        return out


def _forget_defaults(part: BaseModel, node: Node, inside: Path = ()) -> None:
    """Let only what was written in this part of the user's recipe count as given."""
    for name in list(part.model_fields_set):
        value, inner = getattr(part, name), node.value.get(name)
        if inner is None or not inner.is_given(inside):
            part.model_fields_set.discard(name)
        elif isinstance(value, BaseModel) and inner.is_mapping:
            if isinstance(part, Common) and isinstance(value, Method) and not inner.value["name"].is_given(inside):
                part._unnamed.add(name)
            _forget_defaults(value, inner, inside)
