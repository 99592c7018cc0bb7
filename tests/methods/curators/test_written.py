"""Curators whose rows a model writes: heuristics on recorded texts, the vote, budgets, nothing asked twice."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from pydantic import ValidationError

from holdfast.axes.engine import Sample
from holdfast.data.overlap.words import split_words
from holdfast.data.rows import Row
from holdfast.methods.curators.generate import Generate
from holdfast.methods.curators.output_votes import count_votes, parse_example, vote_output
from holdfast.methods.curators.prompt2model import Prompt2Model
from holdfast.methods.curators.self_instruct import SelfInstruct
from holdfast.methods.curators.task_writing import (
    find_task_fault,
    join_task,
    longest_alike,
    parse_instances,
    parse_tasks,
    rouge_l,
    select_instances,
)


def ask_row(question: str, answer: str | None = "gold", number: int = 1) -> Row:
    messages = [{"role": "user", "content": question}]
    messages += [{"role": "assistant", "content": answer}] if answer else []
    return Row(messages, place=f"rows.jsonl:{number}")


def replying(world, reply, tokens=10, finish="stop", **bench):
    """A bench whose model says what `reply` makes of the question and the number of the sample."""
    asked = []

    def draw(requests, params, on_sample=None):
        asked.append((len(requests), params))
        return {
            r.key: [Sample(r.key, i, reply(r.messages[-1]["content"], i), finish, tokens) for i in range(params.n)]
            for r in requests
        }

    return replace(world.bench(**bench), sample=draw), asked


# ---- self_instruct ---------------------------------------------------------------------------------------------------


def test_tasks_in_a_reply():
    assert parse_tasks(" Write a haiku about  May.\n10. name three\nBirds of Prey.\n11. Sort it.") == [
        "Write a haiku about May.", "Name three Birds of Prey.", "Sort it.",
    ]  # fmt: skip
    assert parse_tasks("Here are more tasks:\n\n9. Say why.\n10) Say how.") == ["Say why.", "Say how."]
    assert parse_tasks("") == []


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        ("Write a poem about the sea.", None),
        ("Say it now", "too short or too long"),
        ("word " * 151, "too short or too long"),
        ("Draw a house with two windows.", "beyond text"),
        ("Describe the drawing of a house.", None),
        ("Explain how to go to the moon.", "beyond text"),
        ("Write a program that adds numbers.", "begins as very many do"),
        ("- List the first ten primes.", "begins with a mark or another script"),
        ("Ötzi lived in the Alps, when?", "begins with a mark or another script"),
    ],
)
def test_faults_of_tasks(task, fault):
    assert find_task_fault(task) == fault


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence():
    a, b = split_words("the cat sat on the mat"), split_words("the cat lay on a mat")
    assert rouge_l(a, b) == pytest.approx(2 * (4 / 6) * (4 / 6) / (4 / 6 + 4 / 6))
    assert (rouge_l(a, a), rouge_l(a, ["x"]), rouge_l([], [])) == (1.0, 0.0, 0.0)
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
    rng = random.Random(0)
    for _ in range(40):
        one, other = (" ".join(rng.choice("abcde") for _ in range(rng.randint(1, 12))) for _ in range(2))
        assert rouge_l(split_words(one), split_words(other)) == pytest.approx(
            scorer.score(one, other)["rougeL"].fmeasure
        )


@pytest.mark.parametrize(
    ("reply", "tasks"),
    [
        (
            " Write a haiku about  May.\n10. name three\nbirds of prey that hunt.\n11. Sort it.\n"
            "12 . Give me the opposite of each word",
            ["Write a haiku about may.", "Name three birds of prey that hunt.", "Give me the opposite of each word"],
        ),
        (
            "\n9. Write a program that adds two numbers.\n10. Describe this picture in one word.\n"
            '11. "Hello" means what, please?\n12. Explain in short how bread rises',
            ["Explain in short how bread rises"],
        ),
        (
            "Draw a house with trees.\n10. Which map shows this town best?\n11. Tell how to go to the sea.\n"
            "12. Mapping of names to numbers, please",
            ["Mapping of names to numbers, please"],
        ),
    ],
)
def test_tasks_are_those_of_the_papers_code(reply, tasks):
    """What the authors' `post_process_gpt3_response` makes of recorded replies; it lower-cases what we leave."""
    own = [task for task in parse_tasks(reply) if find_task_fault(task) is None]
    assert [task.capitalize() for task in own] == tasks


