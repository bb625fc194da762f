"""Images as pictures: float32 (N, C, H, W) in [-1, 1] here, 256 grey levels and files there."""

import io
import math
import sys
import warnings
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

# The float32 just below 2/255. The one nearest to 2/255 lies above it and would take 255 to 1.0000001.
SCALE = 0.00784313678741455


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8: rounded and clamped, since a cast alone truncates, and wraps beyond the ends."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1], as the loader does it."""
    return torch.add(torch.tensor(-1.0, device=images.device), images, alpha=SCALE)


def image_grid(images: Tensor, columns: int | None = None) -> Tensor:
    """Images (N, C, H, W), uint8 or in [-1, 1], as one uint8 picture (C, H', W'), by default as square as it goes."""
    columns = columns or math.ceil(len(images) ** 0.5)
    images = visible(images)
    levels = images if images.dtype == torch.uint8 else to_uint8(images)
    grid = make_grid(levels.cpu(), nrow=columns, padding=2, pad_value=255)
    return grid[: images.shape[1]]  # make_grid makes grey images colourful, which takes three times as long to write


def visible(images: Tensor) -> Tensor:
    """The channels of images (..., C, H, W) that a picture can show: grey, colour, or colour and alpha."""
    channels = images.shape[-3]
    shown = channels if channels in (1, 3, 4) else 3 if channels > 4 else 1
    if shown < channels:
        warnings.warn(f"pictures show the first {shown} of {channels} channels", stacklevel=2)
    return images[..., :shown, :, :]


def to_pil(image: Tensor) -> Image.Image:
    """A uint8 image (C, H, W) as Pillow's."""
    array = visible(image).permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def encoded(picture: Image.Image, form: str = "PNG", **settings: Any) -> bytes:
    """What a file of the picture holds, in one of Pillow's formats, with Pillow's settings for it."""
    content = io.BytesIO()
    picture.save(content, form, **settings)
    return content.getvalue()


def show(picture: Image.Image, before: Any = None) -> Any:
    """Shows a picture inline, where this process is the kernel of a notebook.

    Args:
        picture: What to show.
        before: What `show` has returned of the picture whose place this one takes; None for one of its own.

    Returns:
        What stands for the picture in the notebook; None where there is none.
    """
    ipython = sys.modules.get("IPython")  # a kernel has imported it before anything of ours
    shell = None if ipython is None else ipython.get_ipython()
    if getattr(shell, "kernel", None) is None:  # as in a terminal
        return None
    from IPython.display import display  # pyright: ignore[reportMissingImports] # comes with the kernel

    if before is None:
        return display(picture, display_id=True)
    before.update(picture)
    return before
