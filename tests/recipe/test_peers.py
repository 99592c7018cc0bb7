"""What recipes of other tools, and names they have, are read as, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.axes.elsewhere import METHODS_ELSEWHERE
from holdfast.axes.registry import REGISTRY
from holdfast.errors import UserError
from holdfast.recipe import peers
from holdfast.recipe.aliases import DEVICE_BATCH
from holdfast.recipe.loader import ResolvedRecipe, read_recipe, resolve_any
from holdfast.recipe.messages import describe_settings
from holdfast.recipe.shorthand import METHODS

MINIMAL = "model: lab\ndata: {train: lab:story}\n"

LLAMA_FACTORY = """\
model_name_or_path: lab-small
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 4
lora_target: q_proj,v_proj
dataset: rows.jsonl
cutoff_len: 512
max_samples: 1000
preprocessing_num_workers: 16
output_dir: saves/x
logging_steps: 10
plot_loss: true
learning_rate: 1.0e-4
num_train_epochs: 2.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
val_size: 0.2
report_to: none
"""

AXOLOTL = """\
base_model: lab-small
datasets:
  - path: rows.jsonl
    type: alpaca
val_set_size: 0.1
output_dir: ./out
adapter: lora
lora_r: 16
lora_alpha: 32
lora_target_linear: true
sequence_len: 512
sample_packing: false
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 1
optimizer: adamw
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
load_in_8bit: false
load_in_4bit: false
flash_attention: true
wandb_project:
special_tokens:
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def errors(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_recipe(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def test_states_in_8_bits_are_asked_for_as_elsewhere(write) -> None:
    recipe = read_recipe(write(LLAMA_FACTORY + "optim: adamw_bnb_8bit\n")).recipe
    assert (type(recipe.optimizer).__name__, recipe.optimizer.states) == ("AdamW", "8bit")  # type: ignore[attr-defined]


def test_a_llama_factory_recipe_with_counterparts_only_runs(write) -> None:
    resolved = read_recipe(write(LLAMA_FACTORY))
    recipe = resolved.recipe
    assert (recipe.model, recipe.method, recipe.data.train) == ("lab-small", "sft", "rows.jsonl")
    assert (recipe.data.limit, recipe.data.test, recipe.output) == (1000, 0.2, "saves/x")
    assert (recipe.tuner.r, recipe.tuner.target_modules) == (4, ("q_proj", "v_proj"))  # type: ignore[attr-defined]
    assert (recipe.train.epochs, recipe.train.max_length, recipe.train.precision) == (2.0, 512, "bf16")
    assert (recipe.optimizer.schedule, recipe.optimizer.warmup) == ("cosine", 0.1)
    (left_out,) = [note for note in resolved.notes if "no effect" in note]
    assert left_out.endswith(
        "run.yaml:3: do_train has no effect here (train does both), nor have: preprocessing_num_workers (rows are "
        "tokenised fast enough in one process), logging_steps (every step is in OUTPUT/log.jsonl), plot_loss (the "
        "report plots it), report_to (switched off)"
    )


def test_an_axolotl_recipe_with_counterparts_only_runs(write) -> None:
    recipe = read_recipe(write(AXOLOTL)).recipe
    assert (recipe.model, recipe.data.train, recipe.data.test) == ("lab-small", "rows.jsonl", 0.1)
    assert (recipe.tuner.r, recipe.tuner.alpha) == (16, 32)  # type: ignore[attr-defined]
    assert (recipe.train.layout, recipe.train.precision, recipe.train.batch_tokens) == ("padded", "auto", 8 * 512)
    assert read_recipe(write(AXOLOTL.replace("adapter: lora\nlora_r: 16\nlora_alpha: 32\n", "adapter:\n"))).recipe


def test_what_has_no_counterpart_is_said_below_whose_recipe_it_is(write) -> None:
    text = LLAMA_FACTORY + "template: llama3\nsave_steps: 500\noverwrite_output_dir: true\neval_steps: 5\n"
    first, *rest = errors(write(text))
    assert first.startswith("run.yaml: this is a LLaMA-Factory recipe; understood: model_name_or_path (model), stage (")
    assert first.endswith("val_size (data.test); the rest is to be changed:")
    assert rest == [
        "run.yaml:21: template is not supported: the model's own chat template is used; leave it out",
        "run.yaml:22: save_steps is not a setting here: train.save_every counts in shares of the run, not in steps: "
        "0.25 saves four times",
        "run.yaml:23: overwrite_output_dir is not a setting here: --restart begins anew and keeps the old run beside "
        "it",
        "run.yaml:24: eval_steps is not a setting here: evaluate.every counts in shares of the run, not in steps: 0.25 "
        "measures four times",
    ]
    first, *rest = errors(
        write(AXOLOTL.replace("adamw", "paged_adamw_8bit").replace("load_in_4bit: false", "load_in_4bit: true"))
    )
    assert first.startswith(
        "run.yaml: this is an Axolotl recipe; understood: base_model (model), datasets (data.train)"
    )
    assert rest == [
        "run.yaml:16: optimizer: paged_adamw_8bit is not one of the optimizers: there are adamw, adamw_8bit and lomo, "
        "which holds no states at all",
        "run.yaml:21: load_in_4bit is not a setting here: the frozen base of lora is held in so many bits by "
        "tuner.base_bits: 4",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("stage: rm", "method: rm is not a method: objective reward trains a reward model; dpo and"),
        ("stage: [sft, dpo]", "stage is not a setting; did you mean stages?"),
        ("method: s3ft+ssr", "method: s3ft+ssr: both s3ft and ssr choose the rows, and `+` joins methods that do "
         "different things; choose one, or let one work on the other's rows with curate: [s3ft, ssr]"),
        ("beta: 0.2", "objective.beta: sft has no beta (dpo, geometric, ada_dpo and others have); set "
         "objective.name to dpo, or leave beta out"),
        ("tuner: {name: full, r: 8}", "tuner.r: full has no r (lora, longlora have); set tuner.name to lora, or leave "
         "r out"),
        ("tuner: {r: 8}", "tuner.r: full has no r (lora, longlora have); set tuner.name to lora, or leave r out"),
        ("tuner: {name: lora, target: q_proj}", "tuner.target is not a setting; did you mean tuner.target_modules?"),
        ("judge: {name: number, treshold: 1}", "judge.treshold is not a setting"),
        ("report_to: all", "track: knows tensorboard, wandb, mlflow, trackio, not 'all'"),
        ("wandb_project: x", "wandb_project is not a setting here: track: wandb shows the run, in the project that "),
        ("use_swanlab: true", "use_swanlab is not supported: track knows tensorboard, wandb, mlflow and trackio; "),
        ("push_to_hub: true", "push_to_hub is not supported: nothing is uploaded; OUTPUT/model is a plain model"),
        ("deepspeed: z3.json", "deepspeed is not supported: several GPUs are used by `accelerate launch"),
        ("fp16: true", "fp16 is not supported: 16-bit floats overflow in training"),
        ("train: {warmup_steps: 5}", "train.warmup_steps is not a setting here: optimizer.warmup is the share"),
        ("optimizer: {beta: 1}", "optimizer.beta is not a setting; did you mean optimizer.betas?"),
    ],
)  # fmt: skip
def test_names_of_elsewhere(write, line: str, said: str) -> None:
    (found,) = errors(write(MINIMAL + line + "\n"))
    assert found.startswith(f"run.yaml:3: {said}")


def test_trackers_have_their_names_of_elsewhere(write) -> None:
    for line, track in (
        ("report_to: wandb", ("wandb",)), ("report_to: [tensorboard, mlflow]", ("tensorboard", "mlflow")),
        ("use_wandb: true", ("wandb",)), ("report_to: none", ()), ("use_tensorboard: false", ()),
    ):  # fmt: skip
        assert read_recipe(write(MINIMAL + line + "\n")).recipe.track == track, line


def test_a_name_that_implies_its_method(write) -> None:
    resolved = read_recipe(write(MINIMAL + "neftune_noise_alpha: 7\nlora_r: 4\nfinetuning_type: lora\n"))
    assert resolved.recipe.objective.alpha == 7  # type: ignore[attr-defined]
    assert resolved.sources["tuner.name"].endswith("run.yaml:5"), "what is given goes before what is implied"
    (line,) = errors(write(MINIMAL + "tuner: lora\nfinetuning_type: full\n"))
    assert line == "run.yaml:4: finetuning_type means tuner.name, which is given as well; keep one of them"
    assert objective(read_recipe(write(MINIMAL.replace("lab\n", "lab\nmethod: dpo\n") + "beta: 0.3\n"))) == 0.3


def objective(resolved: ResolvedRecipe) -> float:
    return resolved.recipe.objective.beta  # type: ignore[attr-defined,no-any-return]


def test_both_names_of_a_batch_are_named(write) -> None:
    (line,) = errors(
        write(MINIMAL + "train: {batch_tokens: 9}\nper_device_train_batch_size: 2\ngradient_accumulation_steps: 3\n")
    )
    assert line.endswith(
        "per_device_train_batch_size means train.batch_tokens, which is given as well; keep one of them "
        "(per_device_train_batch_size and gradient_accumulation_steps belong together)"
    )


def test_a_section_that_is_no_mapping_names_its_settings(write) -> None:
    (line,) = errors(write("model: lab\ndata: {train: lab:story, replay: 0.1}\n"))
    assert line.startswith("run.yaml:2: data.replay must be a mapping of `path`, `share`")
    assert line.endswith(", not 0.1")


def test_a_directory_without_a_run(tmp_path: Path) -> None:
    (line,) = errors(tmp_path)
    assert line.endswith("is a directory without a run in it; give a recipe file, or the directory of a run")


def test_the_tables_say_nothing_of_our_own_settings() -> None:
    """A name in them that is also a setting of ours would never be reached, or would shadow it."""
    ours = set(describe_settings()) | {"stages"}
    for name in (*peers.SAME, *peers.NO_EFFECT, *peers.INSTEAD):
        assert name not in ours
    tables = [set(peers.NO_EFFECT), set(peers.INSTEAD), set(peers.ALIASES), set(DEVICE_BATCH)]
    assert sum(map(len, tables)) == len(set().union(*tables)), "each name is in one table"
    names = {name for axis in REGISTRY.values() for name in axis} | set(METHODS)
    assert not names & set(METHODS_ELSEWHERE)
    for name in METHODS_ELSEWHERE:
        with pytest.raises(UserError, match="is not a method: "):
            resolve_any({"model": "lab", "data": {"train": "lab"}, "method": name})
