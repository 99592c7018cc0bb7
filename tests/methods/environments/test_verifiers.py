"""Environments and rubrics with the interface that `verifiers` documents, against small ones of our own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import types

import pytest

from holdfast.axes.environment import begin_episode, play_episodes
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.methods.environments.verifiers import VerifiersEnvironment
from holdfast.methods.environments.verifiers_bridge import load_environment


class Parser:
    def parse_answer(self, completion):
        return completion[-1]["content"].strip(".")


class Rubric:
    """The documented part of `verifiers.Rubric`."""

    def __init__(self, funcs=None, weights=None, parser=None):
        self.funcs = funcs or []
        self.weights = weights or [1.0] * len(self.funcs)
        self.class_objects = {"parser": parser} if parser else {}


class RubricGroup(Rubric):
    def __init__(self, rubrics):
        super().__init__()
        self.rubrics = rubrics


class MultiTurnEnv:
    def __init__(self, rubric, max_turns=-1, system_prompt=None):
        self.rubric, self.max_turns, self.system_prompt = rubric, max_turns, system_prompt

    async def setup_state(self, state):
        pass

    async def is_completed(self, state, **kwargs):
        return 0 < self.max_turns <= len(state["trajectory"])


class SingleTurnEnv(MultiTurnEnv):
    def __init__(self, **knobs):
        super().__init__(max_turns=1, **knobs)

    async def env_response(self, messages, state, **kwargs):
        raise NotImplementedError


async def is_right(parser, completion, answer, **kwargs):
    await asyncio.sleep(0)
    assert {"prompt", "state", "info", "task", "level"} <= kwargs.keys()
    return float(parser.parse_answer(completion) == answer)


def is_short(completion, info):
    return 0.5 if len(completion[0]["content"]) < info["most"] else 0


def load_single(**arguments):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as the library does
    rubrics = [Rubric([is_right], [1.0], Parser()), Rubric([is_short], [arguments.get("weight", 0.2)])]
    return SingleTurnEnv(rubric=RubricGroup(rubrics), system_prompt="Be brief.")


class Guess(MultiTurnEnv):
    """Says whether a number is too high or too low; its last word ends the game."""

    async def setup_state(self, state):
        state["secret"] = int(state["answer"])

    async def env_response(self, messages, state):
        assert messages[-1]["role"] == "assistant"
        guess = int(messages[-1]["content"])
        if guess == state["secret"]:
            state["final_env_response"] = [{"role": "user", "content": "Right!"}]
            return state["final_env_response"]
        return [{"role": "user", "content": "Too high." if guess > state["secret"] else "Too low."}]

    async def is_completed(self, state):
        return state.get("final_env_response") is not None


def count_tries(state):
    return 1 / len(state["trajectory"]) if state["final_env_response"] else 0


class Older(Guess):
    """As versions before 0.1.4: plain methods, and a pair of messages and state."""

    def setup_state(self, state):
        return {**state, "secret": 5}

    def is_completed(self, messages, state):
        return state["secret"] is None

    def env_response(self, messages, state):
        return "again", {**state, "secret": None if messages[-1]["content"] == "5" else 5}


class Wavering(Guess):
    count = 0

    async def env_response(self, messages, state):
        Wavering.count += 1
        return str(Wavering.count)


def score_groups(completions, answers):
    return [1.0 for _ in completions]


def ask_for_more(completion, difficulty):
    return 1.0


def break_down(completion):
    raise KeyError("x")


def of(thing, name="thing"):
    """The path of a thing, in a module of the user's own."""
    module = types.ModuleType("own_verifiers")
    setattr(module, name, thing)
    sys.modules["own_verifiers"] = module
    load_environment.cache_clear()
    return f"own_verifiers:{name}"


ROW = Row(
    [{"role": "user", "content": "2 + 2?"}], reference="4", meta={"info": json.dumps({"most": 3}), "level": 1}, id="r"
)


def test_a_rubric_scores_one_answer_with_functions_plain_and_asynchronous():
    before = signal.getsignal(signal.SIGTERM)
    single = VerifiersEnvironment(load=of(load_single), arguments={"weight": 2})
    single.check_ready()
    assert signal.getsignal(signal.SIGTERM) == before
    state, asked = begin_episode(single, ROW, 0)
    assert asked == [{"role": "system", "content": "Be brief."}, *ROW.messages]
    for answer, reward, parts in [
        ("4.", 2.0, {"is_right": 1.0, "is_short": 0.5}), ("5", 1.0, {"is_right": 0.0, "is_short": 0.5}),
        ("four and more", 0.0, {"is_right": 0.0, "is_short": 0.0}),
    ]:  # fmt: skip
        turn = single.step(json.loads(json.dumps(state)), answer)
        assert (turn.reward, turn.parts, turn.done, turn.messages) == (reward, parts, True, [])
        assert turn.passed == (reward >= 0.5)
    assert single.step(state, "4.").note == "is_right 1, is_short 0.5"
    alone = VerifiersEnvironment(load=of(Rubric([is_short])), success=0.1)
    assert alone.step(alone.start(ROW, 0)[0], "4").passed


