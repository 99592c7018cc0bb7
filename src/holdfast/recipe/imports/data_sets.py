"""Where other tools' rows come from: LLaMA-Factory's registry, Axolotl's list, TRL's and Unsloth's data set names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.core.spelling import suggest_name
from holdfast.errors import UserError
from holdfast.recipe.imports.foreign import ForeignRecipe

ROLES = {"prompt": "prompt", "query": "context", "response": "answer", "history": "history", "messages": "messages",
         "system": "system", "chosen": "chosen", "rejected": "rejected", "kto_tag": "label"}  # fmt: skip
"""LLaMA-Factory's columns, and what a column is called here."""
FOUND = {"tools", "images"}
"""Columns that are found by their names."""
ALPACA = {"prompt": "instruction", "context": "input", "answer": "output"}
FIELDS = {"field_messages": "messages", "field_chosen": "chosen", "field_rejected": "rejected",
          "field_system": "system", "field_instruction": "prompt", "field_input": "context", "field_output": "answer",
          "field_tools": "", "field": "text"}  # fmt: skip
"""Axolotl's names of columns, in an entry or in its `type`."""
ENTRY_KEYS = {"path", "type", "name", "split", "ds_type", "data_files", "revision", "shards", "roles",
              "message_property_mappings", "message_field_role", "message_field_content", "roles_to_train",
              "train_on_eos", "conversation", "chat_template", *FIELDS}  # fmt: skip

Entry = dict[str, Any]


def list_rows(foreign: ForeignRecipe, names: Any, source: str, folder: Path) -> list[Entry | str]:
    """The entries of `data.train` (or `data.test`) for data sets as another tool names them.

    Args:
        names: A name, several with commas between them, or Axolotl's list.
        source: Where they stand.
        folder: The folder of the file they stand in.
    Raises:
        UserError: If LLaMA-Factory's registry is not a mapping, or has no such data set.
    """
    if isinstance(names, list) and any(isinstance(part, dict) for part in names):
        return [_read_axolotl(part, foreign, source) for part in names]
    parts = names if isinstance(names, list) else str(names).split(",")
    if foreign.tool != "LLaMA-Factory":
        return [str(part).strip() for part in parts]
    home = Path(str(foreign.value_of("dataset_dir") or "data"))
    registry = next((path for path in (home, folder / home) if (path / "dataset_info.json").is_file()), None)
    if registry is None:
        foreign.unread.append(
            f"{source}: {home}/dataset_info.json, which says what {', '.join(map(str, parts))} is, is not here: "
            "each is taken for a file or the name of a data set"
        )
        return [str(part).strip() for part in parts]
    return [_read_registered(str(part).strip(), registry, foreign) for part in parts]


def _read_registered(name: str, home: Path, foreign: ForeignRecipe) -> Entry | str:
    """The entry of one data set of LLaMA-Factory's registry."""
    file = home / "dataset_info.json"
    try:
        registry = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not JSON: {error}") from None
    if not isinstance(registry, dict) or not isinstance(registry.get(name), dict):
        if (home / name).exists():
            return str(home / name)
        raise UserError(f"{file}: has no data set {name}{suggest_name(name, registry)}")
    info: Mapping[str, Any] = registry[name]
    at = f"{file}: {name}"
    path = info.get("hf_hub_url")
    if "file_name" in info:
        path = str(home / info["file_name"])
    if path is None:
        raise UserError(f"{at}: is neither a file nor a data set of Hugging Face; give its rows in data.train")
    theirs_by_role = info.get("columns") or {}
    columns = {ROLES[theirs]: column for theirs, column in theirs_by_role.items() if theirs in ROLES}
    # Ours are all or nothing: what the registry leaves out is where LLaMA-Factory looks for it.
    if columns and info.get("formatting", "alpaca") == "alpaca" and "prompt" not in columns:
        columns = ALPACA | columns
    if rest := sorted(set(theirs_by_role) - set(ROLES) - FOUND):
        foreign.unread.append(f"{at}: {', '.join(rest)} are not read here")
    entry = {"path": path, "config": info.get("subset"), "split": info.get("split"), "limit": info.get("num_samples")}
    return _shorten_entry(entry | {"columns": columns or None})


def _read_axolotl(part: Any, foreign: ForeignRecipe, source: str) -> Entry | str:
    """The entry of one of Axolotl's data sets; how its rows are written is seen from the rows."""
    if not isinstance(part, dict):
        return str(part)
    kind = part.get("type")
    fields = part | (kind if isinstance(kind, dict) else {})
    columns = {FIELDS[key]: column for key, column in fields.items() if FIELDS.get(key) and isinstance(column, str)}
    opens = {"prompt", "messages", "text", "chosen"} & set(columns)
    if columns and not opens:
        foreign.unread.append(f"{source}: datasets: {', '.join(columns)} of {part.get('path')} need data.columns")
    if isinstance(kind, dict) and "format" in kind:
        foreign.unread.append(f"{source}: datasets: format of {part.get('path')}: the model's chat template is used")
    if rest := sorted(set(part) - ENTRY_KEYS):
        foreign.unread.append(f"{source}: datasets: {', '.join(rest)} of {part.get('path')} are not read here")
    files = part.get("data_files")
    path = files[0] if isinstance(files, Sequence) and not isinstance(files, str) and files else files
    entry = {"path": path or part.get("path"), "config": part.get("name"), "split": part.get("split")}
    return _shorten_entry(entry | {"revision": part.get("revision"), "columns": columns if opens else None})


def _shorten_entry(entry: Entry) -> Entry | str:
    """An entry without what it does not say; one that says its path alone is that path."""
    entry = {key: value for key, value in entry.items() if value is not None}
    return entry["path"] if set(entry) == {"path"} else entry
