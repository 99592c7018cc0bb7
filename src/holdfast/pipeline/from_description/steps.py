"""The steps of `holdfast build`: each leaves a file that may be edited, and takes what is there as it is."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from holdfast.core.files import remove_path, replace_file
from holdfast.core.progress import Progress
from holdfast.data.catalogue.models import LARGEST, rank_models, read_models
from holdfast.errors import UserError
from holdfast.pipeline.from_description.retrieval import (
    list_folder_entries,
    list_lab_entries,
    rank_data,
    read_catalogue,
    search_hub,
)
from holdfast.pipeline.from_description.task import DescribedTask, ask_for_task, parse_task
from holdfast.pipeline.results import RunResult
from holdfast.recipe.yaml_writer import format_yaml_lines

STEPS = ("task", "data", "model", "rows", "train")
SEED_ROWS = 3000
"""Most rows of a data set that was found; as in Prompt2Model."""


STEP_FILES = {
    "data": "data.json", "catalogue": "data.json", "hub": "data.json", "model": "model.json", "largest": "model.json",
    "engine": "generate.yaml", "engine_model": "generate.yaml", "rows": "generate.yaml",
}  # fmt: skip
"""Options that a step has used when its file is there."""
EXAMPLES = "examples.jsonl"
"""The examples in the task, as rows."""
OPTION_NAMES = {"engine_model": "--engine-model", "largest": "--size"}
"""On the command line, where that is another one."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What the user says beside the task.

    Args:
        out: Directory of all files.
        model: The base; default: found in the catalogue, or a laboratory model for its own skills.
        data: Folders and files with data.
        catalogue: A file of the user's own that lists data sets.
        hub: Whether the hub is searched.
        engine: Who writes rows and takes the task apart: native, or the address of a server.
        engine_model: The model there.
        rows: Rows to write.
        largest: Most bytes of a base's weights.
        settings: Of the recipe that trains, `key=value`.
    """

    out: Path
    model: str | None = None
    data: tuple[str, ...] = ()
    catalogue: str | None = None
    hub: bool = False
    engine: str = "native"
    engine_model: str | None = None
    rows: int = 200
    largest: float = LARGEST
    settings: tuple[str, ...] = ()

    def list_choices(self) -> dict[str, Any]:
        """Those that steps use and that are not as by default, by name, as JSON has them."""
        defaults = {field.name: field.default for field in fields(self) if field.name in STEP_FILES}
        choices = {name: getattr(self, name) for name, default in defaults.items() if getattr(self, name) != default}
        return json.loads(json.dumps(choices))

    @property
    def asks_server(self) -> bool:
        """Whether a server is asked, which the user has named."""
        return self.engine.startswith(("http://", "https://"))


def build_model(
    text: str, options: BuildOptions, until: str = "train", ui: Progress | None = None, rerun_hint: str = ""
) -> dict[str, Any]:
    """From a task in words to a trained model, or as far as `until` says.

    Every step writes a file into `options.out`, and is not done again where that is there: `task.json`, `data.json`,
    `model.json`, `generate.yaml` with `rows.jsonl`, `run.yaml` with the run beside it.

    Returns:
        The files by step, and of the last one `report`, `directory` and, where they were not trained on, `examples`.
    """
    ui = ui or Progress.create_silent()
    options.out.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {}
    refuse_other_request(text, options)
    task = find_task(text, options, ui)
    files["task"] = str(options.out / "task.json")
    if until == "task":
        return files
    data = find_data(task, options, ui)
    files["data"] = str(options.out / "data.json")
    if until == "data":
        return files
    model = find_model(task, data, options, ui)
    files["model"] = str(options.out / "model.json")
    if until == "model":
        return files
    files["rows"] = str(generate_rows(task, data, model, options, ui))
    files["recipe"] = str(write_training_recipe(model, options, ui))
    if until == "rows":
        return files
    run = train_rows(options, ui, rerun_hint)
    if keeps_examples_apart(task, data, options):
        files["examples"] = str(options.out / EXAMPLES)
    return {**files, "directory": str(run.path), "report": run.report}


def read_step(path: Path) -> Any:
    """What an earlier call left of a step, perhaps edited since; `None` if nothing.

    Raises:
        UserError: If it is no JSON any more.
    """
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error}); mend it, or remove it to have it made anew") from error


def write_step(path: Path, value: Any) -> None:
    """Write what a step came to."""
    replace_file(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def refuse_other_request(text: str, options: BuildOptions) -> None:
    """What was made of another task, or with other options, is not taken for this one's.

    `request.json` has the task, and the options that the steps there were made with.
    """
    path, choices = options.out / "request.json", options.list_choices()
    stored_value = read_step(path) or {}
    if not isinstance(stored_value, dict) or not isinstance(stored_value.get("options", {}), dict):
        raise UserError(f"{path}: must have task and options; remove it")
    former_text, former_choices = str(stored_value.get("task", text)), dict(stored_value.get("options", {}))
    names_in_use = {name for name, file in STEP_FILES.items() if is_made(options.out / file)}
    if former_text != text:
        if names_in_use:
            raise UserError(f"{options.out} was begun for another task ({former_text[:60]!r}); give another --out")
        remove_path(options.out / "task.json")
    for name in sorted(names_in_use & choices.keys()):
        if choices[name] != former_choices.get(name):
            option, file = OPTION_NAMES.get(name, f"--{name}"), options.out / STEP_FILES[name]
            before = f"with {option} {former_choices[name]}" if name in former_choices else f"without {option}"
            raise UserError(f"{file} was made {before}; edit or remove it, or give another --out")
    old_choices = {name: value for name, value in former_choices.items() if name in names_in_use}
    write_step(path, {"task": text, "options": {**choices, **old_choices}})


def is_made(path: Path) -> bool:
    """Whether a step has come to something: not where no data set fitted."""
    return path.exists() and (path.name != "data.json" or read_step(path) != {"chosen": "", "candidates": []})


def find_task(text: str, options: BuildOptions, ui: Progress) -> DescribedTask:
    """Instruction and examples: by the server's model if one was named, else by marks in the text."""
    path = options.out / "task.json"
    if (stored_value := read_step(path)) is not None:
        try:
            return DescribedTask.from_json(stored_value)
        except ValueError as error:
            raise UserError(f"{path}: {error}; mend it, or remove it to have it made anew") from error
    if options.asks_server:
        from holdfast.generation.journal import Journal
        from holdfast.generation.openai_endpoint import EndpointEngine

        with Journal(options.out / "samples.jsonl") as journal:
            draw = journal.build_sample_fn(EndpointEngine(options.engine, options.engine_model))
            task = ask_for_task(text, draw, ui.write_line)
    else:
        task = parse_task(text)
    write_step(path, task.to_json())
    ui.write_line(f"task: {task.instruction} ({len(task.examples)} examples); {path}")
    return task


