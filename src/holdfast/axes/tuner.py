"""The contract of a tuner: which weights move, what of them is stored and read back, and whether it comes off again."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from holdfast.axes.method import Method

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from holdfast.axes.optimizer import Optimizer
    from holdfast.models.loading import Model


@dataclass(frozen=True, slots=True)
class SavedFormat:
    """What a tuner left in a folder, and how others load it.

    In the snippets `$place` stands for the folder, `$base` for the base model's name, and `$dtype` for the type of the
    weights in which the model was measured; in Python code they come quoted.

    Args:
        library: What reads the folder, as the Hugging Face hub calls it: transformers, peft, or a name of one's own.
        load: Python code that makes `model` and `tokenizer`.
        serve: The command line that serves it with vLLM; "" where vLLM cannot.
        adapter: Whether the base is needed beside it.
        note: What the folder holds, in a sentence, where it is neither all weights nor those of an adapter.
    """

    library: str
    load: str
    serve: str
    adapter: bool = False
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a report keeps it."""
        return {key: value for key, value in asdict(self).items() if key != "note" or value}

    def fill_snippet(self, snippet: str, **values: str) -> str:
        """One of the snippets with its placeholders filled in."""
        return Template(snippet).safe_substitute(values)


TRANSFORMERS = SavedFormat(
    "transformers",
    """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained($place, dtype=$dtype)
tokenizer = AutoTokenizer.from_pretrained($place)""",
    "vllm serve $place",
)
"""All weights of a plain model."""


Taxonomy = Literal["additive", "selective", "reparametrised", "hybrid"]
"""Kinds of tuners (Han et al. 2024, arXiv 2403.14608): weights are added, some of the model's own are chosen, they move
in fewer coordinates than they have, or several of these."""

TRAIT_COLUMNS = ("name", "kind", "trainable parameters", "merges", "comes off", "packs", "memory")
"""Heads of the table whose rows are `Tuner.trait_cells`."""

TRAITS_KEY = """\
Trainable parameters: P of the whole model, L layers, d the hidden size, in and out the sides of a matrix; other letters
are knobs. Merges: plain: it is plain weights; yes: it folds into them; no: it stays beside them. Comes off: the base
can be had back, bit for bit. Packs: rows may stand side by side in one line. Memory: whose gradients and optimizer
state are held (of AdamW in fp32 12 bytes each): of all weights, of a part, of added ones; and how a frozen base is."""
"""What the columns mean."""


