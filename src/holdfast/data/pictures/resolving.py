"""References of the pictures that rows name as people write them: paths, data URLs, bytes, drawings."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from holdfast.data.pictures.drawings import SCHEME, draw_picture
from holdfast.data.pictures.reader import encode_picture, probe_picture, refuse_large_file
from holdfast.data.pictures.references import DATA_URL, DIGEST
from holdfast.errors import UserError, first_line

WEB = ("http://", "https://", "ftp://", "s3://", "gs://", "hf://")


def resolve_picture(value: Any, folder: Path) -> str:
    """The reference of a picture as a row gives it.

    Args:
        value: A path (a relative one lies beside the data), a data URL, bytes, `{"bytes", "path"}` as Hugging Face
            data sets have it, a Pillow picture, or a key of the laboratory's.
        folder: Of the data file.
    Raises:
        UserError: It is none of these, or there is no picture.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path") or value.get("url") or value.get("image")
    if isinstance(value, (bytes, bytearray)):
        value = f"{DATA_URL}image;base64,{base64.b64encode(value).decode()}"
    elif hasattr(value, "convert") and hasattr(value, "size"):
        value = encode_picture(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"a picture is given as {type(value).__name__}; give a path, a data URL or bytes")
    if value.startswith(SCHEME):
        draw_picture(value)
        return value
    if value.startswith(WEB):
        raise UserError(f"{value}: pictures are not fetched from the web; download it, and give its path")
    if value.startswith(DATA_URL):
        probe_picture(value)
        return value
    place, _, digest = value.partition(DIGEST)
    try:
        path = (folder / Path(place.removeprefix("file://")).expanduser()).resolve()
        reference = f"{path}{DIGEST}{digest or _file_digest(path, place)}"
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a null in it, a ~user that is not there
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{place[:80]!r}: no path of a picture ({reason})") from None
    probe_picture(reference)
    return reference


def _file_digest(path: Path, name: str) -> str:
    """Of what lies there, which was called `name`."""
    if not path.is_file():
        raise UserError(f"{name}: no such picture; a relative path begins at the folder of the data file")
    status = path.stat()
    return _digest_of(path, status.st_size, status.st_mtime_ns)


@cache
def _digest_of(path: Path, size: int, time_ns: int) -> str:
    """SHA-256 of a file; size and time of change tell a new file from an old one."""
    refuse_large_file(path, size)
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _hash_blocks(file)
        )


def _hash_blocks(file: Any) -> str:
    """As `hashlib.file_digest`, which Python 3.10 does not have."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
