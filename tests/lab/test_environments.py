"""Environments: what answers are worth, episodes as folds over answers, and what becomes of one that breaks."""

from __future__ import annotations

import json
import random
import time

import pytest

from holdfast.axes.breakdowns import MOST_HANGS
from holdfast.axes.environment import Environment, Turn, play_episodes, start_episodes
from holdfast.axes.judge import JudgeRequest
from holdfast.axes.registry import find_method
from holdfast.data.rows import Row
from holdfast.errors import RunError, UserError
from holdfast.methods.environments.judged import JudgeEnvironment
from holdfast.skills import load_skill
from holdfast.skills.points import PointsRank, PointsTen, card_value
from holdfast.skills.points_game import PointsGame
from holdfast.skills.route_walk import RouteWalk
from holdfast.skills.sequential_revision import SequentialRevision

HAND = Row(
    [{"role": "user", "content": "Cards: K 3. J Q K count 10. Make 13."}], reference={"target": 13, "cards": [10, 3]}
)


def test_a_try_at_the_cards_is_worth_what_the_table_says():
    game = PointsGame()
    state, asked = game.start(HAND, 0)
    assert asked == HAND.messages
    table = {
        "10 + 3 = 13": (1.0, True, ""),
        " 3 + 10 =13": (1.0, True, ""),
        "10 - 3 = 7": (0.0, False, "Too low. Try again."),
        "10 + 3 + 1 = 13": (-0.2, False, "Not the cards. Try again."),
        "13 = 13": (-0.2, False, "Not the cards. Try again."),
        "10 + 3": (-0.4, False, "Not an equation. Try again."),
        "the answer is 13": (-0.4, False, "Not an equation. Try again."),
        "": (-0.4, False, "Not an equation. Try again."),
    }
    for answer, (reward, passed, said) in table.items():
        turn = game.step(state, answer)
        assert (turn.reward, turn.done, turn.passed) == (reward, passed, passed), answer
        assert [m["content"] for m in turn.messages] == ([said] if said else []), answer
    (high,) = game.step({"target": 3, "cards": [1, 5]}, "5 - 1 = 4").messages
    assert high["content"] == "Too high. Try again."


def test_the_rule_that_is_not_trained_changes_the_numbers_and_one_sentence_only():
    rng = random.Random(0)
    ten, rank = PointsTen(), PointsRank()
    for _ in range(50):
        text = rank.generate_question(rng).messages[0]["content"]
        cards = text.removeprefix("Cards: ").partition(".")[0].split()
        assert set(cards) & set("JQK")
        assert "count 11 12 13." in text
        assert "count 10." in ten.generate_question(rng).messages[0]["content"]
    values = {card: (card_value(card, "ten"), card_value(card, "rank")) for card in ("J", "Q", "K", "7")}
    assert values == {"J": (10, 11), "Q": (10, 12), "K": (10, 13), "7": (7, 7)}


def test_routes_are_walked_to_their_end_by_the_right_moves_alone():
    walk = RouteWalk()
    for name in ("route-compass", "route-relative"):
        rows = load_skill(name).generate_rows(20, "test", 0)

        def follow_gold(episodes, rows=rows):
            right = {row.id: row.reference for row in rows}
            return [right[e.key.partition("/")[0]][len(e.turns)] for e in episodes]

        episodes = play_episodes(walk, rows, follow_gold)
        assert all(e.passed and e.done and set(e.rewards) == {1.0} for e in episodes)
        assert [len(e.turns) for e in episodes] == [len(row.reference) for row in rows]
        assert all(len(e.turns[-1].prompt) == 1 for e in episodes), "each landmark has a conversation of its own"
        stuck = play_episodes(walk, rows[:1], lambda some: ["jump"] * len(some))[0]
        assert (stuck.rewards, stuck.done, stuck.passed) == ([-1.0, -1.0], True, False)
        assert [len(turn.prompt) for turn in stuck.turns] == [1, 3]


