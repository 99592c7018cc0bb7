"""Any method of PEFT by its own configuration: it is PEFT's, and what does not go is refused by name."""

from __future__ import annotations

import pytest
import torch
from peft import VeraConfig, get_peft_model

from holdfast.errors import UserError
from holdfast.methods.tuners.peft_method import REFUSED, Peft
from holdfast.models.policy import Policy
from holdfast.testing.tuners import check_base, check_declarations, check_merged, check_saved


def test_it_is_pefts_own_with_these_settings(tiny):
    settings = {"r": 4, "target_modules": ["q_proj"], "projection_prng_key": 3}
    ours = Peft(settings=settings).apply(tiny("llama")[0], 0)
    theirs = get_peft_model(tiny("llama")[0], VeraConfig(task_type="CAUSAL_LM", **settings))
    for one, other in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
    assert Peft(settings=settings).count_trainable(tiny("llama")[0]) == 2 * (4 + 32)


@pytest.mark.parametrize("method", ["loha", "oft", "ln_tuning"])
def test_others_train_merge_and_come_off(tmp_path, method):
    settings = {} if method == "ln_tuning" else {"target_modules": "q_proj, v_proj"}
    tuner = Peft(method=method, settings=settings | ({"oft_block_size": 8} if method == "oft" else {}))
    for check in (check_saved, check_merged, check_base):
        (tmp_path / check.__name__).mkdir()
        check(tuner, tmp_path / check.__name__)
    if method != "ln_tuning":
        check_declarations(Peft(method=method), tmp_path)


def test_what_does_not_go_is_refused_by_name(tiny):
    model = tiny("llama")[0]
    for name in REFUSED:
        with pytest.raises(UserError, match=f"method {name} cannot train here: .*say"):
            Peft(method=name).check(model)
    for knobs, said in (
        ({"method": "verra"}, r"verra is not a method of the PEFT that is installed.*vera"),
        ({"method": "lora", "settings": {"init_lora_weights": "pissa"}}, "pissa changes the base, .* say tuner: pissa"),
        ({"settings": {"rank": 4}}, r"PEFT's vera does not take these: .*'rank'"),
        ({"settings": {"target_modules": ["nope"]}}, "tuner.target_modules: nope not found in LlamaForCausalLM"),
        ({"method": "lora", "settings": {"r": 33, "target_modules": ["q_proj"]}}, r"tuner\.settings\.r 33 is above"),
        ({"settings": {"modules_to_save": ["nope"]}}, r"tuner\.settings\.modules_to_save: nope not found"),
        ({"method": "trainable_tokens", "settings": {"token_indices": [5000]}}, "token_indices: 5,000 is no token"),
        ({"method": "miss", "settings": {"target_modules": ["q_proj"]}}, r"PEFT's miss does not go into this model: "),
    ):
        with pytest.raises(UserError, match=said):
            Peft(**knobs).check(model)
    assert Policy(Peft().apply(model, 0)).isolates_packed_rows
