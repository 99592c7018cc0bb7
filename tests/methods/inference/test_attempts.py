"""Votes, choices and reflexion on scripted answers: exact prompts, exact choices, what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.axes.inference import Inference
from holdfast.axes.judge import Judge, JudgeRequest, Judging, Verdict
from holdfast.axes.registry import find_method
from holdfast.data.rows import Message
from holdfast.errors import UserError
from holdfast.generation.attempts import AttemptRunner, judge_alone
from holdfast.methods.inference.best_of_n import BestOfN
from holdfast.methods.inference.reflexion import Reflexion
from holdfast.methods.inference.self_consistency import SelfConsistency
from holdfast.methods.judges.code import Code
from holdfast.methods.judges.exact import Exact
from holdfast.methods.judges.number import Number
from holdfast.skills.base import SkillJudge

QUESTION: list[Message] = [{"role": "user", "content": "What is 3 + 4?"}]


class Ends(Judge):
    """Answers that end with a point pass. [made for this test]"""

    def needs_answer_key(self) -> bool:
        return False

    def judge(self, answer: JudgeRequest) -> Verdict:
        is_right = answer.response.endswith(".")
        return Verdict(is_right, float(is_right), "" if is_right else "no point at its end.")


class Script:
    """Answers of a model, in the order in which they are asked for, and what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = list(texts), list[tuple[list[Message], SamplingParams, str]]()

    def __call__(self, requests: Sequence[Request], params: SamplingParams, on_sample: Any = None) -> Any:
        drawn = {}
        for request in requests:
            self.asked.append((request.messages, params, request.key))
            drawn[request.key] = [Sample(request.key, i, self.texts.pop(0), "stop", tokens=3) for i in range(params.n)]
        return drawn


def ask(
    method: Inference, script: Script, judging: Judging | None = None, weigh: Callable[..., list[float]] | None = None
) -> Sample:
    runner = AttemptRunner("it", method.attempts, script, judge_alone, weigh or (lambda weighings: []))
    (sample,) = runner.sample_answers([(Request("q", QUESTION, judging=judging), [0])], SamplingParams(seed=5))
    return sample


def test_what_most_samples_come_to_is_the_answer() -> None:
    """Read by the task's judge; the first of equals; what says nothing does not vote."""
    texts = ("It is 8.", "so 3 + 4 = 7", "7", "8", "The answer is 7.")
    cases: list[tuple[Judge | None, Sequence[str], str, dict[str, int]]] = [
        (Number(), texts, "so 3 + 4 = 7", {"8": 2, "7": 3}),
        (None, texts, "It is 8.", dict.fromkeys(("it is 8", "so 3 + 4 = 7", "7", "8", "the answer is 7"), 1)),
        (Number(), ("none", "no", "8", "none", "none"), "8", {"8": 1}),
        (Number(), ("no", "none", "a", "b", "c"), "no", {}),
        (Exact(ignore_case=True), ("a", "B", "b ", "c", "d"), "B", {"a": 1, "b": 2, "c": 1, "d": 1}),
        (SkillJudge(skill="sums"), texts, "so 3 + 4 = 7", {"8": 2, "7": 3}),
    ]
    for judge, drawn, answer, votes in cases:
        script = Script(*drawn)
        sample = ask(SelfConsistency(n=5), script, judge and Judging(judge, 12))
        assert sample.text == answer
        assert sample.trace == {"votes": votes, "answers": list(drawn), "calls": 5, "tokens": 15}
        assert {(params.temperature, params.seed) for _, params, _ in script.asked} == {(0.7, 5)}
        assert len({key for _, _, key in script.asked}) == 5
        assert script.asked[0][2] == "q"  # seeded as the plain model's


def test_the_best_is_chosen_by_likelihood_or_by_a_judge() -> None:
    texts = ("7", "It is 7.", "8.", "9")
    scores = [-0.5, -0.2, -0.7, -0.2]
    by_likelihood = ask(BestOfN(n=4), Script(*texts), weigh=lambda weighings: scores[: len(weighings)])
    assert by_likelihood.text == "It is 7."
    assert by_likelihood.trace == {"scores": scores, "answers": list(texts), "calls": 8, "tokens": 12}
    assert ask(BestOfN(n=4, by="judge"), Script(*texts), Judging(Ends())).text == "It is 7."
    assert ask(BestOfN(n=4, by="judge", judge=Ends()), Script(*texts), Judging(Exact(), "8.")).text == "It is 7."
    assert ask(BestOfN(n=4, by="judge", oracle=True), Script(*texts), Judging(Exact(), "8.")).text == "8."
    plain = ask(BestOfN(n=4, by="judge"), Script(*texts), Judging(Exact(), "8."))  # the key is not looked at
    assert (plain.text, plain.trace) == ("7", {"calls": 1, "tokens": 3})
    with pytest.raises(UserError, match=r"inference.it: nothing judges answers here.*set its knob judge"):
        ask(BestOfN(n=4, by="judge"), Script(*texts))