@pytest.mark.parametrize(
    ("gold", "table"),
    [
        (7, {
            "7": (1.0, ""), "It is 7.": (1.0, ""), "<think>8?</think>7": (1.0, ""),
            "9": (-0.2, "Too high. Try again."), "7 + 0 = -3": (-0.2, "Too low. Try again."),
            "1" * 5000: (-0.2, "Too high. Try again."), "seven": (-0.6, "Not a number. Try again."),
            "<think>7": (-0.6, "Not a number. Try again."), "": (-0.6, "Not a number. Try again."),
        }),
        (["b", "a"], {
            "b a": (1.0, ""), "b, a.": (1.0, ""), "a b": (-0.2, "Wrong order. Try again."),
            "b": (-0.2, "Wrong letters. Try again."), "It is b a": (-0.2, "Only the letters. Try again."),
            "42": (-0.6, "No letters. Try again."),
        }),
    ],
)  # fmt: skip
def test_a_second_try_is_told_what_was_wrong_with_the_first(gold, table):
    game = SequentialRevision()
    row = Row([{"role": "user", "content": "What?"}], reference=gold)
    state, asked = game.start(row, 0)
    assert asked == row.messages
    for answer, (reward, said) in table.items():
        turn = game.step(json.loads(json.dumps(state)), answer)
        assert turn == game.step(state, answer)
        assert (turn.reward, turn.done, turn.passed, turn.note) == (reward, not said, not said, said), answer
        assert [m["content"] for m in turn.messages] == ([said] if said else []), answer


def test_revision_goes_on_in_one_conversation_from_the_question_or_from_the_wrong_try_of_the_row():
    rows = load_skill("revise").generate_rows(20, "test", 0)
    right = {row.id: row.answer for row in rows}

    def answer_at_second(episodes):
        return [right[e.key.partition("/")[0]] if e.turns else "0" for e in episodes]

    asked = play_episodes(SequentialRevision(), rows, answer_at_second)
    assert all(e.passed and e.done and e.rewards[1] == 1.0 and len(e.turns) == 2 for e in asked)
    assert all([m["role"] for m in e.messages] == ["user", "assistant", "user", "assistant"] for e in asked)
    told = play_episodes(SequentialRevision(begin="wrong_try"), rows, lambda some: [right[e.key[:-2]] for e in some])
    assert [e.turns[0].prompt for e in told] == [row.prompt for row in rows]
    assert all(e.passed and e.rewards == [1.0] for e in told)
    (never,) = play_episodes(SequentialRevision(turns=3), rows[:1], lambda some: ["?"] * len(some))
    assert (never.truncated, never.passed, never.rewards) == (True, False, [-0.6] * 3)
    with pytest.raises(UserError, match="there is no wrong first try"):
        SequentialRevision(begin="wrong_try").start(load_skill("sums").generate_rows(1, "test", 0)[0], 0)


def test_an_episode_is_a_fold_over_its_answers():
    rows = load_skill("points-ten").generate_rows(6, "test", 0)
    rng = random.Random(1)
    said: dict[str, str] = {}

    def guess(episodes):
        for e in episodes:
            cards = e.state["cards"]
            said[e.turn_key] = f"{' + '.join(map(str, cards))} = {sum(cards)}" if rng.random() < 0.7 else "no idea"
        return [said[e.turn_key] for e in episodes]

    live = play_episodes(PointsGame(), rows, guess, n=3)
    again = play_episodes(PointsGame(), rows, lambda episodes: [said[e.turn_key] for e in episodes], n=3)
    assert live == again
    assert len({e.key for e in live}) == 18
    game = PointsGame()
    for episode, begun in zip(live, start_episodes(game, rows, n=3), strict=True):
        state = begun.state
        for number, turn in enumerate(episode.turns):
            stored = json.loads(json.dumps(state))  # another process has nothing but this
            made = game.step(stored, said[episode.name_turn(number)])
            assert made.reward == turn.reward
            state = made.state


def test_a_judge_of_one_turn_gives_its_score_and_of_several_the_first_pass():
    rows = [Row([{"role": "user", "content": "2 + 2?"}], reference="4")]
    answers = iter(["It is 4."])
    (once,) = play_episodes(JudgeEnvironment(judge="number"), rows, lambda some: [next(answers) for _ in some])
    assert (once.rewards, once.done, once.passed) == ([1.0], True, True)
    answers = iter(["5", "6", "4"])
    (tries,) = play_episodes(
        JudgeEnvironment(judge="number", turns=5), rows, lambda some: [next(answers) for _ in some]
    )
    assert (tries.rewards, tries.done, tries.passed) == ([0.0, 0.0, 1.0], True, True)
    assert [m["content"] for m in tries.messages[1:]] == [
        "5",
        "That is wrong. Try again.",
        "6",
        "That is wrong. Try again.",
        "4",
    ]
    (cut,) = play_episodes(JudgeEnvironment(judge="number", turns=2), rows, lambda some: ["5"] * len(some))
    assert (cut.done, cut.truncated, cut.passed) == (False, True, False)
    with pytest.raises(ValueError, match="says nothing of a judge"):
        JudgeEnvironment()
    with pytest.raises(UserError, match="no number"):
        JudgeEnvironment(judge="number").start(Row([{"role": "user", "content": "who?"}], reference="me"), 0)