class Tuner(Method):
    """Which weights move.

    A tuner that trains weights of the model itself says which in `apply`, and has the rest from here. One that stores
    what it trains beside the base (`adapter`) also says how: `base`, `save`, `load`, `adapter_parameters`, and `merge`
    if it can be folded into the base. `holdfast.models.adapters.PeftTuner` does all of this for what PEFT knows.

    What it is like it declares (`taxonomy`, `formula`, `count_trainable`) where that does not follow from the rest:
    `trait_cells` is its line in `holdfast list tuners` and in the docs, and the shared suite holds it to every word.
    """

    adapter: ClassVar[bool] = False
    """True when the base weights stay bit-identical and what is trained is stored apart."""

    mergeable: ClassVar[bool] = False
    """True when an adapter can be folded into the base weights (`merge`)."""

    taxonomy: ClassVar[Taxonomy] = "selective"
    """Its kind. Selective: what trains are weights of the model itself; additive or reparametrised: none of them is."""

    formula: ClassVar[str] = ""
    """How many parameters train, as a formula to read; `TRAITS_KEY` says what its letters mean."""

    follows_length: ClassVar[str] = ""
    """The knob that is the tokens of the longest rows: `train.max_length`, where a recipe does not say it."""

    rate_factor: ClassVar[float] = 1.0
    """By how much its default learning rate is above that of a low-rank adapter, or of base weights."""

    stands_in_cache: ClassVar[bool] = False
    """True when its virtual tokens are keys and values of every layer: layers that are computed again lack them."""

    counts_stages: ClassVar[str] = ""
    """The knob that is the number of the stage, from 0, where a recipe with stages does not say it."""

    def check(self, model: Model) -> None:
        """See that these settings fit the modules of `model`, before anything is sampled or measured.

        Args:
            model: The base, left as it is; it may be without weights (on the meta device).
        Raises:
            UserError: If they do not; one line that says what would.
        """

    def apply(self, model: Model, seed: int) -> Model:
        """Prepare `model` for training in place (or wrapped), setting `requires_grad` on exactly what trains.

        Args:
            model: The base model in fp32 or bf16, all parameters requiring gradients.
            seed: Seeds every random choice (which half moves, how adapters start).
        Returns:
            The model to train, with the same `forward`.
        """
        raise NotImplementedError

    def draw_number(self, step: int, steps: int, epoch: int) -> int | None:
        """The number of the draw of weights that moves in a step; `None` where all that trains moves always.

        With every new number `apply_draw` is called. What a draw leaves out is out of the optimizer too: it keeps its
        value bit for bit, and a weight that is drawn again begins with an empty optimizer state.

        Args:
            step: From 0.
            steps: Of the whole training.
            epoch: Whole passes over the rows before it.
        """
        return None

    def apply_draw(self, model: Model, seed: int, draw: int) -> None:
        """Set `requires_grad` by a draw; it depends on the arguments alone, whatever was drawn before.

        Args:
            model: As `apply` returned it, with `requires_grad` on all that any draw may move.
        """

    def learning_rate_at(self, optimizer: Optimizer, step: int, steps: int) -> float:
        """The learning rate of 0-based `step` out of `steps`; a tuner with stages gives each its own schedule."""
        return optimizer.learning_rate_at(step, steps)

    def list_warnings(self, model: Model) -> list[str]:
        """What about these settings looks wrong for `model`, before `apply`: one line each, with what to do."""
        return []

    def list_notes(self, model: Model) -> list[str]:
        """What these settings come to for `model`, before `apply`: one line each."""
        return []

    def count_trainable(self, model: Model, seed: int = 0) -> int | None:
        """How many parameters will train in `model`, by the formula; `None` where none is declared.

        Of a tuner that draws anew while it trains: how many at a time, in the first draw.

        Args:
            model: The base, left as it is; it may be without weights (on the meta device).
            seed: That of `apply`, for tuners that draw what moves.
        """
        return None

    def packs_rows(self) -> bool:
        """Whether rows can stand side by side in one line while this trains; trained embeddings have one beginning."""
        return not self.virtual_tokens()

    def memory_class(self) -> str:
        """Whose gradients and optimizer state are held: "all" weights', a "part" of theirs, or those of "added" ones.

        After a comma how the frozen base is held, where that is not as it was loaded.
        """
        bits = self.frozen_bits()
        return ("added" if self.adapter else "part") + (f", {bits}-bit base" if bits else "")

    def leaves_plain_weights(self) -> bool:
        """Whether what it trains is a plain model: nothing stands beside or before its weights."""
        return not self.adapter and not self.virtual_tokens()

    def trait_cells(self, name: str) -> tuple[str, ...]:
        """Its line under `TRAIT_COLUMNS`."""
        merges = "plain" if self.leaves_plain_weights() else "yes" if self.mergeable else "no"
        off, packs = ("yes" if answer else "no" for answer in (self.adapter, self.packs_rows()))
        return name, self.taxonomy, self.formula, merges, off, packs, self.memory_class()

    def weight_penalty(self, model: nn.Module) -> Tensor | None:
        """What is added to the loss of a step, of the weights alone, with its gradient; `None` for nothing."""
        return None

    def frozen_bits(self) -> int | None:
        """In how many bits, 4 or 8, the frozen base is held while this trains; `None`: as it was loaded.

        The trainer gets such a base, and the adapter goes on the base as it is when it is trained.
        """
        return None

    def virtual_tokens(self) -> int:
        """How many trained embeddings stand before every sequence, in the model's context."""
        return 0

    def context_factor(self, config: PreTrainedConfig) -> float:
        """How many times longer rows can be than the context of a model of this configuration, while and after this
        trains.
        """
        return 1.0

    def model_elsewhere(self, model: Model) -> Model:
        """What answers all but the target: the trained model itself, or it without what is for the target alone."""
        return model

    def base_context(self, model: Model) -> AbstractContextManager[None] | None:
        """A context in which `model` computes what the base computes, or `None` if the base is gone."""
        return None

    def adapter_parameters(self, model: Model) -> set[str]:
        """Names of the parameters of `model` that are stored apart and keep their type; the rest has the base's."""
        return set()

    def merge(self, model: Model) -> PreTrainedModel:
        """The plain transformers model with the training folded in (`model` is used up); what has no adapter as it is.

        Exports, the dial and later stages ask for it through `holdfast.models.merging.fold`, which proves the result.
        """
        return model  # type: ignore[return-value]  # without an adapter it is plain

    def save(self, model: Model, directory: Path, dtype: torch.dtype | None = None) -> SavedFormat:
        """Write the weights of a trained model into an empty directory, as safetensors.

        Args:
            model: As `apply` returned it, trained; on the CPU and of type `dtype` where it has no adapter.
            directory: Tokenizer, chat settings and card are written by others.
            dtype: Of the base's weights in its files; what is stored of them (not of the adapter) has this type.
        """
        model.save_pretrained(str(directory))
        return TRANSFORMERS

    def load(self, directory: Path, base: PreTrainedModel) -> Model:
        """What `save` wrote, on a freshly loaded `base`; only called for an `adapter`."""
        raise NotImplementedError