INPUT_FIRST_REPLIES = {
    "Example 1\nInput: 3, 1\nOutput: 1, 3\nExample 2\nInput: b a\nOutput: a b": [("3, 1", "1, 3"), ("b a", "a b")],
    "Example 1.\nText: red\nOutput: colour\nExample 2.\nText: dog\nOutput: animal": [
        ("Text: red", "colour"), ("Text: dog", "animal"),
    ],
    "Input: x y\nOutput: y x": [("x y", "y x")],
    "Output: Planks.": [("", "Planks.")],
    "Example 1\nInput 1: a b\nOutput 1: b a\nExample 2\nInput 2: c d\nOutput 2: d c": [("a b", "b a"), ("c d", "d c")],
    "Example 1\nInput: a\nOutput: b\nInput: c\nOutput: d": [("a", "b")],
    "Example 1\nInput: a\nOutput: b\nExample 2\nInput: a\nOutput: c\nExample 3\nInput: d\nOutput: e": [],
    "Example 1\nInput: a\nOutput: a\nExample 2\nInput: b\nOutput:\nExample 3\nInput: c:\nOutput: d\n"
    "Example 4\nInput: e\nOutput: f": [("e", "f")],
    "Example 1\nPlanks and rows.\nExample 2\nRunning.": [("", "Planks and rows."), ("", "Running.")],
    "Example 1\nInput: a\nOutput: b\nExample 2\nInput: a\nOutput: b": [("a", "b")],
    # Theirs reads none of these two right: an output alone is asked for here, and a word is no heading.
    "Just this.\n\nTask: another": [("", "Just this.")],
    "Example 1\nInput: the Example sentence\nOutput: fine": [("the Example sentence", "fine")],
}  # fmt: skip
OUTPUT_FIRST_REPLIES = {
    "Class label: sport\nThe match.\nClass label: law\nThe vote.": [("The match.", "sport"), ("The vote.", "law")],
    "Class label: sport\nSentence: The match.\nClass label:law\nThe vote.\n": [
        ("Sentence: The match.", "sport"), ("The vote.", "law"),
    ],
    "Class label: yes": [("", "yes")],
    "no label here": [],
    "Class label: a\nx\nClass label: b\nx": [],
    "Sure. Class label: a\nin\n\nmore": [("in\n\nmore", "a")],
}  # fmt: skip


@pytest.mark.parametrize(("classifies", "replies"), [(False, INPUT_FIRST_REPLIES), (True, OUTPUT_FIRST_REPLIES)])
def test_examples_are_those_of_the_papers_code(classifies, replies):
    """What the authors' `parse_instances_for_..._task` makes of recorded replies, filters included."""
    for reply, pairs in replies.items():
        assert select_instances(parse_instances(reply, classifies), 5, random.Random(0))[0] == pairs, reply


def test_examples_of_use():
    rng = random.Random(0)
    assert select_instances([("a", "b"), ("a", "b"), ("c", "c"), ("d", ""), ("e:", "f"), ("g", "h:")], 5, rng) == (
        [("a", "b")], None,
    )  # fmt: skip
    assert select_instances([("a", "b"), ("a", "c"), ("d", "e")], 5, rng) == ([], "an input with two outputs")
    assert select_instances([("", "b"), ("", "c")], 5, rng)[0] == [("", "b"), ("", "c")]
    assert select_instances([("x", "x")], 5, rng) == ([], "no example of use")
    assert len(select_instances([(str(i), f"o{i}") for i in range(9)], 5, rng)[0]) == 5
    for seed in range(8):
        text = join_task("Sort {x}.", "3 {task}", random.Random(seed))
        assert "Sort {x}." in text
        assert "3 {task}" in text


