"""One image file as a uint8 tensor, whatever format, mode and orientation it is in."""

from functools import cache
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
from PIL import Image, ImageColor, UnidentifiedImageError
from PIL.Image import Resampling, Transpose
from torch import Tensor

from gan.errors import GANError

# Pillow opens more: EPS by a program of the system, say, and scientific formats without a range.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "AVIF")

Mode = Literal["L", "LA", "RGB", "RGBA"]
SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # bits of grey; Pillow's "I" would have room for more
GAP = 3  # times the size that is wanted: what a JPEG is halved to as it is decoded, which is five times as fast

ORIENTATION = 0x0112  # the tag in EXIF
UPRIGHT = {  # what turns an image that has it
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


class Unreadable(GANError):
    """A file that is no image, or a damaged one: the message says what is wrong, and not with which file."""


def check_made(size: int, channels: int | None, background: str, null: str) -> None:
    """Refuses settings of what images are made, as a data module is given them.

    Args:
        size: Height and width.
        channels: 1, 3, or None.
        background: The colour behind what is transparent.
        null: What the channels are as if None is given, in words.

    Raises:
        GANError: If there are no such images.
    """
    if not 1 <= size <= 4096:
        raise GANError(f"data.size must be from 1 to 4096 pixels, got {size}")
    if channels not in (1, 3, None):
        raise GANError(f"data.channels must be 1 (grey), 3 (colour) or null ({null}), got {channels}")
    try:
        ImageColor.getrgb(background)
    except ValueError as error:
        raise GANError(
            f"data.background must be a colour such as white, black or #808080, got {background!r}"
        ) from error


@cache
def formats() -> list[str]:
    """Those of `FORMATS` that this Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@cache
def suffixes() -> set[str]:
    """How the names of image files end: `.png`, `.jpg` and so on."""
    known = formats()
    return {suffix for suffix, name in Image.registered_extensions().items() if name in known}


def read_mode(file: Path | IO[bytes]) -> Mode:
    """Grey or colour, with alpha or without, as the head of a file says; no pixel is read.

    Raises:
        Unreadable: If it is no image.
    """
    try:
        with Image.open(file, formats=formats()) as image:
            return natural(image)
    except Exception as error:  # of damaged files Pillow raises anything
        raise Unreadable(reason(error)) from error


def read_size(file: Path | IO[bytes]) -> tuple[int, int]:
    """Height and width as the head of a file says, which may be lying on their side; no pixel is read.

    Raises:
        Unreadable: If it is no image.
    """
    try:
        with Image.open(file, formats=formats()) as image:
            return image.height, image.width
    except Exception as error:  # of damaged files Pillow raises anything
        raise Unreadable(reason(error)) from error


def read_image(
    file: Path | IO[bytes],
    size: tuple[int, int] | None = None,
    mode: Mode | None = None,
    background: str = "white",
) -> Tensor:
    """An image as it is to be looked at: turned upright by its EXIF, the first frame of an animated one, in 8 bits.

    To get another size it is cropped to the middle that has the form of that size, and resized by Lanczos' filter over
    all pixels that a new one covers (antialiased), colours weighted by alpha. Colour profiles are not applied.

    Args:
        file: Its path, or the open file.
        size: Height and width to give; those of the image if None.
        mode: Channels to give: `L` grey, `LA` grey and alpha, `RGB` colour, `RGBA` colour and alpha; its own if None.
        background: The colour that shows through where `mode` has no alpha, as CSS writes it: `white`, `#808080`.

    Returns:
        uint8 (channels, height, width).

    Raises:
        Unreadable: If it is no image, is damaged, or has more pixels than Pillow takes for safe.
    """
    return torch.from_numpy(read_array(file, size, mode, background))


def read_array(
    file: Path | IO[bytes],
    size: tuple[int, int] | None = None,
    mode: Mode | None = None,
    background: str = "white",
) -> np.ndarray:
    """What `read_image` gives, as an array.

    Raises:
        Unreadable: If it is no image, is damaged, or has more pixels than Pillow takes for safe.
    """
    try:
        with Image.open(file, formats=formats()) as image:
            return array_of(image, size, mode, background)
    except Exception as error:  # of damaged files Pillow raises anything
        raise Unreadable(reason(error)) from error


def array_of(
    image: Image.Image,
    size: tuple[int, int] | None = None,
    mode: Mode | None = None,
    background: str = "white",
) -> np.ndarray:
    """What `read_array` gives, of an image that is open, or was no file; Pillow raises anything of a damaged one."""
    wanted = mode or natural(image)
    made = sized(image, size)
    if made.has_transparency_data and not wanted.endswith("A"):
        behind = Image.new("RGBA", made.size, ImageColor.getrgb(background))
        made = Image.alpha_composite(behind, made.convert("RGBA"))
    array = np.array(made if made.mode == wanted else made.convert(wanted))
    return np.ascontiguousarray((array[..., None] if array.ndim == 2 else array).transpose(2, 0, 1))


def natural(image: Image.Image) -> Mode:
    """The mode that loses nothing of an image but what has more than 8 bits."""
    grey = image.mode in ("1", "L", "LA", "La", *SIXTEEN) or (image.mode == "P" and has_grey_palette(image))
    match grey, image.has_transparency_data:
        case True, True:
            return "LA"
        case True, False:
            return "L"
        case False, True:
            return "RGBA"
    return "RGB"


def has_grey_palette(image: Image.Image) -> bool:
    """Whether all colours of a palette are grey."""
    colours = np.frombuffer(image.palette.tobytes(), np.uint8) if image.palette else np.zeros(0, np.uint8)
    channels = len(image.palette.mode) if image.palette else 3
    colours = colours.reshape(-1, channels)[:, :3]
    return bool((colours == colours[:, :1]).all())


def sized(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """The upright image in a height and width, in one of the modes L, LA, RGB and RGBA.

    Raises:
        ValueError: If nobody knows what its numbers mean.
    """
    box = (0, 0, *image.size)
    if size is not None:
        drafted = image.draft(image.mode, (GAP * max(size), GAP * max(size)))  # of JPEG; nothing for all others
        box = box if drafted is None else drafted[1]
    image.load()
    if image.format != "JPEG":  # TIFF has turned itself, and what it says of its size before is not true
        box = (0, 0, *image.size)
    turn = orientation(image)
    image = in_eight_bits(image)
    if size is not None:
        width, height = size[::-1] if turn in (None, 2, 3, 4) else size
        scale = min(box[2] / width, box[3] / height)
        left, top = (box[2] - width * scale) / 2, (box[3] - height * scale) / 2
        middle = (left, top, min(left + width * scale, image.width), min(top + height * scale, image.height))
        image = image.resize((width, height), Resampling.LANCZOS, box=middle)
    return image if turn is None else image.transpose(UPRIGHT[turn])


def orientation(image: Image.Image) -> int | None:
    """The number in the EXIF of an image that is not upright; None of one that is, or does not say."""
    try:
        turn = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF, of an image that every viewer shows
        return None
    return turn if turn in UPRIGHT else None


def in_eight_bits(image: Image.Image) -> Image.Image:
    """An image in one of the modes L, LA, RGB and RGBA.

    Raises:
        ValueError: If nobody knows what its numbers mean.
    """
    if image.mode in SIXTEEN:
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise GANError("pixels of 32 bits, whose range it does not say")
        return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "F":
        raise GANError("floating pixels, whose range it does not say")
    wanted = natural(image)
    return image if image.mode == wanted else image.convert(wanted)


def reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "no image"
    if isinstance(error, Image.DecompressionBombError):
        return str(error).split(" pixels,")[0].lower() + " pixels"  # without guesses at what that may mean
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).strip().rstrip(".").partition("\n")[0] or type(error).__name__
