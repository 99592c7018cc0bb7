"""`holdfast analyse`: sections added to the report of a finished run, or several runs held against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.axes.analysis import AnalysedRun, AnalysedTask, Analysis, AnalysisContext
from holdfast.axes.registry import find_method, method_names, name_of
from holdfast.core.files import read_json
from holdfast.core.progress import Progress
from holdfast.data.row_store import RowFile
from holdfast.data.rows import fingerprint_json
from holdfast.errors import UserError
from holdfast.evaluation.summary import read_run
from holdfast.models.loading import load_model
from holdfast.models.own_base import find_own_base
from holdfast.pipeline.analyses import measure_section, open_policy, pair_tasks
from holdfast.pipeline.damage import read_report
from holdfast.pipeline.results import write_report
from holdfast.pipeline.run_dir import dependency_versions, replace_json
from holdfast.recipe.loader import read_recipe
from holdfast.recipe.schema import Recipe
from holdfast.report.schema import RunReport, validate_report

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat
    from holdfast.data.rows import Row, Rows
    from holdfast.models.loading import LoadedModel

FOLDER = "analyses"
"""Of a run: a JSON file of each section."""


@dataclass(frozen=True)
class FinishedRun:
    """A run's directory as analyses see it.

    Args:
        path: Its directory.
        recipe: What it was made by.
    """

    path: Path
    recipe: Recipe

    @classmethod
    def open(cls, path: str | Path) -> FinishedRun:
        """The run of a directory.

        Raises:
            UserError: If it is not finished, or not there.
        """
        folder = Path(path).expanduser()
        if not (folder / "report.json").exists() or not (folder / "resolved.yaml").exists():
            more = f"; go on with: holdfast train {path}" if (folder / "resolved.yaml").exists() else ""
            raise UserError(f"{path}: is no finished run{more or '; name the directory of one'}")
        return cls(folder, read_recipe(folder).recipe)

    def load_base(self, device: str) -> LoadedModel:
        """The model it started from."""
        name = find_own_base(str(self.path))
        try:
            return load_model(name or self.recipe.model, device=device)
        except UserError as error:
            raise UserError(f"{self.path}: its base is not there any more: {error}") from error

    def load_tuned(self, device: str) -> LoadedModel:
        """The model it left."""
        return load_model(self.path, device=device)

    def read_tasks(self) -> list[AnalysedTask]:
        """Its tasks with the answers it keeps."""
        measurements = read_run(self.path)
        infos = {task.info.name: task.info for task in measurements.tasks}
        questions: dict[str, list[Row]] = {}

        def open_rows(task: Any) -> list[Row]:
            if not questions:
                questions.update(self.read_questions())
            return questions.get(task.name, [])

        before = {name: list(items) for name, items in measurements.base.items()}
        after = {name: list(items) for name, items in measurements.tuned.items()}
        return pair_tasks(list(infos.values()), before, after, open_rows)

    def read_questions(self) -> dict[str, list[Row]]:
        """The rows of every task, read again as the run read them."""
        from holdfast.evaluation.tasks.by_name import build_tasks
        from holdfast.models.loading import is_lab
        from holdfast.pipeline.sources import read_sources

        sources = read_sources(self.recipe, lambda text: None, lambda text: None)
        tasks = build_tasks(self.recipe, sources.test, sources.judge, lab=is_lab(self.recipe.model))
        return {task.name: list(task.rows) for task in tasks}

    def read_rows(self) -> Rows:
        """What it was trained on; nothing where somebody removed that."""
        path = self.path / "curated.jsonl"
        return RowFile(path) if path.exists() else []

    def build_chat(self) -> Chat:
        """How it was asked."""
        from holdfast.data.chat.settings import ChatSettings, settings_of
        from holdfast.models.loading import load_tokenizer

        settings = settings_of(self.path) or ChatSettings(self.recipe.data.system)
        return settings.build_chat(load_tokenizer(self.path))


def open_context(paths: Sequence[str | Path], device: str = "auto", *, across_bases: bool = False) -> AnalysisContext:
    """What analyses look at: of several runs rows, tasks and models are those of the first.

    Args:
        across_bases: Whether they may have started from different models.
    Raises:
        UserError: If one is no finished run, or two of them did not start from one model and should have.
    """
    runs = [FinishedRun.open(path) for path in expand_comparisons(paths)]
    bases = {str(run.recipe.model) for run in runs}
    if len(bases) > 1 and not across_bases:
        raise UserError(
            f"{', '.join(str(run.path) for run in runs)}: started from different models ({', '.join(sorted(bases))}); "
            "compare runs of one base"
        )
    first, described_runs = runs[0], describe_runs(runs, device)
    return AnalysisContext(
        rows=first.read_rows(),
        tasks=described_runs[0].tasks,
        chat=first.build_chat(),
        open_base=lambda: open_policy(first.load_base(device).model),
        open_tuned=lambda: open_policy(first.load_tuned(device).model),
        open_folded=lambda: fold_model(first.load_tuned(device)),
        runs=described_runs,
    )


def fold_model(checkpoint: LoadedModel) -> Any:
    """A loaded model as plain weights, in place: it is nobody else's."""
    from holdfast.models.loading import has_adapter
    from holdfast.models.merging import fold_adapter

    model = checkpoint.model
    return open_policy(fold_adapter(model, checkpoint.tuner) if has_adapter(model) else model)


