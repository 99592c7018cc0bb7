"""The work of the GPU benchmark: one function a side, each of them one trainer or sampler on random weights.

Both trainers get the same weights and the same tokenised rows, of which half of the tokens are trained, take the same
number of tokens a step on average, and AdamW (PyTorch's fused kernel) at the same rate. Full fine-tuning has fp32
master weights under bf16 autocast on both sides; what is frozen below an adapter is bf16, or 4 bits (NF4). The time of
a step ends when the device has done it; tokens are real ones, never padding.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from common import memory_mib
from work import recipe as build_recipe
from work import trl_arguments, word_pairs, word_tokenizer

from holdfast.core.events import StepFinished
from holdfast.data.batching.batches import EncodedSequence, TokenTable
from holdfast.data.batching.tokenize import build_table
from holdfast.data.chat.encoder import Chat
from holdfast.models.placement import wait_for
from holdfast.training.callbacks import Hooks
from holdfast.training.memory_estimate import estimate_state_memory
from holdfast.training.trainer import Trainer

Spec = dict[str, Any]
WORDS = 16_384
"""Words of the pairs and the prompts, which the tokenizer knows; the models' vocabularies are larger."""
LORA = {"r": 16, "alpha": 32}


def find_device() -> torch.device:
    """The accelerator; without one the CPU, which is for seeing that everything runs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_package(name: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(name) is not None


def build_model(shape: Spec, dtype: torch.dtype, attention: str = "") -> Any:
    """A Qwen3 with random weights on the device, the same every time.

    Args:
        attention: A kernel by transformers' name; default its own choice.
    """
    config = transformers.Qwen3Config(
        **shape, max_position_embeddings=40_960, pad_token_id=0, eos_token_id=1, bos_token_id=None
    )
    torch.manual_seed(0)
    options = {"attn_implementation": attention} if attention else {}
    with torch.device(find_device()):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, **options)


def quantise_model(shape: Spec, attention: str = "") -> Any:
    """The same with its linear maps in 4 bits (NF4), as transformers loads it through bitsandbytes."""
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    options = {"attn_implementation": attention} if attention else {}
    with tempfile.TemporaryDirectory() as directory:
        build_model(shape, torch.bfloat16).save_pretrained(directory)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return transformers.AutoModelForCausalLM.from_pretrained(
            directory, quantization_config=settings, dtype=torch.bfloat16, device_map={"": find_device()}, **options
        )


def model_to_train(part: Spec, attention: str = "") -> Any:
    """The model of a part, in the type that it trains in."""
    if part["tuner"] == "qlora":
        return quantise_model(part["shape"], attention)
    return build_model(part["shape"], torch.float32 if part["tuner"] == "full" else torch.bfloat16, attention)


class StepTimes:
    """When steps end: `tick` after each. Built just before the trainer is: the first step's time is from there on.

    Args:
        warm: Steps that are not counted.
        tokens_per_step: Of every step, where the trainer does not count them as we do.
    """

    def __init__(self, warm: int, tokens_per_step: float | None = None) -> None:
        self.warm, self.tokens_per_step = warm, tokens_per_step
        self.restart()

    def restart(self) -> None:
        """Count from now on: the weights are on the device."""
        self.ends, self.tokens = [time.perf_counter()], [0]
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def tick(self, tokens: int) -> None:
        """A step has been given to the device; `tokens` real ones were read since the start."""
        wait_for(find_device())
        self.ends.append(time.perf_counter())
        self.tokens.append(tokens)

    def summary(self) -> Spec:
        """Tokens a second in the median step, seconds until the first step was done, memory and all steps' seconds."""
        seconds, tokens = np.diff(self.ends), np.diff(self.tokens)
        tokens = tokens if self.tokens_per_step is None else np.full(len(seconds), self.tokens_per_step)
        return {
            "rate": median((tokens / seconds)[self.warm :].tolist()),
            "first_step": float(seconds[0]),
            "peak_gib": peak_gib(),
            "seconds": seconds.tolist(),
            "tokens": tokens.tolist(),
        }


