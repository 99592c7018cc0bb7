"""Pictures as pixels: read through Pillow within limits, turned as the camera says, on white, RGB.

A picture that cannot be read stops a run before anything is paid for: missing files, what is none and what is too large
when rows are read, damaged ones when they are tokenised. No row is left out in silence.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.data.pictures.drawings import SCHEME, draw_picture
from holdfast.data.pictures.references import DATA_URL, DIGEST, name_picture
from holdfast.errors import UserError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 64 << 20
"""Of a file."""
MOST_PIXELS = 64_000_000
"""Of a picture: a small file may unpack to any number of them."""
FLAT_SIDES = 200
"""How many times longer than wide a picture may be, or wider than long; models refuse those that are more."""


def read_picture(reference: str) -> Image:
    """The picture of a reference, RGB.

    Raises:
        UserError: One line that names it: it is missing, none, damaged, too large, or no longer what it was.
    """
    from PIL import ImageOps

    if reference.startswith(SCHEME):
        return draw_picture(reference)
    with _explain_faults(reference), _open_picture(reference) as picture:
        picture.load()
        return put_on_white(ImageOps.exif_transpose(picture))


def probe_picture(reference: str) -> None:
    """See that a reference is that of a picture within the limits; its pixels are not unpacked.

    Raises:
        UserError: As `read_picture`, but for damage behind the head of the file.
    """
    with _explain_faults(reference), _open_picture(reference):
        pass


def encode_picture(picture: Image) -> str:
    """A picture in memory as a data URL, without loss."""
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return f"{DATA_URL}image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def refuse_large_file(name: Path | str, size: int) -> None:
    """See that a file is within the limit.

    Raises:
        UserError: If not.
    """
    if size > MOST_BYTES:
        raise UserError(
            f"{name}: {size / 2**20:,.0f} MiB, more than {MOST_BYTES >> 20} MiB a picture may have; scale it down"
        )


@contextmanager
def _open_picture(reference: str) -> Iterator[Image]:
    from PIL import Image

    name = name_picture(reference)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
        with Image.open(io.BytesIO(_read_bytes(reference))) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise UserError(
                    f"{name}: {width:,} x {height:,} pixels, more than the {MOST_PIXELS:,} of a picture; scale it down"
                )
            if max(width, height) > FLAT_SIDES * min(width, height):
                raise UserError(f"{name}: {width:,} x {height:,} pixels, too flat to be seen; cut it into parts")
            yield picture


def _read_bytes(reference: str) -> bytes:
    if reference.startswith(DATA_URL):
        head, comma, text = reference.partition(",")
        if not comma or not head.endswith(";base64"):
            raise UserError(f"{name_picture(reference)} is no data URL in base64; give data:image/png;base64,...")
        refuse_large_file(name_picture(reference), len(text) * 3 // 4)
        return base64.b64decode(text, validate=True)
    place, _, digest = reference.rpartition(DIGEST)
    refuse_large_file(place, Path(place).stat().st_size)
    data = Path(place).read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(
            f"{place}: this picture has changed since its row was read; put the old one back, or start anew"
        )
    return data


@contextmanager
def _explain_faults(reference: str) -> Iterator[None]:
    """What can go wrong with a picture, as one line."""
    from PIL import Image, UnidentifiedImageError

    name = name_picture(reference)
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{name}: no such picture; put it there") from None
    except UnidentifiedImageError:
        raise UserError(f"{name}: not a picture that Pillow reads; give PNG, JPEG, WebP or the like") from None
    except Image.DecompressionBombError:
        raise UserError(f"{name}: more than {MOST_PIXELS:,} pixels; scale it down") from None
    except binascii.Error as error:
        raise UserError(f"{name}: not base64 ({first_line(error)}); write it anew") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow's readers raise any of them
        raise UserError(f"{name}: a damaged picture ({first_line(error)}); write it anew") from error


def put_on_white(picture: Image) -> Image:
    """RGB; what is transparent shows white, and 16 bits a pixel become 8."""
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":
        extrema: Any = picture.getextrema()  # of one channel: least and greatest
        high = extrema[1]
        top = 1.0 if picture.mode == "F" and high <= 1 else 255.0 if high <= 255 else 65535.0
        picture = picture.convert("F").point(lambda value: value * (255 / top)).convert("L")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return picture.convert("RGB")
