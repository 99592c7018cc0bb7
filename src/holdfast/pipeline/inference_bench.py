"""What an inference method may look at before it is used: rows, scores of the models, a training of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from holdfast.axes.inference import Inference
from holdfast.axes.registry import name_of
from holdfast.data.batching.batches import EncodedSequence
from holdfast.data.rows import Rows
from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.chat.encoder import Chat
    from holdfast.evaluation.task import Task
    from holdfast.models.loading import LoadedModel, Model
    from holdfast.pipeline.phases import RunContext
    from holdfast.training.callbacks import TrainResult


@dataclass(slots=True)
class ModelBench:
    """The rows of a run and its models, for `Inference.settle_knobs`.

    Args:
        chat: Of the models.
        rows: What was trained on. test: What is measured.
        is_choice: Whether that is multiple choice.
        open_model: Makes the model of a name: "tuned", "base", or a directory.
        train_rows: Trains the base on rows; `None` where nothing can be trained.
    """

    chat: Chat
    rows: Rows
    test: Rows
    is_choice: bool
    open_model: Callable[[str], Model]
    train_rows: Callable[[Rows], Path] | None = None
    models: dict[str, Model] = field(default_factory=dict)

    def score_labels(self, model: str, rows: Rows, labels: Sequence[str], form: str) -> np.ndarray:
        """Log-probabilities [rows, labels] of each label as an answer (`choice`), or of its first token."""
        from holdfast.evaluation.subject import EvaluatedModel, cut_to_context, score_sequences
        from holdfast.evaluation.tasks.multiple_choice import encode_choice
        from holdfast.models.policy import Policy

        if model not in self.models:
            self.models[model] = self.open_model(model)
        subject = EvaluatedModel("bench", self.chat, policy=Policy(self.models[model]))
        if form == "first_token":
            return self._score_first_tokens(subject, rows, labels)
        prompts = [list(row.prompt) for row in rows]
        sequences = [
            cut_to_context(encode_choice(self.chat, prompt, label, number), subject)
            for number, prompt in enumerate(prompts)
            for label in labels
        ]
        return np.array(score_sequences(sequences, subject)).reshape(len(rows), len(labels))

    def _score_first_tokens(self, subject: object, rows: Rows, labels: Sequence[str]) -> np.ndarray:
        from holdfast.evaluation.subject import EvaluatedModel, build_batch, cut_to_context, run_groups

        assert isinstance(subject, EvaluatedModel)
        assert subject.policy is not None
        policy, first = subject.policy, self._first_tokens(labels)
        prompts = self.chat.prompt_ids_many([list(row.prompt) for row in rows])
        sequences = [
            cut_to_context(
                EncodedSequence(np.array([*ids, first[0]], np.int32), np.arange(len(ids) + 1) == len(ids), i), subject
            )
            for i, ids in enumerate(prompts)
        ]
        scores = np.zeros((len(rows), len(labels)))

        def take_labels(logits: Tensor, part: slice) -> Tensor:
            return logits.log_softmax(-1)[:, first]

        def score_group(numbers: list[int]) -> None:
            batch = build_batch([sequences[i] for i in numbers], subject)
            scores[numbers] = policy.over_vocabulary(batch, take_labels).double().cpu().numpy()

        run_groups(sequences, subject, score_group)
        return scores

    def _first_tokens(self, labels: Sequence[str]) -> list[int]:
        from holdfast.generation.prompt_ids import answer_ids

        return [answer_ids(self.chat, label)[0] for label in labels]

    def require_first_tokens(self, present: Sequence[str], absent: Sequence[str]) -> None:
        """See that labels can be told apart by their first tokens.

        Raises:
            UserError: If an absent label begins as a trained one.
        """
        by_token = dict(zip(self._first_tokens(present), present, strict=True))
        for label, first in zip(absent, self._first_tokens(absent), strict=True):
            if first in by_token:
                raise UserError(
                    f"inference.calibration: the absent label {label!r} begins with the same token as the trained "
                    f"label {by_token[first]!r}, so that first tokens do not tell them apart; measure "
                    "it as multiple choice (form: choice), or leave it out of absent"
                )

    def train_copy(self, rows: Rows) -> str:
        """The base trained on rows: the name of the model.

        Raises:
            UserError: Where nothing can be trained.
        """
        if self.train_rows is None:
            raise UserError("inference.calibration: pcv trains, which only a run does; use gamma: alg, or a number")
        return str(self.train_rows(rows))


def settle_inference(work: RunContext, result: TrainResult, tuned: Model, rows: Rows) -> Inference | None:
    """The recipe's inference method with what it leaves open found from the run; its section goes into the report.

    Args:
        tuned: The trained model as it is measured.
        rows: What it was trained on.
    """
    from holdfast.models.loading import load_model
    from holdfast.pipeline.reference_training import train_reference

    method = work.recipe.inference
    if method is None or type(method).settle_knobs is Inference.settle_knobs:
        return method

    def open_model(name: str) -> Model:
        return tuned if name == "tuned" else load_model(
            work.recipe.model if name == "base" else name, device=work.base.device
        ).model  # fmt: skip

    work.ui.start_phase(f"settle {name_of(method)}")
    bench = ModelBench(
        work.chat, rows, *find_label_rows(work.tasks), open_model,
        lambda some: train_reference(work, f"inference {name_of(method)}", some, result.epochs or 1.0),
    )  # fmt: skip
    settled_method = method.settle_knobs(bench)
    if settled_method != method:
        knobs = ", ".join(f"{k} {getattr(settled_method, k)}" for k in method.unsettled_knobs())
        work.ui.write_line(f"inference {name_of(method)}: {knobs}")
    if (section := settled_method.build_section(bench)) is not None:
        work.sections.append({"name": name_of(method), **section.to_json()})
    return settled_method


def settle_for_model(method: Inference | None, checkpoint: LoadedModel, name: str, chat: Chat) -> Inference | None:
    """A method chosen after the training, with what it leaves open found from the rows of the run it is asked for.

    Raises:
        UserError: If something is open, and the model is no run.
    """
    if method is None or not (knobs := method.unsettled_knobs()):
        return method
    folder = Path(name).expanduser()
    if not (folder / "curated.jsonl").exists():
        raise UserError(
            f"inference.{name_of(method)}: {' and '.join(knobs)} {'is' if len(knobs) == 1 else 'are'} found from the "
            f"rows of a run, and {name} is none; give a value for each"
        )
    from holdfast.data.reading.formats import open_rows
    from holdfast.evaluation.tasks.by_name import build_tasks
    from holdfast.models.loading import load_model
    from holdfast.pipeline.sources import read_sources
    from holdfast.recipe.loader import read_recipe

    recipe = read_recipe(folder).recipe
    sources = read_sources(recipe, lambda text: None, lambda text: None)
    tasks = build_tasks(recipe, sources.test, sources.judge, lab=checkpoint.lab)

    def open_model(model: str) -> Model:
        return checkpoint.model if model == "tuned" else load_model(recipe.model, device=checkpoint.device).model

    return method.settle_knobs(
        ModelBench(chat, open_rows(folder / "curated.jsonl"), *find_label_rows(tasks), open_model)
    )  # fmt: skip


def find_label_rows(tasks: Sequence[Task]) -> tuple[Rows, bool]:
    """The rows of the target, and whether they are multiple choice."""
    targets = [task for task in tasks if task.role == "target"]
    return [row for task in targets for row in task.rows], any(task.kind == "choice" for task in targets)
