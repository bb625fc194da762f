"""Normalisation of the gradient that the discriminator sends to the generator."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

DECAY = 0.9  # of the running norm, per step of the generator; the paper's
SMALLEST = 1e-6  # by no less is a gradient divided on its way, so that one that comes back in a batch stays finite

OverProcesses = Callable[[Tensor], Tensor]


class GradientNormalizer(nn.Module):
    """An identity between generator and discriminator whose backward divides by a running norm.

    From adversarial flow models (Lin et al. 2025, arXiv:2511.22475). The norm is the mean over generated images x of
    ||dl/dx||, l being the loss of that image, in a running average over the generator's steps. So the generator gets a
    gradient of about 1 per image, however sure or steep the discriminator is: what vanishes in the loss, or explodes in
    the discriminator, has gone through no weight of the generator yet. A gradient that grows is divided by its own norm
    too, and is at most 1 / (1 - .9) = 10. One that is exactly 0 stays so.

    All of a batch is divided by the same number, its passes and the parts of several processes, so that it is known
    when the last has come back: on its way, each is divided by that of the batch before, and `settle` does the rest.

    Attributes:
        norm: The running norm, (); 0 before the first step.
    """

    norm: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("norm", torch.tensor(0.0))
        self.seen: list[Tensor] = []  # the mean norms () of the passes of this batch, on this process

    def between(self, images: Tensor, factor: float = 1.0) -> Tensor:
        """Images (N, ...) as they are; their gradient is noted, and divided.

        Args:
            images: What the generator makes of a pass.
            factor: What makes the gradient that comes that of the mean over these images: the passes of a batch, over a
                loss scale.
        """
        return watched(images, partial(self.noted, factor=factor))

    def noted(self, gradient: Tensor, factor: float) -> Tensor:
        """The gradient (N, ...) over the norm of the batch before."""
        self.seen.append(mean_norm(gradient) * factor)
        return gradient / divisor(self.norm)

    def measured(self, images: Tensor, over_processes: OverProcesses) -> Tensor:
        """Images (N, ...) whose gradient is divided as in the batch to come, by a norm that nobody keeps."""

        def divided(gradient: Tensor) -> Tensor:
            norm = self.after(over_processes(mean_norm(gradient)))
            return gradient / torch.where(norm > 0, norm, 1.0)

        return watched(images, divided)

    def after(self, norm: Tensor) -> Tensor:
        """The running norm () after a batch of norm (); as it was, if that is not finite."""
        now = torch.where(self.norm > 0, DECAY * self.norm + (1 - DECAY) * norm, norm)
        return torch.where(now.isfinite(), now, self.norm)

    @torch.no_grad()
    def settle(self, gradients: Iterable[Tensor], over_processes: OverProcesses) -> None:
        """Takes a batch into the running norm, and makes its gradients what division by that gives.

        Args:
            gradients: Of the generator's weights, summed over the passes; changed in place.
            over_processes: The mean of a tensor over all processes, all of which call this.
        """
        norm = self.after(over_processes(torch.stack(self.seen).mean()).to(self.norm))
        ratio = divisor(self.norm) / torch.where(norm > 0, norm, 1.0)
        for gradient in gradients:
            gradient.mul_(ratio)
        self.norm.copy_(norm)
        self.seen.clear()


def watched(images: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
    """The same images, whose gradient goes through a hook; as they are where none comes."""
    if not images.requires_grad:
        return images
    images = images.view_as(images)  # another tensor, so that who watches the network's own end sees what comes through
    images.register_hook(hook)
    return images


def mean_norm(gradient: Tensor) -> Tensor:
    """Of the gradient (N, ...) of a mean over N images, the mean norm of each image's own, ()."""
    rows = gradient.detach().flatten(1)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    largest = rows.abs().amax()
    whole = torch.where(largest > 0, largest, 1.0)  # squares of what has vanished would be 0
    return len(rows) * largest * torch.linalg.vector_norm(rows / whole, dim=1).mean()


def divisor(norm: Tensor) -> Tensor:
    """By what the gradient is divided on its way, (): the norm, or 1 before there is any."""
    return torch.where(norm > 0, norm.clamp(min=SMALLEST), 1.0)
