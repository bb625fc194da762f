"""Whether two networks fit each other and the data."""

from typing import cast

import torch
from torch import nn

from gan.errors import GANError, counted
from gan.networks.modes import evaluating
from gan.networks.network import classes_of, given, is_conditional, misses_condition, sources_of, trial_condition
from gan.spec import class_name, no_compiler
from gan.text import noun


def check_pair(
    generator: nn.Module,
    discriminator: nn.Module,
    image_shape: tuple[int, ...] | None,
    num_classes: int | None = None,
    condition_shape: tuple[int, int, int] | None = None,
    of_data: int | None = None,
) -> None:
    """Runs 4 latents through both networks and checks every shape on the way.

    Args:
        generator: Latents (N, latent_dim) in, images (N, C, H, W) out.
        discriminator: Images in, logits (N, ...) out.
        image_shape: The (C, H, W) of the data, the shape of its samples if they are no images, or None if that is not
            known.
        num_classes: Classes that a conditional generator is told of, or None if that is not known, or it is none.
        condition_shape: The (C', H', W') of the data's source images, or None if that is not known, or it has none.
        of_data: Classes that the data has, or None if that is not known.

    Raises:
        ValueError: If the networks do not fit each other or the data.
    """
    for network in (generator, discriminator):
        if misses_condition(network):
            raise GANError(
                f"{class_name(network)} is to be told what an image is of, and its forward does not ask for it: "
                "make condition its second input, without a default"
            )
    if is_conditional(discriminator) and not is_conditional(generator):
        raise GANError(
            f"discriminator {class_name(discriminator)} is told what an image is of, and generator "
            f"{class_name(generator)} is not: its forward takes no condition"
        )
    wanted = sources_of(generator)  # None of one that is told the class, or takes what there is
    told = wanted if num_classes is not None else wanted or condition_shape
    if is_conditional(generator) and num_classes is None and told is None:
        raise GANError(
            f"generator {class_name(generator)} is told what an image is of, and nothing says what that is: let it, "
            "or the data module, have num_classes, or condition_shape for source images"
        )
    if wanted is not None and condition_shape is not None and tuple(wanted) != tuple(condition_shape):
        raise GANError(
            f"generator {class_name(generator)} is told source images {tuple(wanted)}, and the data has "
            f"{tuple(condition_shape)}: set its condition_shape to that of the data"
        )
    if is_conditional(generator) and told is None and num_classes == 1:
        raise GANError(
            f"generator {class_name(generator)} is told the class of an image, and the data has one class: give the "
            "data module labels and its num_classes, or take a generator without a condition"
        )
    classes = classes_of(generator)
    if classes is not None and of_data is not None and of_data != classes:
        raise GANError(
            f"generator {class_name(generator)} is told {counted(classes, 'class', 'classes')}, and the data has "
            f"{of_data}: set its num_classes to that of the data, whose labels are 0 to num_classes - 1"
        )
    latent_dim = cast(int, generator.latent_dim)
    weight = next(generator.parameters(), torch.empty(0))
    rng = torch.Generator(weight.device).manual_seed(0)
    latents = torch.randn(4, latent_dim, generator=rng, device=weight.device, dtype=weight.dtype)
    condition = trial_condition(4, num_classes, told, weight)
    if told is None and condition is not None and num_classes is not None:
        condition[-1] = num_classes - 1  # which both must know
    generate, judge = given(condition, generator, discriminator)
    beside = (
        ""
        if condition is None
        else f", and labels 0 to {condition.max()}"
        if told is None
        else f", and sources {tuple(told)}"
    )
    kind = noun(generator)
    with torch.no_grad(), evaluating(generator), evaluating(discriminator):
        try:
            images = generate(latents)
        except (RuntimeError, IndexError) as error:
            refuse_uncompiled("generator", error)
            raise GANError(
                f"generator {class_name(generator)} does not take latents (N, {latent_dim}), "
                f"as its latent_dim says{beside}: {error}"
            ) from error
        made = tuple(images.shape[1:])
        if image_shape is not None and made != tuple(image_shape):
            raise GANError(
                f"generator {class_name(generator)} makes {kind}s {made}, and the data has {tuple(image_shape)}: "
                f"set its {'image' if len(image_shape) == 3 else 'sample'}_shape to that of the data"
            )
        try:
            logits = judge(images)
        except (RuntimeError, IndexError) as error:
            refuse_uncompiled("discriminator", error)
            raise GANError(
                f"discriminator {class_name(discriminator)} does not take {kind}s {made}{beside}: {error}"
            ) from error
    if logits.shape[:1] != (4,) or logits.numel() == 0:
        raise GANError(
            f"discriminator {class_name(discriminator)} must return a logit for each {kind}, (N,), or for each "
            f"of its patches, (N, ...), got {tuple(logits.shape)} for 4 {kind}s"
        )


def refuse_uncompiled(name: str, error: Exception) -> None:
    """Raises what `torch.compile` has come to grief on, if that is what an error of the network `name` is.

    Raises:
        GANError: If this machine cannot compile; any other error of the compiler, which is a bug, as it is.
    """
    if (reason := no_compiler(error)) is not None:
        raise GANError(f"model.{name}: {reason}") from error
    if hasattr(error, "inner_exception"):
        raise error


def check_characters(generator: nn.Module, characters: str | None) -> None:
    """Refuses data of other characters than a generator's texts are made of, or in another order.

    Args:
        generator: Of texts, with an attribute `characters`, or of anything else.
        characters: Those of the data, or None if it has no texts, or that is not known.

    Raises:
        ValueError: If they differ.
    """
    own = getattr(generator, "characters", None)
    if own is not None and characters is not None and own != characters:
        raise GANError(
            f"generator {class_name(generator)} makes texts of {own!r}, and the data has {characters!r}: give the "
            "data module characters=generator.characters"
        )
