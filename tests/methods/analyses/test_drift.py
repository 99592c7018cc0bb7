"""Drift: divergence against the whole softmax, CKA of states against transformers', weights moved by hand."""

from __future__ import annotations

import pytest
import torch

from holdfast.methods.analyses.answer_tokens import encode_answers
from holdfast.methods.analyses.drift import Drift
from holdfast.models.layer_states import collect_divergence, collect_layer_states
from holdfast.models.policy import Policy
from holdfast.testing.analyses import build_context


def test_divergence_and_states_are_those_of_the_plain_models() -> None:
    context, (base, tuned) = build_context()
    task = context.tasks[0]
    answers, sequences = encode_answers(task, context.chat, 12)
    assert len(answers) == len(sequences) == 12
    assert all(answer.response for answer in answers), "empty answers have no token to read"
    with torch.no_grad():
        kl, before, after = collect_divergence(Policy(base), Policy(tuned), sequences, context.chat.pad_id)
        states = collect_layer_states(Policy(tuned), sequences, context.chat.pad_id)
        want, likeliest, hidden = [], [], []
        for sequence in sequences:
            ids = torch.as_tensor(sequence.ids[None].astype("int64"))
            labels = torch.as_tensor(sequence.label_mask[1:])
            outs = [model(ids, output_hidden_states=True) for model in (base, tuned)]
            p, q = (out.logits[0, :-1][labels].double().log_softmax(-1) for out in outs)
            want.append((p.exp() * (p - q)).sum(-1))
            likeliest.append((p.argmax(-1), q.argmax(-1)))
            hidden.append(torch.stack([layer[0, :-1][labels] for layer in outs[1].hidden_states]))
    assert torch.allclose(kl.double(), torch.cat(want), atol=2e-5)
    assert kl.mean() > 1e-3
    assert torch.equal(before, torch.cat([p for p, _ in likeliest]))
    assert torch.equal(after, torch.cat([q for _, q in likeliest]))
    assert torch.allclose(states, torch.cat(hidden, 1), atol=1e-4)


def test_a_model_that_did_not_move_and_one_that_did() -> None:
    values = {}
    for is_changed in (False, True):
        section = Drift(items=8).measure(build_context(is_changed)[0])
        values[is_changed] = {(what, task, where): value for what, task, where, value in section.table.rows}
    still, moved = values[False], values[True]
    assert still["KL, nats a token", "sums", "answers"] == pytest.approx(0, abs=1e-6)
    assert still["same next token, %", "sums", "answers"] == 100
    assert {round(v, 5) for (what, _, _), v in still.items() if what == "CKA"} == {1.0}
    assert {v for (what, _, _), v in still.items() if what.startswith("change")} == {0.0}
    assert moved["KL, nats a token", "sums", "answers"] > 1e-3
    assert min(v for (what, _, _), v in moved.items() if what == "CKA") < 0.999
    # each weight was moved by noise of a tenth of its deviation
    changes = {where: v for (what, _, where), v in moved.items() if what.startswith("change")}
    assert changes
    assert all(8 < change < 12 for change in changes.values())
    shares = [v for (what, _, _), v in moved.items() if what.startswith("share")]
    assert 0 < sum(shares) <= 100 + 1e-6
