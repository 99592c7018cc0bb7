"""Another tool's settings as a recipe: what is the same, what is worked out, and what has no counterpart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.axes.elsewhere import METHODS_ELSEWHERE
from holdfast.axes.registry import method_names
from holdfast.core.spelling import suggest_name
from holdfast.recipe import peers
from holdfast.recipe.aliases import DEVICE_BATCH, Aliases
from holdfast.recipe.imports.data_sets import list_rows
from holdfast.recipe.imports.foreign import ForeignRecipe, Setting
from holdfast.recipe.schema import Recipe
from holdfast.recipe.shorthand import METHODS
from holdfast.recipe.tree import Node, Problems, format_path
from holdfast.recipe.yaml_writer import format_yaml_lines

STAGES = {"pt": "sft", "sft": "sft", "rm": "reward", "ppo": "ppo", "dpo": "dpo", "kto": "kto"}
"""LLaMA-Factory's stages."""
ONLINE = {"grpo": "online_grpo", "dapo": "online_dapo", "dr_grpo": "online_dr_grpo", "gspo": "online_gspo"}
"""What is learned online has its own name here."""
LOSSES = {"sigmoid": "dpo", "hinge": "hinge", "ipo": "ipo", "robust": "robust_dpo", "orpo": "orpo", "simpo": "simpo",
          "kto": "kto", "nll": "sft", "dft": "dft", **ONLINE}  # fmt: skip
"""What a loss is called in TRL and LLaMA-Factory, and the method that it is here."""
DATA_NAMES = ("dataset", "datasets", "dataset_name")
TEST_NAMES = ("eval_dataset", "test_datasets", "dataset_test_split")
OWN_NAMES = {"model_name": "model_name_or_path", "kto_desirable_weight": "desirable",
             "kto_undesirable_weight": "undesirable", "desirable_weight": "desirable",
             "undesirable_weight": "undesirable", "dataset_split": "dataset_train_split"}  # fmt: skip
"""Names that a recipe of ours is not read with: those of one program only."""
KNOBS = {"desirable": "objective.desirable", "undesirable": "objective.undesirable"}
SILENT = {"dataset_dir", "dataset_config", "dataset_train_split", "use_peft", "full_finetuning", "gpu_ids", "strict",
          "max_lora_rank", "fast_inference", "gpu_memory_utilization", "bias", "layers_to_transform",
          "layers_pattern", "processing_class", "use_gradient_checkpointing", "ds_type", "shuffle_merged_datasets",
          "base_model_config", "debug", "local_rank", "xformers_attention", "loftq_config"}  # fmt: skip
"""Names that are read together with others, or have no effect on a result here."""


