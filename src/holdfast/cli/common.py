"""What every verb shares: its options, its voice, and how errors become one line and an exit code."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from typer.core import TyperCommand

from holdfast.core.interrupts import as_interrupts
from holdfast.core.progress import Progress
from holdfast.core.quiet import quiet_process
from holdfast.core.safe_text import hide_keys, make_printable
from holdfast.core.terminal import paint_text
from holdfast.errors import HoldfastError, UserError, UserErrors, UserInterrupt

RecipeFile = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe file, or the directory of an earlier run.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SETTING=VALUE]...", help="Settings to change, in dotted names.", show_default=False),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more; tracebacks of errors.")]
DEVICE_HELP = "Where models live: cpu, cuda, cuda:1, mps, ...; default: HOLDFAST_DEVICE, else an accelerator."
Device = Annotated[str, typer.Option(help=DEVICE_HELP, show_default=False)]
INFERENCE_HELP = "Inference method to answer through: NAME, {name: ...} or FILE.yaml."
DRAFT_HELP = "Small model that proposes tokens: the same answers in fewer passes."
DraftName = Annotated[str | None, typer.Option("--draft", help=DRAFT_HELP, show_default=False)]
InferenceText = Annotated[str | None, typer.Option("--inference", help=INFERENCE_HELP, show_default=False)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and results.")]
Restart = Annotated[
    bool, typer.Option("--restart", help="Begin anew where the output holds a run; it is kept as OUTPUT.old-1.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON lines for machines.")]

RESUMABLE_VERBS = ("train", "build", "compare", "curate", "reproduce", "demo", "eval", "dial", "search")
"""Verbs that repeat nothing of what they have done when they are run once more."""

OS_ERRORS = {
    errno.ENOSPC: ("no space left on the disk; free some and run the same command again", 1),
    errno.EDQUOT: ("the disk quota is used up; free some space and run the same command again", 1),
    errno.EROFS: ("the file system is read-only; choose another place", 2),
    errno.EACCES: ("permission denied; choose another place or change its permissions", 2),
    errno.ENOENT: ("no such file or directory", 2),
    errno.EISDIR: ("is a directory, a file is needed", 2),
    errno.ENOTDIR: ("is a file, a directory is needed", 2),
    errno.ENAMETOOLONG: ("a part of this path, or all of it, is longer than the file system allows; shorten it", 2),
    errno.ELOOP: ("links that lead to each other; mend the link", 2),
}
"""What the operating system refuses most: the line for the user and the exit code."""


OUT_OF_MEMORY = (
    "not enough memory. Sampling needs less with fewer sampling.slots and a smaller sampling.max_tokens or "
    "evaluate.max_tokens, everything with a smaller model, on a device that nobody else uses, or on another one "
    "(`device:`, `--device`, HOLDFAST_DEVICE); what was finished is kept (-v shows where it was short)"
)
"""Where no step of a run knows better advice."""


class Verb(TyperCommand):
    """A verb that knows what is meant by options of other tools, and by settings written as options."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        own_options = {option for parameter in self.params for option in (*parameter.opts, *parameter.secondary_opts)}
        takes_settings = any(parameter.name == "settings" for parameter in self.params)
        for number, word in enumerate(args):
            option, _, value = word.partition("=")
            if word == "--":
                break
            if takes_settings and option.startswith("--") and option not in own_options:
                following = args[number + 1] if number + 1 < len(args) else ""
                if text := suggest_setting(option, value or following):
                    text = make_printable(text, one_line=True)
                    print(f"{paint_text('holdfast:', 'red', sys.stderr)} {text}", file=sys.stderr)
                    raise typer.Exit(2)
        return super().parse_args(ctx, args)  # type: ignore[arg-type]


