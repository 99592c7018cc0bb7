"""The work of the training benchmarks: models, rows and recipes, and one run of each trainer over them.

Both trainers get the same weights and the same tokenised rows, use AdamW (PyTorch's fused kernel), the same learning
rate, no warm-up, no gradient checkpointing, and the same clipping; none saves or reports anything within the time.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import Clock, memory_mib
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

from holdfast.core.events import StepFinished
from holdfast.data.batching.batches import EncodedSequence, TokenTable
from holdfast.data.batching.tokenize import build_table
from holdfast.data.chat.encoder import Chat
from holdfast.data.rows import Row
from holdfast.models import loading
from holdfast.recipe.schema import Recipe
from holdfast.skills.rows import lab_rows
from holdfast.training.callbacks import Hooks
from holdfast.training.trainer import Trainer

RATE = 1e-4
PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
SHAPES: dict[str, dict[str, int]] = {
    "head": {"vocab_size": 151_936, "hidden_size": 256, "intermediate_size": 688, "layers": 4, "heads": 4},
    "30m": {"vocab_size": 16_384, "hidden_size": 512, "intermediate_size": 1376, "layers": 7, "heads": 8},
    "8m": {"vocab_size": 8_192, "hidden_size": 256, "intermediate_size": 688, "layers": 6, "heads": 4},
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2},
}
"""Random Llamas. `30m` has 30.5 million parameters with tied embeddings; `head` 42 million, of which 39 in the head."""


def random_llama(shape: str, context: int = 8192, **changes: int) -> PreTrainedModel:
    """An untrained Llama of a shape, with tied embeddings; the same weights every time."""
    sizes = SHAPES[shape] | changes
    config = LlamaConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["heads"],
        max_position_embeddings=context,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def word_tokenizer(words: int = 512) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the words w3, w4, ...; `<pad>` is 0, `<eos>` 1."""
    known = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, words)}
    plain = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    tokenizer.chat_template = PLAIN
    return tokenizer


@dataclass(frozen=True, slots=True)
class Case:
    """What is trained.

    Args:
        model: "lab", or a key of `SHAPES`.
        rows: How many rows there are.
        low, high: Shortest and longest row in tokens (random models only); half of each is trained.
        per_step: Rows of an optimizer step, on average.
    """

    model: str
    rows: int
    low: int
    high: int
    per_step: int

    def load(self) -> PreTrainedModel:
        """The model, in fp32."""
        return loading.load_model("lab").model if self.model == "lab" else random_llama(self.model)

    def tokenizer(self) -> Any:
        """Its tokenizer; for random models one that only knows how to pad."""
        return loading.load_tokenizer("lab") if self.model == "lab" else word_tokenizer()

    def table(self) -> TokenTable:
        """The tokenised rows."""
        if self.model == "lab":
            return build_table(lab_rows("lab", "train", self.rows), Chat(self.tokenizer()), max_length=512)[0]
        rng = np.random.default_rng(0)
        sequences = []
        for row, length in enumerate(rng.integers(self.low, self.high + 1, self.rows)):
            ids = rng.integers(3, SHAPES[self.model]["vocab_size"], int(length), dtype=np.int32)
            sequences.append(EncodedSequence(ids, np.arange(length) >= length // 2, row))
        return TokenTable.from_sequences(sequences, fingerprint="benchmark")


def recipe(table: TokenTable, per_step: int, steps: int, **axes: Any) -> Recipe:
    """A recipe of so many steps over `table`, of `per_step` rows each on average."""
    train = {"max_steps": steps, "save_every": 1.0, "max_length": int(table.widths.max())}
    budget = int(table.lengths.sum() / (len(table) // per_step)) + int(table.lengths.max()) // 2
    return Recipe.model_validate(
        {
            "model": "random",
            "data": {"train": "benchmark", "test": 0},
            "evaluate": {"target": "none", "keep": [], "every": 0},
            "optimizer": {"name": "adamw", "learning_rate": RATE, "schedule": "constant", "warmup": 0},
            **axes,
            "train": {**train, "batch_tokens": budget, **axes.get("train", {})},
        }
    )


def holdfast_steps(
    made: Recipe,
    model: PreTrainedModel,
    table: TokenTable,
    warm: int,
    limit: float = float("inf"),
    lengths: np.ndarray | None = None,
) -> dict[str, Any]:
    """Holdfast's trainer over the table; numbers of the steps after `warm`.

    Args:
        limit: Seconds the warm steps may take.
        lengths: Tokens each row of the table counts for; default those that the trainer counts.
    """
    before = memory_mib(peak=False)
    clock: list[Clock] = []
    read = 0

    def on_step(log: StepFinished) -> None:
        nonlocal read
        read = (
            log.tokens if lengths is None else read + int(lengths[trainer.state.sampler.step_rows(log.step - 1)].sum())
        )
        clock[0].tick(read)
        if clock[0].slow:
            raise _TooSlow

    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(made, model, table, directory, pad_id=0, hooks=Hooks(on_step=on_step))
        clock.append(Clock(warm, limit))
        clock[0].before_mib = before
        with contextlib.suppress(_TooSlow):
            trainer.fit()
    bench = trainer.state
    about = {"layout": bench.layout, "precision": trainer.machine.precision, "micro_tokens": bench.micro_tokens}
    return clock[0].result() | about


class _TooSlow(Exception):
    """Ends a run that is not worth finishing."""


class Ticks(TrainerCallback):
    """Ticks a clock after every optimizer step of a transformers trainer."""

    def __init__(self, warm: int, limit: float, before: float) -> None:
        self.warm, self.limit, self.before = warm, limit, before

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock = Clock(self.warm, self.limit, before_mib=self.before)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.tick(int(state.num_input_tokens_seen))
        control.should_training_stop |= self.clock.slow


def trl_arguments(directory: str, steps: int, batch: int, per_step: int, precision: str) -> dict[str, Any]:
    """What all settings of TRL's trainers share: as fast as they go, nothing saved or logged."""
    return {
        "output_dir": directory,
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": max(1, per_step // batch),
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "bf16": precision == "bf16",
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "include_num_input_tokens_seen": "non_padding",
        "seed": 0,
    }


def word_pairs(rows: int, prompt: int, answer: int, words: int) -> list[Row]:
    """Preference rows of random words; lengths vary by a quarter around `prompt` and `answer`."""
    rng = np.random.default_rng(0)

    def text(length: int) -> str:
        count = int(rng.integers(max(1, 3 * length // 4), 5 * length // 4 + 1))
        return " ".join(f"w{i}" for i in rng.integers(3, words, count))

    return [
        Row([{"role": "user", "content": text(prompt)}], chosen=text(answer), rejected=text(answer))
        for _ in range(rows)
    ]
