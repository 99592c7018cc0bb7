"""Selective tuners: exactly what they name moves, drawn anew when they say so; all else stays, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.errors import UserError
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.methods.tuners.bitfit import BitFit
from holdfast.methods.tuners.freeze import Freeze
from holdfast.methods.tuners.full import Full
from holdfast.methods.tuners.half import Half
from holdfast.methods.tuners.lisa import LISA
from holdfast.methods.tuners.matrix_units import trainable_share, units_by_category
from holdfast.methods.tuners.surgical import Surgical
from holdfast.models.loading import build_skeleton, load_model
from holdfast.recipe.schema import Recipe
from holdfast.testing.examples import example_recipe, example_table, tiny_model
from holdfast.training.callbacks import Hooks
from holdfast.training.distributed import find_layers
from holdfast.training.trainer import Trainer

IDS = torch.arange(3, 19)[None]


def moving(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def layer_numbers(names):
    """Numbers of the layers that names of parameters speak of."""
    return {int(name.split("layers.")[1].split(".")[0]) for name in names if "layers." in name}


def snapshot(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


class Watch(Trainer):
    """Keeps the weights, what moves and the optimizer's state after every step."""

    def _run_step(self, step, steps):
        stop = super()._run_step(step, steps)
        state = {key: tensor.clone() for key, tensor in self.state.rule.state_tensors().items()}
        entry = (snapshot(self.model), set(self.state.trainable_parameters), state)
        self.history = [*getattr(self, "history", []), entry]
        return stop


def recipe_of(tuner, epochs, optimizer=None, **loop):
    """All rows in every step; in one micro-batch for an optimizer that moves weights in the backward pass."""
    recipe = example_recipe(epochs, tuner=tuner)
    data = recipe.model_dump(exclude={"tuner", "optimizer"}, exclude_unset=True)
    lomo = optimizer is not None and optimizer["name"] == "lomo"
    train = {k: v for k, v in data["train"].items() if not (lomo and k == "micro_tokens")} | loop
    return Recipe.model_validate(
        data | {"tuner": tuner, "optimizer": optimizer or {"name": "adamw", "learning_rate": 0.01}, "train": train}
    )


def fit(folder, tuner, epochs=6, kind="llama", optimizer=None, **sizes):
    recipe = recipe_of(tuner, epochs, optimizer)
    one = Watch(recipe, tiny_model(kind, **sizes), example_table(SFT()), folder, pad_id=0)
    return one, one.fit()


def test_lisa_moves_the_layers_of_its_draw_with_embeddings_and_head_and_nothing_else(tmp_path):
    tuner = LISA(layers=1, every=2)
    start = snapshot(tiny_model(num_hidden_layers=4))
    one, result = fit(tmp_path, tuner, epochs=8, num_hidden_layers=4)
    outside = {name for name in start if "layers." not in name}
    drawn = []
    for step, (weights, now, state) in enumerate(one.history):
        before = start if step == 0 else one.history[step - 1][0]
        changed = {name for name in weights if not torch.equal(weights[name], before[name])}
        assert changed == now
        assert outside < now
        drawn.append(layer_numbers(now))
        assert {key.rpartition(".")[0] for key in state} == now, "no state of what is frozen"
        steps = {name: int(state[f"{name}.step"]) for name in now}
        assert {steps[name] for name in outside} == {step + 1}, "what goes on keeps its state"
        fresh = step % 2 + 1 if step < 2 or drawn[step] != drawn[step - 2] else None
        assert fresh is None or {steps[n] for n in now - outside} == {fresh}, "what is drawn again begins anew"
    assert all(drawn[step] == drawn[step + 1] for step in range(0, 8, 2))
    assert len(set(map(tuple, drawn))) > 1
    assert result.trainable == sum(t.numel() for t in start.values())
    sizes = {sum(t.numel() for t in state.values()) for _, _, state in one.history}
    assert len(sizes) == 1, "the memory of a draw is that of any other"