def find_data(task: DescribedTask, options: BuildOptions, ui: Progress) -> dict[str, Any]:
    """The data set that fits best, `chosen`, among `candidates`; "" where none has a word in common with the task."""
    path = options.out / "data.json"
    if is_made(path):
        stored_value = read_step(path)
        if not isinstance(stored_value, dict) or not isinstance(stored_value.get("chosen"), str):
            raise UserError(f"{path}: lacks chosen, the data set to take; mend it, or remove it")
        return stored_value
    entries = [entry for folder in options.data for entry in list_folder_entries(Path(folder).expanduser())]
    entries += read_catalogue(Path(options.catalogue).expanduser()) if options.catalogue else []
    entries += search_hub(task.instruction) if options.hub else []
    if not entries:  # nothing of the user's own: what is always here
        entries = list(list_lab_entries())
    candidates = rank_data(task.instruction, entries)
    # A single file was named for a reason, whatever its words.
    chosen = candidates[0]["path"] if candidates else entries[0].path if len(entries) == 1 else ""
    value = {"chosen": chosen, "candidates": candidates}
    write_step(path, value)
    ui.write_line(f"data: {chosen or 'none fits'} ({len(entries)} looked at); {path}")
    return value


def find_model(task: DescribedTask, data: dict[str, Any], options: BuildOptions, ui: Progress) -> str:
    """The base: as named, the laboratory's for its skills, else the best of the catalogue within the size."""
    path = options.out / "model.json"
    if (stored_value := read_step(path)) is not None:
        if not isinstance(stored_value, dict) or not isinstance(stored_value.get("chosen"), str):
            raise UserError(f"{path}: lacks chosen, the model to start from; mend it, or remove it")
        return str(stored_value["chosen"])
    catalogue = read_models()
    ranking = rank_models(task.instruction, [model for model in catalogue.models if "/" in model.name], options.largest)
    if not ranking and options.model is None:
        raise UserError(f"--size: no model of the catalogue has weights of at most {options.largest:g} bytes; raise it")
    proposal = "lab" if data["chosen"].startswith("lab:") else ranking[0][0].name
    chosen = options.model or proposal
    candidates = [{"name": model.name, "score": round(score, 3), "about": model.about} for model, score in ranking]
    write_step(path, {"chosen": chosen, "catalogue": catalogue.date, "candidates": candidates})
    why = (
        "as named" if options.model else "for the laboratory's own skills" if chosen == "lab" else "by its description"
    )
    ui.write_line(f"base: {chosen} ({why}); {path}")
    return chosen


