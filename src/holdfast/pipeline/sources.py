"""From the recipe's data names to rows: files, data sets, and the skills of the laboratory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.axes.judge import Judge
from holdfast.axes.registry import name_of
from holdfast.data.reading.formats import count_shared_prompts, open_rows, split_rows
from holdfast.data.reading.join import Part, chain_rows, join_parts
from holdfast.data.reading.labels import without_bad_answers
from holdfast.data.reading.readers import MissingFile, default_document, files_of, holds_text
from holdfast.data.row_shapes import takes_pairs
from holdfast.data.rows import Rows
from holdfast.errors import UserError
from holdfast.methods.judges.selection import check_fit, guess_judge
from holdfast.recipe.data_entries import data_label, entry_name, test_files, train_files
from holdfast.recipe.data_section import DataFile, TrainFile
from holdfast.recipe.schema import Recipe
from holdfast.recipe.task_entry import takes_recipe_judge
from holdfast.skills.base import Form, SkillJudge
from holdfast.skills.rows import FRESH, lab_rows, parse_skill_source


@dataclass(frozen=True, slots=True)
class Sources:
    """The rows of a run.

    Args:
        train: To train on, before curation.
        test: Held out; may be empty.
        judge: Decides whether an answer to them is right; `None` where the references are free text and the recipe
            names no judge.
    """

    train: Rows
    test: Rows
    judge: Judge | None


def is_lab(source: str) -> bool:
    """Whether a data name means the laboratory."""
    return source == "lab" or source.startswith("lab:")


def lab_form(recipe: Recipe) -> Form:
    """What laboratory rows must hold: what the objective trains on, unless a curator makes that of answers."""
    return "answer" if makes_pairs(recipe) else _objective_form(recipe)


def makes_pairs(recipe: Recipe) -> bool:
    """Whether a curator makes the pairs that are trained on."""
    return any(curator.effect == "pair" for curator in recipe.curate)


def _objective_form(recipe: Recipe) -> Form:
    """What laboratory rows must hold for an objective. Single answers to be judged are made of pairs.

    Where an answer without a score is a demonstration (`uft`), the skill's own answers are demonstrations: taken apart,
    its pairs would give a score to every answer.
    """
    shape, objective = recipe.row_shape(), recipe.objective
    if shape.lab_form != "answer":
        return shape.lab_form
    if any(column.name == "score" and column.default is not None for column in objective.value_columns()):
        return "answer"
    return "pair" if takes_pairs(shape, objective.value_columns()) else "answer"


def open_extra_rows(
    recipe: Recipe,
    source: str,
    columns: dict[str, int | str] | None = None,
    ignore: Sequence[str] = (),
    say: Callable[[str], Any] = lambda text: None,
) -> Rows:
    """Rows to train on beside the recipe's own: they must be what its objective takes.

    Args:
        columns: Which column is what, as in `data.columns`.
        ignore: Which are not used, as in `data.ignore`.
        say: Called with a line on how they were read.
    """
    reader = _Reader(recipe, None, (), say, {})
    entry = DataFile(path=source, columns=columns, ignore=tuple(ignore))
    return reader.read_rows(entry, "data.replay", _objective_form(recipe), **_row_requirements(recipe))


def _row_requirements(recipe: Recipe) -> dict[str, Any]:
    """What rows of a file must be to be trained on as they are."""
    return {"kind": recipe.row_shape(), "columns": recipe.objective.value_columns()}


def read_sources(
    recipe: Recipe,
    say: Callable[[str], Any],
    warn: Callable[[str], Any],
    where: Mapping[str, str] | None = None,
) -> Sources:
    """Open and split the recipe's data, and settle its judge.

    Args:
        say, warn: Called with one line each for what the user should know.
        where: Dotted setting to where it stands (`ResolvedRecipe.sources`), for errors about files that are not there.
    """
    data = recipe.data
    requirements = (
        {} if recipe.curate or data.replay else _row_requirements(recipe)
    )  # curated rows are not yet those trained on
    reader = _Reader(recipe, data.columns, data.ignore, say, where or {})
    entries, form = train_files(data), lab_form(recipe)
    if data.document != "auto" and not any(holds_text(entry_name(entry)) for entry in (*entries, *test_files(data))):
        raise UserError(
            f"data.document: {data.document} is for text files (.txt), and {data_label(data)} is none; leave it out"
        )
    if len(entries) == 1:
        train = reader.read_rows(entries[0], "data.train", form, data.limit, **requirements)
    else:
        parts = [
            Part(entry_name(entry), reader.read_rows(entry, f"data.train.{number}", form, **requirements), entry.share)
            for number, entry in enumerate(entries)
        ]
        train, lines = join_parts(parts, data.limit)
        for line in lines:
            say(line)
    test: Rows = []
    held_out = test_files(data)
    if held_out:
        test = chain_rows([reader.read_rows(entry, "data.test", "answer") for entry in held_out])
    elif data.test and len(entries) == 1 and is_lab(entries[0].path):
        test = lab_rows(entries[0].path, "test", recipe.evaluate.items, seed=FRESH)
    elif isinstance(data.test, float) and data.test > 0:
        train, test = split_rows(train, data.test, seed=0)
    duplicate_count = count_shared_prompts(train, test)
    if duplicate_count:
        warn(
            f"{data_label(data)}: {duplicate_count} of the {len(test)} test questions also stand among the training "
            f"rows{', which are left out' if data.decontaminate else ''}"
        )
    return Sources(train, test, settle_judge(recipe, train, say, warn, is_needed=_needs_judge(recipe)))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Opens the files of a recipe.

    Args:
        recipe: Whose they are.
        columns, ignore: Which column is what, and which are not used, of files that do not say it themselves.
        say: Called with a line on each file.
        where: Dotted setting to where it stands.
    """

    recipe: Recipe
    columns: Mapping[str, str | int] | None
    ignore: Sequence[str]
    say: Callable[[str], Any]
    where: Mapping[str, str]

    def read_rows(
        self, entry: DataFile | TrainFile, key: str, form: Form, limit: int | None = None, **requirements: Any
    ) -> Rows:
        """The rows of an entry: of one file, or of all that its pattern or folder stands for, one after another.

        Args:
            key: The setting that names it.
            form: What laboratory rows hold.
            limit: Most rows; the entry's own limit goes before.
            requirements: What an objective asks of every row.
        """
        data, rows_left = self.recipe.data, entry.limit or limit
        if is_lab(entry.path):
            return lab_rows(entry.path, "train", rows_left, form=form)
        options: dict[str, Any] = {
            "mapping": entry.columns or self.columns,
            "ignore": self.ignore if entry.ignore is None else entry.ignore,
            "own": self.recipe.row_shape().columns,
            "own_answers": self.recipe.row_shape().holds_answers,
            "revision": entry.revision,
            **requirements,
        }
        parts: list[Rows] = []
        lines: list[tuple[str, str]] = []
        try:
            names = files_of(entry_name(entry))
            options["document"] = default_document(names, data.document)
            if options["document"] != data.document:
                self.say(f"{entry_name(entry)}: {len(names)} files, each text one document (data.document)")
            for name in names:
                if rows_left == 0:
                    break
                add_line = lambda text, name=name: lines.append((name, text))  # noqa: E731
                file_rows = open_rows(name, data.format, rows_left, rejected=data.rejected, say=add_line, **options)
                rows_left = None if rows_left is None else rows_left - len(file_rows)
                parts.append(self._drop_bad_answers(name, file_rows, add_line))
        except MissingFile as error:
            raise UserError(f"{self._format_place(key)}{error}") from error
        self._say_lines(entry_name(entry), lines)
        return chain_rows(parts)

    def _drop_bad_answers(self, name: str, rows: Rows, say: Callable[[str], Any]) -> Rows:
        """The rows without the answers that are labelled false, if the objective would teach these like the others."""
        if any(column.name == "label" for column in self.recipe.objective.value_columns()):
            return rows
        good_rows = without_bad_answers(rows)
        if len(good_rows) == len(rows):
            return rows
        method = name_of(self.recipe.objective)
        if not len(good_rows):
            raise UserError(
                f"{name}: all {len(rows)} answers are labelled false, and {method} would teach them; use objective kto"
            )
        say(
            f"{name}: left out {len(rows) - len(good_rows)} of {len(rows)} rows: their answers are labelled false, and "
            f"{method} would teach them (objective kto learns from them)"
        )
        return good_rows

    def _say_lines(self, whole: str, lines: list[tuple[str, str]]) -> None:
        """What there is to say of the files; what is the same of several is said once."""
        same: dict[str, list[str]] = {}
        for name, text in lines:
            same.setdefault(text.removeprefix(name), []).append(name)
        for text, names in same.items():
            self.say((names[0] if len(names) == 1 else f"{whole} ({len(names)} files)") + text)

    def _format_place(self, key: str) -> str:
        """`run.yaml:3: `: where a setting, or the nearest part of the recipe around it, stands."""
        steps = key.split(".")
        places = (
            self.where.get(".".join((*steps[:n], *end))) for n in range(len(steps), 1, -1) for end in ((), ("path",))
        )
        place = next(filter(None, places), "")
        return f"{place}: " if place and place != "default" else ""


