"""How Self-Instruct asks for tasks, and what it makes of the replies: the paper's heuristics as functions of texts."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterable, Sequence

from rapidfuzz.distance import LCSseq

from holdfast.data.overlap.words import split_words

TASKS = "Come up with a series of tasks:\n{tasks}\n{next}."
CLASSIFICATION = (
    "Can the following task be regarded as a classification task with finite output labels?\n\n"
    "Task: Say whether the tone of the review is positive or negative.\nIs it classification? Yes\n\n"
    "Task: Write a short poem about the sea.\nIs it classification? No\n\n"
    "Task: Which of these four cities lies furthest north?\nIs it classification? Yes\n\n"
    "Task: Explain how rain forms.\nIs it classification? No\n\n"
    "Task: {task}\nIs it classification?"
)
INPUT_FIRST = (
    "Come up with examples for the following task. Where it needs no input, write the output directly.\n\n"
    "Task: Which exercises are good for the back?\nOutput: Planks, bridges and rows, done slowly.\n\n"
    "Task: Sort the numbers from small to large.\nExample 1\nInput: 10, 92, 2, 5\nOutput: 2, 5, 10, 92\n"
    "Example 2\nInput: 9, 3, 7\nOutput: 3, 7, 9\n\nTask: {task}\n"
)
OUTPUT_FIRST = (
    "Given a classification task and its labels, write an input for each label. Where it needs no input, write the "
    "label alone.\n\nTask: Say whether the sentence is about sport or politics.\nClass label: sport\n"
    "Sentence: The match ended two to one.\nClass label: politics\nSentence: The vote was put off until May.\n\n"
    "Task: {task}\n"
)
BARRED = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot",
    "go to",
)  # fmt: skip
"""What a model of text cannot do."""
SHORTEST, LONGEST = 3, 150
"""Words: a task has more than the first and no more than the second."""


def ask_for_tasks(known_tasks: Sequence[str]) -> str:
    """The request that shows some tasks and asks for more."""
    lines = [f"{number}. {' '.join(task.split()).rstrip(':')}" for number, task in enumerate(known_tasks, 1)]
    return TASKS.format(tasks="\n".join(lines), next=len(lines) + 1)


def parse_tasks(text: str) -> list[str]:
    """The tasks in a numbered reply, white space normalised, each with a capital at its beginning.

    The paper's code lower-cases all the rest of a task too, names included.
    """
    parts = re.split(r"(?:^|\n)\s*\d+\s?[.)]\s+", f"\n{text}")
    tasks = [" ".join(part.split()) for part in parts]
    if len(tasks) > 1 and tasks[0].endswith(":"):  # what a chat model says first: "Here are more tasks:"
        tasks = tasks[1:]
    return [task[0].upper() + task[1:] for task in tasks if task]


def find_task_fault(task: str) -> str | None:
    """Why a task is no use, or `None`: length, what no model of text can do, how it begins."""
    words = task.split()
    if len(words) <= SHORTEST or len(words) > LONGEST:
        return "too short or too long"
    if any(re.search(rf"\b{word}\b", task, re.IGNORECASE) for word in BARRED):
        return "beyond text"
    if task.startswith("Write a program"):
        return "begins as very many do"
    if task[0] in string.punctuation or not task[0].isascii():
        return "begins with a mark or another script"
    return None


def longest_alike(task: str, others: Iterable[Sequence[str]]) -> float:
    """The largest ROUGE-L (F measure, no stemming) of a task against others, which are given as words."""
    words = split_words(task)
    return max((rouge_l(words, other) for other in others), default=0.0)


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """F measure of the longest common subsequence of two lists of words [Lin 2004]."""
    common = LCSseq.similarity(one, other)
    return 2 * common / (len(one) + len(other)) if common else 0.0


def parse_instances(text: str, classifies: bool) -> list[tuple[str, str]]:
    """(input, output) of the examples in a reply; the input is empty where a task needs none."""
    return parse_output_first(text) if classifies else parse_input_first(text)


def parse_input_first(text: str) -> list[tuple[str, str]]:
    """The examples of a task, each `Input: ... Output: ...`, or an output alone."""
    text = re.split(r"\n\s*Task:", text)[0]
    out = []
    for part in re.split(r"(?:^|\n)\s*Example\s?\d*\.?:?", text):
        if not part.strip():
            continue
        before, *after = re.split(r"Output\s*\d*\s*:", part, maxsplit=1)
        before, output = (before, after[0]) if after else ("", part)
        output = re.split(r"Input\s*\d*\s*:", output)[0]  # of several pairs in one example the first
        out.append((re.sub(r"^\s*Input\s*\d*\s*:", "", before).strip(), output.strip()))
    return out


def parse_output_first(text: str) -> list[tuple[str, str]]:
    """The examples of a classification, each a label and then the input to which it belongs."""
    text = re.split(r"\n\s*Task:", text)[0]
    out = []
    for part in text.split("Class label:")[1:]:
        label, _, rest = part.strip().partition("\n")
        if label:
            out.append((rest.strip(), label.strip()))
    return out


def select_instances(
    instances: Sequence[tuple[str, str]], most: int, rng: random.Random
) -> tuple[list[tuple[str, str]], str | None]:
    """The examples of one task that are of use, at most `most`, and why there are none.

    Out go those whose output is empty or the input again, or whose input or output ends with a colon; all of them where
    one input has two outputs.
    """
    good = [
        (task_input, output)
        for task_input, output in dict.fromkeys(instances)
        if output and task_input != output and not task_input.endswith(":") and not output.endswith(":")
    ]
    if not good:
        return [], "no example of use"
    outputs: dict[str, str] = {}
    for task_input, output in good:
        if task_input and outputs.setdefault(task_input, output) != output:
            return [], "an input with two outputs"
    return (rng.sample(good, most) if len(good) > most else good), None


def join_task(task: str, task_input: str, rng: random.Random) -> str:
    """A task and its input as a question, in one of several forms as the paper has them."""
    if not task_input:
        return rng.choice(("{task}", "{task}", "Task: {task}")).format(task=task)
    form = rng.choice(
        ("{task}\nInput: {given}", "{task}\n\n{given}", "Task: {task}\nInput: {given}", "{task}\n{given}")
    )
    return form.replace("{task}", task, 1).replace("{given}", task_input, 1)
