"""Whether two networks fit each other and the data."""

from typing import cast

import torch
from torch import nn

from gan.errors import GANError
from gan.networks.modes import evaluating
from gan.networks.network import given, is_conditional


def check_pair(
    generator: nn.Module,
    discriminator: nn.Module,
    image_shape: tuple[int, int, int] | None,
    num_classes: int | None = None,
) -> None:
    """Runs 4 latents through both networks and checks every shape on the way.

    Args:
        generator: Latents (N, latent_dim) in, images (N, C, H, W) out.
        discriminator: Images in, logits (N,) out.
        image_shape: The (C, H, W) of the data, or None if that is not known.
        num_classes: Classes that a conditional generator is told of, or None if that is not known.

    Raises:
        ValueError: If the networks do not fit each other or the data.
    """
    if is_conditional(discriminator) and not is_conditional(generator):
        raise GANError(
            f"discriminator {type(discriminator).__name__} is told what an image is of, and generator "
            f"{type(generator).__name__} is not: its forward takes no condition"
        )
    if is_conditional(generator) and num_classes is None:
        raise GANError(
            f"generator {type(generator).__name__} is told the class of an image, and nothing says how many there are: "
            "let it, or the data module, have num_classes"
        )
    if is_conditional(generator) and num_classes == 1:
        raise GANError(
            f"generator {type(generator).__name__} is told the class of an image, and the data has one class: give the "
            "data module labels and its num_classes, or take a generator without a condition"
        )
    latent_dim = cast(int, generator.latent_dim)
    weight = next(generator.parameters(), torch.empty(0))
    rng = torch.Generator(weight.device).manual_seed(0)
    latents = torch.randn(4, latent_dim, generator=rng, device=weight.device, dtype=weight.dtype)
    labels = None if num_classes is None else torch.arange(4, device=weight.device) % num_classes
    generate, judge = given(labels, generator, discriminator)
    with torch.no_grad(), evaluating(generator), evaluating(discriminator):
        try:
            images = generate(latents)
        except RuntimeError as error:
            raise GANError(
                f"generator {type(generator).__name__} does not take latents (N, {latent_dim}), "
                f"as its latent_dim says: {error}"
            ) from error
        made = tuple(images.shape[1:])
        if image_shape is not None and made != tuple(image_shape):
            raise GANError(
                f"generator {type(generator).__name__} makes images {made}, and the data has {tuple(image_shape)}: "
                "set its image_shape to that of the data"
            )
        try:
            logits = judge(images)
        except RuntimeError as error:
            raise GANError(
                f"discriminator {type(discriminator).__name__} does not take images {made}: {error}"
            ) from error
    if logits.shape != (4,):
        raise GANError(
            f"discriminator {type(discriminator).__name__} must return one logit per image, (N,), "
            f"got {tuple(logits.shape)} for 4 images"
        )
