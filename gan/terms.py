"""Terms of both players' losses beside the adversarial one: what a discriminator, told of a batch, makes of it.

A penalty (`gan.penalties`) is about the discriminator's gradient; these are about what images show.
"""

import math
from abc import ABC
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gan.errors import GANError
from gan.spec import Described


class Judge(Protocol):
    """A discriminator that is told the condition of a batch, see `gan.networks.given`."""

    network: Any
    condition: Tensor | None


class Term(Described, ABC):
    """A term of the discriminator's loss, the generator's, or both.

    Args:
        weight: Factor of the mean term in the loss, >= 0.

    Attributes:
        name: The scalars on the dashboards are `loss/<name>`, of the discriminator, and `loss/<name>_generator`.

    Raises:
        ValueError: If `weight` is negative or not finite.
    """

    name: str

    def __init__(self, weight: float) -> None:
        if not (math.isfinite(weight) and weight >= 0):
            raise GANError(f"{type(self).__name__}: weight must be a finite number >= 0, got {weight}")
        self.weight = weight

    def discriminator(self, judge: Judge, real: Tensor, fake: Tensor) -> Tensor | None:
        """Per-sample terms (N,) of the discriminator's loss, unweighted; None where there is none.

        Args:
            judge: The discriminator, with the condition of these images.
            real: Real images (N, C, H, W).
            fake: Generated ones of the same condition, without a graph.
        """
        return None

    def generator(self, judge: Judge, real: Tensor, fake: Tensor) -> Tensor | None:
        """Per-sample terms (N,) of the generator's loss, unweighted; None where there is none.

        Args:
            judge: The discriminator, frozen, with the condition of these images.
            real: Real images (N, C, H, W).
            fake: Generated ones of the same condition, with their graph.
        """
        return None


class Classification(Term):
    """AC-GAN: the discriminator also tells the classes apart, and the generator is to make them tellable.

    Odena et al. 2017, arXiv:1610.09585: cross-entropy of the class asked for, of real and of generated images in the
    discriminator's loss, of generated ones in the generator's. The discriminator has a method `classify` that turns
    images (N, C, H, W) into logits (N, K).

    The generator is rewarded for images that are easy to tell, typical ones: variety within a class is known to suffer
    (Shu et al. 2017, arXiv:1709.07359; Gong et al. 2019, arXiv:1907.02690).

    Args:
        weight: Factor of the mean cross-entropy in both losses, >= 0; the paper takes 1.
    """

    name = "classification"

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def discriminator(self, judge: Judge, real: Tensor, fake: Tensor) -> Tensor:
        return self.generator(judge, real, real) + self.generator(judge, real, fake)

    def generator(self, judge: Judge, real: Tensor, fake: Tensor) -> Tensor:
        classify: Callable[[Tensor], Tensor] | None = getattr(judge.network, "classify", None)
        if classify is None or judge.condition is None:
            name = type(judge.network).__name__
            lack = "method classify" if classify is None else "labels beside its images"
            raise GANError(f"model.classification: discriminator {name} has no {lack}, images to logits of the classes")
        logits = classify(fake)  # (N, K)
        return cross_entropy(
            logits.to(torch.promote_types(logits.dtype, torch.float32)), judge.condition, reduction="none"
        )


class Terms:
    """The terms of a GAN's losses, summed."""

    def __init__(self, *terms: Term | None):
        self.terms = [term for term in terms if term is not None and term.weight > 0]

    def discriminator(
        self, loss: Tensor, judge: Judge, real: Tensor, fake: Tensor, scalars: dict[str, Tensor]
    ) -> Tensor:
        """The discriminator's loss () with its terms; `scalars` takes the unweighted mean () of each."""
        values = [(term, f"loss/{term.name}", term.discriminator(judge, real, fake)) for term in self.terms]
        return added(loss, values, scalars)

    def generator(self, loss: Tensor, judge: Judge, real: Tensor, fake: Tensor, scalars: dict[str, Tensor]) -> Tensor:
        """The generator's loss () with its terms; `scalars` takes the unweighted mean () of each."""
        values = [(term, f"loss/{term.name}_generator", term.generator(judge, real, fake)) for term in self.terms]
        return added(loss, values, scalars)


def added(loss: Tensor, values: Iterable[tuple[Term, str, Tensor | None]], scalars: dict[str, Tensor]) -> Tensor:
    """A loss () with the weighted means of terms (N,)."""
    for term, name, value in values:
        if value is not None:
            scalars[name] = value.detach().mean()
            loss = loss + term.weight * value.mean()
    return loss