def generate_rows(task: DescribedTask, data: dict[str, Any], model: str, options: BuildOptions, ui: Progress) -> Path:
    """Rows to train on: `generate.yaml` is written where it is not there, and its curated rows are `rows.jsonl`."""
    from holdfast.pipeline.curate import curate_only
    from holdfast.recipe.loader import read_recipe

    recipe_path, rows_path = options.out / "generate.yaml", options.out / "rows.jsonl"
    if rows_path.exists():
        return rows_path
    if not recipe_path.exists():
        write_recipe(
            recipe_path,
            "rows of the task; their curated form is rows.jsonl",
            describe_generation(task, data, model, options),
        )
        ui.write_line(f"how rows are made: {recipe_path}")
    return curate_only(read_recipe(str(recipe_path)), out=rows_path, ui=ui)


def describe_generation(task: DescribedTask, data: dict[str, Any], model: str, options: BuildOptions) -> dict[str, Any]:
    """The recipe whose curated rows are trained on.

    A server's model writes new rows, with the user's examples and rows of the data set as models; a model in this
    process answers the data set's questions several times, and what most answers say is taken beside the rows' own.
    Rows that ask what an example in the task asks are left out, so that the examples can be measured.
    """
    seeds, writes = options.out / EXAMPLES, options.asks_server
    if task.examples:
        lines = ({"prompt": text, "answer": output} for text, output in task.examples)
        replace_file(seeds, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    train = data["chosen"] or (str(seeds) if task.examples else "")
    if not train:
        raise UserError(
            "no data set fits the task and there is no example in it; write some (Input: ... Output: ...), or give "
            "--data FOLDER, --catalogue FILE or --hub"
        )
    knobs: dict[str, Any] = {"name": "prompt2model", "instruction": task.instruction, "n": options.rows}
    if writes:
        knobs |= {"examples": [list(pair) for pair in task.examples], "keep_given": bool(data["chosen"])}
    else:
        knobs |= {"inputs": "given"}
    is_apart = keeps_examples_apart(task, data, options)
    checks = [*([{"name": "decontaminate"}] if is_apart else []), {"name": "dedup", "near": None}]
    sampling = {"engine": options.engine, **({"model": options.engine_model} if options.engine_model else {})}
    return {
        "model": model,
        "data": {"train": train, "test": 0, "limit": SEED_ROWS if writes else options.rows},
        "curate": [knobs, *checks],
        "sampling": {**sampling, "max_tokens": 256},
        "evaluate": {"target": str(seeds) if is_apart else "none", "keep": ["none"]},
        "output": str(options.out / "generate"),
    }  # fmt: skip


def keeps_examples_apart(task: DescribedTask, data: dict[str, Any], options: BuildOptions) -> bool:
    """Whether the examples in the task are not trained on: not where they are all the data there is."""
    return bool(task.examples) and (options.asks_server or bool(data["chosen"]))


def write_training_recipe(model: str, options: BuildOptions, ui: Progress) -> Path:
    """`run.yaml`, where it is not there: what trains on the rows, with the judge and method that these call for."""
    from holdfast.pipeline.first_look import first_look

    path = options.out / "run.yaml"
    if path.exists():
        return path
    rows = str(options.out / "rows.jsonl")
    look = first_look(rows)
    settings: dict[str, Any] = {"model": model, "method": look.method, "data": {"train": rows, "test": 0.1}}
    settings |= {"judge": look.judge} if look.judge else {}
    write_recipe(path, "trains on rows.jsonl", {**settings, "output": str(options.out / "run")})
    ui.write_line(f"how it is trained: {path}")
    return path


def write_recipe(path: Path, what: str, settings: dict[str, Any]) -> None:
    """A recipe as a file."""
    lines = [f"# Written by holdfast build: {what}. Edit it and run the same command again, or use it by itself."]
    replace_file(path, "\n".join([*lines, *format_yaml_lines(settings, lambda key: ""), ""]))


def train_rows(options: BuildOptions, ui: Progress, rerun_hint: str) -> RunResult:
    """Train by `run.yaml`, measure and report."""
    from holdfast.pipeline.train import train
    from holdfast.recipe.loader import read_recipe

    return train(read_recipe(str(options.out / "run.yaml"), list(options.settings)), ui=ui, rerun_hint=rerun_hint)
