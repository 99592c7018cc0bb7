"""How a model answers: models and inference methods together, for sampling, likelihoods, chat and evaluation alike.

What a run's weights alone do not say stands beside them in `inference.json`; `open_decoder` reads it back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from holdfast.axes.engine import Engine, Request, SampleFn, SamplingParams
from holdfast.axes.inference import CHANGES, Inference, LogitStep
from holdfast.axes.registry import identity_of, name_of
from holdfast.core.files import replace_file
from holdfast.data.rows import Message, fingerprint_json
from holdfast.errors import RunError, UserError
from holdfast.generation.attempts import JudgeFn, judge_alone
from holdfast.generation.factory import build_sample_fn
from holdfast.generation.prompt_ids import answer_ids
from holdfast.recipe.choices import InferenceChoice

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.chat.encoder import Chat
    from holdfast.models.joint_policy import JointPolicy
    from holdfast.models.loading import LoadedModel, Model
    from holdfast.models.policy import Policy
    from holdfast.models.vocabulary_table import VocabularyTable

FILE = "inference.json"
"""Beside the weights of a model that answers through more than these."""


class ModelSource(BaseModel):
    """A model that takes part in the answers: its name as in a recipe, and the fingerprint of its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    fingerprint: str
    shared: float | None = None
    """Share of the answering model's tokens that it has, where its vocabulary is another."""

    def describe_source(self) -> str:
        """Its name, and what is lost between the vocabularies."""
        return self.name if self.shared is None else f"{self.name} (which has {self.shared:.1%} of the tokens)"


