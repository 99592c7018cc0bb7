"""`holdfast chat`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.common import Device, Verbose, speaking
from holdfast.core.safe_text import printable

if TYPE_CHECKING:
    from holdfast.axes.engine import Engine, SamplingParams


def chat(
    model: Annotated[str, typer.Argument(help="Model, run directory or adapter.")],
    system: Annotated[str | None, typer.Option(help="System message.", show_default=False)] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 = greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    max_thinking_tokens: Annotated[int, typer.Option(min=1, help="Longest thought before it.")] = 2048,
    once: Annotated[bool, typer.Option("--once", help="Every line is a new conversation.")] = False,
    device: Device = "auto",
    verbose: Verbose = False,
) -> None:
    """
    \b
    holdfast chat runs/mine
    echo "What is 3 + 4?" | holdfast chat lab --once

    Talk to a model. An empty line starts a new conversation; Ctrl-D ends.
    """
    with speaking(verbose) as ui:
        from holdfast.axes.engine import SamplingParams
        from holdfast.data.chat.settings import ChatSettings, settings_of
        from holdfast.generation.decoder import open_decoder
        from holdfast.models.loading import load

        ui.phase("loading")
        loaded = load(model, device=device)
        answer = Answer()
        chat = (settings_of(loaded.path) or ChatSettings()).chat(loaded.tokenizer)
        decoder = open_decoder(loaded)
        engine = decoder.engine(chat, slots=1, fingerprint=loaded.fingerprint, on_text=answer.grow)
        if setup := decoder.setup():
            ui.line(setup.line)
        ui.close()
        params = SamplingParams(temperature=temperature, max_tokens=max_tokens, max_thinking_tokens=max_thinking_tokens)
        converse(engine, params, system, once, answer)


class Answer:
    """Prints an answer while it grows."""

    def __init__(self) -> None:
        self.shown = ""

    def grow(self, text: str) -> None:
        """Print what `text`, the answer so far, has beyond what is shown; half a character waits for its other half."""
        if text.startswith(self.shown) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            print(printable(text[len(self.shown) :]), end="", flush=True)
            self.shown = text

    def end(self, text: str, mark: str) -> None:
        """Print the rest of the whole answer; all of it again where its beginning came to read otherwise."""
        rest = text[len(self.shown) :] if text.startswith(self.shown) else f"\n{text}"
        print(printable(rest) + mark, flush=True)
        self.shown = ""


def converse(
    engine: Engine, params: SamplingParams, system: str | None, once: bool, answer: Answer | None = None
) -> None:
    """Read questions from standard input and print answers until it ends.

    Args:
        answer: Where the engine shows an answer as it grows; default: answers are printed once they are whole.
    """
    from holdfast.axes.engine import Request

    start: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages, answer = list(start), answer or Answer()
    turn = 0
    while (question := _ask()) is not None:
        if once or not question:
            messages = list(start)
        if not question:
            continue
        messages = [*messages, {"role": "user", "content": question}]
        (sample,) = engine.sample([(Request(f"chat-{turn}", messages), [0])], params)
        messages = [*messages, {"role": "assistant", "content": sample.text}]
        turn += 1
        answer.end(sample.text, " [cut]" if sample.finish == "length" else "")


def _ask() -> str | None:
    """The next line, with a prompt where someone is typing."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.strip() if line else None
