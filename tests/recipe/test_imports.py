"""Recipes of other tools' files, commands and scripts: what becomes of each setting, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.errors import UserError
from holdfast.recipe.imports.conversion import ImportedRecipe, convert_recipe, format_imported
from holdfast.recipe.imports.readers import read_foreign
from holdfast.recipe.loader import read_recipe


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def convert(text: str, name: str = "theirs.yaml") -> ImportedRecipe:
    """The recipe of a text; that it is one is seen by reading it."""
    file = Path(name)
    file.write_text(text, encoding="utf-8")
    imported = convert_recipe(read_foreign(file), file)
    Path("run.yaml").write_text(format_imported(imported, file), encoding="utf-8")
    read_recipe("run.yaml")
    return imported


def notebook(*cells: str) -> str:
    code = [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]
    return json.dumps({"cells": [{"cell_type": "markdown", "source": ["# Title"]}, *code]})


LLAMA_FACTORY = """\
model_name_or_path: lab-small
stage: dpo
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
pref_beta: 0.2
pref_loss: ipo
dataset: mine,theirs
dataset_dir: registry
template: llama3
cutoff_len: 512
max_samples: 1000
overwrite_cache: true
output_dir: saves/x
save_steps: 500
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 5.0e-6
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
adam_beta2: 0.95
val_size: 0.1
use_llama_pro: true
"""


def test_llama_factory_with_its_registry_of_data_sets() -> None:
    Path("registry").mkdir()
    info = {
        "mine": {
            "file_name": "mine.json",
            "ranking": True,
            "columns": {"prompt": "ask", "chosen": "good", "rejected": "bad"},
        },
        "theirs": {"hf_hub_url": "owner/pairs", "subset": "en", "split": "train", "num_samples": 9},
    }
    Path("registry/dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    imported = convert(LLAMA_FACTORY)
    assert imported.tool == "LLaMA-Factory"
    assert imported.settings == {
        "model": "lab-small",
        "method": "ipo",
        "data": {
            "train": [
                {
                    "limit": 1000,
                    "path": "registry/mine.json",
                    "columns": {"prompt": "ask", "chosen": "good", "rejected": "bad"},
                },
                {"limit": 9, "path": "owner/pairs", "config": "en", "split": "train"},
            ],
            "test": 0.1,
        },
        "objective": {"tau": 0.2},
        "tuner": {"name": "lora", "r": 8, "target_modules": "all-linear"},
        "optimizer": {"betas": [0.9, 0.95], "schedule": "cosine", "learning_rate": 5e-6, "warmup": 0.1},
        "train": {"epochs": 3.0, "max_length": 512, "batch_tokens": 8 * 512},
        "output": "saves/x",
    }
    assert imported.origins["tuner.r"] == "lora_rank, theirs.yaml:5"
    assert [line.partition(": ")[2].partition(":")[0] for line in imported.left_out] == [
        "template",
        "save_steps",
        "use_llama_pro",
    ]
    assert "  r: 8                                    # lora_rank, theirs.yaml:5" in Path("run.yaml").read_text()


AXOLOTL = """\
base_model: lab-small
load_in_4bit: true
datasets:
  - path: rows.jsonl
    type: {field_instruction: asked, field_output: said, format: "{instruction}"}
  - path: owner/chat
    type: chat_template
    field_messages: talk
    split: train
val_set_size: 0.0
adapter: qlora
lora_r: 32
lora_target_linear: true
sequence_len: 2048
sample_packing: true
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 2
optimizer: lion_8bit
learning_rate: 0.0002
train_on_inputs: false
warmup_steps: 20
evals_per_epoch: 2
special_tokens:
"""


def test_axolotl() -> None:
    imported = convert(AXOLOTL)
    assert (imported.tool, imported.settings["method"]) == ("Axolotl", "sft")
    assert imported.settings["data"]["train"] == [
        {"path": "rows.jsonl", "columns": {"prompt": "asked", "answer": "said"}},
        {"path": "owner/chat", "split": "train", "columns": {"messages": "talk"}},
    ]
    assert imported.settings["tuner"] == {"name": "lora", "base_bits": 4, "r": 32}
    assert imported.settings["train"] == {"epochs": 2, "max_length": 2048, "layout": "packed", "batch_tokens": 16384}
    assert imported.settings["evaluate"] == {"every": 0.25}
    assert "test" not in imported.settings["data"]
    assert any("val_set_size 0: a tenth of the rows is held out" in line for line in imported.remarks)
    said = "\n".join(imported.left_out)
    for part in (
        "theirs.yaml:19: optimizer: lion_8bit is not an optimizer here",
        "warmup_steps",
        "format of rows.jsonl",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("command", "method", "rest"),
    [
        ("trl sft", "sft", {}),
        ("trl dpo --loss_type hinge", "hinge", {}),
        ("accelerate launch --config_file x.yaml trl/scripts/kto.py --beta 0.2", "kto", {"objective": {"beta": 0.2}}),
        ("python examples/scripts/reward_modeling.py", "reward", {}),
        ("trl sft --use_peft --lora_r 4 --packing", "sft",
         {"tuner": {"name": "lora", "r": 4}, "train": {"layout": "packed"}}),
        ("trl sft --optim adafactor --max-steps=50 --eval_steps 10 --no_packing", "sft",
         {"optimizer": {"name": "adafactor"}, "train": {"max_steps": 50, "layout": "padded"}, 
          "evaluate": {"every": 0.2}}),
    ],
)  # fmt: skip
def test_commands(command: str, method: str, rest: dict[str, Any]) -> None:
    script = f"""\
#!/bin/bash
export NAME="lab-small"
pip install trl
{command} \\
    --model_name_or_path $NAME \\
    --dataset_name owner/rows --dataset_train_split part
