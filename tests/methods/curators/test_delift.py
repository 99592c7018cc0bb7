"""DELIFT: the greedy against brute force, the limits of its three functions, its utility on models that show it."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from holdfast.data.chat.encoder import Chat
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.methods.curators.delift import DELIFT, answer_distance, scale_utilities
from holdfast.methods.curators.pool import answer_conversations
from holdfast.methods.curators.submodular import FacilityLocation, choose_greedily
from holdfast.models.in_context import join_turns
from holdfast.models.loading import load_model
from holdfast.models.policy import Policy
from holdfast.models.row_features import label_logps
from holdfast.pipeline.context_table import ContextTable
from holdfast.skills.rows import lab_rows
from holdfast.testing.curation_world import CurationWorld, sum_rows

N = 12


def functions(seed):
    """The three functions on one random kernel of rows and candidates."""
    rng = np.random.default_rng(seed)
    kernel = rng.random((N, N)) ** 3
    return {
        "FL": FacilityLocation(kernel),
        "FLMI": FacilityLocation(kernel, cap=rng.random(N) * 0.6),
        "FLCG": FacilityLocation(kernel, floor=rng.random(N) * 0.4),
    }


def choose_plainly(function, count):
    """Greedily, looking at every candidate every time."""
    chosen: list[int] = []
    for _ in range(count):
        rest = [j for j in range(N) if j not in chosen]
        best = max(rest, key=lambda j: (function.evaluate([*chosen, j]), -j))
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("seed", range(3))
def test_lazy_greedy_is_plain_greedy_and_near_the_best_set(seed):
    for name, function in functions(seed).items():
        for count in (1, 3, 5):
            again = functions(seed)[name]
            chosen, gains = choose_greedily(again, count)
            assert function.evaluate(chosen) == pytest.approx(function.evaluate(choose_plainly(function, count)))
            assert sum(gains) == pytest.approx(function.evaluate(chosen))
            assert gains == sorted(gains, reverse=True)
            best = max(function.evaluate(list(some)) for some in itertools.combinations(range(N), count))
            assert (1 - 1 / np.e) * best <= function.evaluate(chosen) <= best + 1e-12
    whole, _ = choose_greedily(functions(seed)["FLMI"], 100)
    assert sorted(whole) == list(range(N))  # nothing is gained any more, and it goes on


def test_limits_of_the_functions():
    rng = np.random.default_rng(0)
    kernel, sets = rng.random((N, N)), [[], [3], [1, 5, 7], list(range(N))]
    f = FacilityLocation(kernel)
    target = rng.random((N, 4))
    for chosen in sets:
        value = f.evaluate(chosen)
        assert value == pytest.approx(kernel[:, chosen].max(1).sum() if chosen else 0)
        # FLMI(A; Q) = f(A) + f(Q) - f(A u Q), with Q = V it is f(A); FLCG(A | P) = f(A u P) - f(P)
        joint = np.concatenate([kernel[:, chosen], target], 1).max(1).sum()
        of_target = target.max(1).sum()
        assert FacilityLocation(kernel, cap=target.max(1)).evaluate(chosen) == pytest.approx(value + of_target - joint)
        assert FacilityLocation(kernel, cap=kernel.max(1)).evaluate(chosen) == pytest.approx(value)
        assert FacilityLocation(kernel, floor=target.max(1)).evaluate(chosen) == pytest.approx(joint - of_target)
        assert FacilityLocation(kernel, floor=kernel.max(1)).evaluate(chosen) == pytest.approx(0)
    methods = DELIFT(), DELIFT(stage="task", target="q"), DELIFT(stage="continual", known="p")
    table = np.concatenate([kernel, target], 1)
    values = [method.build_function(table).evaluate([1, 5]) for method in methods[1:]]
    assert values[0] + values[1] == pytest.approx(f.evaluate([1, 5]))  # I(A; Q) + f(A | Q) = f(A)
    everything = np.concatenate([kernel, kernel], 1)  # as target, and as known
    assert methods[1].build_function(everything).evaluate([1, 5]) == pytest.approx(f.evaluate([1, 5]))
    assert methods[2].build_function(everything).evaluate([1, 5]) == pytest.approx(0)
    assert methods[2].build_function(kernel).evaluate([1, 5]) == f.evaluate([1, 5])  # beside nothing
    assert methods[0].build_function(kernel).evaluate([1, 5]) == f.evaluate([1, 5])


def test_distance_and_scale():
    assert answer_distance(np.log([0.5, 1.0], dtype=np.float32)) == pytest.approx(np.sqrt(0.25 / 2))
    assert answer_distance(np.zeros(3, np.float32)) == 0
    assert answer_distance(np.full(3, -100, np.float32)) == 1
    assert scale_utilities(np.array([[-1.0, 0.0], [1.0, 3.0]])).tolist() == [[0, 0.25], [0.5, 1]]
    assert scale_utilities(np.ones((2, 2))).tolist() == [[0, 0], [0, 0]]


def compute_table(model, chat, rows, examples):
    table = ContextTable(Policy(model), chat, rows, examples, answer_distance)
    return table.fill_scores([table.score_cell(cell) for cell in table.cells]), table


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_rows_behind_a_shared_example_are_rows_behind_it(kind, tiny):
    model, tokenizer = tiny(kind)
    chat = Chat(tokenizer)
    rows = answer_conversations("delift", sum_rows(5))
    rows += [replace(rows[0], messages=rows[0].messages[1:])]  # without a system message
    long = {"role": "user", "content": "word " * 400}
    scores, table = compute_table(
        model, chat, rows, [*rows[:3], replace(rows[0], messages=[long, rows[0].messages[-1]])]
    )
    assert table.reader._shares
    policy = Policy(model)
    for i, row in enumerate(rows):
        for j in range(3):
            system = [m for m in row.messages if m["role"] == "system"]
            talk = join_turns([*system, *rows[j].messages[1:]], row.messages)
            (logps,) = label_logps(policy, chat.encode_many([talk]), chat.pad_id)
            assert scores[i, j] == pytest.approx(answer_distance(logps), abs=1e-5)
    assert np.isnan(scores[:, 3]).all()  # no room for both
    assert ((scores[:, :3] >= 0) & (scores[:, :3] <= 1)).all()


def test_no_row_of_a_batch_loses_its_last_token(tiny):
    """The authors' code cuts the longest row of a batch before the end tokens that it adds."""
    model, tokenizer = tiny()
    chat = Chat(tokenizer)
    rows = answer_conversations("delift", sum_rows(6))
    rows = [
        replace(row, messages=[*row.messages[:-1], {"role": "assistant", "content": "word " * (1 + 3 * number)}])
        for number, row in enumerate(rows)
    ]
    table = ContextTable(Policy(model), chat, rows, rows[:1], len)
    counts = np.concatenate([table.score_cell(cell) for cell in table.cells])
    order = [i for block in table.blocks for i in block.rows]
    for i, count in zip(order, counts, strict=True):
        ids, label_mask = chat.encode(rows[i].messages)
        assert count == label_mask.sum() > 1 + 3 * i
        assert tokenizer.decode(ids[label_mask][-1]) in (tokenizer.eos_token, "<|im_end|>", "\n")


