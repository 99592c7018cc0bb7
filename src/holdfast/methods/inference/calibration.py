"""Calibration: labels that training left out are given back what it took from their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from holdfast.axes.inference import Inference
from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.analysis import AnalysisSection
    from holdfast.axes.inference import InferenceBench, LogitStep
    from holdfast.data.rows import Rows
    from holdfast.methods.inference.label_scores import LabelScores

MOST_LABELS = 200


class Calibration(Inference):
    """A constant for labels absent from fine-tuning, which made them unlikely. [Mai et al. 2024, arXiv 2409.16223]

    What: the answer is argmax z_c + gamma * [label c is absent from the training rows]. Fine-tuning on some labels
    hardly damages what tells the others apart; it makes the trained ones too likely. Of a question of multiple choice
    z_c is the log-likelihood of choice c; of a sampled answer it is the logit of its first token, at the first place
    alone (`first_token`), so that absent labels need first tokens that no trained label has.

    When it helps: classification fine-tuned on a part of the labels: gamma brings the others back, at the price of some
    trained ones. The report says which it was: accuracy on absent labels among themselves is what is still known, the
    area under the present/absent curve (AUSUC) is a figure of the model that no gamma changes.

    When it fails: where absent labels are not told apart any more either; where answers are no labels; where a model
    thinks before it answers, its first token is of the thought. `alg` takes the mean gap of wrong trained labels to
    absent ones on training rows, and is off where absent labels were rare before; `pcv` trains on halves of the labels
    (as many times as `splits`), and takes the gamma that would have been best for the half left out.

    Columns needed: answers that are labels.

    Paper: Mai, Chowdhury, Zhang, Tu, Chen et al. 2024, "Fine-Tuning is Fine, if Calibrated", arXiv 2409.16223, NeurIPS
    2024; classifiers of images, three splits. Their code measures ALG on the test set with its labels and averages over
    no split where none qualifies: here it is measured on training rows, and gamma is then 0.
    """

    paper: ClassVar[str] = "Mai et al. 2024, arXiv 2409.16223"
    needs_base: ClassVar[bool] = False
    neutral: ClassVar[Mapping[str, Any]] = {"gamma": 0.0, "form": "choice", "present": (), "absent": ()}

    gamma: float | Literal["alg", "pcv"] = Field("alg", description="What is added, in nats: a number, alg or pcv.")
    absent: Literal["auto"] | tuple[str, ...] = Field(
        "auto", description="Labels to add it to; auto = those of the test that no training row has."
    )
    present: Literal["auto"] | tuple[str, ...] = Field(
        "auto", description="The others; auto = those of the training rows."
    )
    form: Literal["auto", "choice", "first_token"] = Field(
        "auto", description="Where scores are: choice, first_token; auto = by how the target is measured."
    )
    splits: int = Field(3, ge=1, description="Trainings of pcv.")

    @field_validator("absent", "present", mode="before")
    @classmethod
    def _several_labels(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) and value != "auto" else value

    @classmethod
    def needs_training(cls) -> bool:
        return True

    def unsettled_knobs(self) -> Sequence[str]:
        names = ("gamma", "absent", "present", "form")
        return [name for name in names if isinstance(value := getattr(self, name), str) and value in UNSETTLED]

    def settle_knobs(self, bench: InferenceBench) -> Calibration:
        present, absent = self.find_labels(bench.rows, bench.test)
        form = self.form if self.form != "auto" else "choice" if bench.is_choice else "first_token"
        settling = self.model_copy(update={"present": present, "absent": absent, "form": form})
        if form == "first_token":
            bench.require_first_tokens(present, absent)
        gamma = self.gamma
        if gamma == "pcv":
            from holdfast.methods.inference.pseudo_labels import cross_validate

            gamma = cross_validate(bench, present, form, self.splits)
        elif gamma == "alg":
            gamma = settling.score_labels(bench, bench.rows, "tuned").average_gap()
        return settling.model_copy(update={"gamma": gamma})

    def check_rows(self, rows: Rows, test: Rows) -> None:
        self.find_labels(rows, test)

    def find_labels(self, rows: Rows, test: Rows) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The labels that were trained on, and those that were not.

        Raises:
            UserError: If the answers are no labels, or none is absent.
        """
        from holdfast.data.row_labels import list_labels

        labels = [list_labels(part) for part in (rows, test)]
        present = labels[0] if self.present == "auto" else self.present
        absent = [x for x in labels[1] if x not in present] if self.absent == "auto" else self.absent
        if self.absent == "auto" and (many := len({*labels[0], *labels[1]})) > MOST_LABELS:
            raise UserError(
                f"inference.calibration: the rows have {many:,} different answers, more than {MOST_LABELS}, which are "
                "hardly labels; name those to calibrate in absent"
            )
        if not absent:
            raise UserError(
                "inference.calibration: every label of the test is in the training rows, so none is absent; name the "
                "labels to calibrate in absent, or leave inference out"
            )
        if not present:
            raise UserError("inference.calibration: no training row has a label as its answer; name them in present")
        return tuple(present), tuple(absent)

    def score_labels(self, bench: InferenceBench, rows: Rows, model: str) -> LabelScores:
        """The scores of all labels on the rows that have one of them; of settled labels."""
        from holdfast.methods.inference.pseudo_labels import score_rows

        return score_rows(bench, model, rows, tuple(self.present), tuple(self.absent), self.form)

    def choice_bias(self, choice: str) -> float:
        return float(self.gamma) if self.form == "choice" and choice in self.absent else 0.0

    def logits(self, step: LogitStep) -> Tensor:
        own: Tensor = step["tuned"]  # [n, V]
        if self.form == "choice" or not self.gamma:
            return own
        present_ids = {step.answer_ids(label)[0] for label in self.present}
        ids = sorted({step.answer_ids(label)[0] for label in self.absent} - present_ids)
        own[:, ids] += float(self.gamma) * (step.places == 0)[:, None]
        return own

    def build_section(self, bench: InferenceBench) -> AnalysisSection | None:
        from holdfast.methods.inference.label_report import describe_calibration

        scores = {name: self.score_labels(bench, bench.test, name) for name in ("base", "tuned")}
        return describe_calibration(scores["base"], scores["tuned"], float(self.gamma))


UNSETTLED = ("auto", "alg", "pcv")
"""What a knob says that is found from the rows of a run."""
