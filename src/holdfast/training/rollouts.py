"""Rounds of online learning: the policy plays as it is, its tokens get credit, and the trainer steps on them.

A round's weights make its answers, and its answers the next weights. All that is random comes from (seed, round), and
answers lie in the journal: a killed run plays its rounds again from its last checkpoint, and comes to the same weights.
What is trained on are the ids that were sampled, never text encoded again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from holdfast.axes.credit import Credit
from holdfast.axes.engine import Request, Sample, SampleFn, SamplingParams
from holdfast.axes.environment import Environment, Episode, play_episodes
from holdfast.axes.registry import name_of, source_of
from holdfast.data.batching.batches import Batch, EncodedSequence, collate_sequences
from holdfast.data.batching.shared_prompt import collate_groups, count_line, group_by_prompt
from holdfast.data.rollout_rewards import RolloutRewards
from holdfast.data.rows import Rows, fingerprint_json, fingerprint_rows
from holdfast.errors import RunError
from holdfast.models.loading import eval_mode
from holdfast.training.breakdown_record import BreakdownRecord, FactRecord
from holdfast.training.prompt_sharing import WIDEST_MASK, WORTHWHILE, supports_shared_prefix
from holdfast.training.round_file import load_round, save_round
from holdfast.training.rounds import (
    PlayedRound,
    RoundPlan,
    choose_answers,
    choose_pairs,
    describe_broken_episodes,
    describe_outgrown_episodes,
    draw_row_numbers,
    encode_turn,
    lower_by_divergence,
    lower_overlong,
    measure_round,
    name_apart,
    set_label_values,
    split_by_row,
    split_turns,
    split_units,
)
from holdfast.training.sampler_mismatch import LOOKED_AT, correct_advantages, measure_mismatch, refuse_mismatch

if TYPE_CHECKING:
    from holdfast.axes.objective import Objective
    from holdfast.data.chat.encoder import Chat
    from holdfast.models.policy import Policy

FEW = 16
"""Prompts at whose answers' beginnings it is seen how far the policy has moved."""
MICRO_TOKENS = 8192
"""Tokens of a micro-batch until the trainer knows better."""