def test_of_a_model_that_ignores_what_stands_before_every_utility_is_zero(tiny):
    model, tokenizer = tiny()
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    chat, rows = Chat(tokenizer), answer_conversations("delift", sum_rows(4))
    behind, _ = compute_table(model, chat, rows, rows)
    alone = [
        answer_distance(one) for one in label_logps(Policy(model), chat.encode_many([r.messages for r in rows]), 0)
    ]
    np.testing.assert_allclose(np.array(alone)[:, None] - behind, 0, atol=1e-6)


def test_the_same_row_before_it_helps_a_model_that_can_copy():
    lab = load_model("lab", device="cpu")
    chat, rows = Chat(lab.tokenizer), answer_conversations("delift", list(lab_rows("lab:sums", "train", 6)))
    behind, _ = compute_table(lab.model, chat, rows, rows)
    alone = label_logps(Policy(lab.model), chat.encode_many([row.messages for row in rows]), chat.pad_id)
    utilities = np.array([answer_distance(one) for one in alone])[:, None] - behind
    assert np.diag(utilities).mean() > 0.05
    others = utilities[~np.eye(6, dtype=bool)].reshape(6, 5)
    assert (np.diag(utilities)[:, None] > others).mean() > 0.9  # row i by column j, not the other way round


def test_stages_and_what_they_need():
    for knobs, text in (
        ({"stage": "task"}, "stage task needs target"),
        ({"target": "q.jsonl"}, "stage instruction does not use target"),
        ({"stage": "continual", "target": "q"}, "stage continual does not use target"),
    ):
        with pytest.raises(ValidationError, match=text):
            DELIFT(**knobs)
    world = CurationWorld()
    out = world.curate_rows(DELIFT(stage="continual", known="general.jsonl", n=4))
    assert len(out) == 4
    assert [row.meta["trace"][-1]["criterion"] for row in out] == ["gain as an example"] * 4
    assert len(CurationWorld().curate_rows(DELIFT(stage="task", target="general.jsonl"))) == 3  # int(0.3 * 13)
    for count in (1, 5, 13):
        assert len(CurationWorld().curate_rows(DELIFT(n=count, block=4))) == count  # blocks give their due
    with pytest.raises(UserError, match="n is 14, but there are 13 rows"):
        CurationWorld().curate_rows(DELIFT(n=14))
    with pytest.raises(UserError, match=r"has no answer; delift needs one"):
        CurationWorld().curate_rows(DELIFT(), [Row([{"role": "user", "content": "Why?"}])])


def test_where_the_template_writes_earlier_turns_otherwise_every_pair_is_read_as_a_whole(tiny):
    model, tokenizer = tiny()
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ message['role'] }}", "{{ message['role'] }}{{ '' if loop.last else ' before' }}"
    )
    chat = Chat(tokenizer)
    rows = answer_conversations("delift", [replace(row, messages=row.messages[1:]) for row in sum_rows(3)])
    scores, table = compute_table(model, chat, rows, rows)
    assert table._suffixes == {0: None}
    talk = chat.encode(join_turns(rows[1].messages, rows[0].messages))
    (logps,) = label_logps(Policy(model), [talk], chat.pad_id)
    assert scores[0, 1] == pytest.approx(answer_distance(logps), abs=1e-5)
