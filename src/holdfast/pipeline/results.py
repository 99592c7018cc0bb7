"""What a run leaves behind: its model, report, card and curves."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.events import RunFinished
from holdfast.core.files import fresh_directory, replace_file
from holdfast.evaluation.gate import apply_gate
from holdfast.evaluation.method_reach import SAMPLED
from holdfast.evaluation.summary import summarise_run
from holdfast.pipeline.analyses import run_analyses
from holdfast.pipeline.live_evaluation import live_figures, live_tasks
from holdfast.pipeline.pair_ranking import build_rater, rank_held_out_pairs
from holdfast.pipeline.phases import (
    RunContext,
    preview_rows,
)
from holdfast.pipeline.run_dir import STOP_KEY, dependency_versions
from holdfast.pipeline.subject import build_subject
from holdfast.pipeline.training_review import review_training
from holdfast.report.phrasing import change_of, lost_part
from holdfast.report.schema import RunReport, validate_report

if TYPE_CHECKING:
    from holdfast.axes.tuner import SavedFormat
    from holdfast.data.batching.tokenize import TableReport
    from holdfast.data.rows import Rows
    from holdfast.evaluation.task import ItemResult
    from holdfast.generation.decoder import Decoder
    from holdfast.recipe.schema import Recipe
    from holdfast.training.callbacks import TrainResult
    from holdfast.training.plan import TrainingPlan


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run.

    Args:
        path: Its directory; accepted wherever a model is.
        report: The content of `report.json`; `typed_report` has the same with attributes.
    """

    path: Path
    report: dict[str, Any]

    @property
    def typed_report(self) -> RunReport:
        """The report with names to complete and types to check: `result.typed_report.gain.delta`."""
        return RunReport.model_validate(self.report)

    def __repr__(self) -> str:
        return f"RunResult({str(self.path)!r}: {self._outcome_text()})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the outcome, and a link to the report."""
        page = html.escape(str(self.path / "report.html"), quote=True)
        return f'<p><b>{html.escape(self._outcome_text())}</b><br><a href="{page}" target="_blank">{page}</a></p>'

    def _outcome_text(self) -> str:
        from holdfast.report.phrasing import describe_result

        return describe_result(self.report) if self.report else "not measured in this process"


def save_model(
    work: RunContext, result: TrainResult, decoder: Decoder, measured_items: dict[str, list[ItemResult]]
) -> SavedFormat:
    """Write `model/`, with how it answers where weights alone do not say that; and say how others load it.

    Args:
        measured_items: Items measured of it, which are kept for all runs that start from it: from its weights.
    """
    from holdfast.evaluation.results_store import shared_store
    from holdfast.evaluation.subject import measurement_fingerprint
    from holdfast.models.loading import fingerprint_of
    from holdfast.models.reward_model import save_reward_model
    from holdfast.models.saving import write_model_files
    from holdfast.models.value_head import save_value_head

    path, base = work.folder.path / "model", work.base
    with fresh_directory(path) as side:
        saved_as = write_model_files(
            side, result.model, base.tokenizer,
            dtype=base.dtype, chat=work.chat, tuner=result.tuner, base=base.fingerprint,
        )  # fmt: skip
        decoder.write_setup(side)
    if saved_as.note:
        work.ui.write_line(f"{path}: {saved_as.fill_snippet(saved_as.note, base=work.recipe.model)}")
    if result.value_head is not None and work.recipe.objective.makes_reward_model:
        tokenizer, run = base.tokenizer, work.folder.path
        line = save_reward_model(run, result.model, result.tuner, result.value_head, tokenizer, work.chat)
        work.ui.write_line(line)
    elif result.value_head is not None:
        save_value_head(result.value_head, work.folder.path)
    if measured_items and not decoder.methods:
        subject = build_subject(work, result.model, fingerprint_of(path), result.tuner)
        subject.rater = build_rater(work, result.model, result.value_head)
        for task in work.tasks:
            if task.name in measured_items:
                fingerprint = measurement_fingerprint(task, subject.select_subject(task))
                shared_store().write_items(task, fingerprint, measured_items[task.name])
    return saved_as