def test_the_prompts_of_reflexion_are_these() -> None:
    """Two tries with reflection, and as many without, whose second passes first."""
    script = Script("one", "say more", "two.", "two", "add a point", "three", "three.")
    sample = ask(Reflexion(trials=3, remember=1), script, Judging(Ends()))
    told = "That is not right: no point at its end."
    reflect = (
        f"{told}\nIn a few sentences, explain what is wrong with this answer and what to do differently next time. "
    )
    asked = [messages for messages, _, _ in script.asked]
    assert asked[0] == QUESTION
    assert asked[1] == [
        *QUESTION, {"role": "assistant", "content": "one"},
        {"role": "user", "content": reflect + "Do not write the answer itself."},
    ]  # fmt: skip
    assert asked[2] == QUESTION  # a try without reflection, in the same round
    assert asked[3] == [
        *QUESTION, {"role": "assistant", "content": "one"},
        {"role": "user", "content": f"{told}\nWhat you noted about earlier tries:\n- say more\nTry again."},
    ]  # fmt: skip
    assert asked[5][-1]["content"].count("- ") == 1  # the last reflection only
    assert asked[5][-2]["content"] == "two"
    assert [params.temperature for _, params, _ in script.asked] == [0, 0, 0.7, 0.7, 0, 0.7]
    assert [params.max_tokens for _, params, _ in script.asked] == [512, 200, 512, 512, 200, 512]
    assert sample.text == "three"
    assert sample.trace is not None
    assert [trial["passed"] for trial in sample.trace["trials"]] == [False, False, False]
    assert [trial["text"] for trial in sample.trace["retries"]] == ["one", "two."]
    assert sample.trace["reflections"] == ["say more", "add a point"]
    assert (sample.trace["beside"], sample.trace["calls"]) == ({"retries": "two."}, 6)
    assert script.texts == ["three."]


def test_reflexion_asks_no_more_than_it_needs() -> None:
    passed = Script("one.")
    assert ask(Reflexion(), passed, Judging(Ends())).trace["beside"] == {"retries": "one."}  # type: ignore[index]
    assert len(passed.asked) == 1
    once = ask(Reflexion(trials=1), Script("one"))  # without a judge, too
    assert (once.text, once.trace) == ("one", {"calls": 1, "tokens": 3})
    alone = Script("one", "so", "two.")  # where nothing is measured, nothing stands beside
    answer = ask(Reflexion(judge=Ends()), alone)
    assert (answer.text, len(alone.asked), "beside" in (answer.trace or {})) == ("two.", 3, False)
    feedback = Script("one", "two.", "x.")
    ask(Reflexion(memory="last_attempt"), feedback, Judging(Ends()))
    assert feedback.asked[1][0][-1]["content"] == "That is not right: no point at its end.\nTry again."
    words = Script("one", "aha", "x.", "two.")
    ask(Reflexion(memory="reflection"), words, Judging(Ends()))
    assert words.asked[3][0] == [
        {"role": "user", "content": "What is 3 + 4?\n\nWhat you noted about earlier tries:\n- aha\nTry again."}
    ]


def test_more_tries_never_solve_less() -> None:
    """The first tries are the same however many there may be, and the first that passes is taken."""
    stories = [["a.", *"bcde"], ["a", "b.", *"cde"], ["a", "b", "c", "d.", "e"], [*"abcde"]]
    solved: list[list[bool]] = []
    for trials in range(1, 6):
        method = Reflexion(trials=trials, memory="last_attempt", judge=Ends())
        answers = [ask(method, Script(*story)).text for story in stories]
        solved.append([text.endswith(".") for text in answers])
    assert [sum(some) for some in solved] == [1, 2, 2, 3, 3]
    assert all(before <= after for one, more in pairwise(solved) for before, after in zip(one, more, strict=True))


def test_the_answer_key_stays_out_of_it_unless_asked_for() -> None:
    for judge in (Exact(), Number(), SkillJudge(skill="sums")):
        text = Reflexion().find_task_problem(judge)
        assert text is not None
        assert "needs the right answer" in text
        assert "oracle: true" in text
        assert Reflexion(oracle=True).find_task_problem(judge) is None
        assert Reflexion(judge=Ends()).find_task_problem(judge) is None
        assert Reflexion(trials=1).find_task_problem(judge) is None
        assert BestOfN(by="judge").find_task_problem(judge) == text
        assert BestOfN().find_task_problem(judge) is None
        plain = ask(Reflexion(), Script("8"), Judging(judge, 7))
        assert (plain.text, plain.trace) == ("8", {"calls": 1, "tokens": 3})
    assert Reflexion().find_task_problem(Code()) is None
    assert Reflexion().find_task_problem(SkillJudge(skill="program")) is None
    keyed = Script("8", "9", "7", "9")
    ask(Reflexion(oracle=True, trials=2, memory="last_attempt"), keyed, Judging(SkillJudge(skill="sums"), 7))
    assert keyed.asked[1][0][-1]["content"] == "That is not right.\nTry again."  # the reason would tell the answer


def test_knobs_that_make_no_sense_are_refused() -> None:
    for name, knobs in (("self_consistency", {"n": 0}), ("reflexion", {"retry": "again"}), ("best_of_n", {"by": "x"})):
        with pytest.raises(ValueError):
            find_method("inference", name)(**knobs)