def test_no_two_tasks_are_alike_and_one_admits_equals(world):
    out = list(SelfInstruct(n=12).curate(world.rows, world.bench(curator="self_instruct")))
    written = out[len(world.rows) :]
    assert world.notes["tasks"] == 12
    assert out[: len(world.rows)] == world.rows
    assert {r.origin for r in written} == {"model"}
    seeds = ["Say it.", "Compare bread with coal, number 5."]
    texts = SelfInstruct(n=12).write_tasks(seeds, StubAccount(world), world.bench())
    assert 6 < len(texts) < 12, "some are too much alike"
    for i, text in enumerate(texts):
        assert longest_alike(text, map(split_words, [*seeds, *texts[:i]])) <= 0.7
    bench, _ = replying(world, lambda q, i: "Name three birds of prey." if "series" in q else "No")
    same = SelfInstruct(n=3, rouge=1.0).write_tasks(["Say it."], StubAccount(world, bench), bench)
    assert same == ["Name three birds of prey."] * 3, "a ROUGE-L of 1 is not above 1"
    assert len(SelfInstruct(n=3, rouge=0.99).write_tasks(["Say it."], StubAccount(world, bench), bench)) == 1


class StubAccount:
    """Asks without counting."""

    is_exhausted = False

    def __init__(self, world, bench=None):
        self.bench = bench or world.bench()

    def ask_model(self, requests, params):
        return self.bench.sample(requests, params)


def test_a_model_that_only_repeats_gives_up(world):
    bench, asked = replying(world, lambda q, i: "What is 0 plus 1?")
    rows = SelfInstruct(n=50, requests=12).curate(world.rows, bench)
    assert list(rows) == world.rows
    assert sum(count for count, _ in asked) == 12
    assert world.notes["tasks: too much like another"] == 12


# ---- generate --------------------------------------------------------------------------------------------------------


def test_answers_questions_and_prompts(world):
    rows = [ask_row("Why?", "because"), ask_row("How?", None, 2)]
    bench, _ = replying(world, lambda q, i: f"{q} - {i}")
    out = Generate(n=2).curate(rows, bench)
    assert [(r.prompt[-1]["content"], r.answer) for r in out] == [
        ("Why?", "because"), ("Why?", "Why? - 0"), ("Why?", "Why? - 1"), ("How?", "How? - 0"), ("How?", "How? - 1"),
    ]  # fmt: skip
    assert [r.origin for r in out] == ["gold"] + ["model"] * 4
    assert len(Generate(n=2, keep_given=False).curate(rows, bench)) == 4

    bench, _ = replying(world, lambda q, i: "Why not?" if q.startswith("Rewrite") else f"answer to {q}")
    (_, new) = Generate(write="questions").curate(rows[:1], bench)
    assert (new.prompt[-1]["content"], new.answer) == ("Why not?", "answer to Why not?")
    assert new.place == "a row made from rows.jsonl:1"

    bench, _ = replying(world, lambda q, i: "What explains it?")
    (_, new) = Generate(write="prompts").curate(rows[:1], bench)
    assert (new.prompt[-1]["content"], new.answer, new.origin) == ("What explains it?", "because", "gold")


def test_texts_that_are_no_use(world):
    rows = [ask_row("Why is it so?")]
    for text in ("", "Sorry, no.", "why is it SO", "Rewritten task: why?"):
        bench, _ = replying(world, lambda q, i, text=text: text)
        assert len(Generate(write="questions").curate(rows, bench)) == 1
        assert world.notes["texts refused"] == 1
    bench, _ = replying(world, lambda q, i: "fine", finish="length")
    assert len(Generate().curate(rows, bench)) == 1, "cut"


def test_the_budget_is_never_passed_and_costs_are_counted(world):
    rows = [ask_row(f"Q{i}?", "a", i + 1) for i in range(100)]
    bench, asked = replying(world, lambda q, i: "x", tokens=10)
    out = Generate(budget=995, max_tokens=100).curate(rows, bench)
    # 995 allows 9 requests of at most 100 tokens; those used 90, then 9 more, ... until less than 100 is left.
    assert world.notes["tokens written"] <= 995 - 0
    assert 995 - world.notes["tokens written"] < 100
    assert len(out) == 100 + world.notes["tokens written"] // 10
    assert world.notes["requests beyond the budget"] == 200 - len(out)
    assert max(count for count, _ in asked) == 9
    # A thought before the answer counts too, of a teacher that thinks.
    for thinks, requests in ((False, 2), (True, 1)):
        bench, asked = replying(world, lambda q, i: "x", tokens=100, max_thinking_tokens=50)
        Generate(budget=200, max_tokens=100).curate(rows, replace(bench, thinks=thinks))
        assert sum(count for count, _ in asked) == requests
    # A server that does not count: no text has more tokens than bytes, or than it may have.
    bench, _ = replying(world, lambda q, i: "xyz" if q == "Q0?" else "x" * 300, tokens=0)
    Generate(budget=995, max_tokens=100).curate(rows, bench)
    assert (world.notes["tokens written"], world.notes["texts counted by their bytes"]) == (903, 10)
    bench, _ = replying(world, lambda q, i: "x", tokens=50_000)
    Generate(price=10, max_cost=2, max_tokens=50_000).curate(rows, bench)
    assert (world.notes["tokens written"], world.notes["cost in hundredths"]) == (200_000, 200)
    with pytest.raises(ValidationError, match="max_cost needs price"):
        Generate(max_cost=1)