class InferenceSetup(BaseModel):
    """What `inference.json` holds: the method, what it changes, and the models it reads beside the saved weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = 1
    inference: InferenceChoice
    changes: tuple[str, ...]
    models: dict[str, ModelSource] = {}

    @property
    def line(self) -> str:
        """What happens, in a line for those who only have the weights."""
        assert self.inference is not None  # `read_setup` and `Decoder.build_setup` see to it
        knobs = ", ".join(f"{key} {value}" for key, value in self.inference.model_dump(mode="json").items())
        beside = ", ".join(f"{name} {source.describe_source()}" for name, source in self.models.items())
        return (
            f"answers are made by {name_of(self.inference)}{f' ({knobs})' if knobs else ''}, which changes "
            f"{' and '.join(self.changes)}{f' and reads {beside}' if beside else ''}; plain transformers knows nothing "
            "of it and answers by the weights alone"
        )


@dataclass(frozen=True)
class Decoder:
    """A model and the inference methods it answers through.

    Args:
        model: Whose answers these are; its weights are as the methods have made them.
        methods: In order; those that change nothing but weights are done with, and not among them.
        others: Models that logits are read of beside it, by name.
        sources: Where `others` come from.
        tables: Of those among `others` with other tokens, how they read and answer in the model's.
        origin: What the weights were made of after they were loaded; "" where they are those of the files.
    Raises:
        UserError: If two methods make attempts.
    """

    model: Model
    methods: Sequence[Inference] = ()
    others: Mapping[str, Model] = field(default_factory=dict)
    sources: Mapping[str, ModelSource] = field(default_factory=dict)
    origin: str = ""
    tables: Mapping[str, VocabularyTable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from holdfast.models.embeddings import OwnEmbedder

        embedder = OwnEmbedder(self.model)
        object.__setattr__(self, "methods", [method.with_embedder(embedder) for method in self.methods])
        if len(self.methods_changing("attempts")) > 1:
            raise UserError("inference: two methods make attempts, and only one can; leave one out")

    @cached_property
    def identity(self) -> str:
        """Fingerprint of what answers depend on beside the model's own weights; "" for a plain model."""
        if not self.methods:
            return self.origin
        return fingerprint_json(
            [
                [[*identity_of(method), method.content_fingerprint()] for method in self.methods],
                {name: source.fingerprint for name, source in self.sources.items()},
                *([self.origin] if self.origin else []),
            ]
        )

    def answer_fingerprint(self, weights: str) -> str:
        """The fingerprint of the answers, where `weights` is that of the model's weights."""
        return f"{weights}+{self.identity[:16]}" if self.identity else weights

    def transform_prompt(self, messages: list[Message]) -> list[Message]:
        """The conversation that is asked in the place of `messages`."""
        for method in self.methods_changing("prompt"):
            messages = method.prompt(messages)
        return messages

    def describe_sources(self, messages: list[Message]) -> dict[str, Any]:
        """What the answer to a conversation rests on, for its trace; empty where the model has only itself."""
        return {key: value for method in self.methods for key, value in method.describe_sources(messages).items()}

    def choice_bias(self, choice: str) -> float:
        """What is added to the score of one choice of several."""
        return sum(method.choice_bias(choice) for method in self.methods_changing("choice_bias"))

    def find_prefix(self, messages: list[Message]) -> str:
        """The text that the answer to a question begins with."""
        return "".join(method.prefix(messages) for method in self.methods_changing("prefix"))

    def transform_request(self, request: Request) -> tuple[Request, str]:
        """The request that is asked in the place of `request`, and what its answer is given to begin with."""
        prefix = "" if request.prefill else self.find_prefix(request.messages)
        messages = self.transform_prompt(request.messages)
        return replace(request, messages=messages, prefill=request.prefill or prefix), prefix

    def transform_params(self, params: SamplingParams) -> SamplingParams:
        """How it is sampled in the place of `params`."""
        for method in self.methods:
            params = method.sampling(params)
        return params

    def build_policy(self, chat: Chat | None = None) -> Policy | JointPolicy:
        """The model's log-probabilities.

        Args:
            chat: Its tokenizer, for methods that ask for the tokens of a text.
        """
        from holdfast.models.joint_policy import JointPolicy
        from holdfast.models.policy import Policy

        own = Policy(self.model)
        if not self.methods_changing("logits"):
            return own
        return JointPolicy(
            {"tuned": own, **{name: Policy(model) for name, model in self.others.items()}},
            partial(self.mix_logits, chat=chat), self.tables,
        )  # fmt: skip

    def build_engine(
        self, chat: Chat, spec: str = "native", *, fingerprint: str, judge: JudgeFn = judge_alone,
        keep: Callable[[Engine], SampleFn] = build_sample_fn, seed: int = 0, **options: Any,
    ) -> Engine:  # fmt: skip
        """The engine that samples the answers.

        Args:
            spec: "native" or "transformers".
            fingerprint: Of the model's weights.
            judge: Verdicts, for methods that ask for them while they answer.
            seed: Of attempts, beside that of whoever asks.
            keep: Makes of an engine what the single attempts are drawn through: a journal's, so that a killed run draws
                none again.
            options: As of `generation.factory.local_engine`. An answer out of several attempts, or one whose beginning
                is given, is not seen growing.
        """
        if self.methods_changing("attempts") or self.methods_changing("prefix"):
            options.pop("on_text", None)
        engine = self.build_inner_engine(chat, spec, fingerprint=fingerprint, **options)
        if not self.methods:
            return engine
        from holdfast.generation.decoder_engine import DecoderEngine

        return DecoderEngine(engine, self, chat, judge, keep, seed)

    def build_inner_engine(self, chat: Chat, spec: str = "native", *, fingerprint: str, **options: Any) -> Engine:
        """The engine that answers as the methods that change logits have it; prompts, sampling and attempts are the
        caller's.

        Args: as of `build_engine`.
        """
        from holdfast.generation.factory import build_local_engine
        from holdfast.generation.joint_forward import LogitMixture

        mixes = bool(self.methods_changing("logits"))
        mixture = LogitMixture(self.others, partial(self.mix_logits, chat=chat), self.tables) if mixes else None
        return build_local_engine(
            self.model, chat, spec, fingerprint=self.answer_fingerprint(fingerprint), mixture=mixture, **options
        )

    def count_passes(self, engine: Engine) -> int:
        """Forward passes that the answers of its engine have taken so far: one for each token, of every model."""
        counts = getattr(getattr(engine, "engine", engine), "counts", {})
        return int(counts.get("tokens", 0)) * (1 + len(self.others))

    def mix_logits(self, step: LogitStep, chat: Chat | None = None) -> Tensor:
        """The logits [n, V] that count, from those of each model; cut to the tokens that all of them have."""
        size = min(logits.shape[-1] for logits in step.values())
        for name, logits in step.items():
            step[name] = logits if logits.shape[-1] == size else logits[:, :size]
        if chat is not None:
            step.answer_ids = partial(answer_ids, chat)
        for method in self.methods_changing("logits"):
            step["tuned"] = method.logits(step)
        return cast("Tensor", step["tuned"])

    @property
    def changes(self) -> tuple[str, ...]:
        """What is changed whenever the model is asked."""
        every = dict.fromkeys(
            change for method in self.methods for change in method.list_changes() if change != "weights"
        )
        return tuple(every)

    def methods_changing(self, what: str) -> list[Inference]:
        """The methods that change the prompt, the logits, ..."""
        return [method for method in self.methods if what in method.list_changes()]

    def build_setup(self) -> InferenceSetup | None:
        """What is kept in `inference.json`; `None` for a plain model."""
        if not self.methods:
            return None
        if len(self.methods) > 1:
            raise RunError("several inference methods at once have no file yet; save the model with one of them")
        return InferenceSetup(inference=self.methods[0], changes=self.changes, models=dict(self.sources))

    def describe_answers(self) -> str:
        """How answers are made, in a line; "" for a plain model."""
        setups = [replace(self, methods=[method]).build_setup() for method in self.methods]
        return "; then ".join(setup.line for setup in setups if setup)

    def write_setup(self, directory: Path) -> None:
        """Write `inference.json` beside the weights; nothing for a plain model."""
        if setup := self.build_setup():
            replace_file(directory / FILE, json.dumps(setup.model_dump(mode="json"), indent=2) + "\n")


