"""What is measured of two networks: plain numbers."""

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class NetworkStats:
    """One network's gradients.

    Dicts with a value per layer have the layers in order of execution, under their dotted names. A layer is a module
    with parameters of its own; "self" is the network itself.

    Attributes:
        total: Norm of the loss's gradient with respect to all parameters, before any clipping. The discriminator's loss
            includes each penalty times its `weight`: its share of the loss over time, whatever its `every`.
        terms: Norms of the gradients of the loss's terms alone: "adversarial", and each penalty by its name.
        parameter_gradients: `total` by layer.
        activation_gradients: Root mean square over the images of ||dl/dh||, with l the adversarial loss of one image
            (for the discriminator, of a real and a generated one), and h what the layer makes of it. Absent where
            nothing flows back. If a layer runs several times, its calls are summed up as one vector.
        first_to_last: That of the first layer over that of the last: far below 1 where the gradient vanishes on its way
            back, far above 1 where it explodes; NaN where the last layer has none.
        histograms: By layer, how many images (for the discriminator, real and generated) have a log10 ||dl/dh|| in
            each of the bins between the `BINS`; what lies beyond them is in the outermost ones.
        spectral_norms: By layer, the largest singular value of its weight, as a matrix (out, in * kernel area).
        dead: By layer, the share of units that are zero after the ReLU that follows, on all images of the batch (the
            discriminator's on real and generated ones). A unit is a channel (dim 1).
        dead_share: The same over all units; 0 if there is no ReLU.
        saturated: By layer, the share of values that the tanh or sigmoid that follows puts within 1 % of an end.
        saturated_share: The same over all values; 0 if there is no tanh or sigmoid.
        update_ratio: Norm of what the batch's step changed, over that of the weights before. None before that step,
            where none was made, or where a NonFiniteGuard took it back.
        update_ratios: The same by layer; without layers whose weights were all zero.
        ends: In what its output ends: "linear", "sigmoid", "tanh" or another activation; None where that cannot be
            told. See `gan.gradients.graph`.
        activations: The kinds of activations before that.
        trainable: How many of its parameters learn.
    """

    total: float
    terms: dict[str, float]
    parameter_gradients: dict[str, float]
    activation_gradients: dict[str, float]
    first_to_last: float
    histograms: dict[str, list[int]]
    spectral_norms: dict[str, float]
    dead: dict[str, float]
    dead_share: float
    saturated: dict[str, float]
    saturated_share: float
    update_ratio: float | None = None
    update_ratios: dict[str, float] | None = None
    ends: str | None = None
    activations: tuple[str, ...] = ()
    trainable: int | None = None

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        changed: dict[str, Any] = {"activations": tuple(plain.get("activations", ()))}
        return cls(**(plain | changed))


@dataclass(frozen=True)
class BatchStats:
    """What a batch of training has in common with those before it: whether they are shuffled, or come again.

    Attributes:
        images: Real images in it, over all processes.
        mean: The mean of its images at 4 by 4 pixels, channel by channel.
        variance: The variance of its images at that size, summed up over the pixels: that of `mean` is as many times
            smaller as there are images, where batches are drawn at random.
        seen: Batches in a row up to this one, at most 16, that were held against each other.
        distinct: How many of them have images that none before had.
        epoch: Batches in an epoch; None where there is no telling.
        label: The most frequent label; None without labels.
        label_share: Its share of the images.
    """

    images: int
    mean: tuple[float, ...]
    variance: float
    seen: int
    distinct: int
    epoch: int | None = None
    label: int | None = None
    label_share: float | None = None

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        changed: dict[str, Any] = {"mean": tuple(plain["mean"])}
        return cls(**(plain | changed))


