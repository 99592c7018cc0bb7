"""Navigation as in V-IRL: turns that wrap around, routes that lead on, and what each action is worth."""

from __future__ import annotations

import json
import random

import pytest

from holdfast.axes.environment import play_episodes
from holdfast.axes.judge import JudgeRequest
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.skills import load_skill
from holdfast.skills.navigation import HEADINGS, TURNS, draw_route, name_turn, write_point
from holdfast.skills.navigation_walk import NavigationWalk
from holdfast.skills.route_walk import RouteWalk


def say(action, observation="No landmarks nearby."):
    return json.dumps({"current observation": observation, "current instruction": "", "action": action})


def test_turns_take_the_shorter_way_round():
    table = {
        (350, 10): "slightly right", (10, 350): "slightly left", (0, 180): "right", (180, 0): "right",
        (270, 90): "right", (0, 45): "slightly right", (45, 0): "slightly left", (315, 0): "slightly right",
        (0, 46): "right", (0, 135): "right", (0, 225): "left", (90, 315): "left", (359.5, 0): "slightly right",
    }  # fmt: skip
    assert {headings: name_turn(*headings) for headings in table} == table
    assert {name_turn(45 * a, 45 * b) for a in range(8) for b in range(8) if a != b} == {*TURNS}
    with pytest.raises(ValueError, match="nothing is turned"):
        name_turn(360, 0)


def test_a_route_says_the_same_either_way_and_ends_at_its_destination():
    for seed in range(20):
        compass, relative = (draw_route(random.Random(seed), absolute) for absolute in (True, False))
        assert compass["instructions"] == relative["instructions"]
        assert [p[0] for p in compass["points"]] == [p[0] for p in relative["points"]]
        for ours, theirs in zip(compass["points"], relative["points"], strict=True):
            if ours[1] == theirs[1]:
                assert ours[1] in ("forward()", "stop()")
            else:
                heading, turn = ours[1][15:-1], theirs[1][15:-1]
                assert heading in HEADINGS
                assert turn in TURNS
                assert ours[2].lower().endswith(f"turn {turn} to face {heading}.")
        actions = [point[1].partition("(")[0] for point in compass["points"]]
        assert actions[0] == "turn_direction"
        assert actions[-1] == "stop"
        assert actions.count("turn_direction") in (2, 3)
        crossings = ["intersection" in point[0] for point in compass["points"]]
        assert sum(crossings) == 2 * (actions.count("turn_direction") - 1), "once before, once after each later turn"
        corner = crossings.index(True)
        assert actions[corner : corner + 2] == ["turn_direction", "forward"]
        assert compass["points"][corner][0].lower()[:-32] in compass["points"][corner - 1][2], (
            "what was announced is seen"
        )


@pytest.mark.parametrize("name", ["navigation-compass", "navigation-relative"])
def test_the_right_actions_walk_a_row_to_its_end(name):
    known, walk = load_skill(name), NavigationWalk()
    rows = known.generate_rows(5, "test", 0)
    assert rows == known.generate_rows(5, "test", 0)
    assert all(known.judge(JudgeRequest(row.prompt, row.answer, row.reference)).passed for row in rows)
    assert not any(known.judge(JudgeRequest(row.prompt, "forward", row.reference)).passed for row in rows)
    points = {row.id: row.reference["points"] for row in rows}

    def follow(episodes):
        return [say(points[e.key.partition("/")[0]][len(e.turns)][1]) for e in episodes]

    episodes = play_episodes(walk, rows, follow)
    assert all(e.passed and e.done and set(e.rewards) == {1.0} for e in episodes)
    assert [len(e.turns) for e in episodes] == [len(row.reference["points"]) for row in rows]
    assert all(len(turn.prompt) == 1 for e in episodes for turn in e.turns), "each point has a conversation of its own"
    last = episodes[0].turns[-1].prompt[0]["content"]
    assert last == write_point(rows[0].reference, len(rows[0].reference["points"]) - 1)
    assert last.count("forward()") > 1, "with what was done before"
    for row in rows:
        assert write_point(row.reference, row.reference["at"]) == row.prompt[0]["content"]


WAY = {
    "instructions": ["Turn left to face north.", "Move forward."],
    "points": [
        ["A bank is on your left. You observe an intersection.", "turn_direction(slightly left)", "Turn."],
        ["No landmarks nearby.", "stop()", "Move."],
    ],
    "absolute": False,
}


def test_a_wrong_action_costs_more_with_an_intersection_claimed_or_overlooked():
    walk = NavigationWalk()
    state, asked = walk.start(Row([{"role": "user", "content": "?"}], reference=WAY), 0)
    assert asked[0]["content"] == write_point(WAY, 0)
    crossing = "I observe an Intersection"
    table = {
        say("forward()", crossing): (-1.0, "your action is wrong"),
        say("forward()"): (-1.5, "you are at an intersection"),
        "no idea": (-1.5, "you are at an intersection"),
        say("Turn_direction('slightly left')"): (1.0, ""),
        "{'current observation': \"it's one\", 'action': 'turn_direction(slightly left)',}": (1.0, ""),
    }
    for answer, (reward, note) in table.items():
        turn = walk.step(state, answer)
        assert (turn.reward, turn.note, turn.done) == (reward, note, False), answer
        assert turn == walk.step(json.loads(json.dumps(state)), answer), "step is pure"
    on = walk.step(state, say("turn_direction(slightly left)")).state
    claimed = walk.step(on, say("forward()", crossing))
    assert (claimed.reward, claimed.note) == (-1.5, "you are not at an intersection")
    (said,) = claimed.messages
    assert (
        said["content"] == "You failed this trial because you are not at an intersection. Try again in the same format."
    )
    over = walk.step(claimed.state, say("forward()"))
    assert (over.reward, over.done, over.passed, over.messages) == (-1.0, True, False, [])
    assert walk.step(claimed.state, say("stop()")).passed, "the second try counts"


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("north", "give rows of lab:navigation"),
        ({**WAY, "points": []}, "each of its points"),
        ({**WAY, "points": [["a", "b"]]}, "each of its points"),
        ({**WAY, "instructions": "go"}, "a list of sentences"),
    ],
)
def test_a_row_without_a_way_is_refused_in_a_line(reference, problem):
    with pytest.raises(UserError, match=problem) as error:
        NavigationWalk().start(Row([{"role": "user", "content": "Where?"}], reference=reference), 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["route-map", "route-map-night"])
def test_a_map_is_walked_place_by_place(name):
    walk, rows = RouteWalk(), load_skill(name).generate_rows(5, "test", 0)
    right = {row.id: row.reference for row in rows}
    episodes = play_episodes(walk, rows, lambda some: [right[e.key.partition("/")[0]][len(e.turns)] for e in some])
    assert all(e.passed and set(e.rewards) == {1.0} for e in episodes)
    for row, episode in zip(rows, episodes, strict=True):
        (key,) = row.prompt[0]["images"]
        parts = key.split("/")
        keys = [turn.prompt[0]["images"] for turn in episode.turns]
        assert keys == [["/".join([parts[0], place, *parts[2:]])] for place in parts[1].split(".")]