@dataclass(slots=True)
class ImportedRecipe:
    """A recipe of ours made of another tool's.

    Args:
        settings: The recipe, nested, in the order of its documentation.
        origins: Dotted setting to what it was: "lora_rank, sft.yaml:7".
        left_out: What has no counterpart: the place and name, and what to do instead.
    """

    tool: str
    settings: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What is read as something else than it was."""


def convert_recipe(foreign: ForeignRecipe, file: Path) -> ImportedRecipe:
    """The recipe of another tool as one of ours.

    Args:
        foreign: Its settings.
        file: Where they were read, for paths beside it.
    Raises:
        UserError: If LLaMA-Factory's registry of data sets has not the one that is tuner.
    """
    conversion = _Conversion(foreign, file)
    conversion.choose_method()
    conversion.choose_tuner()
    conversion.choose_optimizer()
    conversion.place_rows()
    conversion.place_shares()
    conversion.place_knobs()
    conversion.move_names()
    recipe = ImportedRecipe(foreign.tool, left_out=[*conversion.left_out, *foreign.unread])
    recipe.settings = _sort_sections(conversion.tree.plain_data())
    recipe.origins, recipe.remarks = conversion.origins, conversion.remarks
    return recipe


class _Conversion:
    """The steps from another tool's settings to a tree of ours; each takes what it has read.

    Args:
        foreign: The settings.
        file: Where they were read.
    """

    def __init__(self, foreign: ForeignRecipe, file: Path) -> None:
        self.foreign, self.file = foreign, file
        foreign.settings = {OWN_NAMES.get(name, name): setting for name, setting in foreign.settings.items()}
        self.rest = {name: setting for name, setting in foreign.settings.items() if name not in SILENT}
        self.tree = Node({}, str(file))
        self.origins: dict[str, str] = {}
        self.left_out: list[str] = []
        self.remarks: list[str] = []

    def take_value(self, name: str) -> Any:
        """The value of a setting, which is read with this; None where it is not given or switched off."""
        setting = self.rest.pop(name, None)
        return None if setting is None or peers.is_switched_off(setting.value) else setting.value

    def put_value(self, path: str, value: Any, *names: str) -> None:
        """Set a value of the recipe, which was worked out from settings of these names."""
        self.tree.fill_value(tuple(path.split(".")), value, str(self.file))
        sources = [self.foreign.settings[name].source for name in names if name in self.foreign.settings]
        self.origins[path] = ", ".join([*names, *sources[:1]])

    def leave_out(self, name: str, reason: str) -> None:
        """Say that a setting has no counterpart, and what to do instead."""
        self.left_out.append(f"{self.foreign.settings[name].source}: {name}: {reason}")

    def choose_method(self) -> None:
        """`method`, of a stage, a verb, a trainer, or the loss."""
        names = ("stage", "rl", "reward_model", "pref_loss", "loss_type")
        stage, rl, reward, *losses = map(self.take_value, names)
        if isinstance(reward, str):  # LLaMA-Factory's: the model that scores; Axolotl's says that one is trained
            self.put_value("judge", {"name": "reward_model", "model": reward}, "reward_model")
        method = STAGES.get(str(stage), stage) or rl or self.foreign.method or ("reward" if reward is True else "sft")
        loss = next((loss for loss in losses if isinstance(loss, str)), None)
        method = ONLINE.get(method, method)
        if loss is not None and method in ("dpo", "sft", *ONLINE.values()):
            online = method in ONLINE.values()
            if loss in LOSSES and (loss in ONLINE) == online:
                method = LOSSES[loss]
            else:
                self.leave_out(next(n for n in names if n in self.foreign.settings), peers.ONE_LOSS)
        if self.take_value("use_dft_loss"):
            method = "dft"
        if method not in METHODS:
            self.leave_out(
                next((n for n in names if n in self.foreign.settings), next(iter(self.foreign.settings))),
                f"{method} is not a method here{suggest_name(str(method), METHODS)}; sft is put in its place",
            )
            method = "sft"
        self.put_value(
            "method", method, *(name for name in names if name in self.foreign.settings and name not in self.rest)
        )

    def choose_tuner(self) -> None:
        """`tuner`, and in how many bits its base is held."""
        tuner = self.take_value("finetuning_type") or self.take_value("adapter")
        adds = tuner or ("lora" if self.foreign.value_of("use_peft") else None)
        bits = self.take_value("quantization_bit") or (
            4 if self.take_value("load_in_4bit") or tuner == "qlora" else None
        )
        bits = bits or (8 if self.take_value("load_in_8bit") else None)
        if self.foreign.value_of("full_finetuning"):
            adds = "full"
        name = {"qlora": "lora"}.get(str(adds), adds)
        sources = ("finetuning_type", "adapter", "use_peft", "full_finetuning")
        source = next((key for key in sources if key in self.foreign.settings), "adapter")
        if name == "freeze":
            self._choose_layers()
        elif name in method_names("tuners"):
            self.put_value("tuner.name", name, source)
        elif name is not None:
            self.leave_out(source, f"{name} is not a tuner here; `tuner: {{name: peft, ...}}` reaches all of PEFT's")
        start = self.take_value("adapter_seed")  # Unsloth's `random_state`
        if start is not None and name in method_names("tuners") and start != self.foreign.value_of("seed"):
            self.put_value("train.seeds.init", start, "adapter_seed")
        if bits and name == "lora":
            self.put_value("tuner.base_bits", bits, "load_in_4bit" if bits == 4 else "load_in_8bit")
        elif bits and name is not None:
            self.left_out.append(f"{self.file}: the base is quantized below lora alone (tuner.base_bits), not {name}")
        if name != "lora":
            for key in [key for key in self.rest if key.startswith("lora_")]:
                if key not in peers.INSTEAD:
                    del self.rest[key]

    def _choose_layers(self) -> None:
        """`tuner: freeze`, of LLaMA-Factory's number of layers (2 where it is not given; below 0 the first ones)."""
        layers = self.take_value("freeze_trainable_layers") or 2
        self.put_value("tuner.name", "freeze", "finetuning_type")
        self.put_value("tuner.layers", abs(layers), "freeze_trainable_layers")
        if layers < 0:
            self.put_value("tuner.side", "first", "freeze_trainable_layers")
        if self.take_value("freeze_trainable_modules") not in (None, "all"):
            self.leave_out("freeze_trainable_modules", peers.INSTEAD["freeze_trainable_modules"])

    def choose_optimizer(self) -> None:
        """`optimizer.name` and its betas."""
        for key in ("optim", "optimizer"):
            name = self.take_value(key)
            if not isinstance(name, str):
                continue
            here = peers.ALIASES["optim"][1](name)  # type: ignore[misc]
            if here in method_names("optimizers") or "." in str(here):
                if here != "adamw":
                    self.put_value("optimizer.name", here, key)
            else:
                reason = METHODS_ELSEWHERE.get(name, "a class of torch or of a library goes by its path")
                self.leave_out(key, f"{name} is not an optimizer here: {reason}; adamw is used")
        betas = [self.take_value("adam_beta1"), self.take_value("adam_beta2")]
        if any(beta is not None for beta in betas):
            usual = (0.9, 0.999)
            pair = [own if beta is None else beta for beta, own in zip(betas, usual, strict=True)]
            self.put_value("optimizer.betas", pair, "adam_beta1", "adam_beta2")

    def place_rows(self) -> None:
        """`data.train` and `data.test`, of names, lists and LLaMA-Factory's registry."""
        for target, names in (("data.train", DATA_NAMES), ("data.test", TEST_NAMES)):
            for name in names:
                setting = self.rest.get(name)
                value = self.take_value(name)
                if setting is None or value is None:
                    continue
                if name == "dataset_test_split":
                    continue
                rows = [
                    self._find_beside(row) for row in list_rows(self.foreign, value, setting.source, self.file.parent)
                ]
                rows = [self._with_split(row) for row in rows] if target == "data.train" else rows
                rows = self._limit_each(rows)
                self.put_value(target, rows[0] if len(rows) == 1 else rows, name)
        if isinstance(text := self.take_value("dataset_text_field"), str) and text != "text":
            self.put_value("data.columns", {"text": text}, "dataset_text_field")
        for size in ("val_size", "val_set_size"):
            share = None if size not in self.rest else self.rest.pop(size).value
            if share == 0 and "data" in self.tree.value and "test" not in self.tree.value["data"].value:
                self.remarks.append(
                    f"{self.foreign.settings[size].source}: {size} 0: a tenth of the rows is held out all the same, to "
                    "measure the gain on; data.test: 0 with evaluate.target: none trains on all"
                )
            elif isinstance(share, (int, float)) and 0 < share < 1:
                self.put_value("data.test", float(share), size)
            elif share is not None:
                self.leave_out(size, "data.test is a share of the rows, or a file")

    def _with_split(self, row: Any) -> Any:
        """A data set of the hub with the configuration and split that are tuner beside it."""
        beside = {
            "config": self.foreign.value_of("dataset_config"),
            "split": self.foreign.value_of("dataset_train_split"),
        }
        entry = {key: value for key, value in beside.items() if isinstance(value, str)}
        if not entry or not isinstance(row, str) or entry == {"split": "train"}:
            return row
        return {"path": row, **entry}

    def _limit_each(self, rows: list[Any]) -> list[Any]:
        """LLaMA-Factory's largest number of rows is that of each of several data sets; `data.limit` is that of all."""
        limit = self.foreign.value_of("max_samples")
        if len(rows) < 2 or not isinstance(limit, int):
            return rows
        self.rest.pop("max_samples", None)
        return [{"limit": limit} | ({"path": row} if isinstance(row, str) else row) for row in rows]

    def _find_beside(self, row: Any) -> Any:
        """A row entry whose path is as it is found from here, or from the folder of the file that names it."""
        path = row if isinstance(row, str) else row["path"]
        if not Path(path).exists() and (beside := self.file.parent / path).exists():
            path = str(beside)
        return path if isinstance(row, str) else {**row, "path": path}

    def place_shares(self) -> None:
        """Steps that are shares of the run here, where its length in steps is known."""
        steps = self.foreign.value_of("max_steps")
        epochs = next((self.foreign.value_of(key) for key in ("num_epochs", "num_train_epochs")), None)
        for name, target in (("eval_steps", "evaluate.every"), ("save_steps", "train.save_every"),
                             ("warmup_steps", "optimizer.warmup")):  # fmt: skip
            count = self.foreign.value_of(name)
            if isinstance(steps, int) and steps > 0 and isinstance(count, (int, float)) and count > 0:
                self.take_value(name)
                share = count / steps if count >= 1 else count
                if share <= 1:
                    self.put_value(target, round(share, 4), name, "max_steps")
            elif isinstance(count, float) and 0 < count < 1:
                self.put_value(target, self.take_value(name), name)
        for name, target in (("evals_per_epoch", "evaluate.every"), ("saves_per_epoch", "train.save_every")):
            count = self.foreign.value_of(name)
            if isinstance(count, int) and count > 0 and isinstance(epochs or 1, (int, float)):
                self.take_value(name)
                self.put_value(target, round(1 / max(count * (epochs or 1), 1), 4), name)

    def place_knobs(self) -> None:
        """Knobs of a loss, and what tells right answers from wrong ones."""
        if self.tree.plain_data("method") == "ipo":  # whose strength is beta there, tau in its paper and here
            for name in ("beta", "pref_beta", "rl_beta"):
                if (value := self.take_value(name)) is not None:
                    self.put_value("objective.tau", value, name)
        if self.tree.plain_data("method") in ONLINE.values():
            self.remarks.append(
                f"{self.file}: judge: say what tells right answers from wrong ones: holdfast list judges"
            )
        for name, target in KNOBS.items():
            if (value := self.take_value(name)) is not None:
                self.put_value(target, value, name)

    def move_names(self) -> None:
        """What is the same under another name; of the rest, what to do instead."""
        readable = {**peers.ALIASES, **dict.fromkeys(DEVICE_BATCH), **peers.NO_EFFECT}
        for name, setting in list(self.rest.items()):
            if name.startswith("no_") and setting.value is True and name.removeprefix("no_") in readable:
                name, setting = name.removeprefix("no_"), Setting(False, setting.source)
            if setting.value is None or (name in peers.SAME and peers.is_switched_off(setting.value)):
                continue
            if name in readable:
                self.tree.value.setdefault(name, Node.from_data(setting.value, setting.source, (name,)))
            elif not peers.is_switched_off(setting.value):
                instead: Mapping[str, str] = peers.INSTEAD
                self.leave_out(name, instead.get(name, "is not known here"))
        problems: Problems = []
        aliases = Aliases(self.tree, problems)
        self.remarks += [note for note in aliases.notes if "train.batch_tokens" in note]
        for new, old in aliases.moves.items():
            source = self.foreign.settings[str(old[-1])].source if old[-1] in self.foreign.settings else ""
            self.origins[format_path(new)] = f"{format_path(old)}, {source}"
        self.left_out += [f"{self.tree.source_around(path)}: {format_path(path)}: {text}" for path, text in problems]


def format_imported(recipe: ImportedRecipe, file: Path) -> str:
    """The text of the recipe: above it what has no counterpart, behind each line what it was."""
    head = [f"# From {file.name}, settings of {recipe.tool}."]
    head += [f"# {remark}" for remark in recipe.remarks]
    if recipe.left_out:
        head += ["# Not taken over:", *(f"#   {line}" for line in recipe.left_out)]
    lines = format_yaml_lines(recipe.settings, lambda path: recipe.origins.get(format_path(path), ""))
    return "\n".join([*head, *lines, ""])


def _sort_sections(settings: dict[str, Any]) -> dict[str, Any]:
    """The sections in the order of the recipe's documentation."""
    others = sorted(set(settings) - set(Recipe.model_fields))
    return {name: settings[name] for name in (*Recipe.model_fields, *others) if name in settings}
