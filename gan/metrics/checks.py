"""What every metric asks of the tensors, and of the files of weights, that it is given."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan.errors import GANError, counted


def checked(values: Tensor, name: str, at_least: int = 1) -> Tensor:
    """`values` as float64, or a clear error.

    The distances and moments below are differences of large numbers, and a user's setting for fast float32
    products (TF32) must not reach them: hence float64, on the same device. Apple's GPU has none, so values
    from there are moved to the CPU.

    Args:
        values: (N, D), of any real type.
        name: What the error calls them.
        at_least: The smallest N allowed.

    Raises:
        ValueError: If `values` has another rank, too few rows, no columns, or NaN or infinite values.
    """
    if values.ndim != 2 or values.shape[1] == 0:
        raise GANError(f"{name} must have the shape (N, D), got {tuple(values.shape)}")
    if len(values) < at_least:
        raise GANError(
            f"{name}: at least {counted(at_least, 'row is', 'rows are')} needed, got {len(values)}: use more images"
        )
    values = values.detach()
    values = (values.cpu() if values.device.type == "mps" else values).double()
    check_finite(values, name)
    return values


def check_finite(values: Tensor, name: str) -> None:
    """Raises a ValueError that counts the rows of `values` (N, ...) which have NaN or infinite values."""
    if not values.isfinite().all():
        bad = len(values) - int(values.isfinite().flatten(1).all(1).sum())
        raise GANError(f"{name}: {bad} of {counted(len(values), 'row has', 'rows have')} NaN or infinite values")


def check_same_width(first: Tensor, second: Tensor, names: str) -> None:
    """Raises a ValueError unless (N, D) and (M, D) share D; `names` is what the error calls them."""
    if first.shape[1] != second.shape[1]:
        raise GANError(f"{names} must have as many columns, got {first.shape[1]} and {second.shape[1]}")


def read_weights(path: Path, what: str, wanted: str) -> Any:
    """What a file of weights holds, without running code in it.

    Args:
        path: The file.
        what: Whose weights it is to hold, for the error.
        wanted: A sentence on what the file must be.

    Raises:
        ValueError: If there is no such file, or it cannot be read as weights.
    """
    if not path.is_file():
        raise GANError(f"there is no file {path} with {what}. {wanted}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise GANError(
            f"{path} cannot be read as weights ({type(error).__name__}): it is damaged, cut short, or a pickle that "
            f"asks to run code, which is refused. {wanted}"
        ) from error
