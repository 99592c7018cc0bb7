"""UAL: label smoothing per row, the more the less certain its answer is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from holdfast.axes.objective import Losses, Objective
from holdfast.data.row_shapes import Column

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.objective import Batches
    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy
    from holdfast.models.stored_values import PrecomputedStore

MOST = 0.999
"""Largest smoothing: the label itself always counts."""


class UAL(Objective):
    """Uncertainty-aware learning: label smoothing that grows with a row's uncertainty. [Wang et al. 2024, 2406.04854]

    What it does: fits rows with one right answer strictly, and rows whose answer could as well have been another one
    loosely: part of each target's probability is spread evenly over the vocabulary.

    When it helps: open questions among closed ones, conflicting answers, rare facts the model would else learn to
    be sure of; the probabilities of the result are better calibrated.

    When it fails: an uncertainty that does not tell rows apart is plain label smoothing, or worse. `source: base` takes
    what the model finds unlikely for uncertain, which a new fact is as well. Small vocabularies are smoothed hard.

    Columns: conversations with answers; with `source: column` also `uncertainty`, 0 or more on any scale. Rows may
    carry `weight`.

    Formula, with l_t = log p(y_t | x, y_<t), answers b of n_b tokens, row weights w_b, vocabulary V, uncertainty U_b:

        u_t = (1 / V) sum_k log p(k | x, y_<t)
        L   = (1 / B) sum_b w_b (1 / n_b) sum_t [ -(1 - v_b) l_t - v_b u_t ]
        v_b = mean_smoothing U_b / mean(U)                                          mapping="mean"
        v_b = v_min + (v_max - v_min) (U_b - min U) / (max U - min U)               mapping="range"

    Shapes: l, u are [N], one entry per trained token; v, U are [B]; mean, min and max go over all rows; v is cut to
    [0, 0.999]. V counts the whole output layer, entries that only fill it up included.

    The paper has a stronger model (GPT-4) score each row and maps the scores linearly to v, but not on what scale:
    give the scores as `uncertainty`. Without any, the default `source: base` takes the mean of -l_t under the untouched
    model. Hugging Face's `label_smoothing_factor` is one v for all rows.
    """

    paper: ClassVar[str] = "Wang et al. 2024, arXiv 2406.04854"

    source: Literal["base", "column"] = Field(
        "base", description="base: the answer's mean loss under the untouched model; column: the rows' `uncertainty`."
    )
    mapping: Literal["mean", "range"] = Field("mean", description="How uncertainty becomes smoothing: see the formula.")
    mean_smoothing: float = Field(0.1, ge=0, lt=1, description="Mean smoothing of all rows, for mapping mean.")
    v_min: float = Field(0.0, ge=0, lt=1, description="Smoothing of the most certain row, for mapping range.")
    v_max: float = Field(0.2, ge=0, lt=1, description="Smoothing of the least certain row, for mapping range.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.v_min > self.v_max:
            raise ValueError(f"v_min {self.v_min:g} is above v_max {self.v_max:g}; swap them")
        return self

    def value_columns(self) -> tuple[Column, ...]:
        return (Column("uncertainty", low=0),) if self.source == "column" else ()

    def normalizers(self, batch: Batch) -> dict[str, float]:
        return {"nll": batch.n_sequences}

    def precompute(self, policy: Policy, batches: Batches, store: PrecomputedStore) -> None:
        import torch

        uncertainties = []
        for batch in batches():
            uncertainties.append(self.compute_uncertainty(policy, batch).cpu().double())  # some devices have no fp64
            store.rows["uncertainty"].set_values(batch, uncertainties[-1].float(), by="sequence")
        every = torch.cat(uncertainties)
        store.tensors["uncertainty"] = torch.stack([every.mean(), every.min(), every.max()]).float()

    def compute_uncertainty(self, policy: Policy, batch: Batch) -> Tensor:
        """U [B]."""
        if self.source == "column":
            return batch.values["uncertainty"]
        with policy.use_base_model():
            return -batch.sum_per_sequence(policy.token_logps(batch)) / batch.label_counts()

    def compute_smoothing(self, uncertainty: Tensor, overall: Tensor) -> Tensor:
        """v [B] of U [B], given mean, least and greatest U of all rows."""
        mean, least, most = overall
        if self.mapping == "mean":
            return (self.mean_smoothing * uncertainty / mean.clamp_min(1e-30)).clamp(0, MOST)
        share = (uncertainty - least) / (most - least).clamp_min(1e-30)
        return (self.v_min + (self.v_max - self.v_min) * share).clamp(0, MOST)

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        uncertainty = policy.store.rows["uncertainty"].get_values(batch, by="sequence")[:, 0]  # [B]
        v = self.compute_smoothing(uncertainty, policy.store.tensors["uncertainty"])  # [B]
        logps, uniform = policy.over_vocabulary(
            batch, lambda logits, part: label_and_mean(logits, batch.labels[part])
        ).unbind(-1)  # [N] each
        answers = (
            batch.sum_per_sequence(smoothed_losses(logps, uniform, v[batch.sequence])) / batch.label_counts()
        )  # [B]
        metrics = {"smoothing": (v.sum().item(), float(len(v)))}
        return Losses({"nll": (answers * batch.sequence_weights()).sum()}, metrics)


def label_and_mean(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of the label, and the mean over the vocabulary, [m, 2], from logits [m, V]."""
    import torch

    both = torch.stack([logits.gather(-1, labels[:, None])[:, 0], logits.mean(-1)], -1)
    return both - logits.logsumexp(-1, keepdim=True)


def smoothed_losses(logps: Tensor, uniform: Tensor, v: Tensor) -> Tensor:
    """-(1 - v) log p(label) - v mean log p: cross-entropy with label smoothing v, all [N]."""
    return -(1 - v) * logps - v * uniform
