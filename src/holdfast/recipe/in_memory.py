"""Rows and models given to the Python API as objects: kept by their content, and named in the recipe."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast.core.in_memory import PREFIX, ROW_KEYS, cache_home, cached_model, cached_rows
from holdfast.errors import UserError
from holdfast.recipe.data_section import TrainFile


def name_objects(recipe: Any, tokenizer: Any = None) -> Any:
    """A recipe's mapping with the names of the objects in it; anything else as it is.

    Args:
        recipe: A mapping; its `model` may be a transformers model, its `data.train`, `data.test` and `data.replay.path`
            rows: a list of dictionaries, a `datasets.Dataset`, a pandas or polars frame.
        tokenizer: Of the model.
    Raises:
        UserError: If rows can be read only once, or hold what is no text, number or list; if the tokenizer is missing.
    """
    if not isinstance(recipe, dict):
        store_model(None, tokenizer)
        return recipe
    out = {**_name_rows(recipe, "data")}
    if "model" in out or tokenizer is not None:
        out["model"] = store_model(out.get("model"), tokenizer)
    if isinstance(out.get("stages"), (list, tuple)):
        out["stages"] = [_name_rows(stage, f"stages.{i}.data") for i, stage in enumerate(out["stages"])]
    return out


def _name_rows(part: Any, where: str) -> Any:
    """The mapping of a recipe or a stage with names instead of rows; anything else as it is."""
    if not isinstance(part, dict) or not isinstance(part.get("data"), dict):
        return part
    names = {key: _name_entry(part["data"][key], f"{where}.{key}") for key in ROW_KEYS if key in part["data"]}
    return {**part, "data": part["data"] | names}


def _name_entry(value: Any, where: str) -> Any:
    """A data source with names instead of rows: rows themselves, a mapping with rows as its `path`, a list of both."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        if value and all(hasattr(rows, "column_names") for rows in value.values()):
            raise UserError(f"{where}: is a DatasetDict; give one of its splits: {', '.join(map(str, value))}")
        return {key: _name_entry(inner, f"{where}.path") if key == "path" else inner for key, inner in value.items()}
    if isinstance(value, (list, tuple)) and not _is_rows(value):
        return [_name_entry(item, f"{where}.{i}") for i, item in enumerate(value)]
    return store_rows(value, where)


def _is_rows(items: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list is of rows rather than of entries."""

    def is_entry(item: Any) -> bool:
        if isinstance(item, Mapping):
            return "path" in item and set(item) <= set(TrainFile.model_fields)
        return (
            isinstance(item, (str, os.PathLike, list, tuple))
            or hasattr(item, "columns")
            or hasattr(item, "column_names")
        )

    return bool(items) and not all(map(is_entry, items))


def store_rows(rows: Any, where: str) -> str:
    """Keep rows by their content, and give their name.

    Args:
        where: The setting, for errors.
    """
    home = cache_home() / "memory"
    home.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    handle, side = tempfile.mkstemp(dir=home, suffix=".partial")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            for number, record in enumerate(_iterate_records(rows, where), 1):
                line = (
                    json.dumps(_to_json_value(record, f"{where}: row {number}"), ensure_ascii=False, allow_nan=False)
                    + "\n"
                )
                digest.update(line.encode("utf-8", "surrogatepass"))
                file.write(line)
        name = PREFIX + digest.hexdigest()[:16]
        os.replace(side, cached_rows(name))
    finally:
        Path(side).unlink(missing_ok=True)
    return name


def _iterate_records(rows: Any, where: str) -> Iterator[Any]:
    """The records of a list, data set or frame."""
    if hasattr(rows, "__next__"):
        raise UserError(
            f"{where}: an iterator can be read only once, and its rows are read several times; give list(...) of it"
        )
    if hasattr(rows, "to_dicts"):  # polars
        return iter(rows.to_dicts())
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # pandas
        return iter(rows.to_dict(orient="records"))
    if not hasattr(rows, "__len__") or not hasattr(rows, "__iter__"):
        kind = type(rows).__name__
        mend = (
            "give list(...) of it"
            if hasattr(rows, "__iter__")
            else "give a file, a list of rows, a data set or a frame"
        )
        raise UserError(f"{where}: {kind} is no collection of rows; {mend}")
    if len(rows) == 0:
        raise UserError(f"{where}: there are no rows in it")
    return _replace_class_labels(rows, where)


def _replace_class_labels(rows: Any, where: str) -> Iterator[Any]:
    """Records as they are; class labels of a data set by their names."""
    features = getattr(rows, "features", None) or {}
    labels = {key: feature for key, feature in features.items() if hasattr(feature, "int2str")}
    for number, row in enumerate(rows, 1):
        record = row.to_json() if hasattr(row, "to_json") else row
        if not isinstance(record, Mapping):
            raise UserError(f"{where}: row {number}: {type(row).__name__} is no row; give mappings of names to values")
        class_labels = {key: record[key] for key in labels if isinstance(record[key], int) and record[key] >= 0}
        yield {**record, **{key: labels[key].int2str(value) for key, value in class_labels.items()}}


def _to_json_value(value: Any, where: str) -> Any:
    """A record as JSON can hold it: numpy's numbers and arrays as Python's, dates as text, what is missing as null."""
    if isinstance(value, Mapping):
        return {str(key): _to_json_value(inner, f"{where}, {key}") for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json_value(inner, where) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "isoformat"):
        return str(value.isoformat()) if value == value else None  # pandas' NaT is not itself
    if hasattr(value, "tolist"):
        return _to_json_value(value.tolist(), where)
    if type(value).__name__ == "NAType":  # pandas
        return None
    raise UserError(f"{where}: {type(value).__name__} is no text, number, list or mapping; leave it out")


def store_model(model: Any, tokenizer: Any = None) -> Any:
    """Keep a transformers model by its weights, and give its name; a name, and anything that is no model, as it is."""
    if model is None or isinstance(model, (str, os.PathLike)) or not hasattr(model, "save_pretrained"):
        if tokenizer is not None:
            raise UserError("tokenizer: is only for a model that is given as an object")
        return os.fspath(model) if isinstance(model, os.PathLike) else model
    if hasattr(model, "peft_config"):
        raise UserError("model: is a PeftModel; give merge_and_unload() of it, or the folder of the adapter")
    if tokenizer is None:
        raise UserError("model: is given as an object, and so needs tokenizer=... beside the recipe")
    from holdfast.core.hashing import tensor_fingerprint

    home = cache_home() / "memory"
    home.mkdir(parents=True, exist_ok=True)
    side = Path(tempfile.mkdtemp(dir=home, suffix=".partial"))
    try:
        tokenizer.save_pretrained(side)
        digest = hashlib.sha256(tensor_fingerprint(model).encode())
        for file in sorted(side.iterdir()):
            digest.update(file.name.encode() + file.read_bytes())
        name = PREFIX + digest.hexdigest()[:16]
        if not cached_model(name).exists():
            model.save_pretrained(side)
            os.replace(side, cached_model(name))
    finally:
        shutil.rmtree(side, ignore_errors=True)
    return name
