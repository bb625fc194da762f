"""The default's training as one writes it by hand: no Lightning, no logging, no average, no schedule."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


def bare_loop(
    generator: nn.Module,
    discriminator: nn.Module,
    data: Any,
    one_pass: bool,
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
    reduce: Callable[[nn.Module], None] = lambda network: None,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.5, 0.99),
) -> Iterator[Tensor]:
    """Trains both networks by a batch at each `next`, and gives its images.

    Args:
        generator: Of the default.
        discriminator: Likewise.
        data: A data module, whose training images are gone through again and again.
        one_pass: Whether the discriminator sees real and generated images in one pass, or in one after the other.
        wrap: Puts a network into what several processes train it in.
        reduce: Called with each network after its backward.
        lr: Adam's rate.
        betas: Adam's.
    """
    wrapped_generator, wrapped_discriminator = wrap(generator), wrap(discriminator)
    settings = {"lr": lr, "betas": betas, "fused": True}
    of_generator = torch.optim.Adam(generator.parameters(), **settings)
    of_discriminator = torch.optim.Adam(discriminator.parameters(), **settings)
    latent_dim = cast(int, generator.latent_dim)
    step = 0
    while True:
        for real, _ in data.train_dataloader():
            with torch.no_grad():
                fake = generator(torch.randn(len(real), latent_dim))
            if one_pass:
                real_logits, fake_logits = wrapped_discriminator(torch.cat([real, fake])).chunk(2)
            else:
                real_logits, fake_logits = wrapped_discriminator(real), wrapped_discriminator(fake)
            loss = (softplus(-real_logits) + softplus(fake_logits)).mean()
            if step % 16 == 0:
                x = real.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
                loss = loss + 16 * 0.5 * gradient.square().sum((1, 2, 3)).mean()
            of_discriminator.zero_grad()
            loss.backward()
            reduce(discriminator)
            of_discriminator.step()

            discriminator.requires_grad_(False)
            loss = softplus(-discriminator(wrapped_generator(torch.randn(len(real), latent_dim)))).mean()
            of_generator.zero_grad()
            loss.backward()
            reduce(generator)
            of_generator.step()
            discriminator.requires_grad_(True)
            step += 1
            yield real