def test_a_judge_of_one_turn_rewards_as_the_judge_scores():
    rows = load_skill("sums").generate_rows(12, "test", 0)
    judge = find_method("judges", "lab")(skill="sums")
    answers = {row.id: (row.answer if number % 3 else "7") for number, row in enumerate(rows)}
    scores = [v.score for v in judge.judge_all([JudgeRequest(r.prompt, answers[r.id], r.gold) for r in rows])]
    assert set(scores) == {0.0, 1.0}
    game = JudgeEnvironment(judge={"name": "lab", "skill": "sums"})
    episodes = play_episodes(game, rows, lambda some: [answers[e.key.partition("/")[0]] for e in some])
    assert [e.rewards for e in episodes] == [[score] for score in scores]


class Breaks(Environment):
    """Breaks as it is told. [me 2026]"""

    def start(self, row, seed):
        return {"seed": seed}, row.messages

    def step(self, state, action):
        if action == "raise":
            raise ZeroDivisionError("by zero\nwith details")
        reward = float("nan") if action == "nan" else 0.5
        state = {1, 2} if action == "set" else state
        return Turn(state, [] if action == "silent" else [{"role": "user", "content": "and?"}], reward)


def test_an_environment_that_breaks_fails_its_episode_and_no_other():
    rows = [Row([{"role": "user", "content": f"say {i}"}]) for i in range(4)]
    answers = ["raise", "nan", "silent", "well"]
    episodes = play_episodes(
        Breaks(turns=3), rows, lambda some: [answers[int(e.messages[0]["content"][-1])] for e in some]
    )
    assert [e.failure for e in episodes] == [
        "ZeroDivisionError: by zero", "ValueError: its reward is nan, no finite number",
        "ValueError: it goes on, but says nothing for the model to answer", "",
    ]  # fmt: skip
    assert [len(e.turns) for e in episodes] == [0, 0, 0, 3]
    assert [e.truncated for e in episodes] == [False, False, False, True], "it never ends by itself"
    (broken,) = play_episodes(Breaks(), rows[:1], lambda some: ["set"])
    assert "its state is not of JSON types" in broken.failure


class Hangs(Environment):
    """Hangs as it is told. [me 2026]"""

    turns: int = 2
    step_seconds: float | None = 0.2

    def start(self, row, seed):
        if row.prompt[0]["content"] == "start":
            time.sleep(99)
        return {}, row.messages

    def step(self, state, action):
        if action == "hang":
            time.sleep(99)
        return Turn(state, [{"role": "user", "content": "and?"}], 1.0)


class HangsTogether(Hangs):
    """Hangs on all at once. [me 2026]"""

    def step_all(self, actions):
        return [self.step(*action) for action in actions]


@pytest.mark.parametrize("kind", [Hangs, HangsTogether])
def test_an_environment_that_hangs_fails_its_episode_and_no_other(kind):
    def say(episodes):
        return [e.messages[0]["content"] for e in episodes]

    rows = [Row([{"role": "user", "content": word}]) for word in ("hang", "fair", "start")]
    episodes = play_episodes(kind(), rows, say)
    assert [e.failure for e in episodes] == ["no answer within 0.2 s", "", "no answer within 0.2 s"]
    assert (episodes[1].rewards, episodes[1].truncated) == ([1.0, 1.0], True)
    quick = kind(step_seconds=0.01)
    with pytest.raises(RunError, match=rf"row 9 .*gave no answer within 0.01 s, as {MOST_HANGS} times before"):
        play_episodes(quick, rows[:1] * (MOST_HANGS + 1), say)


@pytest.mark.parametrize("name", ["points", "route", "lake", "revise"])
def test_a_row_that_holds_nothing_for_it_is_refused_in_a_line(name):
    with pytest.raises(UserError, match=rf"give rows of lab:{name}"):
        find_method("environments", name)().start(Row([{"role": "user", "content": "What is 3 + 4?"}]), 0)
