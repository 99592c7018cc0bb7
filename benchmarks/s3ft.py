"""S3FT from end to end, beside the same thing written plainly with TRL's `SFTTrainer` and `generate`.

The work: word problems of the laboratory; the base answers its evaluation questions; it answers the training
questions; the judge accepts what is right, what is not is paraphrased and judged again, and the gold answer stands
where both fail; the model is trained on the result; the tuned model answers the evaluation questions again. Greedy
throughout.

The plain script is what a competent user would write: prompts sorted by length, `generate` in batches of 64, the same
judge objects called on the answers, the same paraphrase request, `SFTTrainer` on prompt and completion, padded,
grouped by length, in fp32 without gradient checkpointing, in the batch size that was best here (16). Both sides see
the same questions with the same limits of tokens, and train the same number of steps of the same number of rows on
average. Ours also writes its journal, checkpoint, model and report within the time; the plain script saves the model.
Loading the model is in the time on both sides, imports are on neither (the part `start` has them), nor is making the
questions in that of the plain script.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Line, at_least, in_turn, line, main, reason, run_side

SIZE = {"limit": 300, "items": 30, "steps": 40, "rows": 16}
SMALL = {"limit": 16, "items": 2, "steps": 2, "rows": 8}
ANSWER = 80
BATCH = 64


def recipe(size: dict[str, int], output: str, tokens: int = 0) -> Any:
    """The recipe of the work."""
    from holdfast.recipe.schema import Recipe

    return Recipe.model_validate(
        {
            "model": "lab",
            "method": "s3ft",
            "data": {"train": "lab:story", "limit": size["limit"]},
            "optimizer": {"learning_rate": 1e-3},
            "sampling": {"max_tokens": ANSWER},
            "train": {"max_steps": size["steps"], "batch_tokens": tokens or 16384, "save_every": 1.0},
            "evaluate": {"items": size["items"], "live_items": 0, "every": 0, "max_tokens": ANSWER},
            "output": output,
        }
    )


def tokens_per_step(size: dict[str, int]) -> int:
    """A token budget that gives `rows` rows a step on average."""
    from holdfast.data.batching.tokenize import build_table
    from holdfast.data.chat.encoder import Chat
    from holdfast.models.loading import load_tokenizer
    from holdfast.skills.rows import lab_rows

    table, _ = build_table(lab_rows("lab:story", "train", size["limit"]), Chat(load_tokenizer("lab")), max_length=512)
    return int(table.lengths.mean() * size["rows"]) + int(table.lengths.max()) // 2


def prepare(size: dict[str, int]) -> dict[str, Any]:
    """The token budget, worked out before any time is taken."""
    return {"tokens": tokens_per_step(size)}


def ours(size: dict[str, int], tokens: int) -> dict[str, Any]:
    """A run of Holdfast, with an empty cache."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ["HOLDFAST_CACHE"] = str(Path(directory) / "cache")
        from holdfast.pipeline.train import train

        began = time.perf_counter()
        run = train(recipe(size, str(Path(directory) / "run"), tokens))
        seconds = time.perf_counter() - began
    report = run.report
    return {
        "seconds": seconds, "rate": 1 / seconds, "phases": report["cost"]["seconds"],
        "origins": report["curation"]["counts"], "trained_tokens": report["training"]["tokens"],
        "scores": {task["name"]: task["base"] / 100 for task in report["tasks"]},
    }  # fmt: skip


def questions(size: dict[str, int]) -> tuple[list[Any], Any, list[Any]]:
    """Training rows, judge and evaluation tasks, as the recipe makes them."""
    from holdfast.evaluation.tasks.by_name import build_tasks
    from holdfast.pipeline.sources import read_sources

    made = recipe(size, "unused")
    sources = read_sources(made, str, str)
    return list(sources.train), sources.judge, build_tasks(made, sources.test, sources.judge, lab=True)


