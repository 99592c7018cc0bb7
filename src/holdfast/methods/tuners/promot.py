"""ProMoT: first a soft prompt takes in what the task looks like, then the model learns the task behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.tuner import SavedFormat, Taxonomy, Tuner
from holdfast.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from holdfast.axes.optimizer import Optimizer
    from holdfast.models.loading import Model

PROMPT, WEIGHTS = 0, 1
"""The two stages, as draws: which of the two moves."""

LOAD = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

weights = AutoModelForCausalLM.from_pretrained($place + "/base", dtype=$dtype)  # alone: for all but the target
model = PeftModel.from_pretrained(weights, $place)
tokenizer = AutoTokenizer.from_pretrained($place)"""


class ProMoT(Tuner):
    """A prompt learns a task's format, the model frozen; then the model the task. [Wang et al. 2022, arXiv 2211.00635]

    What: of all steps the first `prompt_share` train a soft prompt P [tokens, d] before every row, the model frozen;
    the rest train the model, P frozen. The target is answered with P, everything else without. Rationale: a model
    specialises to a task's format in its first steps; P takes that in, and leaves the model when it is left out.

    Each stage has the whole schedule of the optimizer, warm-up included: the prompt's peak is `prompt_rate`, the
    model's `optimizer.learning_rate`. The state of the optimizer is that of what moves. P starts as embeddings of
    tokens drawn from the vocabulary. `tokens: 0` is full fine-tuning.

    When it helps: tasks of a narrow format (labels, one word) that make a model forget how to answer anything else.

    When it fails: few steps (both stages need their share); rows with `layout: packed`, which have one beginning. Not
    with what needs plain weights (`dial`, a stage after it): the weights alone are in OUTPUT/model/base.

    Columns needed: none beyond the objective's. Stored: P in PEFT's format, and in `base/` the model's weights. Tasks
    that are the target are measured with P, those to be kept without; `chat` and named tasks of `eval` have P.

    Paper: Wang, Si, Li, Lukasik, Yu, Hsieh, Dhillon, Kumar 2022, arXiv 2211.00635 (ICLR 2024). There: 100 tokens, 5,000
    steps at rate 0.3 for P, 1,000 at 1e-3 for mT5-XXL, Adafactor.
    """

    paper: ClassVar[str] = "Wang et al. 2022, arXiv 2211.00635"
    taxonomy: ClassVar[Taxonomy] = "hybrid"
    formula: ClassVar[str] = "tokens · d, then P"

    tokens: int = Field(100, ge=0, description="Length of the prompt; 0 is full fine-tuning.")
    prompt_share: float = Field(0.83, gt=0, lt=1, description="Share of the steps that train the prompt.")
    prompt_rate: float = Field(0.3, gt=0, description="Peak learning rate of the prompt.")

    def check(self, model: Model) -> None:
        """See that the prompt leaves room for rows.

        Raises:
            UserError: If not.
        """
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if isinstance(context, int) and self.tokens >= context - 1:
            raise UserError(f"tuner.tokens: {self.tokens} leave no room for rows in a context of {context}; set fewer")

    def apply(self, model: Model, seed: int) -> Model:
        """A `PeftModel` with the prompt before `model`; both may move, and `apply_draw` says which does."""
        import torch
        from peft import PromptTuningConfig, get_peft_model

        if not self.tokens:
            model.requires_grad_(True)
            return model
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=self.tokens)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            embedding: Any = model.get_input_embeddings()
            drawn_ids = torch.randint(len(embedding.weight), (self.tokens,)).to(embedding.weight.device)
            tuned: Any = get_peft_model(model, config)  # type: ignore[arg-type]
        prompt = tuned.prompt_encoder["default"].embedding.weight
        with torch.no_grad():  # of the layer's output, which some families scale
            prompt.copy_(embedding(drawn_ids))
        tuned.requires_grad_(True)
        return tuned

    def draw_number(self, step: int, steps: int, epoch: int) -> int | None:
        """The stage."""
        return int(step >= self._prompt_steps(steps)) if self.tokens else None

    def apply_draw(self, model: Model, seed: int, draw: int) -> None:
        """The prompt alone moves, or all but the prompt."""
        names = self.adapter_parameters(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_((name in names) == (draw == PROMPT))

    def learning_rate_at(self, optimizer: Optimizer, step: int, steps: int) -> float:
        """A whole schedule for each stage."""
        first = self._prompt_steps(steps)
        if not self.tokens or step >= first:
            return optimizer.learning_rate_at(step - first, steps - first)
        return optimizer.learning_rate_at(step, first) * self.prompt_rate / optimizer.learning_rate

    def _prompt_steps(self, steps: int) -> int:
        return max(1, min(steps - 1, round(self.prompt_share * steps))) if self.tokens else 0

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """The prompt's, in the first stage; of length 0 the model's."""
        embedding: Any = model.get_input_embeddings()
        whole = sum(p.numel() for p in model.parameters())
        return self.tokens * int(embedding.weight.shape[1]) if self.tokens else whole

    def memory_class(self) -> str:
        """Gradients and optimizer state of all weights, in the second stage."""
        return "all"

    def virtual_tokens(self) -> int:
        """`tokens`."""
        return self.tokens

    def model_elsewhere(self, model: Model) -> Model:
        """The weights without the prompt."""
        return model.get_base_model() if self.tokens else model  # type: ignore[operator, return-value]

    def adapter_parameters(self, model: Model) -> set[str]:
        """The prompt, which stays fp32."""
        return {name for name, _ in model.named_parameters() if "prompt_encoder" in name}

    def save(self, model: Model, directory: Path, dtype: torch.dtype | None = None) -> SavedFormat:
        """The prompt as PEFT keeps it, and the weights in `base/`."""
        from holdfast.models.files import OWN_WEIGHTS, PEFT_SETTINGS

        if not self.tokens:
            return super().save(model, directory, dtype)
        model.get_base_model().save_pretrained(str(directory / OWN_WEIGHTS))  # type: ignore[operator]
        model.save_pretrained(str(directory), save_embedding_layers=False)
        (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty form
        settings = json.loads((directory / PEFT_SETTINGS).read_text(encoding="utf-8"))
        # Not the base's name, whose weights are no longer those that the prompt stands before.
        settings["base_model_name_or_path"] = OWN_WEIGHTS
        (directory / PEFT_SETTINGS).write_text(json.dumps(settings, indent=2), encoding="utf-8", newline="\n")
        return SavedFormat("peft", LOAD, "")

    def load(self, directory: Path, base: PreTrainedModel) -> Model:
        """The prompt before the weights of `base/`."""
        from peft import PeftModel

        return PeftModel.from_pretrained(base, str(directory), is_trainable=False, torch_device="cpu")
