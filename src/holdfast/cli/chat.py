"""`holdfast chat`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.common import Device, DraftName, InferenceText, Verbose, open_session
from holdfast.cli.text import format_columns
from holdfast.core.safe_text import make_printable
from holdfast.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.axes.engine import Engine, SamplingParams
    from holdfast.axes.inference import Inference
    from holdfast.core.progress import Progress
    from holdfast.generation.speculative_batch import Draft

LONGEST = 160
"""Characters shown of a text that an answer rests on."""


def chat(
    model: Annotated[str, typer.Argument(help="Model, run directory or adapter.")],
    system: Annotated[str | None, typer.Option(help="System message.", show_default=False)] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 = greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    max_thinking_tokens: Annotated[int, typer.Option(min=1, help="Longest thought before it.")] = 2048,
    inference: InferenceText = None,
    draft: DraftName = None,
    against: Annotated[
        str | None, typer.Option(help="Second model, shown side by side; as it answers by itself.", show_default=False)
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Every line is a new conversation.")] = False,
    device: Device = "auto",
    verbose: Verbose = False,
) -> None:
    """
    \b
    holdfast chat runs/mine
    holdfast chat runs/mine --against lab
    echo "What is 3 + 4?" | holdfast chat lab --once

    Talk to a model, as it answers or through an inference method. An empty line starts a new conversation; Ctrl-D ends.
    """
    with open_session(verbose) as ui:
        from holdfast.axes.engine import SamplingParams
        from holdfast.axes.registry import name_of
        from holdfast.pipeline.readiness import open_draft, refuse_other_tokens
        from holdfast.recipe.method_text import parse_method

        method = parse_method("inference", inference, "--inference") if inference else None
        name = f"{model} ({name_of(method)})" if method else model
        if against == name:
            raise UserError(f"--against {against}: is the same model; name another one")
        for source in (model, *([against] if against else [])):
            refuse_other_tokens(draft, source, "--draft")
        ui.start_phase("loading")
        drafts = open_draft(draft, device)
        printer = AnswerPrinter()
        on_text = printer.print_new_text if against is None else None
        engines = {name: open_engine(model, method, device, ui, on_text, drafts)}
        if against is not None:
            engines[against] = open_engine(against, None, device, ui, None, drafts)
        ui.close()
        params = SamplingParams(temperature=temperature, max_tokens=max_tokens, max_thinking_tokens=max_thinking_tokens)
        if against is None:
            answer_questions(engines[name], params, system, once, printer)
        else:
            compare_answers(engines, params, system, once)


def open_engine(
    name: str, method: Inference | None, device: str, ui: Progress, on_text: Callable[[str], Any] | None,
    draft: Draft | None = None,
) -> Engine:  # fmt: skip
    """The engine of a model that answers one question at a time.

    Args:
        name: A model, run directory or adapter.
        method: Through which it answers, beside what it was trained with.
        on_text: Told an answer as it grows.
        draft: Who proposes tokens.
    Raises:
        UserError: If there is no such model.
    """
    from holdfast.data.chat.settings import ChatSettings, settings_of
    from holdfast.generation.chosen_method import open_chosen_decoder
    from holdfast.models.loading import load_model
    from holdfast.pipeline.inference_bench import settle_for_model

    loaded_model = load_model(name, device=device)
    chat = (settings_of(loaded_model.path) or ChatSettings()).build_chat(loaded_model.tokenizer)
    decoder = open_chosen_decoder(loaded_model, name, settle_for_model(method, loaded_model, name, chat))
    if line := decoder.describe_answers():
        ui.write_line(line)
    return decoder.build_engine(
        chat, slots=1, fingerprint=loaded_model.fingerprint, on_text=on_text, say=ui.write_once, draft=draft
    )


class AnswerPrinter:
    """Prints an answer while it grows."""

    def __init__(self) -> None:
        self.printed_text = ""

    def print_new_text(self, text: str) -> None:
        """Print what `text`, the answer so far, has beyond what is shown; half a character waits for its other half."""
        if text.startswith(self.printed_text) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            print(make_printable(text[len(self.printed_text) :]), end="", flush=True)
            self.printed_text = text

    def print_rest(self, text: str, mark: str) -> None:
        """Print the rest of the whole answer; all of it again where its beginning came to read otherwise."""
        rest = text[len(self.printed_text) :] if text.startswith(self.printed_text) else f"\n{text}"
        print(make_printable(rest) + mark, flush=True)
        self.printed_text = ""


def answer_questions(
    engine: Engine, params: SamplingParams, system: str | None, once: bool, printer: AnswerPrinter | None = None
) -> None:
    """Read questions from standard input and print answers until it ends.

    Args:
        printer: Where the engine shows an answer as it grows; default: answers are printed once they are whole.
    """
    from holdfast.axes.engine import Request

    start: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages, printer = list(start), printer or AnswerPrinter()
    turn = 0
    while (question := _read_question()) is not None:
        if once or not question:
            messages = list(start)
        if not question:
            continue
        messages = [*messages, {"role": "user", "content": question}]
        (sample,) = engine.sample([(Request(f"chat-{turn}", messages), [0])], params)
        messages = [*messages, {"role": "assistant", "content": sample.text}]
        turn += 1
        printer.print_rest(sample.text, " [cut]" if sample.finish == "length" else "")
        print_trace(sample.trace)


def compare_answers(engines: Mapping[str, Engine], params: SamplingParams, system: str | None, once: bool) -> None:
    """Read questions from standard input and print the answers of several models side by side until it ends; each goes
    on from its own.

    Args:
        engines: By the names of their models.
    """
    from holdfast.axes.engine import Request

    start: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    talks = {name: list(start) for name in engines}
    turn = 0
    while (question := _read_question()) is not None:
        if once or not question:
            talks = {name: list(start) for name in engines}
        if not question:
            continue
        texts, traces = [], []
        for name, engine in engines.items():
            talks[name] = [*talks[name], {"role": "user", "content": question}]
            (sample,) = engine.sample([(Request(f"chat-{turn}", talks[name]), [0])], params)
            talks[name] = [*talks[name], {"role": "assistant", "content": sample.text}]
            traces.append(sample.trace)
            texts.append(make_printable(sample.text) + (" [cut]" if sample.finish == "length" else ""))
        turn += 1
        print(format_columns(list(engines), texts), flush=True)
        for trace in traces:
            print_trace(trace)


def _read_question() -> str | None:
    """The next line, with a prompt where someone is typing."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.strip() if line else None


def print_trace(trace: Any) -> None:
    """Say beside an answer what it rests on: sources, paths, tries, votes; nothing where it has no trace."""
    if not trace:
        return
    from holdfast.report.asked import trace_entries

    for label, text in trace_entries(trace):
        line = " ".join(text.split())
        print(make_printable(f"  {label}: {line if len(line) <= LONGEST else line[:LONGEST] + '...'}"), file=sys.stderr)