def test_an_environment_of_several_turns_is_played_again_from_its_answers():
    guess = VerifiersEnvironment(load=of(lambda: Guess(Rubric([count_tries]))))
    answers = ["6", "3", "4"]
    (won,) = play_episodes(guess, [ROW], lambda some: [answers[len(e.turns)] for e in some])
    assert [m["content"] for m in won.messages] == ["2 + 2?", "6", "Too high.", "3", "Too low.", "4", "Right!"]
    assert (won.rewards, won.done, won.passed) == ([0.0, 0.0, pytest.approx(1 / 3)], True, False)

    async def in_a_notebook():
        state, _ = guess.start(ROW, 0)
        for answer in answers:
            load_environment.cache_clear()  # as another process would
            turn = guess.step(state, answer)
            state = json.loads(json.dumps(turn.state))
        return turn

    assert asyncio.run(in_a_notebook()).reward == won.rewards[-1]
    (cut,) = play_episodes(guess.model_copy(update={"turns": 2}), [ROW], lambda some: ["6"] * len(some))
    assert (cut.done, cut.truncated, cut.rewards) == (False, True, [0, 0])
    older = VerifiersEnvironment(load=of(Older(Rubric([count_tries]))), turns=3)
    (played,) = play_episodes(older, [ROW], lambda some: ["5"] * len(some))
    assert ([m["content"] for m in played.messages], played.done) == (["2 + 2?", "5", "again", "5"], True)


def test_one_that_breaks_or_wavers_gives_up_its_own_episode():
    broken = VerifiersEnvironment(load=of(lambda: Guess(Rubric([count_tries]))))
    rows = [ROW, Row(ROW.messages, reference="7", id="s")]
    one, other = play_episodes(broken, rows, lambda some: ["what" if e.key == "r/0" else "7" for e in some])
    assert one.failure.startswith("ValueError: invalid literal for int()")
    assert (other.failure, other.rewards) == ("", [1.0])
    (episode,) = play_episodes(
        VerifiersEnvironment(load=of(Rubric([break_down]))), [ROW], lambda some: ["4"] * len(some)
    )
    assert episode.failure == "KeyError: 'x'"
    wavering = VerifiersEnvironment(load=of(Wavering(Rubric([count_tries]))))
    (episode,) = play_episodes(wavering, [ROW], lambda some: ["4"] * len(some))
    assert episode.failure == (
        "RuntimeError: own_verifiers:thing does not repeat: to the same answers it said something else"
    )


def with_tools():
    environment = SingleTurnEnv(rubric=Rubric([is_short]))
    environment.tool_defs = [{"name": "search"}]
    return environment


def fail_to_load(**knobs):
    raise OSError("no data set")


@pytest.mark.parametrize(
    ("thing", "knobs", "said"),
    [
        (None, {"load": "nomodule:load_environment"}, "there is no module nomodule"),
        (load_single, {"load": "own_verifiers:load_singel"}, "own_verifiers has no load_singel"),
        (load_single, {"load": "own_verifiers"}, "own_verifiers must be module:function or file.py:function"),
        (fail_to_load, {}, "own_verifiers:thing broke: OSError: no data set"),
        (SingleTurnEnv, {"arguments": {"wrong": 1}}, "broke: TypeError: .*unexpected keyword argument"),
        (Rubric([is_short]), {"arguments": {"weight": 1}}, "is no function, so nothing takes `arguments`"),
        (SingleTurnEnv(rubric=Rubric()), {}, "a Rubric has no reward functions"),
        (lambda: 3, {}, "a int is no environment with a rubric, and no rubric"),
        (Rubric([is_short], [1.0, 2.0]), {}, "a Rubric has 2 weights for 1 functions"),
        (Rubric([score_groups]), {}, "score_groups asks for answers, completions: it scores several answers at once"),
        (with_tools, {}, "own_verifiers:thing has tools"),
    ],
)
def test_what_cannot_be_played_is_refused_in_a_line(thing, knobs, said):
    path = of(thing)
    with pytest.raises(UserError, match=said) as error:
        VerifiersEnvironment(**{"load": path} | knobs).check_ready()
    assert "\n" not in str(error.value)


def test_a_row_without_what_a_function_asks_for_is_refused():
    wants = VerifiersEnvironment(load=of(Rubric([ask_for_more])))
    with pytest.raises(
        UserError, match=r"'2 [+] 2[?]': reward function ask_for_more asks for difficulty, which is no column"
    ):
        wants.start(ROW, 0)
    state, _ = wants.start(Row(ROW.messages, reference="4", meta={"difficulty": 2}), 0)
    assert wants.step(state, "4").reward == 1
    with pytest.raises(UserError, match="the row asks nothing"):
        wants.start(Row([{"role": "assistant", "content": "text"}]), 0)
