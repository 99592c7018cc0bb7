"""What every registered tuner must do: freeze bit for bit, learn, save, load, merge, come off again (laws 6, 7)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from holdfast.axes.registry import REGISTRY, find_method
from holdfast.data.batching.batches import EncodedSequence, TokenTable
from holdfast.errors import UserError
from holdfast.models import loading, saving
from holdfast.models.files import OWN_WEIGHTS, PEFT_SETTINGS, TUNER
from holdfast.models.merging import refuse_unmergeable
from holdfast.models.policy import Policy
from holdfast.recipe.schema import Recipe
from holdfast.testing.examples import tiny_model
from holdfast.testing.tuners import check_declarations, check_pairs_and_resume, supported_kind
from holdfast.training.trainer import Trainer

EXPERIMENTS = {"textbook_bitfit": "bitfit:BitFit"}
"""Tuners of this folder, in the suite as if they were registered: one file and one line each."""
NAMES = sorted({*REGISTRY["tuners"], *EXPERIMENTS})
KINDS = ["llama", "gpt2", "qwen2", "gemma2"]
TEXT = "What is the capital of France? The capital of France is Paris."

pytestmark = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for name, place in EXPERIMENTS.items():
        monkeypatch.setitem(REGISTRY["tuners"], name, place)


def takes(name, model) -> bool:
    """Whether a tuner says that it can train a model."""
    try:
        find_method("tuners", name)().check(model)
    except UserError:
        return False
    return True


@pytest.fixture
def any_kind(name, registered, tiny) -> str:
    """The first family of tiny models that a tuner can train."""
    return next(kind for kind in KINDS if takes(name, tiny(kind)[0]))


@pytest.fixture
def of_kind(name, registered, kind, tiny) -> str:
    """A family of tiny models, where the tuner can train it."""
    if not takes(name, tiny(kind)[0]):
        pytest.skip(f"{name} says that it cannot train {kind}")
    return kind


def table_of(tokenizer) -> TokenTable:
    texts = [TEXT, "Add 12 and 30. The answer is 42.", "Subtract 5 from 19: the result is 14.", "sort the letters"]
    encoded = []
    for row, text in enumerate(texts):
        ids = torch.tensor(tokenizer.encode(text)).int().numpy()
        trained = torch.arange(len(ids)).ge(len(ids) // 2).numpy()
        encoded.append(EncodedSequence(ids, trained, row))
    return TokenTable.from_sequences(encoded, fingerprint="texts")


def train(out, model, tokenizer, name, epochs=6):
    recipe = Recipe(
        model="tiny",
        data={"train": "rows.jsonl"},
        train={"epochs": epochs, "batch_tokens": 64, "precision": "fp32"},
        tuner=name,
        optimizer={"name": "adamw", "learning_rate": rate_of(name), "weight_decay": 0.1},
    )
    return Trainer(recipe, model, table_of(tokenizer), out, pad_id=tokenizer.pad_token_id).fit()


def rate_of(name) -> float:
    """A learning rate at which a tiny model learns in a few steps."""
    factor = find_method("tuners", name).rate_factor
    return min(0.3, 0.02 * factor) if factor > 10 else 0.02


def logits(model, tokenizer):
    """Of the text's tokens; virtual tokens before them have some too."""
    ids = torch.tensor([tokenizer.encode(TEXT)])
    with torch.no_grad():
        return model(input_ids=ids).logits[:, -ids.shape[1] :]


def logps(model, tokenizer):
    ids = torch.tensor([tokenizer.encode(TEXT)])
    return F.log_softmax(logits(model, tokenizer)[:, :-1], -1).gather(-1, ids[:, 1:, None])


@pytest.mark.parametrize("kind", KINDS)
def test_trained_it_froze_the_rest_bit_for_bit_and_saves_loads_and_merges(name, of_kind, tiny, tiny_dir, tmp_path):
    """Of one training, since none of them changes what it is, but for the merge at the end."""
    base = tiny_dir(of_kind)
    model, tokenizer = loading.load_model(base).model, tiny(of_kind)[1]
    before = {id(p): p.detach().clone() for p in model.parameters()}
    start = logits(model, tokenizer)
    result = train(tmp_path / "run", model, tokenizer, name)
    assert result.model is not None
    assert not torch.allclose(logits(result.model, tokenizer), start, atol=1e-3)
    expect_frozen(name, result.model, before)
    saved = saving.save_model(result.model, tokenizer, tmp_path / "model", tuner=result.tuner)
    expect_loads(result.model, saved, base, tokenizer)
    expect_merges(name, result, tokenizer, plain=type(model))


