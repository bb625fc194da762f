"""Terms of both players' losses beside the adversarial one: what a discriminator, told of a batch, makes of it.

A penalty (`gan.penalties`) is about the discriminator's gradient; these are about what images show.
"""

import math
from abc import ABC
from collections.abc import Iterable
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gan.batch import of_samples
from gan.errors import GANError, counted
from gan.spec import Described, class_name

Distance = Literal["l1", "l2"]

UNLABELLED = -1  # the label of an image whose class is not known


class Judge(Protocol):
    """A discriminator that is told the condition of a batch, see `gan.networks.given`."""

    network: Any
    condition: Tensor | None

    def classify(self, images: Tensor) -> Tensor:
        """Logits (N, K) of the classes of images (N, C, H, W), augmented as in training."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """Features (N, F) of images (N, C, H, W), augmented as in training."""
        ...


class Term(Described, ABC):
    """A term of the discriminator's loss, the generator's, or both.

    Args:
        weight: Factor of the mean term in the loss, >= 0.

    Attributes:
        name: The scalars on the dashboards are `loss/<name>`, of the discriminator, and `loss/<name>_generator`.
        adversarial: Factor of the adversarial part of the generator's loss where this term is in it.

    Raises:
        ValueError: If `weight` is negative or not finite.
    """

    name: str
    adversarial: float = 1.0

    def __init__(self, weight: float) -> None:
        if not (math.isfinite(weight) and weight >= 0):
            raise GANError(f"{type(self).__name__}: weight must be a finite number >= 0, got {weight}")
        self.weight = weight

    def check(self, discriminator: Any, num_classes: int | None, condition_shape: tuple[int, ...] | None) -> None:
        """Refuses networks that the term says nothing of, before anything is trained.

        Args:
            discriminator: The discriminator.
            num_classes: Classes that the generator is told of; None if it is told none.
            condition_shape: Channels, height and width of the source images that it is told; None if it is told none.

        Raises:
            GANError: If there is nothing that it could be computed of.
        """

    def discriminator(self, judge: Judge, real: Tensor, fake: Tensor) -> Tensor | None:
        """Per-sample terms (N,) of the discriminator's loss, unweighted; None where there is none.

        Args:
            judge: The discriminator, with the condition of these images.
            real: Real images (N, C, H, W).
            fake: Generated ones of the same condition, without a graph.
        """
        return None

    def generator(self, judge: Judge, real: Tensor, fake: Tensor) -> Tensor | None:
        """Terms of the generator's loss, of each sample (N,) or of the batch, unweighted; None where there is none.

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
    num_classes: int | None = None  # that `classify` must tell apart, since `check`

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def check(self, discriminator: Any, num_classes: int | None, condition_shape: tuple[int, ...] | None) -> None:
        if not hasattr(discriminator, "classify"):
            raise GANError(
                f"model.classification: discriminator {class_name(discriminator)} has no method classify: give it "
                "classify(images (N, C, H, W)) that returns logits (N, K) of the K classes, or take "
                "AuxiliaryDCGANDiscriminator"
            )
        if num_classes is None:
            raise GANError(
                "model.classification: the generator is told no class that its images could be of: take one that is, "
                "as ConditionalDCGANGenerator, or leave model.classification out"
            )
        self.num_classes = num_classes

    def discriminator(self, judge: Judge, real: Tensor, fake: Tensor) -> Tensor:
        return self.generator(judge, real, real) + self.generator(judge, real, fake)

    def generator(self, judge: Judge, real: Tensor, fake: Tensor) -> Tensor:
        assert judge.condition is not None  # since `check`
        logits = judge.classify(fake)  # (N, K)
        if self.num_classes is not None and logits.shape != (len(fake), self.num_classes):
            raise GANError(
                f"model.classification: {class_name(judge.network)}.classify must give logits "
                f"{(len(fake), self.num_classes)}, one of each class, got {tuple(logits.shape)}"
            )
        return cross_entropy(
            logits.to(torch.promote_types(logits.dtype, torch.float32)), judge.condition, reduction="none"
        )


