"""Environments of Gymnasium in text: what is shown, which action an answer names, and episodes played again."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from holdfast.axes.environment import begin_episode, play_episodes
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.methods.environments.gym import GymEnvironment
from holdfast.methods.environments.gym_bridge import describe_observation, find_action, open_environment
from holdfast.pipeline.method_sources import hash_own_sources
from holdfast.recipe.loader import resolve_any
from holdfast.recipe.schema import Recipe

MOVES = ("left", "down", "right", "up")
STILL = {"is_slippery": False}
ROWS = [Row([{"role": "user", "content": f"Game {i}."}]) for i in range(4)]


def test_frozen_lake_is_walked_to_its_goal_and_into_a_hole():
    lake = GymEnvironment(id="FrozenLake-v1", settings=STILL, actions=MOVES, show="screen", unreadable=-0.5)
    lake.check_ready()
    state, asked = begin_episode(lake, ROWS[0], 0)
    assert asked == [{"role": "user", "content": "Game 0.\n[S]FFF\nFHFH\nFFFH\nHFFG"}]
    lost = lake.step(state, "left or right")
    assert (lost.reward, lost.state, lost.note) == (-0.5, state, "no single action")
    assert lost.messages[0]["content"].startswith("Say one of left, down, right, up.\n[S]FFF")
    way = ["Down.", "<think>left?</think>down", "right", "I go right", "DOWN", "right"]
    (won,) = play_episodes(lake, ROWS[:1], lambda some: [way[len(e.turns)] for e in some])
    assert (won.rewards, won.done, won.passed) == ([0.0] * 5 + [1.0], True, True)
    assert won.turns[1].prompt[-1]["content"] == "  (Down)\nSFFF\n[F]HFH\nFFFH\nHFFG"
    (fallen,) = play_episodes(lake, ROWS[:1], lambda some: [("down", "right")[len(e.turns)] for e in some])
    assert (fallen.rewards, fallen.done, fallen.truncated, fallen.passed) == ([0.0, 0.0], True, False, False)


def test_an_episode_is_its_seed_and_actions_in_any_process():
    game = GymEnvironment(id="Blackjack-v1", afresh=True)
    begun, (first,) = game.start(ROWS[0], 5)
    (again,) = game.step(begun, "hm").conversation
    assert again["content"] == first["content"].replace("Game 0.\n", "Game 0.\nSay one of 0, 1.\n")
    live = play_episodes(game, ROWS, lambda some: ["1" if len(e.turns) < 2 else "0" for e in some], n=2, seed=5)
    assert [e.turns for e in live[::2]] == [e.turns for e in live[1::2]], "the same game for a group"
    assert len({e.turns[0].prompt[0]["content"] for e in live}) > 1, "each row is a game of its own"
    assert all(len(turn.prompt) == 1 for e in live for turn in e.turns), "each turn begins afresh"
    env = gymnasium.make("Blackjack-v1")
    for episode in live:
        observation, _ = env.reset(seed=episode.state["seed"])
        state, asked = begin_episode(game, ROWS[int(episode.messages[0]["content"][5])], 5)
        for turn in episode.turns:
            assert turn.prompt == asked
            assert asked[0]["content"].endswith("\n" + ", ".join(map(str, observation)))
            open_environment.cache_clear()  # as another process would
            made = game.step(json.loads(json.dumps(state)), turn.answer)
            observation, reward, done, truncated, _ = env.step(int(turn.answer))
            assert (
                (made.reward, made.done, made.truncated) == (turn.reward, done, truncated) == (reward, done, truncated)
            )
            state, asked = made.state, made.conversation
        assert episode.passed == (sum(episode.rewards) > 0)


def test_what_gymnasium_truncates_is_truncated_and_success_is_what_the_id_says():
    pole = GymEnvironment(id="CartPole-v1", settings={"max_episode_steps": 2})
    assert pole.start(ROWS[0], 0)[1][0]["content"].count(",") == 3
    (cut,) = play_episodes(pole, ROWS[:1], lambda some: ["0"] * len(some))
    assert (cut.done, cut.truncated, cut.passed, len(cut.turns)) == (False, True, False, 2)  # 475 are asked for
    (enough,) = play_episodes(pole.model_copy(update={"success": 2.0}), ROWS[:1], lambda some: ["0"] * len(some))
    assert (enough.truncated, enough.passed) == (True, True)


def test_a_formatter_and_a_parser_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("walk_of_ones_own.py").write_text(
        "def show(observation, environment):\n    return f'at {observation} of {environment.observation_space.n}'\n"
        "def read(answer, environment):\n    return {'d': 1, 'bad': 9}.get(answer)\n"
    )
    lake = GymEnvironment(
        id="FrozenLake-v1", settings=STILL, formatter="walk_of_ones_own.py:show", parser="walk_of_ones_own.py:read"
    )
    data = {"model": "lab", "method": "rloo", "data": {"train": "lab:sums"}, "environment": lake}
    assert hash_own_sources(resolve_any(data).recipe).keys() == {"walk_of_ones_own.py"}
    state, asked = lake.start(ROWS[0], 0)
    assert asked[0]["content"] == "Game 0.\nat 0 of 16"
    assert lake.step(state, "d").messages[0]["content"] == "at 4 of 16"
    assert lake.step(state, "down").note == "no single action"
    (broken,) = play_episodes(lake, ROWS[:1], lambda some: ["bad"] * len(some))
    assert broken.failure == "ValueError: walk_of_ones_own.py:read gives 9, which is not in Discrete(4)"


def test_observations_as_text_and_answers_as_actions():
    assert (
        describe_observation({"at": np.array([1, 2]), "speed": (np.float32(0.5), np.int64(3))})
        == "at: [1, 2]\nspeed: 0.5, 3"
    )
    assert describe_observation(np.array([0.123456, -2])) == "[0.1235, -2.0]"
    names = ["up", "pick up", "-1", "1"]
    assert [find_action(text, names) for text in ("pick up", "Up!", "-1", "1.", "11", "up, pick up", "upper")] == [
        1, 0, 2, 3, None, None, None,
    ]  # fmt: skip


class Forgetful(gymnasium.Env):
    """Begins elsewhere each time."""

    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Discrete(99)
    times = 0

    def reset(self, *, seed=None, options=None):
        Forgetful.times += 1
        return Forgetful.times, {}


class Picture(Forgetful):
    """Shows a picture."""

    def reset(self, *, seed=None, options=None):
        return np.zeros((210, 160, 3), np.uint8), {}


gymnasium.register("test/Forgetful-v0", Forgetful)
gymnasium.register("test/Picture-v0", Picture)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"id": "Frozenlake-v1"}, "Frozenlake-v1 cannot be made: .*Did you mean: `FrozenLake`"),
        ({"id": "FrozenLake-v9"}, "FrozenLake-v9 cannot be made: .*"),
        ({"id": "not an id"}, "not an id cannot be made: Malformed environment ID"),
        ({"id": "nomodule:Game-v0"}, "nomodule:Game-v0: there is no module nomodule"),
        (
            {"id": "FrozenLake-v1", "settings": {"slippery": 1}},
            "cannot be made: .*unexpected keyword argument 'slippery'",
        ),
        ({"id": "FrozenLake-v1", "actions": ["on", "off"]}, "actions: 2 names for the 4 actions of FrozenLake-v1"),
        ({"id": "Pendulum-v1"}, r"the actions of Pendulum-v1 are Box\(.*only a choice"),
        ({"id": "Blackjack-v1", "show": "screen"}, "Blackjack-v1 draws no text"),
        ({"id": "FrozenLake-v1", "formatter": "nowhere.py:show"}, "nowhere.py is not a file"),
        ({"id": "test/Forgetful-v0"}, "begins differently twice with one seed"),
        ({"id": "test/Picture-v0"}, "an array of 210 x 160 x 3 numbers; say by `formatter`"),
    ],
)
def test_what_cannot_be_played_is_refused_in_a_line(knobs, said):
    with pytest.raises(UserError, match=said) as error:
        GymEnvironment(**knobs).check_ready()
    assert "\n" not in str(error.value)


def test_without_gymnasium_the_extra_is_named(monkeypatch):
    def refuse(name, *args, real=builtins.__import__):
        if name == "gymnasium":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    open_environment.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'holdfast\[gym\]'"):
        GymEnvironment(id="FrozenLake-v1").check_ready()


def test_one_that_does_not_repeat_gives_up_its_episode_and_a_row_that_asks_nothing_is_refused():
    (episode,) = play_episodes(GymEnvironment(id="test/Forgetful-v0"), ROWS[:1], lambda some: ["0"] * len(some))
    assert episode.failure == (
        "RuntimeError: test/Forgetful-v0 does not repeat: its seed and actions gave another observation"
    )
    with pytest.raises(UserError, match="the row asks nothing"):
        GymEnvironment(id="FrozenLake-v1").start(Row([{"role": "assistant", "content": "text"}]), 0)
    with pytest.raises(ValueError, match="the names must differ"):
        GymEnvironment(id="FrozenLake-v1", actions=["up", "Up"])
    choice = {"name": "gym", "id": "FrozenLake-v1", "actions": list(MOVES), "settings": STILL}
    data = {"model": "lab", "method": "rloo", "data": {"train": "lab:sums"}, "environment": choice}
    recipe = resolve_any(data).recipe
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