def test_own_templates_and_engines():
    curator = Generate(write="prompts", template="Ask for: {answer}", engine="http://127.0.0.1:1", model="m")
    assert curator.build_request(ask_row("Q?", "A {question}"), 1)[0]["content"] == "Ask for: A {question}"
    assert curator.teacher_engine() == ("http://127.0.0.1:1", "m")
    with pytest.raises(ValidationError, match=r"template lacks \{answer\}"):
        Generate(write="prompts", template="Ask")


# ---- prompt2model ----------------------------------------------------------------------------------------------------


def test_the_vote():
    table = {"a": ["x", "x", "y"], "b": ["y", "yy"], "c": ["zz", "z"]}
    assert {key: vote_output(texts) for key, texts in table.items()} == {"a": "x", "b": "y", "c": "z"}
    assert vote_output(["It is 7.", "7", "So 8"]) == "7"
    assert count_votes(["It is 7.", "7", "So 8"]) == 2
    assert vote_output(["ab", "cd"]) == "ab", "the first of equally long ones"


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ('{"input": "a", "output": "b"}', ("a", "b")),
        ('Sure:\n```json\n{"input": " a ", "output": 3}\n```', ("a", "3")),
        ('{"input": "", "output": "b"}', None),
        ('{"input": "a"}', None),
        ('{"input": ["a"], "output": "b"}', None),
        ("none", None),
        ("{broken", None),
    ],
)
def test_examples_are_read(text, pair):
    assert parse_example(text) == pair


def test_temperatures_rise_and_requests_show_what_there_is(world):
    curator = Prompt2Model(n=20, instruction="Add the numbers.", answers=2)
    assert [round(curator.choose_temperature(n), 3) for n in (0, 10, 20)] == [0.5, 1.1, 1.7]
    bench, asked = replying(world, lambda q, i: json.dumps({"input": f"new {len(q)} {i}", "output": "3"}))
    rows = [ask_row("1 and 2", "3")]
    out = curator.curate(rows, bench)
    assert out[0] == rows[0]
    assert {r.answer for r in out[1:]} == {"3"}
    temperatures = [params.temperature for _, params in asked]
    assert temperatures == sorted(temperatures)
    assert temperatures[0] == 0.5
    request = curator.build_request(rows, {"4 and 5": ["9", "9", "8"]}, 1, random.Random(0))
    assert request.count("Good example:") == 1
    assert '{"input": "4 and 5", "output": "9"}' in request
    assert "Task: Add the numbers." in request
    assert request.endswith('{"input": "...", "output": "..."}')


def test_a_model_that_writes_no_examples_ends_with_what_there_is(world):
    bench, asked = replying(world, lambda q, i: "none")
    rows = [ask_row("1 and 2", "3")]
    assert Prompt2Model(n=20).curate(rows, bench) == rows
    assert len(asked) == 3


def test_given_questions_are_answered_by_vote(world):
    bench, _ = replying(world, lambda q, i: ["4", "so 4", "5"][i], finish="stop")
    rows = [ask_row("2 + 2?", "four"), ask_row("2 + 2?", "four", 2), ask_row("3 + 1?", None, 3)]
    out = Prompt2Model(inputs="given", answers=3, keep_given=False).curate(rows, bench)
    assert [(r.prompt[-1]["content"], r.answer) for r in out] == [("2 + 2?", "4"), ("3 + 1?", "4")]
    assert out[0].meta["trace"][-1]["reason"] == "2 of 3 answers agree"