def _needs_judge(recipe: Recipe) -> bool:
    return any(c.uses_judge() for c in recipe.curate) or takes_recipe_judge(recipe.evaluate.target)


def settle_judge(
    recipe: Recipe, rows: Rows, say: Callable[[str], Any], warn: Callable[[str], Any], is_needed: bool = True
) -> Judge | None:
    """The recipe's judge, the skill's own, or the one the references call for; checked against the rows if needed.

    Raises:
        UserError: If the references are free text, no judge is named, and a curator needs one.
    """
    files = train_files(recipe.data)
    skill = parse_skill_source(entry_name(files[0])) if len(files) == 1 else None  # several have several judges
    judge = recipe.judge or (SkillJudge(skill=skill) if skill else None)
    if judge is None:
        judge, why = guess_judge(rows)
        if judge is None:
            _refuse_to_guess(recipe)
        elif is_needed:
            say(f"{why}; name another under judge if that is wrong")
    if is_needed and judge is not None and (text := check_fit(judge, rows)):
        warn(text)
    return judge


def _refuse_to_guess(recipe: Recipe) -> None:
    """A curator that keeps the answers a judge passes cannot do without one."""
    needing = next((curator for curator in recipe.curate if curator.uses_judge()), None)
    if needing is None:
        return
    raise UserError(
        f"{data_label(recipe.data)}: the references are free text, and curator {name_of(needing)} keeps the answers "
        "that a judge passes; name one: judge: overlap (words in common), judge: {name: llm} (a model decides), "
        "judge: {name: python, function: FILE.py:FUNCTION}, or judge: exact if an answer must equal its reference"
    )