def expand_comparisons(paths: Sequence[str | Path]) -> list[Path]:
    """The directories of runs, those of a comparison one after another in its place; each once."""
    found_runs: list[Path] = []
    for path in map(Path, paths):
        comparison = read_json(path / "compare.json")
        if isinstance(comparison, dict):
            folders = [Path(folder) for arm in comparison.get("runs", []) for folder in arm.get("dirs", [])]
            places = [path / folder.name if (path / folder.name).exists() else folder for folder in folders]
            runs = [place for place in places if (place / "report.json").exists()]
            if not runs:
                raise UserError(f"{path}: none of the runs of this comparison is there any more")
            found_runs += runs
        else:
            found_runs.append(path)
    return list(dict.fromkeys(found_runs))


def describe_runs(runs: Sequence[FinishedRun], device: str) -> list[AnalysedRun]:
    """Runs with short names, each unlike the others."""
    names = [run.path.name for run in runs]
    several = {name for name, count in Counter(names).items() if count > 1}

    def open_model(run: FinishedRun) -> Callable[[], Any]:
        return lambda: open_policy(run.load_tuned(device).model)

    return [
        AnalysedRun(
            name=str(run.path) if run.path.name in several else run.path.name,
            group=group, seed=run.recipe.train.seed, tasks=run.read_tasks(), open_policy=open_model(run),
            n_rows=len(run.read_rows()),
        )
        for run, group in zip(runs, name_groups(runs), strict=True)
    ]  # fmt: skip


def name_groups(runs: Sequence[FinishedRun]) -> list[str]:
    """What the recipe of each run is called; those that differ in the seed alone are called the same, others not."""
    keys = []
    for run in runs:
        content = run.recipe.model_dump(mode="json", exclude={"output": True, "train": {"seed"}})
        keys.append(fingerprint_json(content))
    labels = {key: run.recipe.label for key, run in reversed(list(zip(keys, runs, strict=True)))}
    shared_labels = {label for label, count in Counter(labels.values()).items() if count > 1}
    first = {key: run.path.name for key, run in reversed(list(zip(keys, runs, strict=True)))}
    return [f"{labels[key]} as {first[key]}" if labels[key] in shared_labels else labels[key] for key in keys]