def suggest_setting(option: str, value: str) -> str:
    """What to write in place of an option that there is not; "" where nothing is like it.

    Args:
        value: What was given with it, or the word after it.
    """
    from holdfast.recipe import peers
    from holdfast.recipe.messages import describe_settings

    name = option.removeprefix("--").replace("-", "_")
    if name == "dry_run":
        return "--dry-run: holdfast check RECIPE looks at everything and trains nothing"
    if text := peers.INSTEAD.get(name) or peers.NO_EFFECT.get(name):
        return f"{option}: {text}"
    example_methods = {"tuner": "lora", "objective": "dpo"}
    ours = [
        key
        for key in describe_settings(example_methods)
        if key == name or (key.rpartition(".")[2] == name and name != "name")
    ]
    setting = peers.ALIASES[name][0] if name in peers.ALIASES else min(ours, key=len, default="")
    value_text = value if value and not value.startswith("-") else "VALUE"
    return setting and f"{option}: settings stand without dashes, in dotted names: {setting}={value_text}"


@contextmanager
def open_session(verbose: bool = False, quiet: bool = False, as_json: bool = False) -> Iterator[Progress]:
    """The voice of a verb; whatever goes wrong inside becomes one line on standard error and the right exit code."""
    _prepare_process(verbose)
    try:
        with as_interrupts(), Progress.for_terminal(quiet=quiet, verbose=verbose, as_json=as_json) as ui:
            yield ui
        _shutdown_process_group()
    except (typer.Exit, typer.Abort):
        raise
    except BrokenPipeError:
        # The reader (`| head`) has enough; keep Python from complaining when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except (Exception, KeyboardInterrupt) as error:
        text, code = describe_error(error)
        if isinstance(error, UserInterrupt):
            _shutdown_process_group()
        if verbose:
            print(hide_keys(make_printable(traceback.format_exc())), end="", file=sys.stderr)
        for line in text.split("\n"):
            print(f"{paint_text('holdfast:', 'red', sys.stderr)} {line}", file=sys.stderr)
        if as_json:
            print(json.dumps({"event": "error", "text": text, "code": code}), flush=True)
        raise typer.Exit(code) from None


def describe_error(error: BaseException) -> tuple[str, int]:
    """The line for the user, of several mistakes one line each, and the exit code.

    What it quotes (names, rows, a server's words) can neither steer the terminal, nor pose as a line of its own, nor
    hold the key of an address.
    """
    text, code = _message_and_exit_code(error)
    lines = text.split("\n") if isinstance(error, UserErrors) else [text]
    return "\n".join(hide_keys(make_printable(line, one_line=True)) for line in lines), code


def _message_and_exit_code(error: BaseException) -> tuple[str, int]:
    if isinstance(error, HoldfastError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        goes_on = len(sys.argv) > 1 and sys.argv[1] in RESUMABLE_VERBS
        return f"interrupted{f'; run {rerun_command()} to go on' if goes_on else ''}", UserInterrupt.exit_code
    if isinstance(error, OSError) and error.errno in OS_ERRORS:
        text, code = OS_ERRORS[error.errno]
        return (f"{error.filename}: {text}" if error.filename else text), code
    if (placement := sys.modules.get("holdfast.models.placement")) and placement.is_out_of_memory(error):
        return OUT_OF_MEMORY, 1
    lines = str(error).strip().splitlines()
    first = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return f"{first} (run again with -v for the traceback)", 1


def _shutdown_process_group() -> None:
    """Of several processes that a launcher started, none goes before the others are done."""
    if "holdfast.training.distributed" in sys.modules:
        sys.modules["holdfast.training.distributed"].shutdown_process_group()


def rerun_command() -> str:
    """The command line of this process, to be run once more; it goes on, so it does not begin anew."""
    words = (word for word in sys.argv[1:] if word != "--restart")
    return hide_keys(shlex.join(["holdfast", *words]))


def _prepare_process(verbose: bool) -> None:
    """Other libraries' chatter off (unless `-v`), telemetry off; a user's module in the current folder is found."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    if not verbose:
        quiet_process()


def parse_count_or_list(text: str, what: str) -> int | list[int]:
    """`3` as a count, `0,1,7` as a list.

    Raises:
        UserError: If it is neither.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts):
        raise UserError(f"{what} must be a count (3) or a list (0,1,7), not {text}")
    values = [int(part) for part in parts]
    return values[0] if len(values) == 1 and "," not in text else values
