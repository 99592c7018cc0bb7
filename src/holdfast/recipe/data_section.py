"""What all sections of a recipe share, and the section that says where the rows come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
)


def refuse_bool(model: type[BaseModel], name: str, value: Any) -> Any:
    """Stop `true` from becoming the number 1 in fields that do not take a bool."""
    kind = model.model_fields[name].annotation
    if isinstance(value, bool) and "bool" not in str(kind) and value not in get_args(kind):
        raise ValueError(f"must not be {str(value).lower()}")
    return value


class RecipeSection(BaseModel):
    """A part of the recipe: strict, documented, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_bool(cls, str(info.field_name), value)


def wrap_text(value: Any) -> Any:
    """A single text where a list is meant becomes the list of it."""
    return (value,) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(wrap_text)]


def check_columns(value: Any) -> Any:
    """`data.columns` as it is, its roles and templates looked at."""
    if isinstance(value, dict) and value and all(isinstance(column, (str, int)) for column in value.values()):
        from holdfast.data.reading.columns import ColumnMap

        ColumnMap.from_mapping(value)
    return value


Columns = Annotated[dict[str, int | str] | None, BeforeValidator(check_columns)]


class DataFile(RecipeSection):
    """A file of rows with what must be known to read it; wherever it is needed, its path alone will do."""

    path: str = Field(
        description="File, pattern (`parts/*.jsonl`), folder, `lab:SKILL` or Hugging Face data set; also `PATH:SPLIT`."
    )
    config: str | None = Field(None, description="Configuration of a Hugging Face data set.")
    split: str | None = Field(None, description="Split of a data set or folder, or a list inside a JSON file.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hugging Face data set.")
    columns: Columns = Field(None, description="Its columns; default: those of `data.columns`.")
    ignore: Texts | None = Field(None, description="Its columns that are not used; default: those of `data.ignore`.")
    limit: int | None = Field(None, ge=1, description="Use only its first rows.")

    @model_serializer(mode="wrap")
    def _only_what_it_has(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class TrainFile(DataFile):
    """One of the files to train on."""

    share: float | None = Field(
        None, gt=0, le=1, description="Its share of all training rows; default: all it has, in proportion to its size."
    )


def kind_of_entry(value: Any) -> str:
    """Whether a data source is written as a mapping, a list, or a text."""
    tag = "|list" if isinstance(value, (list, tuple)) else "|text"
    return "|file" if isinstance(value, (dict, DataFile)) else tag


TrainEntry = Annotated[Annotated[str, Tag("|text")] | Annotated[TrainFile, Tag("|file")], Discriminator(kind_of_entry)]
TestEntry = Annotated[Annotated[str, Tag("|text")] | Annotated[DataFile, Tag("|file")], Discriminator(kind_of_entry)]
TrainFiles = Annotated[
    Annotated[str, Tag("|text")] | Annotated[TrainFile, Tag("|file")] | Annotated[tuple[TrainEntry, ...], Tag("|list")],
    Discriminator(kind_of_entry),
]
TestFiles = Annotated[
    Annotated[float | str, Tag("|text")]
    | Annotated[DataFile, Tag("|file")]
    | Annotated[tuple[TestEntry, ...], Tag("|list")],
    Discriminator(kind_of_entry),
]


class ReplayData(RecipeSection):
    """General rows mixed into training so that old skills are rehearsed."""

    path: str = Field(description="File of general rows (any format), or `lab` / `lab:SKILL`.")
    share: float = Field(0.1, gt=0, lt=1, description="Share of all training rows that are replayed.")
    columns: Columns = Field(None, description="Its columns, as in data.columns, which is not for this file.")
    ignore: Texts = Field((), description="Its columns that are not used, as in data.ignore (which is not for it).")


class Data(RecipeSection):
    """Where the rows come from."""

    train: TrainFiles = Field(
        description="Training file (JSONL, JSON, CSV, Parquet, text), `lab:SKILL`, or a Hugging Face data set name; or "
        "`{path, split, columns, share, ...}`; or a list of these."
    )
    test: TestFiles = Field(0.1, description="Held-out rows: a share of `train`, or a file as in `train`. 0 = none.")
    format: Literal["auto", "alpaca", "sharegpt", "messages", "prompt", "preference", "kto", "text"] = Field(
        "auto", description="auto, alpaca, sharegpt, messages, prompt, preference, kto or text."
    )
    document: Literal["auto", "paragraph", "line", "file"] = Field(
        "auto",
        description="What is one document of a text file (.txt), trained from its first token to its end: a paragraph "
        "(between blank lines), a line, or the whole file. auto = file where a pattern or folder stands for several, "
        "else paragraphs (lines in a file without blank lines).",
    )
    columns: Columns = Field(
        None,
        description="Which column is what, if their names do not say it: `{prompt: question, answer: label}`; a text "
        'may be made of several, `{prompt: "{passage}\\n\\n{question}"}`. For `train` and `test`.',
    )
    ignore: Texts = Field(
        (),
        description="Columns, and keys of messages, that are not used though they say something: `[tools, "
        "messages.toxic]`. For `train` and `test`.",
    )
    rejected: Literal["worst", "random"] = Field(
        "worst", description="Of several ranked answers: the lowest is rejected, or a random one below the best."
    )
    replay: ReplayData | None = Field(None, description="General rows to rehearse.")
    decontaminate: bool = Field(
        True,
        description="Leave out rows that overlap with what is measured: the same question, or most of its runs of 13 "
        "words (`holdfast show decontaminate`). false = train on them.",
    )
    limit: int | None = Field(None, ge=1, description="Use only the first rows; of several files so many in all.")
    too_long: Literal["auto", "drop", "cut", "window", "error"] = Field(
        "auto",
        description="Rows longer than train.max_length or the model's context: drop (counted), cut the answer's end, "
        "window (plain text in windows that train every token once, conversations as cut), or error; auto = window for "
        "plain text, drop otherwise.",
    )
    system: str | None = Field(None, description="System message put before conversations that have none.")
    chat_template: str | None = Field(
        None,
        description="A .jinja file, or the name of one of the tokenizer's templates; default: the tokenizer's own.",
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        None,
        description="What the chat template is given besides the messages, as a server's chat_template_kwargs: "
        "`{enable_thinking: true}`. Default: derived from the rows: a template that can be told not to think is told "
        "so where no row holds a thought. `{}` = nothing.",
    )
    thoughts: Literal["train", "mask", "strip"] = Field(
        "train",
        description="Thoughts in answers (`<think>...</think>`): train on them, mask (read, but not trained on), or "
        "strip (taken out of the rows).",
    )

    @field_validator("train", "test")
    @classmethod
    def _some_files(cls, value: Any) -> Any:
        if value == ():
            raise ValueError("must not be an empty list")
        if isinstance(value, TrainFile) and value.share is not None:
            raise ValueError(
                "must not have a share where no other file stands beside it; give a list, or leave the share out"
            )
        return value

    @field_validator("test")
    @classmethod
    def _share_or_file(cls, value: Any) -> Any:
        if isinstance(value, float) and not 0 <= value < 1:
            raise ValueError(f"must be a share from 0 to below 1, or a file, not {value:g}")
        return value