"""
    settings = convert(script, "go.sh").settings
    data = {"train": {"path": "owner/rows", "split": "part"}}
    assert settings == {"model": "lab-small", "method": method, "data": data, **rest}


def test_a_command_reads_the_file_it_names_and_its_own_options_go_before() -> None:
    Path("sft.yaml").write_text("model_name_or_path: lab\nstage: sft\ndataset: rows.jsonl\nseed: 3\n", encoding="utf-8")
    imported = convert("llamafactory-cli train sft.yaml seed=4 learning_rate=1e-4\n", "go.sh")
    assert imported.settings["train"] == {"seed": 4}
    assert imported.settings["optimizer"] == {"learning_rate": 1e-4}
    assert "dataset_info.json" in imported.left_out[0]  # which is not here, and said


UNSLOTH = (
    "%%capture\n!pip install unsloth",
    "from unsloth import FastLanguageModel\nmax_seq_length = 512\n!nvidia-smi\n"
    "model, tokenizer = FastLanguageModel.from_pretrained(\n    model_name = 'lab-small',\n"
    "    max_seq_length = max_seq_length,\n    dtype = None,\n    load_in_4bit = True,\n)\n"
    "model = FastLanguageModel.get_peft_model(model, r = 16, target_modules = ['q_proj'], lora_alpha = 8,\n"
    "    bias = 'none', use_gradient_checkpointing = 'unsloth', random_state = 3407)",
    "dataset = load_dataset('json', data_files = {'train': 'rows.jsonl'})['train'].map(template)\n"
    "trainer = SFTTrainer(model = model, train_dataset = dataset, args = SFTConfig(\n"
    "    per_device_train_batch_size = 2, gradient_accumulation_steps = 4, max_steps = 60, warmup_steps = 6,\n"
    "    bf16 = is_bfloat16_supported(), weight_decay = 0.01, report_to = 'none'))",
)


def test_a_notebook_is_read_and_never_run() -> None:
    imported = convert(notebook(*UNSLOTH), "theirs.ipynb")
    assert imported.tool == "Unsloth"
    assert imported.settings == {
        "model": "lab-small",
        "method": "sft",
        "data": {"train": "rows.jsonl"},
        "tuner": {"name": "lora", "base_bits": 4, "r": 16, "target_modules": ["q_proj"], "alpha": 8},
        "optimizer": {"warmup": 0.1, "weight_decay": 0.01},
        "train": {"max_length": 512, "max_steps": 60, "batch_tokens": 4096, "seeds": {"init": 3407}},
    }
    assert imported.origins["tuner.r"] == "lora_r, theirs.ipynb: cell 3, line 10"
    assert imported.left_out == [
        "theirs.ipynb: cell 4, line 4: bf16 is worked out by the program; say it in the recipe if it matters"
    ]


def test_a_reward_model_is_what_is_trained_or_what_scores() -> None:
    axolotl = "base_model: lab-small\nreward_model: true\ndatasets:\n  - path: pairs.jsonl\n"
    assert convert(axolotl).settings["method"] == "reward"
    llama_factory = (
        "model_name_or_path: lab-small\nstage: ppo\nfinetuning_type: full\n"
        "reward_model: saves/reward\ndataset: rows.jsonl\n"
    )
    settings = convert(llama_factory).settings
    assert settings["method"] == "ppo"
    assert settings["judge"] == {"name": "reward_model", "model": "saves/reward"}


def test_online_losses_have_names_of_their_own() -> None:
    code = "trainer = GRPOTrainer(args=GRPOConfig(loss_type='dr_grpo', output_dir='out'))\n"
    Path("go.py").write_text(code, encoding="utf-8")
    assert convert_recipe(read_foreign(Path("go.py")), Path("go.py")).settings["method"] == "online_dr_grpo"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "", "a.toml: must end in one of .yaml"),
        ("a.yaml", "x: 1\ny: 2\n", "its settings are those of no tool known here"),
        ("a.yaml", "model: lab\ndata: {train: lab:story}\n", "a.yaml: is a recipe of holdfast already"),
        ("a.yaml", "- 1\n", "a.yaml: is no mapping of settings"),
        ("a.yaml", "stage: sft\nstage: dpo\ncutoff_len: 1\n", "stage is given twice"),
        ("a.sh", "ls -l\n", "a.sh: no training command in it"),
        ("a.sh", "trl sft --x 'open\n", "a.sh:1: cannot be read as a command"),
        ("a.sh", "axolotl train none.yaml\n", "none.yaml: no such file"),
        ("a.py", "x = (\n", "a.py:1: not Python"),
        ("a.py", "print(1)\n", "a.py: no trainer of Unsloth, TRL or transformers is called in it"),
        ("a.ipynb", "{}", "a.ipynb: is no Jupyter notebook"),
    ],
)
def test_what_cannot_be_read_is_one_line(name: str, text: str, said: str) -> None:
    Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_foreign(Path(name))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_verb_writes_once_and_says_what_is_to_be_mended() -> None:
    Path("go.sh").write_text("trl grpo --model_name_or_path lab-small\n", encoding="utf-8")
    runner = CliRunner()
    done = runner.invoke(app, ["import", "go.sh"])
    assert done.exit_code == 2
    assert "go.sh: judge: say what tells right answers from wrong ones" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("holdfast:")] == [
        "holdfast: run.yaml written; it must be mended before it runs:",
        "holdfast: run.yaml: data is missing: Where the rows come from.",
    ]
    again = runner.invoke(app, ["import", "go.sh"])
    assert again.exit_code == 2
    assert "run.yaml exists" in again.stderr
