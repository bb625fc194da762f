"""What a batch must be: images in [-1, 1], alone or with what they are of; looked at before anything is trained."""

from typing import Any

import torch
from torch import Tensor

from gan.errors import GANError, counted

FAR = 10.0  # beyond it, values are no images in [-1, 1] that somebody has normalised in another way


def as_pair(batch: Any) -> tuple[Any, Any]:
    """The images of a batch, and what they are of: None where they come alone."""
    match batch:
        case Tensor() as images:
            return images, None
        case (Tensor() as images,):  # a TensorDataset of images
            return images, None
        case (images, condition):
            return images, condition
    return batch, None


def of_samples(values: Tensor) -> Tensor:
    """Of each sample, the mean of its values: (N, ...) to (N,)."""
    return values if values.ndim == 1 else values.flatten(1).mean(1)


def check_batch(
    batch: Any,
    image_shape: tuple[int, ...],
    whose: str,
    num_classes: int | None = None,
    condition_shape: tuple[int, ...] | None = None,
) -> None:
    """Refuses a batch that a GAN cannot be trained on.

    Args:
        batch: As a data loader gives it, on any device.
        image_shape: Channels, height and width that the networks are made for.
        whose: What the batch is called, as in "a training batch of Flowers".
        num_classes: Classes that the networks are told of; None for those that are told none.
        condition_shape: Channels, height and width of the source images that they are told; None for those that are
            told none.

    Raises:
        ValueError: If it is not images, floating (N, *image_shape), finite and about in [-1, 1], alone or with as many
            labels or source images; or what comes with them is not what conditional networks take.
    """
    images, condition = as_pair(batch)
    of = "images" if len(image_shape) == 3 else "samples"
    if not isinstance(images, Tensor):
        beside = "labels" if condition_shape is None else "sources"
        raise GANError(f"{whose} must be ({of}, {beside}), or {of} alone, and is {described(batch)}")
    check_images(images, image_shape, whose, of)
    if isinstance(condition, Tensor) and (condition.ndim == 0 or len(condition) != len(images)):
        what = "labels" if condition_shape is None else "sources"
        raise GANError(
            f"{whose} has {counted(len(images), of[:-1])} and {what} of shape {tuple(condition.shape)}: one for each"
        )
    if num_classes is not None:
        check_labels(condition, num_classes, whose)
    if condition_shape is not None:
        check_sources(condition, condition_shape, whose)


def check_images(images: Tensor, image_shape: tuple[int, ...], whose: str, what: str) -> None:
    """Refuses what are no images in [-1, 1].

    Args:
        images: The tensor.
        image_shape: Channels, height and width that the networks are made for.
        whose: What the batch is called.
        what: What they are called there.

    Raises:
        ValueError: If they are not floating (N, *image_shape), finite and about in [-1, 1].
    """
    shape = f"(N, {', '.join(map(str, image_shape))})"
    if images.ndim != 1 + len(image_shape) or tuple(images.shape[1:]) != tuple(image_shape):
        raise GANError(f"{whose} must have {what} of shape {shape}, and has {tuple(images.shape)}")
    if len(images) == 0:
        raise GANError(f"{whose} has no {what}")
    if not images.is_floating_point():
        raise GANError(
            f"{whose} has {what} of {images.dtype}: scale them to floating values in [-1, 1], as {what} / 127.5 - 1 "
            "does from 0 to 255"
            if len(image_shape) == 3
            else f"{whose} has {what} of {images.dtype}: give floating values, as the generator makes"
        )
    low, high = images.min().item(), images.max().item()
    if not abs(low) < float("inf") or not abs(high) < float("inf"):
        raise GANError(f"{whose} has {what} that are not finite")
    if len(image_shape) == 3 and (low < -FAR or high > FAR):
        raise GANError(
            f"{whose} has {what} from {low:.4g} to {high:.4g}: scale them to [-1, 1], as {what} / 127.5 - 1 does from "
            "0 to 255"
        )


def check_sources(sources: Any, condition_shape: tuple[int, ...], whose: str) -> None:
    """Refuses what networks that are told source images cannot take for them.

    Raises:
        ValueError: If they are not floating (N, *condition_shape), finite and about in [-1, 1].
    """
    wanted = f"floating (N, {', '.join(map(str, condition_shape))}) in [-1, 1]"
    if not isinstance(sources, Tensor):
        what = "images alone" if sources is None else f"images with {described(sources)}"
        raise GANError(f"{whose} is {what}, and the networks are told source images: give {wanted} beside the images")
    if sources.ndim != 4:
        raise GANError(
            f"{whose} has {sources.dtype} of shape {tuple(sources.shape)}, as labels are, beside its images, and the "
            f"networks are told source images: give {wanted}"
        )
    check_images(sources, condition_shape, whose, "sources")


def check_labels(labels: Any, num_classes: int, whose: str) -> None:
    """Refuses what conditional networks cannot take as labels.

    Raises:
        ValueError: If it is not int64 (N,) from 0 to `num_classes - 1`.
    """
    wanted = f"int64 labels (N,) from 0 to {num_classes - 1}"
    if not isinstance(labels, Tensor):
        what = "images alone" if labels is None else f"images with {described(labels)}"
        raise GANError(f"{whose} is {what}, and the networks are conditional: give {wanted} beside the images")
    if labels.ndim == 2 and labels.shape[1] == num_classes:
        raise GANError(
            f"{whose} has one-hot labels {tuple(labels.shape)}: give {wanted}, as labels.argmax(1) makes them"
        )
    if labels.ndim == 4:
        raise GANError(
            f"{whose} has source images {tuple(labels.shape)} beside its images, and the networks are told a class: "
            f"give {wanted}, or take networks that are told images, as UNetGenerator is"
        )
    if labels.ndim != 1:
        raise GANError(f"{whose} has labels of shape {tuple(labels.shape)}: give {wanted}")
    if labels.dtype != torch.int64:
        raise GANError(f"{whose} has labels of {labels.dtype}: give {wanted}, as labels.long() makes them")
    low, high = labels.min().item(), labels.max().item()
    if low == -1:
        raise GANError(
            f"{whose} has images without a label (-1), and the networks are told the class of each: leave data.labels "
            "out, or take networks that are not told"
        )
    if low < 0 or high >= num_classes:
        raise GANError(
            f"{whose} has labels from {low} to {high}, and the networks have {num_classes} classes: 0 comes first"
        )


def described(value: Any) -> str:
    """What somebody's batch is, in a few words."""
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(str, value))}"
    if isinstance(value, list | tuple):
        kinds = (f"{tuple(item.shape)}" if isinstance(item, Tensor) else type(item).__name__ for item in value)
        return f"a {type(value).__name__} of {', '.join(kinds)}"
    return f"a {type(value).__name__}"