def peak_gib() -> float:
    """Peak memory of the accelerator, or of this process."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else memory_mib() / 1024


def row_lengths(part: Spec) -> np.ndarray:
    """Tokens of each row: all the same, or log-uniform between `shortest` and `length`."""
    if "shortest" not in part:
        return np.full(part["rows"], part["length"])
    low, high = np.log(part["shortest"]), np.log(part["length"])
    return np.exp(np.random.default_rng(1).uniform(low, high, part["rows"])).astype(int)


def token_table(part: Spec) -> TokenTable:
    """Rows of random tokens."""
    rng = np.random.default_rng(0)
    sequences = []
    for row, length in enumerate(row_lengths(part)):
        ids = rng.integers(3, part["shape"]["vocab_size"], length, dtype=np.int32)
        sequences.append(EncodedSequence(ids, np.arange(length) >= length // 2, row))
    return TokenTable.from_sequences(sequences, fingerprint="benchmark")


def train_ours(part: Spec, table: TokenTable, steps: int, times: StepTimes, lengths: Any = None, **axes: Any) -> Spec:
    """Holdfast's trainer over a table.

    Args:
        lengths: Tokens each row counts for; default those that the trainer counts.
    """
    train = {"precision": "bf16", "gradient_checkpointing": part.get("checkpointing", False)}
    made = build_recipe(table, part["per_step"], steps, train=train, **axes)
    model, read = model_to_train(part), 0
    notes: list[str] = []

    def tick(log: StepFinished) -> None:
        nonlocal read
        read = log.tokens
        if lengths is not None:
            read = times.tokens[-1] + int(lengths[trainer.state.sampler.step_rows(log.step - 1)].sum())
        times.tick(read)

    times.restart()
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(made, model, table, directory, pad_id=0, hooks=Hooks(on_step=tick, on_note=notes.append))
        trainer.fit()
    state = trainer.state
    about = {
        "layout": state.layout, "precision": trainer.machine.precision, "micro_tokens": state.micro_tokens,
        "head_rows": state.policy.chunk_rows,
    }  # fmt: skip
    estimate = estimate_state_memory(state, min(state.micro_tokens, state.step_size.tokens)).total / 2**30
    return times.summary() | {"setting": about, "notes": notes, "estimate_gib": estimate}


def sft_ours(part: Spec, warm: int, steps: int) -> Spec:
    """Holdfast on rows with answers."""
    tuner = {"name": "full"} if part["tuner"] == "full" else {"name": "lora", **LORA}
    return train_ours(part, token_table(part), warm + steps, StepTimes(warm), tuner=tuner)


def adapter_settings() -> Any:
    """LoRA as ours is, for TRL."""
    from peft import LoraConfig

    return LoraConfig(
        r=LORA["r"], lora_alpha=LORA["alpha"], lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def ticking(times: StepTimes) -> Any:
    """A callback of transformers' trainer that ticks after every step."""

    class Ticks(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            times.tick(int(state.num_input_tokens_seen))

    return Ticks()


def sft_theirs(part: Spec, setting: Spec, warm: int, steps: int) -> Spec:
    """TRL's SFTTrainer in one setting: `batch`, and arguments of `SFTConfig` under `config`."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    table = token_table(part)
    rows = [table.row_sequences(row)[0] for row in range(len(table))]
    ids = [row.ids.tolist() for row in rows]
    labels = [[int(i) if t else -100 for i, t in zip(row.ids, row.label_mask, strict=True)] for row in rows]
    data = Dataset.from_dict({"input_ids": ids, "labels": labels})
    config, per_step = dict(setting["config"]), part["per_step"]
    if config.get("packing"):  # a packed row holds several
        per_step = max(1, round(per_step * float(table.lengths.mean()) / part["length"]))
    flattens = config.get("packing") or config.get("padding_free")
    model = model_to_train(part, "flash_attention_2" if flattens and has_package("flash_attn") else "")
    times = StepTimes(warm)
    with tempfile.TemporaryDirectory() as directory:
        common = trl_arguments(directory, warm + steps, setting["batch"], per_step, "bf16")
        common |= {"gradient_checkpointing": part.get("checkpointing", False), "max_length": part["length"]}
        trainer = SFTTrainer(
            model, args=SFTConfig(**(common | config)), train_dataset=data, processing_class=word_tokenizer(),
            peft_config=None if part["tuner"] == "full" else adapter_settings(), callbacks=[ticking(times)],
        )  # fmt: skip
        trainer.train()
    return times.summary() | {"setting": setting}


def pair_rows(part: Spec) -> tuple[list[Any], Any, np.ndarray]:
    """Pairs of random words, their tokenizer, and the tokens of the two whole sequences of each."""
    from dpo import whole_length

    words = min(part["shape"]["vocab_size"], WORDS)
    rows, tokenizer = word_pairs(part["pairs"], part["prompt"], part["answer"], words), word_tokenizer(words)
    chat = Chat(tokenizer)
    return rows, tokenizer, np.array([whole_length(chat, row) for row in rows])


def dpo_ours(part: Spec, warm: int, steps: int) -> Spec:
    """Holdfast on pairs; the reference is computed before the first step, and its time is in that of the first."""
    rows, tokenizer, lengths = pair_rows(part)
    table, _ = build_table(rows, Chat(tokenizer), max_length=8192, kind="pair")
    return train_ours(part, table, warm + steps, StepTimes(warm), lengths, objective="dpo")


def dpo_theirs(part: Spec, setting: Spec, warm: int, steps: int) -> Spec:
    """TRL's DPOTrainer in one setting, with the reference computed beforehand."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows, tokenizer, lengths = pair_rows(part)
    columns = {
        "prompt": [row.prompt[-1]["content"] for row in rows],
        "chosen": [f" {row.chosen}" for row in rows],
        "rejected": [f" {row.rejected}" for row in rows],
    }
    model = model_to_train(part)
    times = StepTimes(warm, part["per_step"] * float(lengths.mean()))
    with tempfile.TemporaryDirectory() as directory:
        common = trl_arguments(directory, warm + steps, setting["batch"], part["per_step"], "bf16")
        config = DPOConfig(**(common | setting["config"]), max_length=None, precompute_ref_log_probs=True)
        trainer = DPOTrainer(
            model, args=config, train_dataset=Dataset.from_dict(columns), processing_class=tokenizer,
            callbacks=[ticking(times)],
        )  # fmt: skip
        trainer.train()
    return times.summary() | {"setting": setting}


def sample_answers(part: Spec, engine: str, runs: int) -> Spec:
    """Answers of one length to random prompts of 16 to 256 words: the best run counts, after one that is not timed."""
    import random

    import sampling

    words = min(part["shape"]["vocab_size"], WORDS)
    chat, rng = Chat(word_tokenizer(words)), random.Random(0)
    chat.stop_ids = set()
    longest = min(256, 4 * part["tokens"])
    asked = [
        " ".join(f"w{rng.randrange(3, words)}" for _ in range(rng.randint(4, longest))) for _ in range(part["prompts"])
    ]
    how = {"tokens": part["tokens"], "temperature": 1.0, "n": 1}
    with contextlib.ExitStack() as stack:
        if engine == "vllm":
            answer = answer_by_vllm(part, chat, asked, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        else:
            model = build_model(part["shape"], torch.bfloat16).eval()
            way = sampling.native if engine == "native" else sampling.generate

            def answer() -> Spec:
                return way(model, chat, asked, how, part["batch"])

        found = [answer() for _ in range(1 + runs)][1:]
    fastest = max(found, key=lambda result: result["rate"])
    return {"rate": fastest["rate"], "tokens": fastest["tokens"], "peak_gib": peak_gib(), "setting": {"engine": engine}}


def answer_by_vllm(part: Spec, chat: Chat, asked: list[str], directory: Path) -> Any:
    """A function that has vLLM answer, through our engine, in one process."""
    import sampling

    from holdfast.axes.engine import Request, SamplingParams
    from holdfast.generation.vllm import VLLMEngine

    build_model(part["shape"], torch.bfloat16).save_pretrained(directory)
    chat.tokenizer.save_pretrained(directory)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    engine = VLLMEngine(str(directory), chat, fingerprint="benchmark", max_num_seqs=part["batch"])
    params = SamplingParams(max_tokens=part["tokens"], temperature=1.0)
    requests = [(Request(str(i), sampling.asking(text)), range(1)) for i, text in enumerate(asked)]

    def answer() -> Spec:
        began = time.perf_counter()
        tokens = sum(sample.tokens for sample in engine.sample(requests, params))
        return {"rate": tokens / (time.perf_counter() - began), "tokens": tokens}

    return answer


SIDES = {
    "sft_ours": sft_ours,
    "sft_theirs": sft_theirs,
    "dpo_ours": dpo_ours,
    "dpo_theirs": dpo_theirs,
    "sample_answers": sample_answers,
}