def theirs(size: dict[str, int], tokens: int) -> dict[str, Any]:
    """The plain script."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTTrainer  # noqa: F401 (imported before the clock starts)

    from holdfast.models.loading import locate_model

    rows, judge, tasks = questions(size)
    began = time.perf_counter()
    torch.manual_seed(0)
    path = locate_model("lab")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    phases = {}
    before = evaluate(model, tokenizer, tasks)
    phases["evaluate"] = time.perf_counter() - began
    chosen, origins = curate(model, tokenizer, rows, judge)
    phases["curate"] = time.perf_counter() - began - phases["evaluate"]
    trained = finetune(model, tokenizer, chosen, size)
    phases["train"] = time.perf_counter() - began - sum(phases.values())
    model.eval()
    evaluate(model, tokenizer, tasks)
    seconds = time.perf_counter() - began
    phases["evaluate"] += seconds - sum(phases.values())
    return {
        "seconds": seconds, "rate": 1 / seconds, "phases": phases,
        "origins": origins, "trained_tokens": trained, "scores": before,
    }  # fmt: skip


def answer(model: Any, tokenizer: Any, prompts: list[Any], tokens: int) -> list[str]:
    """Greedy answers of `generate`, in batches sorted by length."""
    import torch

    texts = [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in prompts]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    stops = [i for i in (end, tokenizer.eos_token_id) if i is not None and i >= 0]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    answers = [""] * len(ids)
    for at in range(0, len(order), BATCH):
        chosen = order[at : at + BATCH]
        inputs = tokenizer.pad({"input_ids": [ids[i] for i in chosen]}, return_tensors="pt")
        with torch.no_grad():
            output = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=tokens,
                eos_token_id=stops,
                pad_token_id=tokenizer.pad_token_id,
            )
        decoded = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, decoded, strict=True):
            answers[i] = text
    return answers


def judged(judge: Any, prompts: list[Any], answers: list[str], references: list[Any]) -> list[bool]:
    """Whether each answer is right."""
    from holdfast.axes.judge import JudgeRequest

    asked = [JudgeRequest(*one) for one in zip(prompts, answers, references, strict=True)]
    return [verdict.passed for verdict in judge.judge_all(asked)]


def evaluate(model: Any, tokenizer: Any, tasks: list[Any]) -> dict[str, float]:
    """The share of right answers to each task's questions, asked task by task."""
    scores = {}
    for task in tasks:
        prompts = [row.prompt for row in task.rows]
        answers = answer(model, tokenizer, prompts, task.max_tokens)
        right = judged(task.judge, prompts, answers, [row.gold for row in task.rows])
        scores[task.name] = sum(right) / len(right)
    return scores


def curate(model: Any, tokenizer: Any, rows: list[Any], judge: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows for TRL: the model's own right answer, else its right paraphrase, else the gold one."""
    from holdfast.data.chat.prompts import paraphrase_messages

    chosen: dict[int, str] = {}
    counts = {}
    for origin, ask in (("model", lambda row: row.prompt), ("paraphrase", paraphrase_messages)):
        left = [i for i in range(len(rows)) if i not in chosen]
        answers = answer(model, tokenizer, [ask(rows[i]) for i in left], ANSWER)
        right = judged(judge, [rows[i].prompt for i in left], answers, [rows[i].gold for i in left])
        chosen |= {i: text for i, text, passed in zip(left, answers, right, strict=True) if passed}
        counts[origin] = sum(right)
    counts["gold"] = len(rows) - len(chosen)
    made = [
        {"prompt": row.prompt, "completion": [{"role": "assistant", "content": chosen.get(i, row.answer)}]}
        for i, row in enumerate(rows)
    ]
    return made, counts


def finetune(model: Any, tokenizer: Any, rows: list[dict[str, Any]], size: dict[str, int]) -> int:
    """Train with TRL in place; the tokens read."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    with tempfile.TemporaryDirectory() as directory:
        arguments = SFTConfig(
            output_dir=directory, max_steps=size["steps"], per_device_train_batch_size=size["rows"], learning_rate=1e-3,
            lr_scheduler_type="cosine", warmup_steps=max(1, round(0.03 * size["steps"])), weight_decay=0.0,
            bf16=False, gradient_checkpointing=False, use_cpu=True, max_length=512,
            train_sampling_strategy="group_by_length", save_strategy="no", report_to="none", logging_steps=10,
            disable_tqdm=True, dataloader_pin_memory=False, include_num_input_tokens_seen="non_padding",
        )  # fmt: skip
        trainer = SFTTrainer(model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        trainer.train()
        trainer.save_model(directory)
        return int(trainer.state.num_input_tokens_seen)


def measure(tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """Both in turn."""
    size = SMALL if tiny else SIZE
    known = run_side(__file__, "prepare", size=size)
    if "error" in known:
        return [line("S3FT end to end", None, None, "s", note=known["error"])], known
    ways = {who: lambda who=who: run_side(__file__, who, size=size, **known) for who in ("ours", "theirs")}
    runs = in_turn(ways, 1 if tiny else 2)
    we, they = runs["ours"], runs["theirs"]
    note = reason(we, they) or f"tokens trained: ours {we['trained_tokens']:,}, theirs {they['trained_tokens']:,}"
    both = we.get("seconds"), they.get("seconds")
    return [line("S3FT end to end", *both, "s", at_least(3), less_is_better=True, note=note)], runs


if __name__ == "__main__":
    main("s3ft", measure, {"ours": ours, "theirs": theirs, "prepare": prepare})