def write_results(
    work: RunContext,
    rows: Rows,
    result: TrainResult,
    saved_as: SavedFormat,
    token_report: TableReport,
    plan: TrainingPlan,
    before: dict[str, list[ItemResult]],
    after: dict[str, list[ItemResult]],
) -> RunResult:
    """Write report and card, and hold the result against the gate."""
    folder, recipe = work.folder, work.recipe
    summary, version_table = summarise_run(work.tasks, before, after), dependency_versions()
    warnings = [*plan.warnings, *review_training(folder.read_log())]
    for line in warnings[len(plan.warnings) :]:
        work.ui.warn(line)
    sections = [
        *work.sections,
        *rank_held_out_pairs(work, before, after),
        *run_analyses(work, result, rows, before, after),
    ]
    content = {
        "holdfast": version_table["holdfast"],
        "name": folder.path.name,
        "created": folder.state["created"],
        "method": recipe.label,
        "recipe": recipe.model_dump(mode="json"),
        "versions": version_table,
        "model": {
            "name": recipe.model, "fingerprint": work.base.fingerprint, "trainable": result.trainable,
            "parameters": sum(p.numel() for p in result.model.parameters()), **_build_dtype_entry(work),
            "saved_as": saved_as.to_json(), **_build_decoding_entry(folder.path / "model"),
        },
        "chat": _build_chat_entry(work),
        **summary,
        "gate": apply_gate(recipe.evaluate.gate, summary),
        "curves": build_curves(work, before, after, result.kept_step),
        "curation": _build_curation_entry(work, rows),
        "training": _build_training_entry(work, result, token_report, plan, warnings),
        **({"analyses": sections} if sections else {}),
        "cost": {
            "seconds": folder.state["seconds"], "tokens_per_second": result.tokens_per_second,
            "peak_memory_gib": result.peak_memory_gib, "sampled_tokens": work.journal.sampled_tokens,
            "sampled_for_training": folder.read_json("data.json")["sampled_tokens"], **_build_answer_cost(work, after),
        },
    }  # fmt: skip
    report = validate_report(RunReport, content)
    write_report(folder.path, report)
    folder.write_json("report.json", report)
    folder.state["finished"] = True
    folder.state.pop(STOP_KEY, None)
    if result.is_partial:
        folder.state[STOP_KEY] = recipe.train.stop_at
    folder.save_state()
    work.ui.emit(build_outcome(report))
    return RunResult(folder.path, report)


def _build_answer_cost(work: RunContext, after: dict[str, list[ItemResult]]) -> dict[str, float]:
    """What it took to measure the tuned model as it answers, where it was measured."""
    cost = work.folder.state.get("answering")
    questions = sum(len(after.get(task.name, ())) for task in work.tasks if task.kind in SAMPLED)
    if cost is None:
        return {}
    return {"answer_seconds": cost["seconds"], "forward_passes": cost["passes"], "questions": questions}


def _build_training_entry(
    work: RunContext, result: TrainResult, token_report: TableReport, plan: TrainingPlan, warnings: list[str]
) -> dict[str, Any]:
    """What was trained on, how and for how long."""
    return {
        "rows": token_report.kept, "steps": result.steps, "planned_steps": plan.steps, "kept_step": result.kept_step,
        "stopped_early": result.stopped_early, "tokens": result.tokens, "trained_tokens": result.trained_tokens,
        "dropped": dict(token_report.dropped), "epochs": result.epochs, "batch_tokens": plan.size.tokens,
        "batch": plan.batch, "learning_rate": plan.learning_rate, "windows": token_report.windows,
        "clipped": result.clipped / max(1, result.steps), "clip_factor": _clip_factor(work), "warnings": warnings,
        **_build_arithmetic_entry(work.recipe, result),
    }  # fmt: skip


def _build_arithmetic_entry(recipe: Recipe, result: TrainResult) -> dict[str, str | int]:
    """The types that were trained in, where the recipe chose how weights are held."""
    bits = recipe.tuner.frozen_bits()
    if recipe.train.weights == "auto" and bits is None:
        return {}
    return {"arithmetic": result.arithmetic, **({"base_bits": bits} if bits else {})}


