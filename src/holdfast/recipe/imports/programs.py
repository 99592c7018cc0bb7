"""Python scripts and notebooks of Unsloth, TRL and transformers: their calls' arguments, read and never run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any

from holdfast.errors import UserError
from holdfast.recipe.imports.foreign import ForeignRecipe, Setting

METHODS = {"SFT": "sft", "DPO": "dpo", "KTO": "kto", "ORPO": "orpo", "CPO": "cpo", "GRPO": "grpo", "RLOO": "rloo",
           "Reward": "reward"}  # fmt: skip
"""What a trainer's class does, by what stands before `Trainer` or `Config`."""
TRAINER = re.compile(rf"({'|'.join(METHODS)})(Trainer|Config)")
SETTINGS = ("TrainingArguments", "Trainer", "UnslothTrainingArguments", "UnslothTrainer")
ADAPTER = {"r": "lora_r", "target_modules": "lora_target_modules", "modules_to_save": "lora_modules_to_save",
           "random_state": "adapter_seed"}  # fmt: skip
"""Arguments of `get_peft_model` and `LoraConfig`, whose names say nothing without them."""
WIRES = {"model", "tokenizer", "processing_class", "args", "data_collator", "callbacks", "compute_metrics",
         "formatting_func", "train_dataset", "eval_dataset", "peft_config", "token", "task_type", "device_map",
         "ref_model", "reward_funcs", "dtype", "torch_dtype", "inference_mode"}  # fmt: skip
"""Arguments that join the parts of a program, and say nothing where they hold what it has made."""
UNKNOWN = object()
Place = Callable[[int], str]


def read_notebook(text: str, name: str) -> ForeignRecipe:
    """The settings of the code cells of a notebook.

    Raises:
        UserError: If it is no notebook, or nothing in it trains.
    """
    try:
        cells = json.loads(text)["cells"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{name}: is no Jupyter notebook") from None
    lines: list[str] = []
    places: list[str] = []
    for number, cell in enumerate(cells, 1):
        if cell.get("cell_type") == "code":
            code = "".join(cell.get("source", ()))
            if not code.lstrip().startswith("%%"):
                for line_number, line in enumerate(code.splitlines(), 1):
                    lines.append(_without_magic(line))
                    places.append(f"{name}: cell {number}, line {line_number}")
    return _read_code("\n".join(lines), name, lambda line: places[line - 1])


def read_program(text: str, name: str) -> ForeignRecipe:
    """The settings of a Python script.

    Raises:
        UserError: If it is not Python, or nothing in it trains.
    """
    lines = "\n".join(map(_without_magic, text.splitlines()))
    return _read_code(lines, name, lambda line: f"{name}:{line}")


def _without_magic(line: str) -> str:
    """A line for Python: one for the shell or the notebook does nothing."""
    body = line.lstrip()
    return f"{line[: len(line) - len(body)]}pass" if body.startswith(("!", "%")) else line


def _read_code(code: str, name: str, place: Place) -> ForeignRecipe:
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        raise UserError(f"{place(error.lineno or 1)}: not Python: {error.msg}") from None
    values: dict[str, Any] = {}
    calls: list[ast.Call] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            value = _read_literal(node.value, values)
            if value is not UNKNOWN:
                values[node.targets[0].id] = value
        if isinstance(node, ast.Call):
            calls.append(node)
    foreign = ForeignRecipe("Unsloth" if "unsloth" in code else "TRL")
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        _read_call(call, foreign, values, place)
    if "per_device_train_batch_size" not in foreign.settings and foreign.method is None:
        raise UserError(f"{name}: no trainer of Unsloth, TRL or transformers is called in it")
    return foreign


def _read_call(call: ast.Call, foreign: ForeignRecipe, values: dict[str, Any], place: Place) -> None:
    """Take over what a call says, if it is one that loads a model, adds an adapter, reads rows or trains."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = getattr(getattr(call.func, "value", None), "id", "")
    match = TRAINER.fullmatch(name)
    if match:
        foreign.method = METHODS[match[1]]
    if name == "load_dataset":
        _read_load_dataset(call, foreign, values, place)
    elif name == "from_pretrained" and re.search(r"Model|LM", owner):
        _read_arguments(call, foreign, values, place, {"pretrained_model_name_or_path": "model_name"}, ("model_name",))
    elif name in ("get_peft_model", "LoraConfig") and (call.keywords or owner):
        foreign.settings.setdefault("adapter", Setting("lora", place(call.lineno)))
        _read_arguments(call, foreign, values, place, ADAPTER)
    elif match or name in SETTINGS:
        _read_arguments(call, foreign, values, place, {})


def _read_arguments(
    call: ast.Call,
    foreign: ForeignRecipe,
    values: dict[str, Any],
    place: Place,
    names: dict[str, str],
    by_place: tuple[str, ...] = (),
) -> None:
    """The arguments of a call as settings, under `names` where these know better ones."""
    arguments = [(keyword.arg, keyword.value) for keyword in call.keywords if keyword.arg]
    for key, node in [*zip(by_place, call.args, strict=False), *arguments]:
        value = _read_literal(node, values)
        source = place(node.lineno)
        if value is not UNKNOWN:
            foreign.settings[names.get(key, key)] = Setting(value, source)
        elif key not in WIRES:
            foreign.unread.append(f"{source}: {key} is worked out by the program; say it in the recipe if it matters")


def _read_load_dataset(call: ast.Call, foreign: ForeignRecipe, values: dict[str, Any], place: Place) -> None:
    """The rows of the first `load_dataset` that says where they are."""
    if "dataset_name" in foreign.settings:
        return
    arguments = dict(
        zip(("dataset_name", "dataset_config"), (_read_literal(node, values) for node in call.args), strict=False)
    )
    by_name = {keyword.arg: _read_literal(keyword.value, values) for keyword in call.keywords}
    arguments |= {"dataset_config": by_name["name"]} if "name" in by_name else {}
    files, split = by_name.get("data_files"), by_name.get("split")
    path = arguments.get("dataset_name", by_name.get("path", UNKNOWN))
    if isinstance(files, dict):
        path, split = files.get("train", UNKNOWN), None
    elif files not in (None, UNKNOWN):
        path, split = files, None
    source = place(call.lineno)
    if not isinstance(path, str):
        foreign.unread.append(f"{source}: which rows load_dataset reads is worked out by the program; give data.train")
        return
    foreign.settings["dataset_name"] = Setting(path, source)
    config = arguments.get("dataset_config")
    if isinstance(config, str):
        foreign.settings["dataset_config"] = Setting(config, source)
    if isinstance(split, str):
        whole, bracket, part = split.partition("[")
        foreign.settings["dataset_train_split"] = Setting(whole, source)
        if rows := re.fullmatch(r":(\d+)\]", part):
            foreign.settings["max_train_samples"] = Setting(int(rows[1]), source)
        elif bracket:
            foreign.unread.append(f"{source}: of the split {split} all rows of {whole} are read")


def _read_literal(node: ast.expr, values: dict[str, Any]) -> Any:
    """The value of a constant, of a list of them, or of a name that was given one; else UNKNOWN."""
    if isinstance(node, ast.Name):
        return values.get(node.id, UNKNOWN)
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict" and not node.args:
        pairs = {keyword.arg: _read_literal(keyword.value, values) for keyword in node.keywords}
        return UNKNOWN if UNKNOWN in pairs.values() else pairs
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return UNKNOWN
