"""Any method of PEFT that puts modules into a frozen model, by its own configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.tuner import Taxonomy
from holdfast.core.spelling import suggest_name
from holdfast.errors import UserError, first_line
from holdfast.methods.tuners.modules import (
    check_module_names,
    check_targets,
    linear_shapes,
    parse_targets,
    refuse_high_rank,
)
from holdfast.models.adapters import PeftTuner, attach_adapter

if TYPE_CHECKING:
    from peft import PeftConfig

    from holdfast.models.loading import Model

REFUSED = {
    "prompt_tuning": "say tuner: prompt",
    "p_tuning": "say tuner: ptuning",
    "prefix_tuning": "say tuner: prefix",
    "multitask_prompt_tuning": "it wants a task's number with every batch; say tuner: prompt",
    "cpt": "its loss is its own; say tuner: prompt",
    "cartridge": "it is distilled from a text, not trained on rows; say tuner: prefix",
    "adaption_prompt": "it replaces attention, and rows in one line or by length would read one another; say prefix",
    "poly": "it wants a task's number with every batch; say tuner: lora",
    "xlora": "it mixes adapters that are trained already; say tuner: lora",
    "adalora": "it prunes ranks by a call after every step, which the trainer does not make; say tuner: lora",
    "shadow": "it runs a second model beside the first; say tuner: lora",
}
"""Methods of PEFT that cannot train here, and what to do."""
STARTS = ("pissa", "olora", "corda", "loftq", "eva", "lora_ga")
"""Starts of PEFT's LoRA that rewrite the base's weights, or need data first."""


class Peft(PeftTuner):
    """Any method of PEFT that puts modules into a frozen model, VeRA by default. [Kopiczko et al. 2023, 2310.11454]

    What: `method` names one of PEFT's (vera, loha, lokr, oft, boft, hra, bone's successor miss, fourierft, randlora,
    ln_tuning, ...), `settings` are the fields of its configuration, as PEFT's documentation has them. VeRA: W becomes
    W + diag(b) B diag(d) A with random A and B that all layers share, and trained vectors d [r] and b [out].

    When it helps: a method of the literature that has no tuner of its own here; fewer weights than `lora` (VeRA).

    When it fails: as the method does. Its default learning rate is that of `lora`, which may be far from its own
    (VeRA: about ten times that). What its authors do in the loop is left out, so methods that need it are refused, as
    are those whose rows would have to carry more than tokens.

    Columns needed: none beyond the objective's.

    Stored: as an adapter of PEFT, which reads it anywhere. Folded in where the method can be; that is proven then.

    Paper: of VeRA Kopiczko, Blankevoort, Asano 2023, arXiv 2310.11454; of others PEFT's page of the method.
    """

    paper: ClassVar[str] = "Kopiczko et al. 2023, arXiv 2310.11454"
    taxonomy: ClassVar[Taxonomy] = "reparametrised"
    formula: ClassVar[str] = "that of the method; of vera r + out a matrix"

    method: str = Field("vera", description="PEFT's name of the method.")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Fields of its configuration, such as {r: 64, target_modules: [q_proj]}."
    )

    def build_config(self) -> PeftConfig:
        """PEFT's configuration.

        Raises:
            UserError: If there is no such method or field, or it cannot train here.
        """
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING

        configs = {str(getattr(kind, "value", kind)).lower(): cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        name = self.method.lower()
        if name in REFUSED:
            raise UserError(f"tuner: peft: method {self.method} cannot train here: {REFUSED[name]}")
        if name not in configs:
            raise UserError(
                f"tuner: peft: {self.method} is not a method of the PEFT that is installed{suggest_name(name, configs)}"
            )
        settings = dict(self.settings)
        if name == "lora" and str(start := settings.get("init_lora_weights")).startswith(STARTS):
            raise UserError(
                f"tuner.settings: init_lora_weights {start} changes the base, which is to stay as it is, or needs data "
                "first; say tuner: pissa, or leave it out"
            )
        if isinstance(settings.get("target_modules"), str):
            settings["target_modules"] = parse_targets(settings["target_modules"])
        try:
            return configs[name](task_type="CAUSAL_LM", **settings)
        except (TypeError, ValueError) as error:
            reason = first_line(error).removeprefix(f"{configs[name].__name__}.__init__() ")
            raise UserError(f"tuner.settings: PEFT's {name} does not take these: {reason}; see its page") from error

    def check(self, model: Model) -> None:
        """See that PEFT has the method, and puts it into such a model.

        Raises:
            UserError: If not.
        """
        from holdfast.models.loading import count_embeddings

        config = self.build_config()
        targets = getattr(config, "target_modules", None)
        if targets:
            check_targets(model, targets := sorted(targets) if isinstance(targets, (set, list, tuple)) else targets)
            if self.method.lower() == "lora":
                refuse_high_rank(model, linear_shapes(model, targets), self.settings.get("r", 8), "tuner.settings.r")
        check_module_names("settings.modules_to_save", model, list(getattr(config, "modules_to_save", None) or ()))
        if (most := max(getattr(config, "token_indices", None) or (0,))) >= (count := count_embeddings(model)):
            raise UserError(f"tuner.settings.token_indices: {most:,} is no token of a model that has {count:,}")
        self._build_trial(model)

    def count_trainable(self, model: Model, seed: int = 0) -> int | None:
        """What the method puts into a model of these shapes; `None` where that takes the weights themselves."""
        trial = self._build_trial(model)
        return None if trial is None else sum(p.numel() for p in trial.parameters() if p.requires_grad)

    def _build_trial(self, model: Model) -> Model | None:
        """The method in a model without weights; `None` where it must see them (those that decompose matrices)."""
        from peft import get_peft_model

        from holdfast.core.quiet import quiet_libraries
        from holdfast.models.loading import build_skeleton

        try:
            with quiet_libraries():
                return get_peft_model(build_skeleton(model.config), self.build_config())
        except (NotImplementedError, RuntimeError) as error:
            if "meta" in str(error).lower():
                return None
            raise UserError(f"tuner: PEFT's {self.method} does not go into this model: {first_line(error)}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"tuner: PEFT's {self.method} does not go into this model: {first_line(error)}; change tuner.settings"
            ) from error

    def apply(self, model: Model, seed: int) -> Model:
        """A `PeftModel` around `model`, drawn from `seed`; the base is frozen."""
        return attach_adapter(model, self.build_config(), seed)