def _clip_factor(work: RunContext) -> float | None:
    """How many times longer than a fixed limit the median step's gradient was."""
    from holdfast.report.clipping import median_cut

    optimizer = work.recipe.optimizer
    return median_cut(work.folder.read_log(), optimizer.max_grad_norm if optimizer.clip == "fixed" else None)


def build_outcome(report: dict[str, Any]) -> RunFinished:
    """The event that a run has its report."""
    gain, loss = change_of(report["gain"]), lost_part(report)
    return RunFinished(
        gain=gain["delta"] if gain else None, loss=loss["delta"] if loss else None,
        passed=report["gate"]["passed"] if report["gate"] else None,
    )  # fmt: skip


def _build_chat_entry(work: RunContext) -> dict[str, Any]:
    """How the model is asked, and whether its chat template is one the base's tokenizer does not have."""
    from holdfast.data.chat.settings import ChatSettings

    own = work.base.tokenizer.chat_template != work.chat.template.text
    return {**ChatSettings.from_chat(work.chat).to_json(), "own_template": own}


def _build_decoding_entry(model: Path) -> dict[str, str]:
    """How the answers are made where the weights alone do not say it."""
    from holdfast.generation.decoder import read_setup

    setup = read_setup(model)
    return {"decoding": setup.line} if setup else {}


def _build_dtype_entry(work: RunContext) -> dict[str, str]:
    """The type of the weights in the files, and in which they were measured."""
    from holdfast.models.placement import weights_dtype

    saved_dtype = work.base.dtype
    names = {"dtype": saved_dtype, "measured_dtype": weights_dtype(saved_dtype, work.base.device)}
    return {key: str(dtype).removeprefix("torch.") for key, dtype in names.items()}


def _build_curation_entry(work: RunContext, rows: Rows) -> dict[str, Any]:
    data_record = work.folder.read_json("data.json")
    parts = {key: data_record[key] for key in ("counts", "notes", "dropped", "decontaminated") if key in data_record}
    return {**parts, "examples": preview_rows(rows)}


def build_curves(
    work: RunContext, before: dict[str, list[ItemResult]], after: dict[str, list[ItemResult]], kept_step: int
) -> list[dict[str, Any]]:
    """Loss of every step, with held-out loss, target and keep scores where they were measured.

    Step 0 is the base; the step whose weights were kept is the finished model, by its answers to the same questions.
    """
    from holdfast.evaluation.results_store import ResultsStore

    live = live_tasks(work.recipe, work.tasks)
    out = []
    if live:
        out.append({"step": 0, "tokens": 0, "loss": None, "learning_rate": None, **live_figures(live, before)})
    for entry in work.folder.read_log():
        if not {"tokens", "loss", "learning_rate"} <= entry.keys():
            continue  # measured of a step that a killed run has not logged yet
        step_items = (
            ResultsStore(work.folder.path / "eval" / f"step-{entry['step']:06d}").read_measurements() if live else {}
        )
        scores = live_figures(live, {name: items for name, (_, items) in step_items.items()})
        out.append({k: entry[k] for k in ("step", "tokens", "loss", "learning_rate")} | scores)
    for entry in out[1:] if live else ():
        if entry["step"] == kept_step:
            entry |= live_figures(live, after)
    return out


def write_report(path: Path, report: dict[str, Any]) -> None:
    """`report.html` and the model card of a run directory."""
    from holdfast.axes.tuner import TRANSFORMERS
    from holdfast.models.adapters import PEFT
    from holdfast.models.files import PEFT_SETTINGS
    from holdfast.report.html import render_run, write_page
    from holdfast.report.model_card import render_card

    write_page(path / "report.html", render_run(report))
    if "saved_as" not in (report.get("model") or {}):  # of a version that did not write it down
        saved_as = PEFT if (path / "model" / PEFT_SETTINGS).exists() else TRANSFORMERS
        report = {**report, "model": {**(report.get("model") or {}), "saved_as": saved_as.to_json()}}
    replace_file(path / "README.md", render_card(report))
    if (path / "model").is_dir():
        replace_file(path / "model" / "README.md", render_card(report, "."))
