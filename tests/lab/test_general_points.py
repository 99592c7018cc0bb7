"""GeneralPoints as published: every hand of the deck, the table of rewards, tries, rules and pictures."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from fractions import Fraction

import pytest

from holdfast.axes.environment import play_episodes, start_episodes
from holdfast.axes.judge import JudgeRequest
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.skills import load_skill
from holdfast.skills.formulas import TOKEN, evaluate_formula, find_faults, is_solvable, list_solutions
from holdfast.skills.general_points import RULES, card_number, read_cards, read_formula
from holdfast.skills.general_points_game import GeneralPointsGame


def hand_row(*numbers, cards=None, **message):
    cards = cards or [*map(str, numbers)]
    return Row(
        [{"role": "user", "content": f"Cards: {cards}", **message}],
        reference={"cards": cards, "numbers": [*numbers], "target": 24},
    )


def say(formula, cards=()):
    return json.dumps({"cards": [*cards], "number": [], "formula": formula})


def test_the_counts_and_shares_of_every_hand_are_those_published():
    hands = list(itertools.combinations_with_replacement(range(1, 14), 4))
    orders = {hand: math.factorial(4) // math.prod(map(math.factorial, Counter(hand).values())) for hand in hands}
    solvable = {
        rule: {hand for hand in hands if is_solvable([card_number(rank, rule) for rank in hand], 24)}
        for rule in ("ten", "rank")
    }
    assert (len(hands), len(solvable["ten"]), len(solvable["rank"])) == (1820, 1236, 1362)

    def share(some, of=13**4):
        return round(sum(orders[hand] for hand in some) / of, 6)

    assert (share(solvable["ten"]), share(solvable["rank"])) == (0.730927, 0.791814)
    faces = {hand for hand in hands if max(hand) > 10}
    assert (len(faces), share(faces)) == (1105, 0.649872)
    assert (len(faces & solvable["rank"]), len(faces & solvable["rank"] & solvable["ten"])) == (796, 529)
    assert share(faces & solvable["ten"], sum(orders[hand] for hand in solvable["ten"])) == 0.590056


def test_every_solution_that_is_written_is_one_and_python_agrees_where_floats_are_exact():
    rng = random.Random(0)
    for _ in range(20):
        numbers = [rng.randint(1, 13) for _ in range(4)]
        solutions = list_solutions(numbers, 24)
        assert bool(solutions) == is_solvable(numbers, 24)
        assert not any(find_faults(solution, numbers, 24) for solution in solutions)
    assert list_solutions([3, 3, 8, 8], 24) == ["8/(3-8/3)"], "the only one, which floats miss"
    assert list_solutions([5], 5) == ["5"]
    assert not is_solvable([5], 4)
    assert {"0/1", "1*0", "0*1", "1-1", "3*0/7"}.isdisjoint(list_solutions([0, 1], 1))
    assert {"0*1", "0/1", "1*0"} == set(list_solutions([0, 1], 0)), "zero has partners without end"
    for text in ("1-2-3", "8/2/2", "2-3*4+10", "(1+2)*(3+4)", "2*(3-(4-(5-1)))", "1", "8/(4-2)"):
        assert evaluate_formula(TOKEN.findall(text)) == Fraction(eval(text))
    for text in ("1/(2-2)", "1+", "(1", "1)", ""):
        assert evaluate_formula(TOKEN.findall(text)) is None


TABLE = {  # of the cards 1 2 3 4
    "1*2*3*4=24": (5, True, ""),
    "4*(1+2+3)": (5, True, ""),
    "1+2+3+4=10": (-1, False, "1 begins a solution, but your formula is none"),
    "2*3*4=24": (-2, False, "you did not use: 1"),
    "1*2*3*4*4": (-2, False, "you used too often: 4"),
    "5*2*3*4": (-4, False, "you used numbers that are on no card: 5, you did not use: 1"),
    "1 * 2 * 3 * 4 = 24": (-3, False, "illegal characters"),
    "1*2*3*4)": (-3, False, "a ) closes nothing"),
    "1**2*3*-4": (-6, False, "* cannot stand after *, - cannot stand after *"),
    "4*(1+2+3": (1, False, "your formula begins a solution, but its parentheses are not closed"),
    "(3-1-2)*4": (-1, False, "(3 begins a solution, but your formula is none"),
    "4/(3-1-2)": (-1, False, "4/( begins a solution, but your formula is none"),  # by zero
    "+1*2*3*4": (-3, False, "+ cannot stand first"),
    "=24": (-2, False, "you did not use: 1, 2, 3, 4"),
    "**=24": (-8, False, "* cannot stand first, * cannot stand after *, you did not use: 1, 2, 3, 4"),
    "__import__('os').getcwd()": (-3, False, "illegal characters"),
}


@pytest.mark.parametrize("formula", TABLE)
def test_a_formula_is_worth_what_the_paper_gives_for_it(formula):
    game = GeneralPointsGame()
    state, asked = game.start(hand_row(1, 2, 3, 4), 0)
    assert asked == hand_row(1, 2, 3, 4).messages
    reward, passed, note = TABLE[formula]
    turn = game.step(state, say(formula).replace("'", ""))
    assert (turn.reward, turn.done, turn.passed, turn.note) == (reward, passed, passed, note)
    assert [m["content"] for m in turn.messages] == ([f"You failed this trial because {note}."] if note else [])
    assert turn == game.step(json.loads(json.dumps(state)), say(formula).replace("'", "")), "step is pure"


def test_fractions_are_exact_and_no_answer_breaks_the_game():
    game = GeneralPointsGame()
    state, _ = game.start(hand_row(8, 3, 8, 3), 0)
    assert eval("8/(3-8/3)") != 24, "what floats make of it"
    assert game.step(state, say("8/(3-8/3)=24")).reward == 5
    bare = "<think>\nits \"formula\": \"1+1\" fails\n</think>\n\n{\n  'cards': ['8'],\n  'formula': '8/(3-8/3)=24',\n}"
    assert game.step(state, bare).reward == 5, "the thought is not read, and JSON need not be sound"
    assert game.step(state, '{"formula": "8\\/(3-8\\/3)"}').reward == 5
    for answer in ("", "I do not know.", "[" * 5000, '{"formula": 24}', '{"formula": ["8/(3-8/3)"]}'):
        turn = game.step(state, answer)
        assert (turn.reward, turn.note) == (-3, "your answer holds no formula")
    for formula, reward in (("(" * 3000, -2), ("9" * 6000, -4), ("٨/(3-8/3)", -3), ("08/(3-8/3)", -4)):
        assert game.step(state, say(formula).encode().decode("unicode_escape")).reward == reward, formula[:9]
    assert read_formula("no") is None
    assert read_cards('"cards": ["A", \'10\', k]') == ["A", "10", "K"]


def test_five_answers_are_graded_and_the_sixth_is_cut():
    (episode,) = play_episodes(GeneralPointsGame(), [hand_row(1, 2, 3, 4)], lambda some: [say("1+2+3+4")] * len(some))
    assert (episode.rewards, episode.done, episode.truncated, episode.passed) == ([-1.0] * 6, False, True, False)
    assert [turn.note for turn in episode.turns][4:] == [TABLE["1+2+3+4=10"][2], "step_limit_reached"]
    assert [len(turn.prompt) for turn in episode.turns] == [1, 3, 5, 7, 9, 11], "one conversation"
    answers = iter(["1+2+3+4"] * 5 + ["1*2*3*4"])
    (late,) = play_episodes(GeneralPointsGame(), [hand_row(1, 2, 3, 4)], lambda some: [say(next(answers))])
    assert (late.rewards[-1], late.passed) == (-1.0, False), "nothing is read after the last try"
    game = GeneralPointsGame()
    state = start_episodes(game, [hand_row(1, 2, 3, 4)])[0].state
    for played in late.turns:
        turn = game.step(json.loads(json.dumps(state)), played.answer)
        assert turn.reward == played.reward, "an episode is a fold over its answers"
        state = turn.state
    short = GeneralPointsGame(turns=1)
    (once,) = play_episodes(short, [hand_row(1, 2, 3, 4)], lambda some: [say("1*2*3*4")])
    assert (once.rewards, once.passed) == ([5.0], True)


def test_rules_change_the_numbers_and_one_sentence_of_the_same_hand():
    both = load_skill("general-points")
    rng = random.Random(0)
    texts = [
        both.write_question(["A", "3", "K", "6"], [], rule, rng).messages[0]["content"] for rule in ("ten", "rank")
    ]
    assert texts[0].replace(RULES["ten"], RULES["rank"]) == texts[1] != texts[0]
    assert texts[0].count(RULES["ten"]) == 1
    assert [[card_number(rank, rule) for rank in (1, 7, 11, 12, 13)] for rule in ("ten", "rank")] == [
        [1, 7, 10, 10, 10], [1, 7, 11, 12, 13],
    ]  # fmt: skip
    ten, rank = (load_skill(f"general-points-{rule}").generate_rows(20, "test", 0) for rule in ("ten", "rank"))
    has_face = [[bool({*row.reference["cards"]} & {*"JQK"}) for row in rows] for rows in (ten, rank)]
    assert all(has_face[1])
    assert not all(has_face[0])
    assert all(RULES[rule] in row.prompt[0]["content"] for rule, rows in (("ten", ten), ("rank", rank)) for row in rows)
    trained = {
        str(sorted(row.reference["cards"])) for row in load_skill("general-points-ten").generate_rows(30, "train", 0)
    }
    assert not trained & {str(sorted(row.reference["cards"])) for row in [*ten, *rank]}, "in no order, by no rule"


@pytest.mark.parametrize("name", ["general-points", "general-points-ten", "general-points-rank"])
def test_the_rows_hold_solutions_that_judge_and_game_agree_on(name):
    known, game = load_skill(name), GeneralPointsGame()
    rows = known.generate_rows(12, "train", 0)
    assert rows == known.generate_rows(12, "train", 0) != known.generate_rows(12, "train", 1)
    for row in rows:
        said = json.loads(row.answer)
        assert (said["cards"], said["number"]) == (row.reference["cards"], row.reference["numbers"])
        assert said["formula"].endswith("=24")
        assert known.judge(JudgeRequest(row.prompt, row.answer, row.reference)).passed
        assert game.step(game.start(row, 0)[0], row.answer).passed
    pair = known.generate_preference_row(random.Random(0), "train")
    assert not known.judge(JudgeRequest(pair.prompt, pair.rejected, pair.reference)).passed
    assert not known.judge(JudgeRequest(pair.prompt, "24", pair.reference)).passed


def test_cards_in_a_picture_are_looked_at_before_the_formula():
    rows = [
        load_skill(f"general-points-{name}").generate_rows(1, "train", 0)[0] for name in ("black", "red", "black-rank")
    ]
    suits = [{card[-1] for card in row.prompt[0]["images"][0].split("/")[1].split(".")} for row in rows]
    assert suits[0] | suits[2] <= {*"SC"}
    assert suits[1] <= {*"HD"}
    game, row = GeneralPointsGame(), rows[0]
    state, asked = game.start(row, 0)
    cards = [*map(str, row.reference["cards"])]
    assert f"[{', '.join(cards)}]" not in asked[0]["content"]
    assert cards[0] in asked[0]["images"][0]
    assert game.step(state, row.answer).passed
    formula = read_formula(row.answer)
    wrong = game.step(state, say(formula, [*cards[:3], "joker"]))
    assert (wrong.reward, wrong.note) == (-1.5, "you recognized wrong cards")
    assert game.step(state, say(f"{formula}+1", cards[::-1])).reward == -2, "in whatever order"


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ({"target": 24}, "holds no cards and numbers"),
        ("24", "holds no cards and numbers"),
        ({"cards": ["1", "2"], "numbers": [1]}, "one to four cards"),
        ({"cards": ["1"] * 5, "numbers": [1] * 5}, "one to four cards"),
        ({"cards": "12", "numbers": [1, 2]}, "one to four cards"),
        ({"cards": ["1", "2"], "numbers": [1, -2]}, "one to four cards"),
        ({"cards": ["1", "1"], "numbers": [1, 1]}, r"no formula makes 24 of \[1, 1\]"),
    ],
)
def test_a_row_that_is_no_hand_is_refused_in_a_line(reference, problem):
    row = Row([{"role": "user", "content": "What is 3 + 4?"}], reference=reference)
    with pytest.raises(UserError, match=problem) as error:
        GeneralPointsGame().start(row, 0)
    assert "\n" not in str(error.value)
