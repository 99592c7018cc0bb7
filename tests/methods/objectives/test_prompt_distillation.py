"""Prompt distillation: golden value, limits, and that the teacher reads what the student does not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.data.batching.tokenize import build_table
from holdfast.data.chat.encoder import Chat
from holdfast.data.rows import Row
from holdfast.methods.objectives.distillation.prompt_distillation import PromptDistillation
from holdfast.methods.objectives.terms.top_k import keep_likeliest_tokens, top_k_divergence
from holdfast.models.policy import Policy


def test_golden_value(golden, golden_logits):
    def logits(phase):
        made = golden_logits(phase)
        return torch.cat([made[i, :n] for i, n in enumerate((5, 3, 6))])

    got = top_k_divergence(keep_likeliest_tokens(logits(0.15), 0, 2.0), logits(0.0), 0, 2.0).mean()
    np.testing.assert_allclose(got, golden["pd KL(T||S) temp=2 tokmean (no T^2)"], atol=1e-8)


def test_a_whole_vocabulary_gives_the_exact_divergence_of_each_token(golden_logits):
    """As between a policy and the untouched model in `tests/methods/credits`."""
    table = json.loads((Path(__file__).parents[1] / "credits" / "golden.json").read_text())
    teacher = keep_likeliest_tokens(golden_logits(0.0).flatten(0, 1), 0, 1.0)
    each = top_k_divergence(teacher, golden_logits(0.15).flatten(0, 1), 0, 1.0).view(3, 6)
    sums = [float(each[i, :n].sum()) for i, n in enumerate((5, 3, 6))]
    np.testing.assert_allclose(sums, table["exact token KL(p||ref) sum"], atol=1e-8)


def shaken(model) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_student_answers_without_as_the_teacher_did_with_the_context(tiny, rows_of, readied, layout, reverse):
    model, _ = tiny("llama")
    objective = PromptDistillation(top=0, reverse=reverse)
    policy, batch = Policy(model), collate_sequences(rows_of(objective), layout, 0)
    readied(policy, objective, [batch])
    with torch.no_grad():
        part = batch.select_roles(1)
        teacher = (policy.logits_at(part, part.label_positions) / 2).log_softmax(-1)
    shaken(model)
    student = batch.select_roles(0)
    ours = (policy.logits_at(student, student.label_positions) / 2).log_softmax(-1)
    p, q = (ours, teacher) if reverse else (teacher, ours)
    each = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    value = objective.losses(policy, batch).sums["kl"]
    torch.testing.assert_close(value, (each * student.weights).sum(), rtol=1e-5, atol=0)
    assert objective.normalizers(batch) == {"kl": student.weight}
    assert math.isclose(student.weight, batch.weight / 2, rel_tol=1e-6)


def test_without_context_there_is_nothing_to_learn(tiny, make_rows, readied):
    model, _ = tiny("gemma2")
    rows = [EncodedSequence(r.ids, r.label_mask, r.row, role) for r in make_rows() for role in (0, 1)]
    policy, batch = Policy(model), collate_sequences(rows, "padded", 0)
    for objective in (PromptDistillation(), PromptDistillation(top=0, reverse=True), PromptDistillation(tail=False)):
        readied(policy, objective, [batch])
        value = objective.losses(policy, batch).sums["kl"]
        assert abs(value.item()) < 1e-4
        grads = torch.autograd.grad(value, list(model.parameters()))
        assert max(g.abs().max().item() for g in grads) < 1e-4


def test_fewer_tokens_are_a_lower_bound_and_knobs_differ(tiny, rows_of, readied):
    model, _ = tiny("llama")
    rows = rows_of(PromptDistillation())
    values = {}
    for name, knobs in {
        "1": {"top": 1}, "10": {"top": 10}, "100": {"top": 100}, "all": {"top": 0}, "more": {"top": 320},
        "hot": {"temperature": 4.0}, "renormalised": {"top": 10, "tail": False}, "reverse": {"reverse": True},
    }.items():  # fmt: skip
        objective, policy, batch = PromptDistillation(**knobs), Policy(model), collate_sequences(rows, "padded", 0)
        readied(policy, objective, [batch])
        values[name] = objective.losses(policy, batch).sums["kl"].item()
    assert 0 < values["1"] < values["10"] < values["100"] < values["all"]
    assert values["all"] == values["more"]
    assert len({round(v, 4) for v in values.values()}) == len(values) - 1


def test_the_teacher_gets_no_gradient_and_needs_no_second_pass(tiny, rows_of, readied, monkeypatch):
    model, _ = tiny("llama")
    objective = PromptDistillation()
    rows = rows_of(objective)
    policy, batch = Policy(model), collate_sequences(rows, "padded", 0)
    readied(policy, objective, [batch])
    value = objective.losses(policy, batch).sums["kl"]
    for row in rows:
        if row.role == 1:
            row.ids[:4] = 5  # whatever stands before the teacher's question now
    torch.testing.assert_close(objective.losses(policy, collate_sequences(rows, "padded", 0)).sums["kl"], value)


def test_rows_with_context_become_student_and_teacher(tokenizer):
    question, answer = {"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "In Paris."}
    rows = [
        Row([question, answer], meta={"context": "It is in Paris."}),
        Row([question, answer]),
    ]
    table, _ = build_table(rows, Chat(tokenizer), max_length=200, kind=PromptDistillation().row_shape())
    batch = table.collate_rows([0, 1], "padded", 0)
    student, teacher = batch.select_roles(0), batch.select_roles(1)
    assert torch.equal(student.labels, teacher.labels)
    assert torch.equal(student.sequence, teacher.sequence)
    texts = [tokenizer.decode(e.ids) for row in (0, 1) for e in table.row_sequences(row)]
    assert "It is in Paris.\nWhere is it?" in texts[1]
    assert texts[0] == texts[2] == texts[3]
