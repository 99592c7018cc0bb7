"""A claim on a model and rows of one's own: its arms and its parts, on the work that a recipe describes."""

from __future__ import annotations

import inspect
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.core.progress import Progress
from holdfast.data.rows import fingerprint_json
from holdfast.errors import UserError
from holdfast.evaluation.statistics.paired import losing_tasks, tasks_in_points, tasks_with_role
from holdfast.evaluation.tasks.by_name import build_tasks
from holdfast.lab.reproduce import CLAIMS, claim_of
from holdfast.lab.reproduce.base import (
    COMMON,
    REHEARSAL,
    REPLAY_SHARE,
    ArmChange,
    Claim,
    Study,
    describe_gains_and_losses,
    merge_settings,
    run_arms,
    run_study,
    write_result,
)
from holdfast.lab.reproduce.sweep import describe_tokens, spread_rates
from holdfast.models.loading import is_lab
from holdfast.pipeline.sources import read_sources
from holdfast.recipe.loader import read_recipe, resolve_any
from holdfast.report.phrasing import total_seconds

LABORATORY_SETTINGS = ("model", "data", "judge", "optimizer", "sampling", "train", "evaluate")
"""Sections of a claim's work that fit the laboratory's models and skills: a recipe has its own."""
LABORATORY_SIZES = re.compile(
    r"(stages\.[^.=]+\.)?(optimizer\.learning_rate|train\.batch_tokens|data\.limit|train\.max_steps)=(?!0$)"
)
"""Overrides of an arm that are sizes of the laboratory; training nothing (`train.max_steps=0`) is none of them."""
LEARNING_RATE = re.compile(r"(stages\.[^.=]+\.)?optimizer\.learning_rate=")
LABORATORY_ROWS = re.compile(r"\blab\b|\{files\}|holdfast\.lab\.|^curate\.held_out=|\{plain\}")
"""In an override: rows, clusters of tasks, templates, models or methods that the laboratory alone has."""


def run_on_work(
    name: str,
    claim: Claim | Study,
    model: str | Path,
    data: str | Path,
    *,
    seeds: int,
    out: Path,
    ui: Progress | None = None,
) -> dict[str, Any]:
    """Ask a claim of a model and rows; the result is as of `run_claim`, with the work in `on` and what each arm cost.

    Runs of claims on one work share a directory (`name_folder`): an arm that they have in common is trained once. A
    study's runs are not kept, but what each seed measured.

    Raises:
        UserError: See `move_claim`, `move_study`, `read_work` and `refuse_unmeasured_work`.
    """
    recipe = read_work(model, data)
    place = f"on-{Path(model).name}-{Path(data).expanduser().resolve().stem}"  # "." has a name too
    origin = {"on": {"model": str(model), "work": str(data), "name": place}}
    if isinstance(claim, Study):
        study = move_study(name, claim, recipe)
        refuse_unmeasured_work(recipe, needs_gain=True, needs_kept=study.asks_kept)
        record = out / f"{name}-{place}-{fingerprint_json(recipe)[:8]}.seeds.json"
        return write_result(out, f"{name}-{place}", study, run_study(study, seeds, record, ui) | origin)
    if (replay := recipe["data"].get("replay")) and needs_rehearsal(claim):
        claim = replace(claim, arms=name_rehearsed_rows(claim.arms, replay))
        del recipe["data"]["replay"]  # of the arms that rehearse, not of all
    moved_claim = move_claim(name, claim)
    refuse_unmeasured_work(
        recipe,
        needs_gain=any(part.of == "gain" or part.at != "rate" for part in moved_claim.expects),
        needs_kept=any(part.of == "kept" for part in moved_claim.expects),
    )
    own = merge_settings(recipe, moved_claim.common)
    moved_claim = replace(moved_claim, rates_of_arms=find_rates_of_arms(claim, own))
    result, runs = run_arms(moved_claim, own, seeds=seeds, folder=out / name_folder(place, moved_claim), ui=ui)
    result |= {"rows": [*result["rows"], *describe_costs(runs)]} | origin
    return write_result(out, f"{name}-{place}", moved_claim, result)


