"""LoRA: starts as the base, seeded, comes off without a trace, merges, and names what it cannot find."""

from __future__ import annotations

import re

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from holdfast.axes.registry import find_method
from holdfast.errors import UserError
from holdfast.methods.tuners.lora import LoRA
from holdfast.models.merging import fold_adapter
from holdfast.testing.tuners import check_declarations, check_pairs_and_resume, check_saved


def logits(model, tokenizer):
    ids = torch.tensor([tokenizer.encode("What is the capital of France?")])
    with torch.no_grad():
        return model(input_ids=ids).logits


def disturb(model):
    """Give every B something to say."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name and p.requires_grad:
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)


KNOBS = (
    {}, {"rslora": True}, {"dora": True}, {"init": "orthogonal"}, {"alpha": 32.0}, {"init": "pissa"},
    {"init": "pissa_niter_16", "rslora": True},
)  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "gemma2"])
def test_it_starts_as_exactly_the_base(tiny, kind):
    model, tokenizer = tiny(kind)
    before = logits(model, tokenizer)
    tuned = LoRA().apply(model, seed=0).eval()
    assert torch.equal(before, logits(tuned, tokenizer))


def test_only_a_and_b_train_and_the_head_is_left_alone(tiny):
    model, _ = tiny("llama")
    tuned = LoRA(r=4).apply(model, seed=0)
    names = [name for name, p in tuned.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 7
    assert all("lora_" in n and "lm_head" not in n for n in names)


def test_the_seed_alone_decides_the_start_and_the_global_generator_is_left_alone(tiny):
    state = torch.get_rng_state()
    starts = []
    for seed in (0, 0, 1):
        tuned = LoRA().apply(tiny("llama")[0], seed)
        starts.append(torch.cat([p.flatten() for n, p in tuned.named_parameters() if "lora_A" in n]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("knobs", KNOBS)
def test_switched_off_is_the_base_and_merged_is_the_tuned(tiny, knobs):
    model, tokenizer = tiny("llama")
    before = logits(model, tokenizer)
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    tuner = LoRA(r=4, **knobs)
    tuned = tuner.apply(model, seed=0).eval()
    disturb(tuned)
    moved = logits(tuned, tokenizer)
    assert not torch.allclose(moved, before, atol=1e-3)
    with tuner.base_context(tuned):
        assert torch.equal(logits(tuned, tokenizer), before)
    assert torch.equal(logits(tuned, tokenizer), moved)
    inside = {n.replace(".base_layer", "").removeprefix("base_model.model."): t for n, t in tuned.state_dict().items()}
    assert all(torch.equal(weights[name], inside[name]) for name in weights)
    assert torch.allclose(logits(tuner.merge(tuned), tokenizer), moved, atol=1e-4)


def test_the_update_is_alpha_over_r_times_b_a(tiny):
    model, _ = tiny("llama")
    weight = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    tuner = LoRA(r=4, alpha=12)
    tuned = tuner.apply(model, seed=0)
    disturb(tuned)
    layer = tuned.base_model.model.model.layers[0].mlp.up_proj
    update = 3.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    merged = tuner.merge(tuned).model.layers[0].mlp.up_proj.weight
    assert torch.allclose(merged, weight + update, atol=1e-6)


def test_unknown_modules_are_named(tiny):
    with pytest.raises(UserError, match=r"tuner\.target_modules: q_porj not found in LlamaForCausalLM"):
        LoRA(target_modules=("q_porj", "v_proj")).apply(tiny("llama")[0], 0)


def experts(tokenizer, kind):
    """A seeded random mixture of four experts."""
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, initializer_range=0.2, **sizes)).eval()


def test_experts_that_stay_as_they_are_are_told_and_can_be_named(tokenizer):
    model = experts(tokenizer, "gpt_oss")
    (line,) = LoRA().list_warnings(model)
    found = re.search(r"leaves the experts as they are, (\d+)% of the weights.*target_parameters: \[(.*)\]", line)
    assert found, line
    tensors = [p.numel() for name, p in model.named_parameters() if ".experts." in name and p.ndim > 2]
    share = sum(tensors) / sum(p.numel() for p in model.parameters())
    assert int(found[1]) == round(100 * share)
    tuner = LoRA(target_parameters=tuple(found[2].split(", ")))
    assert tuner.list_warnings(model) == []
    (before,), (after,) = LoRA().list_notes(model), tuner.list_notes(model)
    assert int(re.search(r"(\d+)%", after)[1]) == pytest.approx(
        int(re.search(r"(\d+)%", before)[1]) + 100 * share, abs=1
    )
    tuned = tuner.apply(model, seed=0).eval()
    disturb(tuned)
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        moved = tuned(input_ids=ids).logits
        assert torch.allclose(fold_adapter(tuned, tuner)(input_ids=ids).logits, moved, atol=1e-4)
    assert LoRA().list_warnings(experts(tokenizer, "mixtral")) == [], "PEFT knows where mixtral keeps its experts"


UNFIT = {
    "norm": r"tuner: PEFT cannot adapt this model so: Target module LlamaRMSNorm",
    ".*_layernorm": r"tuner: PEFT cannot adapt this model so: Target module LlamaRMSNorm",
    "((": r"tuner\.target_modules: \(\( is not a regular expression",
    "q_porj, v_proj": r"tuner\.target_modules: q_porj not found",
    ".*porj": r"tuner\.target_modules: \.\*porj matches no module",
}


@pytest.mark.parametrize("targets", UNFIT)
def test_what_peft_would_refuse_is_refused_before_there_is_a_run(tiny, targets):
    model, _ = tiny("llama")
    with pytest.raises(UserError, match=UNFIT[targets]):
        LoRA(target_modules=targets).check(model)
    assert all(p.requires_grad for p in model.parameters()), "the model is left as it was"


@pytest.mark.parametrize(
    "knobs", [{"dora": True}, {"rslora": True}, {"init": "orthogonal"}, {"init": "gaussian"}, {"init": "pissa"}]
)
def test_what_peft_takes_is_let_through(tiny, knobs):
    tuner = LoRA(**knobs, modules_to_save=("lm_head",))
    tuner.check(tiny("gpt2")[0])
    assert "beside 100%" not in tuner.list_notes(tiny("llama")[0])[0]


def test_parameters_that_are_not_there_are_named(tiny):
    with pytest.raises(UserError, match=r"mlp\.experts\.up not found in LlamaForCausalLM; it keeps no experts"):
        LoRA(target_parameters=("mlp.experts.up",)).check(tiny("llama")[0])


def test_which_modules_is_said_in_a_word(tiny):
    """`attention`, `mlp` and `all` are the layers' maps of that part, by names that hit no other module."""
    for kind, attention, mlp in (
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}),
        ("gpt2", {"c_attn", "c_proj"}, {"c_fc", "c_proj"}),
    ):
        model, sizes = tiny(kind)[0], {}
        for word, names in (("attention", attention), ("mlp", mlp), ("all", None)):
            tuner = LoRA(target_modules=word)
            tuner.check(model)
            tuned = tuner.apply(tiny(kind)[0], 0)
            if names:
                assert {t.rpartition(".")[2] for t in tuned.active_peft_config.target_modules} == names
            sizes[word] = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
            assert sizes[word] == tuner.count_trainable(model)
        assert sizes["attention"] + sizes["mlp"] == sizes["all"]