def test_lisa_of_all_layers_is_full_fine_tuning_but_for_nothing(tmp_path):
    (lisa, _), (full, _) = (fit(tmp_path / n, t) for n, t in (("l", LISA(layers=2, every=3)), ("f", Full())))
    assert all(torch.equal(a, b) for a, b in zip(lisa.model.parameters(), full.model.parameters(), strict=True))


@pytest.mark.parametrize("tuner", [LISA(layers=1, every=2), Half(redraw="epoch")], ids=["lisa", "half"])
@pytest.mark.parametrize("optimizer", ["adamw", "lomo"])
def test_a_run_that_was_cut_between_draws_ends_bit_for_bit_as_another(tmp_path, tuner, optimizer):
    settings = {"name": optimizer, "learning_rate": 0.01}
    sizes = {"num_hidden_layers": 4}
    whole, _ = fit(tmp_path / "whole", tuner, 5, optimizer=settings, **sizes)

    class Stopped(Exception):
        pass

    def stop(log):
        if log.step == 4:
            raise Stopped

    recipe = recipe_of(tuner, 5, settings, save_every=0.2)
    with pytest.raises(Stopped):
        Trainer(recipe, tiny_model(**sizes), example_table(SFT()), tmp_path / "cut", pad_id=0,
                hooks=Hooks(on_step=stop)).fit()  # fmt: skip
    again = Trainer(recipe, tiny_model(**sizes), example_table(SFT()), tmp_path / "cut", pad_id=0).fit()
    assert again.resumed_from == 3
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))


def test_half_is_drawn_anew_with_every_epoch_and_by_run_or_stage(tmp_path):
    start = snapshot(tiny_model())
    one, _ = fit(tmp_path, Half(redraw="epoch"), epochs=4)
    before = start
    for weights, now, _ in one.history:
        assert {name for name in weights if not torch.equal(weights[name], before[name])} == now
        before = weights
    assert len({frozenset(now) for _, now, _ in one.history}) > 1
    first = moving(Half().apply(tiny_model(), 0))
    assert one.history[0][1] == moving(Half().apply(tiny_model(), recipe_of(Full(), 1).train.seed))
    assert moving(Half(redraw="run", round=3).apply(tiny_model(), 0)) == first
    assert moving(Half(round=3).apply(tiny_model(), 0)) != first


def test_half_with_share_one_is_full_fine_tuning_to_the_bit(tmp_path):
    (half, _), (full, _) = (fit(tmp_path / n, t) for n, t in (("h", Half(share=1)), ("f", Full())))
    assert all(torch.equal(a, b) for a, b in zip(half.model.parameters(), full.model.parameters(), strict=True))