class SemiSupervised(Classification):
    """The K+1 classes of a semi-supervised GAN: the discriminator tells apart the images that have a label.

    Salimans et al. 2016, arXiv:1606.03498, section 5: of K logits l of an image, their log-sum-exp is the logit of its
    being real, as the class "generated" has the logit 0: the discriminator's `forward` gives that log-sum-exp (N,), and
    its method `classify` turns images (N, C, H, W) into the logits (N, K), as in `ClassifierDCGANDiscriminator`. The
    adversarial loss, of all images, is any of `gan.losses`, and this is the other part of the discriminator's: the
    cross-entropy of the real images whose label is not -1, and 0 of a pass that has none. The generator is told no
    class.

    Args:
        weight: Factor of the mean cross-entropy in the discriminator's loss, >= 0; the paper takes 1.
    """

    def check(self, discriminator: Any, num_classes: int | None, condition_shape: tuple[int, ...] | None) -> None:
        if not hasattr(discriminator, "classify"):
            raise GANError(
                f"model.classification: discriminator {class_name(discriminator)} has no method classify: give it "
                "classify(images (N, C, H, W)) that returns logits (N, K) of the K classes, and a forward that returns "
                "their logsumexp(1); or take ClassifierDCGANDiscriminator"
            )
        if num_classes is not None or condition_shape is not None:
            raise GANError(
                "model.classification: SemiSupervised is for a generator that is told nothing, as DCGANGenerator; of "
                "one that is told the class take Classification"
            )

    def discriminator(self, judge: Judge, real: Tensor, fake: Tensor) -> Tensor:
        labels = judge.condition
        if labels is None or labels.shape != (len(real),) or labels.dtype != torch.int64:
            got = "none" if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
            raise GANError(
                f"model.classification: SemiSupervised needs int64 labels (N,), -1 of an image without one, got {got}"
            )
        known = (labels != UNLABELLED).nonzero().flatten()  # M of them
        judged = known if len(known) else known.new_zeros(1)  # one for nothing: all processes and passes do the same
        logits = judge.classify(real[judged])  # (M, K)
        if logits.ndim != 2 or len(logits) != len(judged):
            raise GANError(
                f"model.classification: {class_name(judge.network)}.classify must give logits of shape "
                f"({len(judged)}, K), one of each class, got {tuple(logits.shape)}"
            )
        low, high = torch.stack(labels.aminmax()).tolist()
        if low < UNLABELLED or high >= logits.shape[1]:
            raise GANError(
                f"model.classification: a batch has labels from {low} to {high}, and discriminator "
                f"{class_name(judge.network)} tells {counted(logits.shape[1], 'class', 'classes')}: labels are -1, "
                "of an image without one, or from 0 to num_classes - 1"
            )
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if len(known) == 0:
            return 0 * logits.sum(1)
        return cross_entropy(logits, labels[known], reduction="none")

    def generator(self, judge: Judge, real: Tensor, fake: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None


class FeatureMatching(Term):
    """The generator is to match what the discriminator sees in real images on average, and not to convince it.

    Salimans et al. 2016, arXiv:1606.03498, section 3.1: the mean squared distance between the mean features of real
    and of generated images. The discriminator has a method `features` that turns images (N, C, H, W) into features
    (N, F). The means are those of one pass of one process.

    Args:
        weight: Factor of the distance in the generator's loss, >= 0.
        adversarial: Factor of the adversarial part of the generator's loss beside it, >= 0; the paper takes 0.

    Raises:
        ValueError: If a factor is negative or not finite.
    """

    name = "feature_matching"

    def __init__(self, weight: float = 1.0, adversarial: float = 0.0) -> None:
        super().__init__(weight)
        if not (math.isfinite(adversarial) and adversarial >= 0):
            raise GANError(f"FeatureMatching: adversarial must be a finite number >= 0, got {adversarial}")
        self.adversarial = adversarial

    def check(self, discriminator: Any, num_classes: int | None, condition_shape: tuple[int, ...] | None) -> None:
        if not hasattr(discriminator, "features"):
            raise GANError(
                f"model.feature_matching: discriminator {class_name(discriminator)} has no method features: give it "
                "features(images (N, C, H, W)) that returns features (N, F), or take DCGANDiscriminator"
            )

    def generator(self, judge: Judge, real: Tensor, fake: Tensor) -> Tensor:
        of_real, of_fake = (
            features.to(torch.promote_types(features.dtype, torch.float32)).flatten(1).mean(0)
            for features in (judge.features(real), judge.features(fake))
        )  # (F,)
        return (of_fake - of_real).square()


class Reconstruction(Term):
    """pix2pix: what is made of a source image is to be near the image that belongs to it, pixel by pixel.

    Isola et al. 2017, arXiv:1611.07004. It holds the outlines, and blurs what a source leaves open: the details are the
    discriminator's. L1 blurs less than L2, says the paper; it makes medians, and L2 means.

    Args:
        weight: Factor of the mean distance in the generator's loss, >= 0; the paper takes 100 of L1.
        norm: "l1", the mean absolute difference of an image's values, which lie in [-1, 1], or "l2", the mean squared.

    Raises:
        ValueError: If `weight` is negative or not finite, or `norm` is another.
    """

    name = "reconstruction"

    def __init__(self, weight: float = 100.0, norm: Distance = "l1") -> None:
        super().__init__(weight)
        if norm not in get_args(Distance):
            raise GANError(f"Reconstruction: norm must be one of {', '.join(get_args(Distance))}, got {norm!r}")
        self.norm = norm

    def check(self, discriminator: Any, num_classes: int | None, condition_shape: tuple[int, ...] | None) -> None:
        if condition_shape is None:
            told = "nothing" if num_classes is None else "a class"
            raise GANError(
                "model.reconstruction holds what is made of a source image against its target, and the generator is "
                f"told {told}: take one that is told images, as UNetGenerator, or leave model.reconstruction out"
            )

    def generator(self, judge: Judge, real: Tensor, fake: Tensor) -> Tensor:
        dtype = torch.promote_types(fake.dtype, torch.float32)
        difference = fake.to(dtype) - real.to(dtype)
        return of_samples(difference.abs() if self.norm == "l1" else difference.square())


class Terms:
    """The terms of a GAN's losses, summed.

    Attributes:
        names: Of all their scalars.
        need_labels: Whether one of them may learn from labels.
    """

    def __init__(self, *terms: Term | None):
        self.terms = [term for term in terms if term is not None and term.weight > 0]
        self.names = {f"loss/{term.name}{player}" for term in self.terms for player in ("", "_generator")}
        self.need_labels = not all(isinstance(term, FeatureMatching | Reconstruction) for term in self.terms)

    def check(self, discriminator: Any, num_classes: int | None, condition_shape: tuple[int, ...] | None) -> None:
        """Refuses networks that a term says nothing of, see `Term.check`."""
        for term in self.terms:
            term.check(discriminator, num_classes, condition_shape)

    def discriminator(
        self, loss: Tensor, judge: Judge, real: Tensor, fake: Tensor, scalars: dict[str, Tensor]
    ) -> Tensor:
        """The discriminator's loss () with its terms; `scalars` takes the unweighted mean () of each."""
        values = [(term, f"loss/{term.name}", term.discriminator(judge, real, fake)) for term in self.terms]
        return added(loss, values, scalars)

    def generator(self, loss: Tensor, judge: Judge, real: Tensor, fake: Tensor, scalars: dict[str, Tensor]) -> Tensor:
        """The generator's loss () with its terms; `scalars` takes the unweighted mean () of each."""
        adversarial = math.prod(term.adversarial for term in self.terms)
        if adversarial != 1:
            loss = adversarial * loss if adversarial else 0 * loss.detach()
        values = [(term, f"loss/{term.name}_generator", term.generator(judge, real, fake)) for term in self.terms]
        return added(loss, values, scalars)


def added(loss: Tensor, values: Iterable[tuple[Term, str, Tensor | None]], scalars: dict[str, Tensor]) -> Tensor:
    """A loss () with the weighted means of terms (N,) or (F,)."""
    for term, name, value in values:
        if value is not None:
            scalars[name] = value.detach().mean()
            loss = loss + term.weight * value.mean()
    return loss
