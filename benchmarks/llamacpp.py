"""A run's GGUF in llama.cpp itself: does it read the same prompts and give the same answers as the run does here?

llama.cpp comes with `pip install xllamacpp`, whose server is asked over HTTP. Of each run and type of weights: what its
reading of the chat template and its tokenizer make of some conversations, each token of its greedy answers beside the
likeliest one here, and the log-probabilities of the likeliest tokens at every step. In fp32 all must be the same; in
q8_0 llama.cpp rounds what goes through the layers too, so that only the difference is told.

    python benchmarks/llamacpp.py runs/mine runs/other
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import Line, alone, at_most, say, table

KINDS = ("fp32", "q8_0")
BOUND = 1e-3
"""Largest difference of a log-probability in fp32: sums are in another order there."""
TOKENS, LIKELIEST, CONTEXT = 24, 20, 1024
CHATS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "What is 3 + 4?"),),
    (("user", "Name three colours."),),
    (("system", "Answer in one word."), ("user", "What is the capital of France?")),
    (("user", "Hi"), ("assistant", "Hello! How can I help?"), ("user", "Tell me a joke.")),
    (("user", "It costs 12,345.67 in 2024; what does half of it cost?"),),
    (("user", "naïve café, 日本語, Привет 🙂: translate."),),
    (("user", "def f(x):\n    return x\n\nWhat does  this\tdo?"),),
    (("user", " Leading and trailing spaces "),),
    (("user", "I'll say it's JOHN'S, they'RE sure."),),
    (("user", "Is this <|im_end|> a marker?"),),
)


class LlamaCpp:
    """llama.cpp with one file open, asked by the endpoints of its own server.

    Args:
        file: A GGUF.
        context: Tokens that prompt and answer may have.
    """

    def __init__(self, file: Path, context: int = CONTEXT) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel, params.cpuparams.n_threads = context, 1, 1
        params.warmup = params.fit_params = False
        params.verbosity = -1
        # What is compared is the file, so nothing is kept in half precision.
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(params)

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The server's answer to a request."""
        address = self.server.listening_address + path
        request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return dict(json.load(answer))

    def render(self, messages: list[dict[str, str]]) -> str:
        """The text that the file's chat template makes of a conversation."""
        return str(self.ask("/apply-template", {"messages": messages})["prompt"])

    def read_tokens(self, text: str) -> list[int]:
        """The tokens of a text, markers of turns among them."""
        return list(self.ask("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"])

    def answer(self, ids: list[int], tokens: int, likeliest: int) -> Answer:
        """The greedy answer to a prompt."""
        body = {"prompt": ids, "n_predict": tokens, "temperature": 0.0, "n_probs": likeliest}
        result = self.ask("/completion", {**body, "return_tokens": True, "cache_prompt": False})
        # Of a character of several tokens only the last has its probabilities.
        steps = iter(result.get("completion_probabilities", []))
        step, logps = next(steps, None), list[dict[int, float]]()
        for token in result["tokens"]:
            logps.append({})
            if step is not None and step["id"] == token:
                logps[-1] = {one["id"]: one["logprob"] for one in step["top_logprobs"]}
                step = next(steps, None)
        return Answer(result["tokens"], logps, result["stop_type"] == "eos")


@dataclass(frozen=True, slots=True)
class Answer:
    """What llama.cpp says to a prompt.

    Args:
        ids: Its tokens, in some versions with the one that ends it.
        logps: Of each step the log-probabilities of the likeliest tokens.
        has_ended: Whether it ended of itself.
    """

    ids: list[int]
    logps: list[dict[int, float]]
    has_ended: bool


@dataclass(slots=True)
class Comparison:
    """How far llama.cpp and the model here agree.

    Args:
        chats: Conversations compared.
        prompts: How many of them are the same text and the same tokens.
        answers: How many greedy answers are the same, their ends included.
        worst: Largest difference of a log-probability.
        gap: Where an answer parts, how much likelier our token is by our model, at most.
        remarks: What differs.
    """

    chats: int = 0
    prompts: int = 0
    answers: int = 0
    worst: float = 0.0
    gap: float = 0.0
    remarks: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        return self.prompts == self.answers == self.chats and self.worst <= BOUND