def read_work(model: str | Path, data: str | Path) -> dict[str, Any]:
    """Read the recipe that says which rows are trained on, what is measured and how it is judged.

    Args:
        model: Folder, run or hub name of the model; it takes the place of the recipe's.
        data: The recipe, or a folder with one.
    Returns:
        Its settings, with the paths of its own folder; where its runs go is the reproduction's affair.
    Raises:
        UserError: If the folder has none or several; whatever is wrong with the recipe.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        recipes = sorted((*path.glob("*.yaml"), *path.glob("*.yml")))
        if len(recipes) != 1:
            names = f"has {len(recipes)} recipes ({', '.join(p.name for p in recipes)})" if recipes else "has no recipe"
            raise UserError(f"{path}: {names}; name the one whose rows and tasks are the work, --data {path}/NAME.yaml")
        path = recipes[0]
    recipe = read_recipe(path, [f"model={model}"]).recipe
    if recipe.stages:
        raise UserError(f"{path}: has stages; a claim's arms are put on a recipe that trains once")
    return {key: value for key, value in recipe.user_settings().items() if key != "output"}


def refuse_unmeasured_work(recipe: dict[str, Any], *, needs_gain: bool, needs_kept: bool) -> None:
    """Refuse work on which a claim could not be decided: nothing is run for hours first.

    Raises:
        UserError: If the target is not scored in points, or nothing that is kept is measured, and the claim asks it.
    """
    settings = resolve_any(recipe).recipe
    sources = read_sources(settings, lambda text: None, lambda text: None)
    tasks = build_tasks(settings, sources.test, sources.judge, lab=is_lab(settings.model))
    if needs_gain and not tasks_in_points(tasks_with_role(tasks, "target")):
        raise UserError(
            f"{settings.data.train}: a claim's gain is in points, and this target is measured by the loss of its "
            "held-out answers; set `judge` in the recipe to what says whether an answer is right"
        )
    if needs_kept and not losing_tasks(tasks_with_role(tasks, "keep")):
        raise UserError("evaluate.keep: the claim asks what is lost elsewhere; name a task, or `probe`, in the recipe")


def move_study(name: str, study: Study, recipe: Mapping[str, Any]) -> Study:
    """Take a study out of the laboratory: it measures the same on another model and rows.

    Raises:
        UserError: If it is about a table of probabilities, or about rows that the laboratory makes.
    """
    if not takes_work(study):
        raise UserError(f"{name} is tested by a programme of its own in the laboratory; it cannot be asked of --on")
    return replace(study, measure=partial(study.measure, work=recipe), verdict=lambda values: "")


def takes_work(study: Study) -> bool:
    """Whether a study can be asked of any model and rows."""
    return "work" in inspect.signature(study.measure).parameters


def move_claim(name: str, claim: Claim) -> Claim:
    """Take a claim out of the laboratory: what its arms differ in stays, its rows, sizes and skills do not.

    Learning rates become those that each arm has by default on the model, and the same multiples of them; a rate that
    was chosen on other questions of a skill is now the one that gained most in the other seeds. Parts of the claim
    about single tasks of the laboratory are left out, and so are arms that only its sizes set apart, and figures other
    than gain and loss.

    Raises:
        UserError: If the claim is about rows that the laboratory makes, or about its sizes alone.
    """
    arms = leave_out_sizes(claim.arms)
    common = {key: value for key, value in claim.common.items() if key not in LABORATORY_SETTINGS}
    for text in (*itertools.chain(*arms.values()), *(f"{key}: {value}" for key, value in common.items())):
        if text == REHEARSAL:
            raise UserError(
                f"{name} rehearses rows, and the work names none: set data.replay in its recipe, such as "
                "`replay: {path: general.jsonl}`"
            )
        if LABORATORY_ROWS.search(text):
            raise UserError(f"{name} needs what the laboratory alone has ({text}); it cannot be asked of --on")
    arms = drop_repeated_arms(arms)
    asked_parts = [part for part in claim.expects if part.of in ("gain", "kept") or part.of.startswith("log:")]
    if not asked_parts:
        raise UserError(f"{name}: every part of it is about a task of the laboratory; it cannot be asked of --on")
    parts = [part for part in asked_parts if part.arm in arms and (part.than is None or part.than in arms)]
    if not parts:
        raise UserError(f"{name}: its arms differ in rows or sizes of the laboratory alone; it cannot be asked of --on")
    if any(part.than for part in claim.expects) and not any(part.than for part in parts):
        raise UserError(f"{name}: compares its arms on tasks of the laboratory alone; it cannot be asked of --on")
    remarks = [f"Not asked here: {part.format_sentence()}." for part in claim.expects if part not in parts]
    if claim.files is not None:
        remarks.append("The laboratory writes rows for this claim; others may leave its arms nothing to differ in.")
    return replace(
        claim,
        arms=arms,
        common=common,
        expects=[replace(part, at="best" if part.at == "validated" else part.at) for part in parts],
        figures=[
            one
            for one in claim.figures
            if isinstance(one.ours, ArmChange) and one.ours.of != "tasks" and one.ours.label in arms
        ],
        verdict=lambda arms: " ".join([describe_gains_and_losses(arms), *remarks]),
        validation=None,
        draw=None,
        files=None,
    )


def find_rates_of_arms(claim: Claim, recipe: Mapping[str, Any]) -> dict[str, list[float]]:
    """Find more multiples of a work's learning rate, for arms that need another one than what the work trains.

    A rate that fits SFT of all weights says little of others: in the laboratory LoRA's is five times as high, LOMO's
    300 times, that of pairs a tenth. Where that is beyond the claim's multiples, an arm runs at as many around it too,
    and its best rate is what counts.

    Args:
        claim: As in the laboratory, with its rates.
    """
    settings = recipe.get("optimizer") or {}
    if not claim.rates or not isinstance(settings, Mapping) or "learning_rate" not in settings:
        return {}  # every arm has its own by default
    silent_recipe = {**recipe, "optimizer": {key: settings[key] for key in settings if key != "learning_rate"}}
    (of_work,), (of_sft,) = (spread_rates(texts, silent_recipe, (1,)) for texts in ((), ("method=sft",)))
    common_rate = merge_settings(COMMON, claim.common)["optimizer"]["learning_rate"]
    rates_of_arms = {}
    for label, overrides in claim.arms.items():
        given_rates = [float(text.partition("=")[2]) for text in overrides if LEARNING_RATE.match(text)]
        rate = given_rates[-1] if given_rates else common_rate
        ratio = rate / COMMON["optimizer"]["learning_rate"] * of_sft / of_work
        if not min(claim.rates) <= ratio <= max(claim.rates):
            rates_of_arms[label] = [ratio * multiple for multiple in claim.rates]
    return rates_of_arms


def needs_rehearsal(claim: Claim) -> bool:
    """Whether an arm rehearses rows of the laboratory."""
    return any(REHEARSAL in texts for texts in claim.arms.values())


def name_rehearsed_rows(arms: Mapping[str, Sequence[str]], replay: Mapping[str, Any]) -> dict[str, list[str]]:
    """The arms with rows of a work's `data.replay` where the laboratory's are rehearsed, as large a share of them."""
    rehearsal = f"data.replay={json.dumps({**replay, 'share': REPLAY_SHARE})}"
    return {label: [rehearsal if text == REHEARSAL else text for text in texts] for label, texts in arms.items()}


def name_folder(place: str, moved_claim: Claim) -> str:
    """The directory of a claim's runs on a work: `place`, which all claims share that need no other.

    A claim needs another where it has settings of its own for all arms, or calls an arm by a name that an earlier claim
    has for another; claims that need it for the same reason share it.
    """
    meanings: dict[str, list[str]] = {}
    for claim in map(claim_of, CLAIMS):
        meanings = (leave_out_sizes(claim.arms) if isinstance(claim, Claim) else {}) | meanings
    others = {label: texts for label, texts in moved_claim.arms.items() if meanings.get(label, texts) != texts}
    settings = dict(moved_claim.common) | ({"arms": others} if others else {})
    return f"{place}-{fingerprint_json(settings)[:8]}" if settings else place


def leave_out_sizes(arms: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The overrides of every arm without sizes of the laboratory."""
    return {label: [text for text in texts if not LABORATORY_SIZES.match(text)] for label, texts in arms.items()}


def drop_repeated_arms(arms: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The arms that are left apart: of those that train alike without the laboratory's sizes, the first.

    "As many rows at random" is a number of rows in the laboratory; without it that is all rows, whatever it is called.
    Where several are left with a twin, the sizes are what the claim is about, and none is left.
    """
    alike: dict[tuple[str, ...], list[str]] = {}
    for label, overrides in arms.items():
        alike.setdefault(tuple(text for text in overrides if text != "method=sft"), []).append(label)
    is_about_sizes = sum(len(labels) > 1 for labels in alike.values()) > 1
    return {} if is_about_sizes else {labels[0]: arms[labels[0]] for labels in alike.values()}


def describe_costs(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each arm, as of a figure: minutes of a run, its tokens trained on and sampled."""
    rows = []
    for run in runs:
        minutes = (total_seconds(run["cost"]) or 0) / 60
        num_sampled = run["cost"]["sampled_for_training"] or 0
        text = f"{minutes:.1f} min; {describe_tokens(run)}, {num_sampled:,.0f} sampled for it"
        rows.append({"what": f"cost of a run, {run['method']}", "paper": "", "ours": text, "low": None, "high": None})
    return rows