def test_fused_projections_are_drawn_as_the_matrices_they_are():
    """Phi-3 has one matrix for queries, keys and values, and one for gate and up."""
    config = AutoConfig.for_model(
        "phi3", vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = build_skeleton(config)
    for seed in range(4):
        Half().apply(model, seed)
        layers = [units_by_category(layer) for layer in find_layers(model)]
        flags = {
            name: [unit[0].requires_grad for layer in layers for unit in layer[name]]
            for name in ("attention", "mlp", "norm")
        }
        assert all(sum(each) * 2 == len(each) for each in flags.values()), flags
        assert 0.3 < trainable_share(model) < 0.7


def test_freeze_moves_a_quarter_or_as_many_layers_as_it_is_told():
    model = tiny_model(num_hidden_layers=8)
    cases = {
        (): {6, 7},
        (("layers", 3),): {5, 6, 7},
        (("layers", 2), ("side", "first")): {0, 1},
        (("layers", 8),): set(range(8)),
    }
    for knobs, layers in cases.items():
        names = moving(Freeze(**dict(knobs)).apply(model, 0))
        assert layer_numbers(names) == layers
        assert all("layers." in name for name in names)
    everything = Freeze(layers=8, embeddings=True, head=True).apply(model, 0)
    assert moving(everything) == moving(Full().apply(tiny_model(num_hidden_layers=8), 0))
    assert moving(Freeze(layers=0, head=True).apply(model, 0)) == {"model.norm.weight", "lm_head.weight"}
    gpt2 = Freeze(layers=0, embeddings=True, head=True).apply(tiny_model("gpt2"), 0)
    assert moving(gpt2) == {f"transformer.{n}" for n in ("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias")}


def test_surgical_moves_what_is_named_and_only_that():
    model = tiny_model(num_hidden_layers=4)
    cases = {
        ("mlp",): {f"model.layers.{i}.mlp.{n}_proj.weight" for i in range(4) for n in ("gate", "up", "down")},
        ("v_proj", "model.norm"): {
            "model.norm.weight", *(f"model.layers.{i}.self_attn.v_proj.weight" for i in range(4)),
        },
        ("lm_head.weight",): {"lm_head.weight"},
        r"model\.layers\.(0|3)\.self_attn\.[qk]_proj": {
            f"model.layers.{i}.self_attn.{n}_proj.weight" for i in (0, 3) for n in "qk"
        },
        r".*norm.*": {name for name, _ in model.named_parameters() if "norm" in name},
    }  # fmt: skip
    for modules, names in cases.items():
        assert moving(Surgical(modules=modules).apply(model, 0)) == names
    assert layer_numbers(moving(Surgical(layers=(0, -1)).apply(model, 0))) == {0, 3}


def test_bitfit_moves_all_biases_or_those_of_some_modules():
    for kind, count in (("gpt2", 2 * (96 + 32 + 128 + 32 + 2 * 32) + 32), ("qwen2", 2 * (32 + 16 + 16))):
        model = BitFit().apply(tiny_model(kind), 0)
        assert moving(model) == {name for name, _ in model.named_parameters() if name.endswith(".bias")}
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
    few = moving(BitFit(modules=("q_proj",)).apply(tiny_model("qwen2"), 0))
    assert few == {f"model.layers.{i}.self_attn.q_proj.bias" for i in range(2)}


def test_bitfit_under_gradient_descent_is_full_fine_tuning_with_a_mask():
    full, few = tiny_model("gpt2").eval(), BitFit().apply(tiny_model("gpt2").eval(), 0)
    for model in (full, few):
        model(input_ids=IDS, labels=IDS).loss.backward()
    for (name, p), q in zip(full.named_parameters(), few.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, atol=1e-6) if name.endswith(".bias") else q.grad is None, name


def test_biases_of_zeros_change_no_bit_and_load_in_plain_transformers(tmp_path):
    base = tiny_model("llama")
    with torch.no_grad():
        start = base(input_ids=IDS).logits
    model = BitFit(add=True).apply(base, 0)
    per_layer = 32 + 16 + 16 + 32 + 64 + 64 + 32  # q, k, v, o, gate, up, down
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * per_layer
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, start)
    one, _ = fit(tmp_path / "run", BitFit(add=True), epochs=40, optimizer={"name": "adamw", "learning_rate": 0.05})
    tuned = one.model
    assert all(bool(p.abs().sum() > 0) for n, p in tuned.named_parameters() if n.endswith("bias") and "k_proj" not in n)
    tuned.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    assert type(again).__name__ == "LlamaForCausalLM"
    with torch.no_grad():
        now = tuned(input_ids=IDS).logits
        assert torch.equal(again(input_ids=IDS).logits, now)
    assert not torch.allclose(now, start, atol=1e-2)