class RolloutSource:
    """Gives the trainer the batches of rounds that the policy plays.

    Args:
        rows: What episodes begin with; drawn without replacement, pass by pass.
        environment, credit, objective: Of the recipe.
        plan: Sizes of a round.
        sampling: How answers are drawn.
        build_sampler: From (policy, name of its weights) to what samples from it; by that name the journal tells rounds
            apart.
        chat: Renders prompts.
        seed: Of answers and environments, and of rows and minibatches where the plan has none for these.
        folder: Where a round's numbers are kept while it is trained on in several steps.
        say: Called with a line of what was left out of a round.
        record: Where it is kept on which turns the environment broke.
    Raises:
        RunError: If the environment breaks in every episode, or hangs often.
    """

    def __init__(
        self,
        rows: Rows,
        environment: Environment,
        credit: Credit,
        objective: Objective,
        *,
        plan: RoundPlan,
        sampling: SamplingParams,
        build_sampler: Callable[[Policy, str], SampleFn],
        chat: Chat,
        seed: int,
        folder: Path,
        say: Callable[[str], Any] = lambda line: None,
        record: FactRecord | None = None,
    ) -> None:
        self.rows, self.environment, self.credit, self.objective = rows, environment, credit, objective
        self.plan, self.build_sampler, self.chat, self.seed, self.folder = plan, build_sampler, chat, seed, folder
        self.order_seed = seed if plan.order_seed is None else plan.order_seed
        self.say = say
        self.sampling = sampling.model_copy(update={"keep_ids": True, "n": 1})
        self.micro_tokens = MICRO_TOKENS
        self.proven_width = 0
        self.unit = 2 if objective.row_shape().name == "pair" else 1  # sequences that stay together
        self.fingerprint = fingerprint_json([
            fingerprint_rows(rows), type(environment).__name__,
            environment.model_dump(mode="json", exclude={"step_seconds"}),  # a run that goes on with others is the same
            type(credit).__name__, credit.model_dump(mode="json"), plan.fingerprint_parts(),
            self.sampling.model_dump(mode="json"), chat.fingerprint, seed,
        ])  # fmt: skip
        self.breakdowns = BreakdownRecord(record, [self.fingerprint, source_of(environment)])
        self.current: PlayedRound | None = None
        self.has_told_outgrown = False

    # ---- what the trainer asks ------------------------------------------------------------------------------------

    def step_batches(self, index: int, policy: Policy) -> list[Batch | None]:
        """The micro-batches of step `index`; the first of a round lets the policy play it."""
        number, step = divmod(index, self.plan.steps)
        if self.current is None or self.current.number != number:
            # What was kept of the untouched model is found by row, and rows are others in each round, and once more
            # where credit chose among them.
            policy.reference.clear_values()
            self.current = self.play_round(number, policy) if step == 0 else self._load_round(number)
            policy.reference.clear_values()
        sequences = self._choose_minibatch(self.current, step)
        batches = self._share_prompts(sequences, policy) if sequences else []
        self.current.figures["rollouts/updates old"] = (float(step), 1.0)
        if step and self.plan.max_kl is not None:
            is_far = self.measure_kl(batches, policy) > self.plan.max_kl
            self.current.figures["rollouts/too far"] = (float(is_far), 1.0)
            if is_far:
                return [None]
        return list(batches) or [None]

    @torch.no_grad()
    def measure_kl(self, batches: list[Batch], policy: Policy) -> float:
        """How far the policy is from the one that wrote these answers, in nats per token (k3)."""
        total, count = 0.0, 0
        with eval_mode(policy.model):
            for batch in batches:
                here = batch.to(policy.causal.device)
                away = policy.token_logps(here) - here.token_values["behaviour"]
                total += float((torch.exp(away) - 1 - away).double().sum())
                count += len(away)
        return total / max(1, count)

    def step_figures(self) -> dict[str, tuple[float, float]]:
        """What the round was like."""
        return self.current.figures if self.current else {}

    def epoch_at(self, steps_done: int) -> float:
        """Passes over the rows after so many steps."""
        return steps_done // self.plan.steps * self.plan.prompts / len(self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rounds depend on their number and the weights alone."""

    def small_batch(self) -> Batch:
        """The first prompts, each with a label where its answer begins."""
        prompts = [row.prompt for row in self.rows[:FEW]]
        sequences = [
            encode_turn(self.chat.prompt_ids(prompt), [self.chat.pad_id], row, self.chat.pictures.list_pictures(prompt))
            for row, prompt in enumerate(prompts)
        ]
        batch = collate_sequences(sequences, "padded", self.chat.pad_id)
        assert batch is not None
        return batch

    def example_batch(self) -> Batch:
        """A round's micro-batch of the longest answers there can be."""
        some = [(self.chat.prompt_ids(row.prompt), row) for row in self.rows[: self.plan.prompts]]
        prompt, row = max(some, key=lambda one: len(one[0]))
        answer = [self.chat.pad_id] * self.sampling.max_tokens
        count = max(1, min(self.plan.prompts * self.plan.n, self.micro_tokens // (len(prompt) + len(answer))))
        sequence = encode_turn(prompt, answer, 0, self.chat.pictures.list_pictures(row.prompt))
        zeros = np.zeros(len(sequence.ids))
        sequence.token_values = dict.fromkeys(self._value_names(), zeros)
        rows = [replace(sequence, role=role) for role in range(self.unit)] * max(1, count // self.unit)
        batch = collate_sequences(rows, "padded", self.chat.pad_id)
        assert batch is not None
        return batch

    # ---- a round --------------------------------------------------------------------------------------------------

    def choose_rows(self, number: int, draw: int = 0) -> list[int]:
        """The rows of a round: the next ones of a permutation of all, a new one for each pass; drawn again, any."""
        return draw_row_numbers(len(self.rows), self.plan.prompts, self.order_seed, number, draw)

    def play_round(self, number: int, policy: Policy) -> PlayedRound:
        """Let the policy play a round, and give its tokens credit.

        Rows are drawn again, up to `refill` times, while fewer than `prompts` of them have episodes that teach.
        """
        samples: dict[str, Sample] = {}
        draw = self.build_sampler(policy, f"round-{number}")
        params = self.sampling.model_copy(update={"seed": self.sampling.seed + number})

        def answer_episodes(episodes: list[Episode]) -> list[str]:
            answers = draw([Request(episode.turn_key, episode.messages) for episode in episodes], params)
            samples.update({key: drawn_samples[0] for key, drawn_samples in answers.items()})
            return [episode.take_answer(answers[episode.turn_key][0]) for episode in episodes]

        episodes, chosen, times_drawn = list[Episode](), list[int](), Counter[str]()
        with self.breakdowns.open_round(number) as breakdowns:
            for draw_number in range(self.plan.refill + 1):
                rows = name_apart([self.rows[i] for i in self.choose_rows(number, draw_number)], times_drawn)
                new_episodes = play_episodes(
                    self.environment, rows, answer_episodes, n=self.plan.n, seed=self.seed + number,
                    breakdowns=breakdowns,
                )  # fmt: skip
                for line in describe_broken_episodes(name_of(self.environment), new_episodes):
                    self.say(line)
                if not self.has_told_outgrown and (line := describe_outgrown_episodes(new_episodes)):
                    self.has_told_outgrown = True
                    self.say(line)
                lower_overlong(new_episodes, samples, self.plan.overlong, self.sampling.max_tokens)
                numbers = np.repeat(np.arange(len(rows)), self.plan.n) + draw_number * self.plan.prompts
                chosen += [len(episodes) + i for i in self._pick_episodes(new_episodes, numbers, samples)]
                episodes += new_episodes
                groups = np.arange(len(episodes)) // self.plan.n
                if len(teaching := np.unique(groups[chosen])) >= self.plan.prompts:
                    break
        chosen = [i for i in chosen if groups[i] in teaching[: self.plan.prompts]]
        figures = measure_round(episodes, groups, len(chosen))
        round_ = PlayedRound(number, [], figures)
        if chosen:
            round_.sequences = self._give_credit(
                [episodes[i] for i in chosen], groups[chosen], samples, policy, figures
            )
            refuse_mismatch(figures, self.plan.max_mismatch, number)
        if self.plan.steps > 1:
            save_round(self._round_file, round_, self._value_names())
        return round_

    def _pick_episodes(self, episodes: list[Episode], groups: np.ndarray, samples: dict[str, Sample]) -> list[int]:
        """Those that teach something: the environment did not break, and the others of the group did otherwise."""
        sound = [
            i for i, e in enumerate(episodes)
            if not e.failure and e.turns
        ]  # fmt: skip
        if episodes and not sound:
            reasons = Counter(e.failure or "no room for an answer in the model's context" for e in episodes)
            reason, times = reasons.most_common(1)[0]
            place = next((e.place for e in episodes if e.failure), episodes[0].place)
            raise RunError(
                f"environment {name_of(self.environment)} broke in all {len(episodes)} episodes of a round ({reason}, "
                f"{times} times, first at {place}); mend it, or the rows it begins with"
            )
        is_alone = self.plan.n == 1 and not self.credit.compares_group
        if not self.plan.drop_equal or self.credit.needs_values or is_alone:
            return sound
        returns: dict[int, set[float]] = {}
        for i in sound:
            returns.setdefault(int(groups[i]), set()).add(sum(episodes[i].rewards))
        return [i for i in sound if len(returns[int(groups[i])]) > 1]

    def _give_credit(
        self,
        episodes: Sequence[Episode],
        groups: np.ndarray,
        samples: dict[str, Sample],
        policy: Policy,
        figures: dict[str, tuple[float, float]],
    ) -> list[EncodedSequence]:
        """The turns of the episodes as sequences, with what is known of each label: its advantage among others.

        Args:
            figures: Of the round; how far sampler and trainer are apart is added.
        """
        turns = [(e.name_turn(t), turn) for e in episodes for t, turn in enumerate(e.turns)]
        prompts = self.chat.prompt_ids_many([turn.prompt for _, turn in turns])
        sequences = [
            encode_turn(ids, samples[key].ids, row, self.chat.pictures.list_pictures(turn.prompt))
            for row, (ids, (key, turn)) in enumerate(zip(prompts, turns, strict=True))
        ]
        label_values = self._read_labels(sequences, policy)
        trainer = label_values.get("behaviour") or self._read_some_logps(sequences, policy)
        sampler = [samples[key].logps for key, _ in turns]
        figures |= measure_mismatch(sampler, trainer)
        rewards = [np.zeros(len(samples[key].ids)) for key, _ in turns]
        for reward, (_, turn) in zip(rewards, turns, strict=True):
            reward[-1] = turn.reward
        if self.plan.divergence:
            behaviour, reference = label_values["behaviour"], label_values["reference"]
            lower_by_divergence(rewards, behaviour, reference, self.plan.divergence)
        ends = np.cumsum([len(e.turns) for e in episodes])  # of each episode, among the turns of all

        def join_turns(values: list[np.ndarray]) -> list[np.ndarray]:
            return [np.concatenate(values[end - len(e.turns) : end]) for e, end in zip(episodes, ends, strict=True)]

        rollouts = RolloutRewards(
            rewards=join_turns(rewards),
            turn_ends=[np.cumsum([len(reward) for reward in rewards[end - len(e.turns) : end]]) - 1
                       for e, end in zip(episodes, ends, strict=True)],
            groups=groups,
            truncated=np.array([e.truncated for e in episodes]),
        )  # fmt: skip
        if "values" in label_values:
            rollouts.values = join_turns(label_values["values"])
            rollouts.next_values = np.where(rollouts.truncated, np.array(label_values["next_values"])[ends - 1], 0.0)
            label_values["old_values"] = label_values.pop("values")
            label_values["returns"] = split_turns(self.credit.value_targets(rollouts), rewards)
        label_values["advantages"] = split_turns(self.credit.assign_advantages(rollouts), rewards)
        figures |= correct_advantages(label_values["advantages"], sampler, trainer, self.plan)
        for name in self._value_names():
            for sequence, values in zip(sequences, label_values[name], strict=True):
                set_label_values(sequence, name, values)
        if self.objective.needs_rollouts:
            return sequences
        worth = np.array([label_values["advantages"][end - 1][0] for end in ends])
        parts = [sequences[end - len(e.turns) : end] for e, end in zip(episodes, ends, strict=True)]
        return choose_pairs(parts, worth, groups) if self.unit == 2 else choose_answers(parts, worth)

    @torch.no_grad()
    def _read_labels(self, sequences: list[EncodedSequence], policy: Policy) -> dict[str, list[Any]]:
        """What the policy says of its own labels before it moves, by name, of each sequence float64 [labels].

        Its log-probabilities; where they are needed the untouched model's, a value head's predictions, and of the state
        after the last label.
        """
        names = [*(["behaviour"] if self._needs_behaviour else []), *(["reference"] if self.plan.divergence else [])]
        names += ["values", "next_values"] if self.objective.needs_values else []
        label_values: dict[str, list[Any]] = {name: [None] * len(sequences) for name in names}
        with eval_mode(policy.model):
            for batch in self._cut_micro_batches(sequences, 1) if names else ():
                here = batch.to(policy.causal.device)
                outputs = {"behaviour": policy.token_logps(here)} if self._needs_behaviour else {}
                if self.plan.divergence:
                    outputs["reference"] = policy.reference_logps(here)
                if self.objective.needs_values:
                    outputs["values"] = policy.predict_values(here)
                    last = here.cu_seqlens.diff().long() - 1  # of each line, which is one sequence
                    begins = torch.arange(here.n_sequences, device=last.device) * here.input_ids.shape[1]
                    outputs["next_values"] = policy.predict_values_at(here, begins + last)
                for name, values in outputs.items():
                    for row, part in split_by_row(here, values, each=name == "next_values"):
                        label_values[name][row] = part if name != "next_values" else float(part[0])
        return label_values

    @torch.no_grad()
    def _read_some_logps(self, sequences: list[EncodedSequence], policy: Policy) -> list[np.ndarray]:
        """The policy's log-probabilities of the labels of the first sequences, read as they are trained."""
        logps = [np.zeros(0)] * len(sequences)
        with eval_mode(policy.model):
            for batch in self._share_prompts(sequences[:LOOKED_AT], policy):
                here = batch.to(policy.causal.device)
                for row, part in split_by_row(here, policy.token_logps(here)):
                    logps[row] = part
        return logps

    # ---- steps of a round -----------------------------------------------------------------------------------------

    @property
    def _round_file(self) -> Path:
        return self.folder / "round.safetensors"

    def _load_round(self, number: int) -> PlayedRound:
        return load_round(self._round_file, number, self.unit, self.chat.pictures.processor)

    @property
    def _needs_behaviour(self) -> bool:
        """Whether anything looks at how likely the answers were to the policy that wrote them."""
        several_steps = self.plan.steps > 1 and (self.objective.needs_rollouts or self.plan.max_kl is not None)
        return several_steps or bool(self.plan.divergence or self.plan.correction)

    def _value_names(self) -> tuple[str, ...]:
        names = ("advantages",) if self.objective.needs_rollouts else ()
        # The only step of a round is taken by the policy that wrote it: its ratio is 1 by definition.
        if self.plan.steps > 1 and (names or self.plan.max_kl is not None):
            names = (*names, "behaviour")
        return (*names, "returns", "old_values") if self.objective.needs_values else names

    def _choose_minibatch(self, round_: PlayedRound, step: int) -> list[EncodedSequence]:
        """The sequences of a step of the round: all, or a share of a permutation that is drawn for each pass."""
        update, part = divmod(step, self.plan.minibatches)
        if self.plan.minibatches == 1:
            return round_.sequences
        units = split_units(round_.sequences, self.unit)
        order = np.random.default_rng([self.order_seed, round_.number, update]).permutation(len(units))
        chosen = sorted(np.array_split(order, self.plan.minibatches)[part].tolist())
        return [sequence for i in chosen for sequence in units[i]]

    def _share_prompts(self, sequences: Sequence[EncodedSequence], policy: Policy) -> list[Batch]:
        """The sequences as micro-batches in which the answers to a prompt stand behind it in one line, where it pays
        and the model keeps them apart. Sequences with pictures have lines of their own.
        """
        if any(sequence.pictures for sequence in sequences):
            return self._cut_micro_batches(sequences)
        groups = group_by_prompt(sequences)
        widest, total = max(map(count_line, groups)), sum(map(count_line, groups))
        share = 1 - total / sum(len(sequence.ids) for sequence in sequences)  # of the work that is saved
        if share < WORTHWHILE or not self._keeps_answers_apart(policy, widest):
            return self._cut_micro_batches(sequences)
        lone = [sequence for group in groups if len(group) == 1 for sequence in group]
        lines = sorted((group for group in groups if len(group) > 1), key=lambda group: -count_line(group))
        batches, begin = self._cut_micro_batches(lone), 0
        while begin < len(lines):
            count = max(1, self.micro_tokens // count_line(lines[begin]))
            batches.append(collate_groups(lines[begin : begin + count], self.chat.pad_id))
            begin += count
        return batches

    def _keeps_answers_apart(self, policy: Policy, width: int) -> bool:
        """Whether lines of `width` tokens may hold several answers; found out once for a width and all below."""
        if width > self.proven_width:
            if not self.objective.shares_prompts():
                return False
            on_card = policy.causal.device.type != "cpu" and width > WIDEST_MASK
            if on_card or policy.virtual or width > self.micro_tokens or not supports_shared_prefix(policy, width):
                return False
            self.proven_width = width
        return True

    def _cut_micro_batches(self, sequences: Sequence[EncodedSequence], unit: int = 0) -> list[Batch]:
        """The sequences as padded micro-batches of like lengths, no larger than `micro_tokens`.

        Args:
            unit: How many stay together; default: those of a row.
        """
        unit = unit or self.unit
        longest_first = sorted(split_units(sequences, unit), key=lambda one: -max(len(s.ids) for s in one))
        batches, begin = [], 0
        while begin < len(longest_first):
            longest = max(len(sequence.ids) for sequence in longest_first[begin])
            count = max(1, self.micro_tokens // longest // unit)
            rows = [sequence for one in longest_first[begin : begin + count] for sequence in one]
            batch = collate_sequences(rows, "padded", self.chat.pad_id)
            assert batch is not None
            batches.append(batch)
            begin += count
        return batches
