"""The recipe's section on how answers are sampled."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from holdfast.recipe.data_section import RecipeSection, Texts

DRAFT_TOKENS = 4


class Sampling(RecipeSection):
    """How the base model answers while rows are curated."""

    engine: str | tuple[str, ...] = Field(
        "native",
        description="native, transformers, vllm, or the URL of an OpenAI-compatible server, its key in OPENAI_API_KEY. "
        "${NAME} in the URL is taken from the environment; keys written there are kept in no file. A list of URLs: "
        "servers of one model that share the work.",
    )
    concurrency: int = Field(16, ge=1, le=4096, repr=False, description="Requests in flight at a server.")
    model: str | None = Field(None, description="Model name at the endpoint; default: its first.")
    temperature: float = Field(0.0, ge=0, description="0 = greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus: sample from the smallest set of tokens with this mass.")
    top_k: int = Field(0, ge=0, description="Sample from the k likeliest tokens; 0 = all.")
    max_tokens: int = Field(512, ge=1, description="Longest sampled answer.")
    max_thinking_tokens: int = Field(
        2048,
        ge=1,
        description="Longest thought before it, of a model that thinks; one that reaches this is closed with the "
        "template's marks, and the answer follows.",
    )
    stop: Texts = Field((), description="Strings that end an answer.")
    slots: int = Field(128, ge=1, description="Sequences decoded together by the native engine.")
    workers: int = Field(
        1,
        ge=1,
        le=1024,
        repr=False,  # it changes nothing of what is curated, whose key the section is a part of
        description="Processes that sample for curators, each with a copy of the model, on cards of their own where "
        "there are several. The same samples as of one, in a run that may go on with another number.",
    )
    runner: Literal["processes", "ray"] = Field(
        "processes",
        repr=False,
        description="Where workers live: processes of this machine, or actors of a Ray cluster (RAY_ADDRESS, else one "
        "that is started here; `pip install 'holdfast[ray]'`), whose machines see the model's files.",
    )
    draft: str | None = Field(
        None,
        description="A small model with the same tokenizer that proposes tokens to the native engine: the same answers "
        "in fewer passes of the model itself. It pays where a pass costs many times one of the small model's.",
    )
    draft_tokens: int = Field(DRAFT_TOKENS, ge=1, le=64, description="How many it proposes at once.")

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (value,) if isinstance(value, str) else value
        if value in ("native", "transformers", "vllm"):
            return value
        if other := next((name for name in names if not name.startswith(("http://", "https://"))), None):
            raise ValueError(
                "must be native, transformers, vllm or an address starting with http:// or https://"
                f"{', each of several' if len(names) > 1 else ''}, not {other!r}"
            )
        if not names or len(set(names)) < len(names):
            raise ValueError("must be different addresses" if names else "must be an engine, or some addresses")
        return names if len(names) > 1 else names[0]

    @model_validator(mode="after")
    def _drafts_natively(self) -> Sampling:
        if self.draft is not None and self.engine != "native":
            raise ValueError(f"draft: only the native engine takes one, not {self.engine}; leave one of them out")
        return self

    @model_validator(mode="after")
    def _pools_here(self) -> Sampling:
        if self.workers > 1 and self.engine not in ("native", "transformers", "vllm"):
            raise ValueError("workers: are processes of this machine, and the engine is a server; leave them out")
        if self.workers == 1 and self.runner != "processes":
            raise ValueError(f"runner: {self.runner} runs workers; set sampling.workers to 2 or more, or leave it out")
        return self