@dataclass(frozen=True)
class GradientStats:
    """Both networks' gradients, and what the discriminator passes on, in one batch.

    Attributes:
        step: Training batches completed.
        generator: The generator's gradients.
        discriminator: The discriminator's.
        image_gradient: Mean over generated images x of ||dl_G/dx||: what the discriminator tells the generator.
        slope_real: Mean over real images of ||dD/dx||, D being the logit.
        slope_fake: The same at generated images.
        slope_between: The same at random points between a real and a generated image.
        lipschitz: The largest ||dD/dx|| of all these: a lower bound of D's Lipschitz constant.
        accuracy_real: Share of real images with a logit above the loss's border. Means nothing where there is none
            (Wasserstein), and 0 is taken.
        accuracy_fake: Share of generated images with a logit below it.
        logit_real: Mean logit of real images.
        logit_fake: Mean logit of generated images.
        logit_gap: `logit_real - logit_fake`.
        range_real: Lowest and highest value in the real images.
        range_fake: Lowest and highest value in the generated images.
        extreme_real: Share of values beyond +-.99 in the real images: what is normal for the generated ones.
        extreme_fake: Share of values beyond +-.99 in the generated images.
        spread_real: Root mean square distance between two of the real images; 0 if there is one only.
        spread_fake: The same between two generated images: 0 if all are one.
        logit_held_out: Mean logit of real images that are not trained on; None where there are none.
        held_out_error: Standard error of that mean: they are the same few images in all measurements.
        movement: Root mean square distance that the images of the same latents have moved since the measurement
            before; None in the first.
        range_logit: Lowest and highest logit of real and generated images.
        response: Root mean square distance between two images of different latents and the same condition, with the
            same noise of layers; None where images are made from images.
        moved: Root mean square distance that the images of the same latents have moved since the first measurement;
            None in the first, and without an averaged generator.
        moved_average: The same of the averaged generator's images.
        batch: What the batch has in common with others; None where nobody has looked.
        normalized: Whether the image gradient is divided by its running norm, see `gan.normalize`.
    """

    step: int
    generator: NetworkStats
    discriminator: NetworkStats
    image_gradient: float
    slope_real: float
    slope_fake: float
    slope_between: float
    lipschitz: float
    accuracy_real: float
    accuracy_fake: float
    logit_real: float
    logit_fake: float
    logit_gap: float
    range_real: tuple[float, float]
    range_fake: tuple[float, float]
    extreme_real: float
    extreme_fake: float
    spread_real: float
    spread_fake: float
    movement: float | None = None
    logit_held_out: float | None = None
    held_out_error: float | None = None
    range_logit: tuple[float, float] | None = None
    response: float | None = None
    moved: float | None = None
    moved_average: float | None = None
    batch: BatchStats | None = None
    normalized: bool = False

    @property
    def by_heart(self) -> float | None:
        """How far the logits of held-out images lie from those of training images, on the way to generated ones'.

        0 where the discriminator takes them for the same, 1 where it takes them for generated: r_v of Karras et al.
        2020, arXiv:2006.06676. NaN where it takes generated images for real; None without held-out images.
        """
        if self.logit_held_out is None:
            return None
        return (self.logit_real - self.logit_held_out) / self.logit_gap if self.logit_gap > 0 else float("nan")

    @property
    def spread(self) -> float:
        """`spread_fake / spread_real`; NaN if the real images are all equal."""
        return self.spread_fake / self.spread_real if self.spread_real else float("nan")

    @property
    def networks(self) -> dict[str, NetworkStats]:
        """Both networks' gradients, by name."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        networks: dict[str, Any] = {
            name: NetworkStats.from_dict(plain[name]) for name in ("generator", "discriminator")
        }
        ranges: dict[str, Any] = {
            name: tuple(plain[name])
            for name in ("range_real", "range_fake", "range_logit")
            if plain.get(name) is not None
        }
        batch = plain.get("batch")
        whole: dict[str, Any] = {"batch": None if batch is None else BatchStats.from_dict(batch)}
        return cls(**(plain | networks | ranges | whole))
