"""LoRA: low-rank updates beside frozen weights, through PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.tuner import Taxonomy
from holdfast.methods.tuners.base_bits import check_base_bits, describe_base_bits
from holdfast.methods.tuners.modules import (
    ALL,
    check_module_names,
    check_parameter_names,
    check_targets,
    count_copies,
    count_expert_ranks,
    count_low_rank,
    describe_high_rank,
    linear_shapes,
    refuse_high_rank,
    resolve_targets,
)
from holdfast.methods.tuners.principal_start import StartingTuner
from holdfast.methods.tuners.reach import AdapterCoverage, build_meta_adapters, compute_coverage

if TYPE_CHECKING:
    from peft import LoraConfig

    from holdfast.models.loading import Model


class LoRA(StartingTuner):
    """Low-rank updates beside frozen weights. [Hu et al. 2021, arXiv 2106.09685]

    What: a linear map W [out, in] becomes W + s B A with A [r, in] drawn at random, B [out, r] = 0 and s = alpha / r
    (alpha / sqrt(r) with `rslora`). Only A and B move, so that the first step starts from exactly the base model.

    When it helps: little memory (optimizer states for about 1 % of the weights), small files, forgets less than `full`
    at the same target score, and comes off again: the base stays bit-identical. Reference log-probabilities cost
    no second model (`dpo`).

    When it fails: learning a lot of new material (low rank); it needs a learning rate about ten times that of `full`
    (1e-4 to 3e-4), else it seems not to learn. New tokens need `modules_to_save: [embed_tokens, lm_head]`.

    Columns needed: none beyond the objective's.

    Knobs: `base_bits` holds the frozen weights in 4 or 8 bits while A and B train (QLoRA, Dettmers et al. 2023, arXiv
    2305.14314): a quarter of the memory of weights in bf16, or half. `dora` trains direction and length of each
    column apart (Liu et al. 2024, arXiv 2402.09353), slower; `rslora` keeps the update's size independent of r
    (Kalajdzievski 2023, arXiv 2312.03732), for r above 32. `init: pissa` starts with the r largest singular triples of
    each W instead of 0, so that these move first (Meng et al. 2024, arXiv 2404.02948); W itself stays, what A and B
    start with is taken off beside it. `target_modules` matters most for what is forgotten: attention, mlp, or all.

    Stored: A and B as a PEFT adapter (of twice the rank with `init: pissa`). Merging adds s B A to W.

    Paper: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen 2021, arXiv 2106.09685.
    """

    paper: ClassVar[str] = "Hu et al. 2021, arXiv 2106.09685"
    taxonomy: ClassVar[Taxonomy] = "reparametrised"
    formula: ClassVar[str] = "r · (in + out) a matrix, and out more with dora"

    r: int = Field(8, ge=1, description="Rank.")
    alpha: float = Field(16, gt=0, description="Scale: the update is multiplied by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of A.")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear",
        description="Adapted modules: attention, mlp, or all (all-linear) of the layers, names, or an expression.",
    )
    target_parameters: tuple[str, ...] = Field(
        (), description="Beside them, tensors of experts that are no modules, such as mlp.experts.gate_up_proj."
    )
    modules_to_save: tuple[str, ...] = Field((), description="Modules trained in full and stored with the adapter.")
    rslora: bool = Field(False, description="Scale by alpha / sqrt(r).")
    dora: bool = Field(False, description="Weight-decomposed LoRA.")
    init: Literal["default", "gaussian", "orthogonal", "pissa", "pissa_niter_16"] = Field(
        "default",
        description="Start of A: default (Kaiming uniform), gaussian, or orthogonal (A and B); or of A and B what is "
        "largest in W: pissa (a full decomposition), pissa_niter_16 (seconds for large models, all but as good).",
    )
    base_bits: Literal[4, 8] | None = Field(
        None,
        description="Bits of the frozen weights while the adapter trains: 4 (QLoRA's NF4) or 8, by bitsandbytes "
        "(`pip install 'holdfast[quant]'`); default: as in the model's files. Measured and saved is the adapter on the "
        "weights as they are.",
    )

    def frozen_bits(self) -> int | None:
        """`base_bits`."""
        return self.base_bits

    def apply(self, model: Model, seed: int) -> Model:
        """A `PeftModel` around `model`, whose A start from `seed`; the base weights are frozen."""
        self._check_names(model)
        return self.attach_from_start(model, self._build_config(model), seed)

    def _build_config(self, model: Model) -> LoraConfig:
        from peft import LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # PEFT says int and divides by it as by any number
            lora_dropout=self.dropout,
            target_modules=resolve_targets(model, self.target_modules),
            target_parameters=list(self.target_parameters) or None,
            modules_to_save=list(self.modules_to_save) or None,
            use_rslora=self.rslora,
            use_dora=self.dora,
            init_lora_weights=self.init if self.init in ("gaussian", "orthogonal") else True,
            # GPT-2 stores its linear maps transposed; PEFT asks to be told.
            fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in model.modules()),
        )

    def check(self, model: Model) -> None:
        """See that every name is that of a module, and that PEFT can adapt them as these settings say."""
        self._check_names(model)
        self._compute_coverage(model)
        check_base_bits(model, self.base_bits)
        refuse_high_rank(model, shapes := self._list_shapes(model), self.r)
        self.check_start(model, shapes)

    def _check_names(self, model: Model) -> None:
        check_targets(model, resolve_targets(model, self.target_modules))
        check_module_names("modules_to_save", model, list(self.modules_to_save))
        check_parameter_names(model, self.target_parameters)

    def _compute_coverage(self, model: Model) -> AdapterCoverage:
        config = self._build_config(model)
        config.init_lora_weights = True  # other starts are computed, and a model without weights computes nothing
        return compute_coverage(build_meta_adapters(model, config))

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """A and B of every matrix and of every expert, magnitudes of `dora`, and modules trained in full."""
        return (
            count_low_rank(self._list_shapes(model), self.r, self.dora)
            + count_expert_ranks(model, self.target_parameters, self.r)
            + count_copies(model, self.modules_to_save)
        )

    def _list_shapes(self, model: Model) -> list[tuple[int, int]]:
        return linear_shapes(model, resolve_targets(model, self.target_modules))

    def list_notes(self, model: Model) -> list[str]:
        """A line with the share of the weights that adapters sit beside."""
        coverage = self._compute_coverage(model)
        return [
            f"adapters sit beside {coverage.adapted_weights / coverage.weights:.0%} of the model's "
            f"{coverage.weights:,} weights",
            *describe_base_bits(model, self.base_bits),
        ]

    def list_warnings(self, model: Model) -> list[str]:
        """Lines when the rank is above that of matrices it updates, and when all-linear leaves out experts."""
        return [
            *describe_high_rank(self._list_shapes(model), self.r),
            *(self._compute_coverage(model).describe_skipped_experts() if self.target_modules in (ALL, "all") else ()),
        ]