def choose_analyses(context: AnalysisContext, analyses: Sequence[Analysis]) -> list[Analysis]:
    """The analyses that were named; for want of names all that fit: those of one run, or those that compare.

    Raises:
        UserError: If one that was named needs several runs, and there is one.
    """
    several = len(context.runs) > 1
    if not analyses:
        everything = [find_method("analyses", name)() for name in method_names("analyses")]
        return [one for one in everything if isinstance(one, Analysis) and one.compares == several]
    for analysis in analyses:
        if analysis.compares and not several:
            raise UserError(f"{name_of(analysis)}: compares runs: give two or more, or the directory of a comparison")
        if not analysis.compares and several:
            raise UserError(f"{name_of(analysis)}: looks at one run: give the command for each")
    return list(analyses)


def analyse_runs(
    paths: Sequence[str | Path],
    analyses: Sequence[Analysis] = (),
    *,
    out: str | Path | None = None,
    device: str = "auto",
    ui: Progress | None = None,
) -> dict[str, Any]:
    """Look at a finished run, and add what is seen to its report; or hold several against each other.

    Every section is written as soon as it is there, whole: `analyses/NAME.json`, then report.json and the page. One of
    the same name takes the place of what stood there.

    Args:
        paths: Directories of runs; a comparison stands for all of its runs.
        analyses: Default: all that fit, of which those that find nothing to look at are named and left out.
        out: Directory of a comparison's sections; default: `analysis` beside the first run.
        device: As in a recipe.
    Returns:
        `{"directory", "page", "sections": [...]}`.
    Raises:
        UserError: If a run is not finished, or an analysis that was named finds nothing to look at.
    """
    ui = ui or Progress.create_silent()
    across_bases = bool(analyses) and all(analysis.across_bases for analysis in analyses)
    context = open_context(paths, device, across_bases=across_bases)
    several = len(context.runs) > 1
    folder = expand_comparisons(paths)[0]
    home = (Path(out).expanduser() if out else folder.parent / "analysis") if several else folder
    if out is not None and not several:
        raise UserError("--out: is for several runs; what is seen of one stands in its own directory")
    if several and (home / "resolved.yaml").exists():
        raise UserError(f"--out {home}: is the directory of a run; name another")
    chosen_analyses = choose_analyses(context, analyses)
    ui.start_phase("analyse", len(chosen_analyses))
    sections = []
    for analysis in chosen_analyses:
        try:
            section = measure_section(analysis, context)
        except UserError as error:
            if analyses:
                raise UserError(f"{name_of(analysis)}: {error}") from error
            ui.warn(f"{name_of(analysis)}: {error}")
            continue
        finally:
            ui.advance()
        sections.append(section)
        write_section(home, section, [run.name for run in context.runs] if several else [])
    return {"directory": str(home), "page": str(home / "report.html"), "sections": sections}


def write_section(home: Path, section: dict[str, Any], runs: Sequence[str] = ()) -> None:
    """Put a section in its place: a file of its own, the report, the page.

    Args:
        home: Directory of a run; or, with the names of several `runs`, of what compares them.
    """
    file = section["name"].rpartition(":")[2]
    (home / FOLDER).mkdir(parents=True, exist_ok=True)
    replace_json(home / FOLDER / f"{file}.json", section)
    place = home / ("analysis.json" if runs else "report.json")
    report: dict[str, Any] = (
        read_report(place) if place.exists() else {"name": home.name, "versions": dependency_versions()}
    )
    if runs and report.get("runs", list(runs)) != list(runs):
        report = {"name": home.name, "versions": dependency_versions()}  # of other runs
    if runs:
        report["runs"] = list(runs)
    others = list(report.get("analyses") or [])
    at = next((i for i, other in enumerate(others) if other.get("name") == section["name"]), len(others))
    report["analyses"] = [*others[:at], section, *others[at + 1 :]]
    report = validate_report(RunReport, report)
    replace_json(place, report)
    if runs:
        from holdfast.report.html import render_analyses, write_page

        write_page(home / "report.html", render_analyses(report))
    else:
        write_report(home, report)