def expect_frozen(name, model, before):
    """What does not train is bit for bit as it was before, the rest is not."""
    frozen = [p for p in model.parameters() if id(p) in before and not p.requires_grad]
    moved = [p for p in model.parameters() if id(p) in before and p.requires_grad]
    assert all(torch.equal(p, before[id(p)]) for p in frozen)
    assert all(not torch.equal(p, before[id(p)]) for p in moved if p.ndim == 2)
    if find_method("tuners", name).adapter:
        assert len(frozen) == len(before)


def expect_loads(model, saved, base, tokenizer):
    """Here, and in plain transformers or PEFT, with the same log-probabilities."""
    here = logps(model, tokenizer)
    assert torch.allclose(here, logps(loading.load_model(saved).model, tokenizer), atol=1e-5)
    if (saved / OWN_WEIGHTS).is_dir():
        elsewhere = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(saved / OWN_WEIGHTS), saved)
    elif (saved / PEFT_SETTINGS).exists():
        elsewhere = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), saved)
    elif (saved / TUNER).exists():
        return  # a format of Holdfast's own, which plain libraries do not know
    else:
        elsewhere = AutoModelForCausalLM.from_pretrained(saved)
    assert torch.allclose(here, logps(elsewhere.eval(), tokenizer), atol=1e-5)


def expect_merges(name, result, tokenizer, plain):
    """Merged it is a plain model that computes the same, or says that it cannot be."""
    if not result.tuner.leaves_plain_weights() and not result.tuner.mergeable:
        with pytest.raises(UserError, match="cannot be folded into the weights"):
            refuse_unmergeable(result.tuner)
        return
    before = logits(result.model, tokenizer)
    merged = find_method("tuners", name)().merge(result.model)
    assert type(merged) is plain
    assert torch.allclose(logits(merged, tokenizer), before, atol=1e-4)


def test_the_loss_falls(name, any_kind, tiny, tmp_path):
    model, tokenizer = tiny(any_kind)
    table = table_of(tokenizer)
    batch = table.collate_rows(range(len(table)), "padded", tokenizer.pad_token_id)
    with torch.no_grad():
        start = float(-Policy(model).token_logps(batch).mean())
    moving = find_method("tuners", name)().count_trainable(tiny(any_kind)[0])
    few = moving < 0.1 * sum(p.numel() for p in model.parameters())
    slow = few or find_method("tuners", name)().virtual_tokens()
    trained = train(tmp_path, model, tokenizer, name, epochs=60 if slow else 6).model
    with torch.no_grad():
        end = float(-Policy(trained).token_logps(batch).mean())
    assert end < 0.7 * start


def test_the_same_seed_gives_the_same_weights_and_taken_off_the_base_bit_for_bit(name, any_kind, tiny, tmp_path):
    model, tokenizer = tiny(any_kind)
    start = logits(model, tokenizer)
    weights = {key: t.clone() for key, t in model.state_dict().items()}
    tuner = find_method("tuners", name)()
    trained = train(tmp_path / "one", model, tokenizer, name).model
    again = train(tmp_path / "again", *tiny(any_kind), name).model
    assert all(torch.equal(p, q) for p, q in zip(trained.parameters(), again.parameters(), strict=True))
    if not tuner.adapter:
        assert tuner.base_context(trained) is None
        return
    with tuner.base_context(trained):
        assert torch.equal(logits(trained, tokenizer), start)
    if isinstance(trained, PeftModel):
        if getattr(trained.active_peft_config, "modules_to_save", None):
            return  # unloading, PEFT leaves their trained copies in their places
        if not trained.active_peft_config.is_prompt_learning:
            trained.unload()
    own = set() if isinstance(trained, PeftModel) else tuner.adapter_parameters(trained)
    bare = model.state_dict()
    assert bare.keys() == weights.keys() | own
    assert all(torch.equal(bare[key], t) for key, t in weights.items())


def test_what_it_declares_is_so(name, tmp_path):
    tuner = find_method("tuners", name)()
    assert tuner.formula
    assert tuner.count_trainable(tiny_model(supported_kind(tuner))) is not None
    check_declarations(tuner, tmp_path)


def test_it_trains_on_pairs_and_goes_on_where_it_was_interrupted(name, tmp_path):
    check_pairs_and_resume(find_method("tuners", name)(), tmp_path)


def test_it_has_a_page_with_its_paper(name):
    method = find_method("tuners", name)
    assert method.paper
    assert "arXiv" in method.paper
    assert method.paper.split("arXiv ")[1] in method.reference_page()
    assert len(method.summary_line()) < 140