def test_lora_plus_is_two_rates_under_adam(tiny):
    """B at sixteen times the rate of A makes the same update of the weights as sixteen times the alpha."""
    updates = []
    ids = torch.arange(3, 40)[None]
    for name, ratio in (("lora", 16.0), ("lora_plus", 1.0)):
        model = find_method("tuners", name)(target_modules="attention").apply(tiny("llama")[0].double(), 0).double()
        groups = [
            {"params": [p for n, p in model.named_parameters() if part in n and p.requires_grad], "lr": rate}
            for part, rate in (("lora_A", 1e-3), ("lora_B", 1e-3 * ratio))
        ]
        optimizer = torch.optim.AdamW(groups, eps=1e-30, weight_decay=0.0)
        for _ in range(5):
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
        updates.append(model.base_model.model.model.layers[1].self_attn.q_proj.get_delta_weight("default"))
    torch.testing.assert_close(*updates, rtol=1e-6, atol=1e-9)
    assert float(updates[0].detach().abs().max()) > 1e-3


def test_pissa_starts_with_what_is_largest_and_is_saved_as_plain_lora(tiny, tmp_path):
    """A and B are PEFT's, the sum is the base, and the file goes on the untouched base, in plain PEFT too."""
    for kind, knobs in (("llama", {"modules_to_save": ("lm_head",)}), ("gpt2", {"rslora": True})):
        model, tokenizer = tiny(kind)
        before = logits(model, tokenizer)
        tuner = find_method("tuners", "pissa")(r=4, **knobs)
        tuned = tuner.apply(model, seed=0).eval()
        assert torch.allclose(logits(tuned, tokenizer), before, atol=1e-5)
        theirs = get_peft_model(
            tiny(kind)[0],
            LoraConfig(
                task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights="pissa",
                use_rslora=tuner.rslora, fan_in_fan_out=kind == "gpt2",
            ),
        )  # fmt: skip
        own = {name: p for name, p in tuned.named_parameters() if p.requires_grad and "lora_" in name}
        start = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
        assert own.keys() == start.keys()
        assert all(torch.equal(p, start[name]) for name, p in own.items())
        with tuner.base_context(tuned):
            pass
        moving = {name for name, p in tuned.named_parameters() if p.requires_grad}
        assert not [name for name in moving if ".start." in name]
        disturb(tuned)
        moved = logits(tuned, tokenizer)
        folder = tmp_path / kind
        folder.mkdir()
        tuner.save(tuned, folder, torch.float32)
        for loaded in (tuner.load(folder, tiny(kind)[0]), PeftModel.from_pretrained(tiny(kind)[0], folder)):
            torch.testing.assert_close(logits(loaded.eval(), tokenizer), moved, rtol=0, atol=1e-4)
            assert loaded.active_peft_config.r == 8