WRONG = [
    (Freeze(layers=3), "llama", r"tuner\.layers: 3 layers of a model that has 2; set 2 or fewer"),
    (Freeze(layers=0), "llama", "leaves nothing to train"),
    (Freeze(head=True), "gpt2", r"the head of GPT2LMHeadModel is its embedding.*set both"),
    (LISA(layers=5), "llama", r"tuner\.layers: 5 layers of a model that has 2"),
    (Surgical(modules=("q_porj",)), "llama", r"q_porj not found in LlamaForCausalLM; use names such as"),
    (Surgical(modules="layers.*"), "llama", r"tuner\.modules: layers\.\* matches no weight in LlamaForCausalLM"),
    (Surgical(modules=("lm_head",)), "gpt2", "lm_head shares its weight with the input embedding; name that"),
    (Surgical(modules=("q_proj",)), "gpt2", r"q_proj not found in GPT2LMHeadModel; use names such as .*c_attn"),
    (Surgical(modules=r"(\w+\.?)+X"), "llama", "does not come to an end on the names of the weights"),
    (Surgical(layers=(2,)), "llama", r"tuner\.layers: 2 is no layer of a model that has 2"),
    (BitFit(), "llama", r"LlamaForCausalLM has none; set tuner\.add: true"),
    (BitFit(add=True), "mistral", r"tuner\.add: MistralForCausalLM has no switch for biases"),
    (BitFit(modules=("o_proj",)), "qwen2", r"tuner\.modules: o_proj not found among the modules .* q_proj, k_proj"),
    (Half(share=0, embeddings=False), "llama", "leaves nothing to train"),
]  # fmt: skip


def test_what_fits_no_model_is_one_line_before_there_is_a_run():
    for tuner, kind, said in WRONG:
        model = tiny_model(kind)
        for seen in (model, build_skeleton(model.config)):
            with pytest.raises(UserError, match=said):
                tuner.check(seen)
        assert all(p.requires_grad for p in model.parameters()), "the model is left as it was"
    with pytest.raises(ValueError, match=r"\(\( is not a regular expression"):
        Surgical(modules="((")
    for nothing in ({"modules": ()}, {"modules": ""}, {"layers": ()}):
        with pytest.raises(ValueError, match=r"nothing is named|at least 1 item"):
            Surgical(**nothing)


COMPOSED = (
    "adapter", "bitfit", "freeze", "full", "half", "ia3", "lisa", "longlora", "lora", "peft", "prefix", "prompt",
    "ptuning", "surgical",
)  # fmt: skip
NEEDED = {
    "lisa": {"layers": 1, "every": 1}, "bitfit": {"add": True}, "surgical": {"modules": ["q_proj"]},
    "prompt": {"tokens": 4}, "prefix": {"tokens": 4}, "ptuning": {"tokens": 4},
}  # fmt: skip


@pytest.mark.parametrize(
    ("tuner", "method", "optimizer"),
    [
        ("lisa", "dpo", "adamw"),
        ("longlora", "dpo", "adamw"),
        *((name, "s3ft", "adamw") for name in COMPOSED),
        *(("full", "s3ft", name) for name in ("adafactor", "sgd", "muon", "lomo")),
    ],
)
def test_they_compose_with_preferences_and_with_what_the_model_answers_itself(
    tmp_path, tiny_dir, monkeypatch, tuner, method, optimizer
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    pairs = [{"prompt": f"Add {i} and 2.", "chosen": f"It is {i + 2}.", "rejected": "No."} for i in range(8)]
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    for name, part in (("pairs", pairs), ("rows", rows)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    recipe = {
        "model": str(tiny_dir("llama")), "method": method, "judge": "exact", "output": "out",
        "data": {"train": "pairs.jsonl" if method == "dpo" else "rows.jsonl", "test": 0},
        "tuner": {"name": tuner, **NEEDED.get(tuner, {})},
        "optimizer": {"name": optimizer, "learning_rate": 1e-2},
        "train": {"max_steps": 3, "batch_tokens": 128, "max_length": 64}, "sampling": {"max_tokens": 4},
        "evaluate": {"target": "none", "keep": [], "every": 0},
    }  # fmt: skip
    Path("run.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    done = CliRunner().invoke(app, ["train", "run.yaml"])
    assert done.exit_code == 0, (done.output, done.exception)
    loaded, base = load_model("out"), load_model(recipe["model"])
    with torch.no_grad():
        tuned, start = (each.model(input_ids=IDS).logits for each in (loaded, base))
    assert not torch.equal(tuned, start)
    if tuner == "longlora":
        assert (loaded.tuner.length, loaded.tuner.groups) == (64, 4), "rows are as long as train.max_length"