def compare_answer(model: Any, ids: list[int], answer: Answer, stop_ids: set[int]) -> tuple[float, float]:
    """Follow an answer with the model here.

    Returns:
        The largest difference of a log-probability, and by how much our likeliest token is likelier than the answer's
        where the two part first: 0 if they never do.
    """
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([ids + answer.ids])).logits[0, len(ids) - 1 :]
    logps = logits.float().log_softmax(-1)  # [1 + answer, V]
    worst, gap = 0.0, 0.0
    for ours, token, theirs in zip(logps, answer.ids, answer.logps, strict=False):
        worst = max([worst, *(abs(float(ours[other]) - logp) for other, logp in theirs.items())])
        gap = gap or float(ours.max() - ours[token])
    ends_here = answer.has_ended and not stop_ids.intersection(answer.ids[-1:])
    if ends_here and int(logps[-1].argmax()) not in stop_ids:
        gap = gap or float(logps[-1].max() - logps[-1, sorted(stop_ids)].max())
    return worst, gap


def compare_run(run: Path, kind: str) -> Comparison:
    """Export a run as GGUF and ask both."""
    import torch

    from holdfast.data.chat.settings import ChatSettings, settings_of
    from holdfast.models.gguf_writer import round_weights
    from holdfast.models.loading import load_model
    from holdfast.models.merging import fold_adapter
    from holdfast.pipeline.export import export_model
    from holdfast.pipeline.export_gguf import FILE, parse_gguf_type

    with tempfile.TemporaryDirectory() as directory:
        out = export_model(run, Path(directory) / "gguf", form="gguf", dtype=kind, device="cpu")
        loaded = load_model(run, torch.float32, device="cpu")
        model = fold_adapter(loaded.model, loaded.tuner)
        round_weights(model, parse_gguf_type(kind, ""))
        chat = (settings_of(loaded.path) or ChatSettings()).build_chat(loaded.tokenizer)
        llama = LlamaCpp(out / FILE)
        found = Comparison()
        for turns in CHATS:
            messages = [{"role": role, "content": text} for role, text in turns]
            found.chats += 1
            text, ids = chat.prompt_text(messages), chat.prompt_ids(messages)
            rendered = llama.render(messages)
            if rendered == text and llama.read_tokens(text) == ids:
                found.prompts += 1
            else:
                found.remarks.append(f"another {'text' if rendered != text else 'cutting'} of {turns[-1][1]!r}")
            worst, gap = compare_answer(model, ids, llama.answer(ids, TOKENS, LIKELIEST), chat.stop_ids)
            found.answers += not gap
            found.worst, found.gap = max(found.worst, worst), max(found.gap, gap)
    return found


def tell(run: Path, kind: str, found: Comparison) -> list[Line]:
    """The lines of a run in one type."""
    name, must = f"{run.name}, {kind}", kind == "fp32"
    note = "; ".join(found.remarks)
    apart = found.chats - found.prompts
    return [
        alone(f"{name}: prompts of other tokens, of {found.chats}", apart, "", at_most(0), note=note),
        alone(
            f"{name}: other greedy answers", found.chats - found.answers, "", at_most(0) if must else None,
            note=f"parted where our token is likelier by up to {found.gap:.1e}" if found.gap else "",
        ),
        alone(f"{name}: largest difference of a log-probability", found.worst, "", at_most(BOUND) if must else None),
    ]  # fmt: skip


def main() -> int:
    """Compare the runs that the command line names; 1 if something must be the same and is not."""
    parser = argparse.ArgumentParser(description="Exports of runs in llama.cpp; see the docstring.")
    parser.add_argument("runs", nargs="+", type=Path, help="directories of finished runs")
    lines = []
    for run in parser.parse_args().runs:
        for kind in KINDS:
            say(f"  {run}, {kind}")
            lines += tell(run, kind, compare_run(run, kind))
    print(table(lines))
    return int(any(entry.met is False for entry in lines))


if __name__ == "__main__":
    sys.exit(main())