def test_pissa_resumes_bit_for_bit_and_has_a_reference(tmp_path):
    """The suite's checks of what follows from a second adapter; on pairs the loss needs the base."""
    tuner = find_method("tuners", "pissa")(r=4, alpha=4)
    for number, check in enumerate((check_declarations, check_saved, check_pairs_and_resume)):
        folder = tmp_path / str(number)
        folder.mkdir()
        check(tuner, folder)


def test_at_full_rank_it_reaches_any_change_of_a_matrix(tiny):
    """With r = min(in, out) B A is any matrix: merged, it is another model, as full fine-tuning could make it."""
    model, tokenizer = tiny("llama")
    other = tiny("llama")[0]
    with torch.no_grad():
        for number, p in enumerate(other.model.layers.parameters()):
            if p.ndim == 2:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(number)), alpha=0.1)
    tuner = LoRA(r=32, alpha=32)
    tuned = tuner.apply(model, 0)
    with torch.no_grad():
        for name, layer in tuned.get_base_model().named_modules():
            if hasattr(layer, "lora_A"):
                change = other.get_submodule(name).weight - layer.base_layer.weight
                u, s, v = torch.linalg.svd(change, full_matrices=False)
                layer.lora_A["default"].weight.zero_()[: len(s)] = v
                layer.lora_B["default"].weight.zero_()[:, : len(s)] = u * s
    torch.testing.assert_close(logits(tuner.merge(tuned), tokenizer), logits(other, tokenizer), rtol=0, atol=1e-4)


REFUSED = (
    ({"modules_to_save": ("foo.lm_head",)}, r"tuner\.modules_to_save: foo\.lm_head not found in LlamaForCausalLM"),
    ({"target_modules": ("q_proj", "foo.v_proj")}, r"tuner\.target_modules: foo\.v_proj not found"),
    (
        {"r": 33, "target_modules": ("q_proj",)},
        r"tuner\.r 33 is above the rank of every matrix .* LlamaForCausalLM, 32",
    ),
    ({"r": 17, "target_modules": ("k_proj",)}, r"tuner\.r 17 is above .*, 16 at most; set tuner\.r to 16 or fewer"),
    ({"r": 17, "init": "pissa"}, r"tuner\.r 17: tuner\.init pissa starts with r singular values .* has 16; set"),
    ({"init": "pissa", "dora": True}, r"tuner\.init: pissa decomposes matrices as they are; leave tuner\.dora out"),
)


def test_ranks_that_no_matrix_has_and_starts_that_do_not_go_together_are_refused(tiny):
    model = tiny("llama")[0]
    for knobs, line in REFUSED:
        with pytest.raises(UserError, match=line):
            LoRA(**knobs).check(model)
    assert "tuner.r 17 is larger than 4 of the matrices" in " ".join(LoRA(r=17).list_warnings(model))
