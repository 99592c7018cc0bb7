"""The contract of an inference method: what is done without, or after, training."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdfast.axes.method import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Inference(Method):
    """What is done without, or after, training.

    A method that changes weights overrides `apply`; evaluation and export then use the model it returns in place of the
    tuned one. (Methods that change logits, prompts or the number of tries will add their own hooks here.)
    """

    needs_base: ClassVar[bool] = True
    """Whether `apply` reads the base model; otherwise `None` may be given for it."""

    def apply(self, base: PreTrainedModel, tuned: PreTrainedModel) -> PreTrainedModel:
        """The model to use.

        Args:
            base: The model before training; left as it is.
            tuned: The model after training, plain (what a tuner trained beside the base is folded in); left as it is.
        Raises:
            UserError: If the two do not belong together.
        """
        raise NotImplementedError
