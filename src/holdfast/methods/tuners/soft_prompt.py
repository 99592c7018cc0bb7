"""What tuners share that train something before every sequence, through PEFT, and leave the model as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.errors import UserError
from holdfast.models.adapters import PeftTuner, attach_adapter

if TYPE_CHECKING:
    from peft import PromptLearningConfig

    from holdfast.models.loading import Model


class SoftPromptTuner(PeftTuner):
    """A tuner of virtual tokens; it says in `build_config` of which kind."""

    mergeable: ClassVar[bool] = False

    tokens: int = Field(20, ge=1, description="Virtual tokens before every sequence; they take room in the context.")

    def virtual_tokens(self) -> int:
        """`tokens`."""
        return self.tokens

    def build_config(self) -> PromptLearningConfig:
        """PEFT's configuration of these settings."""
        raise NotImplementedError

    def check(self, model: Model) -> None:
        """See that the virtual tokens leave room in the model's context.

        Raises:
            UserError: If not.
        """
        from holdfast.models.loading import context_length

        room = context_length(model.config, self.tokens)
        if room is not None and room < 1:
            raise UserError(
                f"tuner.tokens {self.tokens:,} takes the whole context of {type(model).__name__}, "
                f"{room + self.tokens:,} tokens; set fewer"
            )

    def apply(self, model: Model, seed: int) -> Model:
        """A `PeftModel` around `model`, which is frozen; what stands before its sequences is drawn from `seed`."""
        return attach_adapter(model, self.build_config(), seed)
