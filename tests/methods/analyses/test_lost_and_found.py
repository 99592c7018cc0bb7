"""Lost and found: every cause by an answer that has it, and the counts against answers written by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from holdfast.axes.analysis import AnalysedTask, AnalysisContext
from holdfast.errors import UserError
from holdfast.methods.analyses.answer_causes import CAUSES, find_cause, find_language, find_loop
from holdfast.methods.analyses.lost_and_found import LostAndFound
from holdfast.testing.analyses import ScriptedAnswer


def answer(text: str, reference: str = "#### 18", passed: bool = False, **more) -> ScriptedAnswer:
    return ScriptedAnswer("1", "How many are left?", text, reference, passed, **more)


GERMAN = "Das ist eine sehr gute Frage und die Antwort auf sie ist nicht der Hund."
ENGLISH = "The answer to this question is that they have it from the man who was with you."
CASES = {
    # cause, wrong answer, right answer
    "never stops": (answer("1 2 3 " * 9, stopped=False, tokens=54), answer("#### 18", passed=True)),
    "empty": (answer("  \n"), answer("#### 18", passed=True)),
    "refuses": (answer("I'm sorry, but I can't help with that."), answer("#### 18", passed=True)),
    "other language": (answer(GERMAN, "dog"), answer(ENGLISH, "dog", passed=True)),
    "form": (answer("It is 9 + 9, so 18."), answer("9 + 9 = 18\n#### 18", passed=True)),
    "wrong step": (answer("9 + 8 = 18\n18 + 1 = 19\n#### 19"), answer("9 + 9 = 18\n#### 18", passed=True)),
    "other answer": (answer("Paris", "Rome"), answer("Rome", "Rome", passed=True)),
}


def test_every_cause_is_found_in_an_answer_that_has_it() -> None:
    assert set(CASES) == set(CAUSES)
    for cause, (wrong, right) in CASES.items():
        assert find_cause(wrong, right)[0] == cause


def test_the_note_names_what_was_seen() -> None:
    notes = {cause: find_cause(*pair)[1] for cause, pair in CASES.items()}
    assert notes["never stops"] == "it repeats '1 2 3'"
    assert notes["other language"] == "German instead of English"
    assert notes["wrong step"] == "9 + 8 = 18 does not hold"
    assert "'18'" in notes["form"]
    step = find_cause(answer("Take 9. Add 3. So 12.", "x"), answer("Take 9. Add 4. So 13.", "x", passed=True))
    assert step == ("wrong step", "step 2 of 3 is 'Add 3.'")


def test_edges_of_the_rules() -> None:
    for text, language in (("Это совсем другой язык", "Cyrillic"), ("42", ""), ("lamp", ""), (ENGLISH, "English")):
        assert find_language(text) == language
    assert find_loop("abcabcabc") == "abc"
    assert find_loop("all different words here") == ""
    assert find_loop("7000000") == "", "a number with zeros is no loop"
    for equation, cause in (
        ("7 / 2 = 3.5", "other answer"),
        ("2 * 3 = 7", "wrong step"),
        ("10 / 3 = 3.33", "other answer"),
    ):
        assert find_cause(answer(equation, "x"), answer("x", "x", passed=True))[0] == cause
    unreadable = answer("the second, or the third", "B", unreadable=True)
    assert find_cause(unreadable, answer("B", "B", passed=True)) == ("form", "the judge could not read it")
    both = "I'm sorry that he can't help"  # the right answer says it too
    assert find_cause(answer(both, "x"), answer(f"{both} x", "x", passed=True))[0] == "other answer"


def context_of(*tasks: AnalysedTask) -> AnalysisContext:
    def no_model():
        raise AssertionError("answers alone need no model")

    return AnalysisContext([], tasks, None, open_base=no_model, open_tuned=no_model, open_folded=no_model)


def test_counts_are_those_of_the_answers_and_no_model_is_loaded() -> None:
    wrong, right = zip(*CASES.values(), strict=True)
    for number, pair in enumerate(zip(wrong, right, strict=True)):
        for one in pair:
            one.id = str(number)
    lost = AnalysedTask("sums", "generate", "keep", right, wrong)
    won = AnalysedTask("story", "generate", "target", wrong[:2], right[:2])
    kept = AnalysedTask("same", "choice", "keep", right, right)
    section = LostAndFound(examples=1).measure(context_of(won, lost, kept))
    by_flip = Counter({(flip, cause): n for task, _, flip, cause, n in section.table.rows})
    assert by_flip == {**{("lost", cause): 1 for cause in CASES}, ("won", "never stops"): 1, ("won", "empty"): 1}
    assert section.sentence.startswith(
        "Of 16 answers 7 were lost and 2 won; of the lost ones 1 never stops, 1 is empty"
    )
    assert [(e.won, e.note.split(":")[0]) for e in section.examples].count((False, "sums")) == 7
    assert len({e.group for e in section.examples}) == 9
    (figure,) = section.figures
    assert [series.points[0] for series in figure.series] == [(0.0, 1.0), (0.0, 1.0)]


def test_nothing_flipped_and_nothing_judged() -> None:
    same = AnalysedTask("same", "generate", "keep", [answer("x")], [answer("x")])
    section = LostAndFound().measure(context_of(same))
    assert "none flipped" in section.sentence
    assert not section.figures
    with pytest.raises(UserError, match=r"evaluate\.keep"):
        LostAndFound().measure(context_of(AnalysedTask("text", "perplexity", "keep", [], [])))
