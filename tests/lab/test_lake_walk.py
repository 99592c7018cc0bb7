"""The lake as an environment: what each move comes to, episodes side by side, and that its turns are not trained on."""

from __future__ import annotations

import random

import pytest

from holdfast.axes.engine import Request, SamplingParams
from holdfast.axes.environment import Environment, Turn, play_episodes
from holdfast.axes.registry import find_method
from holdfast.data.chat.encoder import Chat
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.generation.factory import build_local_engine, build_sample_fn
from holdfast.skills import load_skill
from holdfast.skills.lake_walk import LakeWalk, shortest_move


def row_of(board: str) -> Row:
    return Row([{"role": "user", "content": f"Lake:\n{board}\nWhich move?"}], reference=["right"])


MAP = row_of("S . G\n. H .\n. . .")


def test_each_move_comes_to_what_the_map_says():
    lake = LakeWalk(turns=4, penalty=0.25)
    walk, asked = lake.start(MAP, 0)
    assert asked == MAP.messages
    first = lake.step(walk, "Go right.")
    assert (first.reward, first.done) == (0.0, False)
    assert first.messages == [{"role": "user", "content": "Lake:\n. S G\n. H .\n. . .\nWhich move?"}]
    goal = {**first.state, "at": [0, 2]}
    assert lake.step(first.state, "right") == Turn(goal, [], 1.0, True, passed=True, note="the goal")
    hole = lake.step(first.state, "down")
    assert (hole.reward, hole.done, hole.passed) == (0.0, True, False)
    lost = lake.step(walk, "left or right")
    assert (lost.reward, lost.done, lost.state) == (-0.25, False, walk)
    assert lost.messages[0]["content"].startswith("Say one of left, right, up, down. Lake:\nS . G")
    assert lake.step(walk, "up").state == walk, "the shore holds"


def test_perfect_walkers_reach_every_goal_and_stubborn_ones_do_not():
    lake = find_method("environments", "lake")()
    rng = random.Random(0)
    rows = [
        Row(q.messages, reference=q.reference) for q in (load_skill("lake").generate_question(rng) for _ in range(12))
    ]

    def walk_well(episodes):
        return [shortest_move(episode.state, rng) for episode in episodes]

    assert [sum(e.rewards) for e in play_episodes(lake, rows, walk_well)] == [1.0] * 12
    stubborn = play_episodes(find_method("environments", "lake")(turns=3), rows, lambda some: ["up"] * len(some))
    assert all(e.done != e.truncated for e in stubborn)
    assert sum(sum(e.rewards) for e in stubborn) < 12
    assert all(len(e.rewards) <= 3 for e in stubborn)


def test_a_model_plays_through_the_engine_and_only_its_turns_are_trained_on(tiny):
    model, tokenizer = tiny("llama", max_position_embeddings=1024)
    chat = Chat(tokenizer)
    draw = build_sample_fn(build_local_engine(model, chat, fingerprint="x"))

    def ask(episodes):
        requests = [Request(episode.turn_key, episode.messages) for episode in episodes]
        found = draw(requests, SamplingParams(max_tokens=6))
        return [found[request.key][0].text or "up" for request in requests]

    (episode,) = play_episodes(LakeWalk(turns=2), [MAP], ask)
    answers = [m["content"] for m in episode.messages if m["role"] == "assistant"]
    assert len(answers) == len(episode.rewards) == 2
    ids, trained = chat.encode(episode.messages)
    learned = tokenizer.decode(ids[trained])
    assert learned.count("<|im_end|>") == 2
    assert "Which move" not in learned
    assert "Which move" in tokenizer.decode(ids)


class Ventriloquist(Environment):
    """Speaks for the model. [me 2026]"""

    def start(self, row, seed):
        return None, row.messages

    def step(self, state, action):
        return Turn(state, [{"role": "assistant", "content": "right"}], 1.0, False)


def test_what_is_no_lake_or_no_environment_is_said():
    with pytest.raises(UserError, match="give rows of lab:lake"):
        LakeWalk().start(Row([{"role": "user", "content": "What is 3 + 4?"}]), 0)
    with pytest.raises(UserError, match="no safe way"):
        LakeWalk().start(row_of("S H G\nH H .\n. . ."), 0)
    (episode,) = play_episodes(Ventriloquist(), [MAP], lambda some: ["up"])
    assert "answers with role assistant, which is the model's" in episode.failure
    with pytest.raises(UserError, match="environment Environment has no method `start`"):
        Environment().start(MAP, 0)