def read_setup(directory: Path) -> InferenceSetup | None:
    """What `inference.json` in a model's directory says; `None` where there is none.

    Raises:
        UserError: If it cannot be read.
    """
    path = directory / FILE
    if not path.exists():
        return None
    try:
        setup = InferenceSetup.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it is not UTF-8"
        raise UserError(f"{path}: {what}; write it again with the command that trained the model") from error
    if setup.version != 1 or setup.inference is None:
        raise UserError(f"{path}: is of another version of holdfast; use that, or remove it to use the weights alone")
    return setup


def refuse_setup(user: str, directory: Path) -> None:
    """See that a model is its weights and nothing more, for those who read log-probabilities and ask nothing.

    Args:
        user: Who does, as messages begin with it.
        directory: The model's.
    Raises:
        UserError: If an inference method stands between its weights and its answers.
    """
    if setup := read_setup(directory):
        raise UserError(
            f"{user}: {directory / FILE}: {setup.line}; its log-probabilities would be those of the weights alone: "
            "name a model without that file, or remove it if the weights are meant"
        )


def open_decoder(checkpoint: LoadedModel) -> Decoder:
    """The model as it answers: through what `inference.json` beside its weights says, if it has one.

    Raises:
        UserError: If that cannot be read, or a model it names is missing or another than it was.
    """
    from holdfast.models.loading import load_model
    from holdfast.models.vocabulary_table import build_vocabulary_table

    setup = read_setup(checkpoint.path)
    if setup is None or setup.inference is None:
        return Decoder(checkpoint.model)
    others: dict[str, Model] = {}
    tables: dict[str, VocabularyTable] = {}
    for name, source in setup.models.items():
        place = f"{checkpoint.path / FILE}: {name}"
        try:
            other = load_model(source.name, device=checkpoint.device)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        if other.fingerprint != source.fingerprint:
            raise UserError(
                f"{place}: the weights of {source.name} are not those it was measured with (fingerprint "
                f"{source.fingerprint[:12]} there, {other.fingerprint[:12]} here); put the old ones back"
            )
        others[name] = other.model
        if source.shared is not None and (table := build_vocabulary_table(checkpoint.tokenizer, other.tokenizer)):
            tables[name] = table
    setup.inference.check_ready()
    return Decoder(checkpoint.model, [setup.inference], others, setup.models, tables=tables)


def build_decoder(method: Inference | None, base: LoadedModel | None, tuned: Model, tuned_on: str) -> Decoder:
    """The decoder of a recipe: weights are changed now, and what else the method changes is kept for asking.

    Args:
        base: The untouched model, where the method reads it.
        tuned: The trained one.
        tuned_on: The name of the base in the recipe.
    """
    from holdfast.models.loading import load_model, load_tokenizer
    from holdfast.models.vocabulary_table import build_vocabulary_table

    if method is None:
        return Decoder(tuned)
    method = method.with_portable_paths()
    if open_knobs := method.unsettled_knobs():
        raise RunError(f"inference: {name_of(method)} is not settled: {', '.join(open_knobs)}")
    changes = method.list_changes()
    if "weights" in changes:
        tuned = method.weights(base.model if base else None, tuned)  # type: ignore[arg-type]
    if not set(changes) - {"weights"}:
        return Decoder(tuned)
    sources, others = {}, {}
    tables: dict[str, VocabularyTable] = {}
    if "logits" in changes:
        beside = {
            name: (model, load_model(model, device=tuned.device)) for name, model in method.extra_models().items()
        }
        if base is not None:
            beside = {"base": (tuned_on, base)} | beside
        if method.translates_tokens():
            own = load_tokenizer(tuned_on)
            all_tables = {name: build_vocabulary_table(own, it.tokenizer) for name, (_, it) in beside.items()}
            tables = {name: table for name, table in all_tables.items() if table is not None}
        sources = {
            name: ModelSource(
                name=_portable_name(model, it),
                fingerprint=it.fingerprint,
                shared=tables[name].shared if name in tables else None,
            )
            for name, (model, it) in beside.items()
        }
        others = {name: it.model for name, (_, it) in beside.items()}
    return Decoder(tuned, [method], others, sources, tables=tables)


def _portable_name(name: str, checkpoint: LoadedModel) -> str:
    """A name under which a model is found from another working directory too."""
    return str(checkpoint.path) if Path(name).expanduser().exists() else name


def check_models(method: Inference, model: str) -> None:
    """See that what a method reads is there, and that its models have the tokenizer of `model`.

    Raises:
        UserError: If not, or the method changes nothing.
    """
    from holdfast.models.loading import load_tokenizer, locate_model

    if not method.overridden_methods():
        raise UserError(f"inference: {name_of(method)} overrides none of {', '.join(CHANGES)}, so it changes nothing")
    method.check_ready()
    for name, other in method.extra_models().items():
        refuse_setup(f"inference: {name}", locate_model(other))
        if not method.translates_tokens() and load_tokenizer(other).get_vocab() != load_tokenizer(model).get_vocab():
            how = method.describe_translation()
            raise UserError(
                f"inference: {name_of(method)}: {name} ({other}) has another tokenizer than {model}, and logits are "
                "mixed token by token; name a model of the same family"
                + (f", or say {how}, by which tokens of the same text stand for each other" if how else "")
            )
