"""Convolutional pairs that are told the class of an image, by int64 labels `(N,)`.

The generator scales and shifts its normalised channels by the class: conditional batch norm (Dumoulin et al. 2017,
arXiv:1610.07629; de Vries et al. 2017, arXiv:1707.00683), or the same behind group or layer norm. The discriminator is
either of the field's two:

- projection (Miyato & Koyama 2018, arXiv:1802.05637): a logit is what the image is worth by itself, and the inner
  product of its features with a vector of the class;
- auxiliary classifier (AC-GAN, Odena et al. 2017, arXiv:1610.09585): a logit that knows no class, and beside it the
  logits of the classes, by which a term of both players' losses is computed.

Where few images have a label, the discriminator is the classifier itself (Salimans et al. 2016, arXiv:1606.03498).

Initialisation: that of the pair that they come from; scales of a class N(1, 0.02), shifts 0, vectors of a class
and weights of the classifier N(0, 0.02).
"""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from gan.errors import GANError
from gan.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from gan.networks.layers import Norm, normalize_weights, unscaled
from gan.networks.resnet import ResNetDiscriminator, ResNetGenerator


class ClassNorm(nn.Module):
    """A normalisation of `(N, channels, H, W)`, then a scale and a shift for each channel and class.

    Args:
        norm: "batch", "layer" or "group".
        channels: Channels.
        num_classes: Classes, at least 1.

    Raises:
        ValueError: If `norm` is another, or `num_classes` below 1.
    """

    def __init__(self, norm: Norm, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = unscaled(norm, channels, "a class can scale")
        self.scale = nn.Embedding(at_least_one(num_classes), channels)
        self.shift = nn.Embedding(num_classes, channels)
        nn.init.normal_(self.scale.weight, 1.0, 0.02)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.scale(condition), self.shift(condition)  # (N, channels)
        return self.norm(x) * scale[:, :, None, None] + shift[:, :, None, None]


# ---------------------------------------------------------------------- generators


class ConditionalDCGANGenerator(DCGANGenerator):
    """Latents `(N, latent_dim)` and labels `(N,)` to images `(N, C, H, W)` in [-1, 1].

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels.
        num_classes: Labels are 0 to `num_classes - 1`.
        latent_dim: Size of a latent vector, at least 1.
        base_channels: Channels at half the image's resolution; doubled at each further halving.
        norm: Normalisation before each ReLU, whose scales and shifts are a class's own: "batch", "layer" or "group".
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.
        attention_resolution: Shorter side, in pixels, of the feature maps that self-attention (SAGAN) looks over, such
            as 32; none if not given.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `norm` is another, `num_classes` is below 1,
            `max_channels` is below `base_channels`, or no feature maps are of `attention_resolution`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        latent_dim: int = 100,
        base_channels: int = 32,
        norm: Norm = "batch",
        max_channels: int | None = None,
        attention_resolution: int | None = None,
    ) -> None:
        super().__init__(image_shape, latent_dim, base_channels, norm, max_channels, attention_resolution)
        self.num_classes = num_classes
        for number, channels in enumerate(self.channels, start=1):
            self.add_module(f"norm{number}", ClassNorm(norm, channels, num_classes))

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.draw(z, condition)  # (N, C, H, W)


class ConditionalResNetGenerator(ResNetGenerator):
    """Latents `(N, latent_dim)` and labels `(N,)` to images `(N, C, H, W)` in [-1, 1].

    The classes scale and shift what comes into the first residual block, and what each block's convolutions make.

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels.
        num_classes: Labels are 0 to `num_classes - 1`.
        latent_dim: Size of a latent vector, at least 1.
        base_channels: Channels at half the image's resolution; doubled at each further halving.
        norm: Normalisation after each layer but the last: "batch", "layer" or "group".
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.
        attention_resolution: Shorter side, in pixels, of the feature maps that self-attention (SAGAN) looks over, such
            as 32; none if not given.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `norm` is another, `num_classes` is below 1,
            `max_channels` is below `base_channels`, or no feature maps are of `attention_resolution`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        latent_dim: int = 100,
        base_channels: int = 32,
        norm: Norm = "batch",
        max_channels: int | None = None,
        attention_resolution: int | None = None,
    ) -> None:
        super().__init__(image_shape, latent_dim, base_channels, norm, max_channels, attention_resolution)
        self.num_classes = num_classes
        self.norm = ClassNorm(norm, self.channels[0], num_classes)
        for number, channels in enumerate(self.channels, start=1):
            block = self.get_submodule(f"block{number}")
            block.norm1 = ClassNorm(norm, channels, num_classes)
            block.norm2 = ClassNorm(norm, channels, num_classes)

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.draw(z, condition)  # (N, C, H, W)


# ---------------------------------------------------------------------- discriminators


class Projection(nn.Module):
    """What a class adds to the logits: features `(N, F)` and labels `(N,)` to inner products `(N,)`."""

    def __init__(self, num_classes: int, features: int, norm: Norm) -> None:
        super().__init__()
        self.vectors = nn.Embedding(at_least_one(num_classes), features)
        nn.init.normal_(self.vectors.weight, 0.0, 0.02)
        normalize_weights(self, norm)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        return (features * self.vectors(condition)).sum(1)


class ByProjection:
    """Judges images by themselves, and by their features and the vector of their class."""

    features: Callable[[Tensor], Tensor]
    output: nn.Linear
    projection: Projection

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        """Logits (N,) of images (N, C, H, W) and their labels (N,)."""
        features = self.features(images)  # (N, F)
        return self.output(features).squeeze(1) + self.projection(features, condition)  # (N,)


class Classes(nn.Module):
    """The classifier on top of a discriminator: features `(N, F)` to logits `(N, num_classes)`."""

    def __init__(self, num_classes: int, features: int, norm: Norm) -> None:
        super().__init__()
        self.output = nn.Linear(features, at_least_one(num_classes))
        nn.init.normal_(self.output.weight, 0.0, 0.02)
        nn.init.zeros_(self.output.bias)
        normalize_weights(self, norm)

    def forward(self, features: Tensor) -> Tensor:
        return self.output(features)


class ByClassifier:
    """Judges images without their class, and tells the classes apart."""

    features: Callable[[Tensor], Tensor]
    classes: Classes

    def classify(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of the classes of images (N, C, H, W)."""
        return self.classes(self.features(images))


class ProjectionDCGANDiscriminator(ByProjection, DCGANDiscriminator):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Images `(N, C, H, W)` in [-1, 1] and their labels `(N,)` to logits `(N,)`.

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels.
        num_classes: Labels are 0 to `num_classes - 1`.
        base_channels: Channels at half the image's resolution; doubled at each further halving.
        norm: Normalisation before each LeakyReLU except the first, see `DCGANDiscriminator`.
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.
        attention_resolution: Shorter side, in pixels, of the feature maps that self-attention (SAGAN) looks over, such
            as 32; none if not given.
        minibatch_std: Tell the last convolution how much the 4 images of a group differ (PGGAN); logits then depend on
            the rest of the group.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `norm` is unknown, `num_classes` is below 1,
            `max_channels` is below `base_channels`, or no feature maps are of `attention_resolution`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        base_channels: int = 32,
        norm: Norm = "none",
        max_channels: int | None = None,
        attention_resolution: int | None = None,
        minibatch_std: bool = False,
    ) -> None:
        super().__init__(image_shape, base_channels, norm, max_channels, attention_resolution, minibatch_std)
        self.projection = Projection(num_classes, self.output.in_features, norm)


class ProjectionResNetDiscriminator(ByProjection, ResNetDiscriminator):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Images `(N, C, H, W)` in [-1, 1] and their labels `(N,)` to logits `(N,)`.

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels.
        num_classes: Labels are 0 to `num_classes - 1`.
        base_channels: Channels at half the image's resolution; doubled at each further halving.
        norm: Normalisation after each convolution but the first, see `ResNetDiscriminator`.
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.
        attention_resolution: Shorter side, in pixels, of the feature maps that self-attention (SAGAN) looks over, such
            as 32; none if not given.
        minibatch_std: Tell the last block how much the 4 images of a group differ (PGGAN); logits then depend on the
            rest of the group.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `norm` is unknown, `num_classes` is below 1,
            `max_channels` is below `base_channels`, or no feature maps are of `attention_resolution`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        base_channels: int = 32,
        norm: Norm = "none",
        max_channels: int | None = None,
        attention_resolution: int | None = None,
        minibatch_std: bool = False,
    ) -> None:
        super().__init__(image_shape, base_channels, norm, max_channels, attention_resolution, minibatch_std)
        self.projection = Projection(num_classes, self.output.in_features, norm)


class AuxiliaryDCGANDiscriminator(ByClassifier, DCGANDiscriminator):
    """Images `(N, C, H, W)` in [-1, 1] to logits `(N,)`, and by `classify` to logits `(N, num_classes)` of the classes.

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels.
        num_classes: Labels are 0 to `num_classes - 1`.
        base_channels: Channels at half the image's resolution; doubled at each further halving.
        norm: Normalisation before each LeakyReLU except the first, see `DCGANDiscriminator`.
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.
        attention_resolution: Shorter side, in pixels, of the feature maps that self-attention (SAGAN) looks over, such
            as 32; none if not given.
        minibatch_std: Tell the last convolution how much the 4 images of a group differ (PGGAN); logits then depend on
            the rest of the group.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `norm` is unknown, `num_classes` is below 1,
            `max_channels` is below `base_channels`, or no feature maps are of `attention_resolution`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        base_channels: int = 32,
        norm: Norm = "none",
        max_channels: int | None = None,
        attention_resolution: int | None = None,
        minibatch_std: bool = False,
    ) -> None:
        super().__init__(image_shape, base_channels, norm, max_channels, attention_resolution, minibatch_std)
        self.classes = Classes(num_classes, self.output.in_features, norm)


class AuxiliaryResNetDiscriminator(ByClassifier, ResNetDiscriminator):
    """Images `(N, C, H, W)` in [-1, 1] to logits `(N,)`, and by `classify` to logits `(N, num_classes)` of the classes.

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels.
        num_classes: Labels are 0 to `num_classes - 1`.
        base_channels: Channels at half the image's resolution; doubled at each further halving.
        norm: Normalisation after each convolution but the first, see `ResNetDiscriminator`.
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.
        attention_resolution: Shorter side, in pixels, of the feature maps that self-attention (SAGAN) looks over, such
            as 32; none if not given.
        minibatch_std: Tell the last block how much the 4 images of a group differ (PGGAN); logits then depend on the
            rest of the group.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `norm` is unknown, `num_classes` is below 1,
            `max_channels` is below `base_channels`, or no feature maps are of `attention_resolution`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        base_channels: int = 32,
        norm: Norm = "none",
        max_channels: int | None = None,
        attention_resolution: int | None = None,
        minibatch_std: bool = False,
    ) -> None:
        super().__init__(image_shape, base_channels, norm, max_channels, attention_resolution, minibatch_std)
        self.classes = Classes(num_classes, self.output.in_features, norm)


def at_least_one(num_classes: int | None) -> int:
    """The number of classes.

    Raises:
        ValueError: If there are none, or nobody has stated how many.
    """
    if num_classes is None or not num_classes >= 1:
        raise GANError(f"num_classes must be at least 1, got {num_classes}: let the data module state it")
    return num_classes


class ClassifierDCGANDiscriminator(DCGANDiscriminator):
    """Images `(N, C, H, W)` in [-1, 1] to logits `(N,)`: log-sum-exp of the logits `(N, num_classes)` of the classes.

    Salimans et al. 2016, arXiv:1606.03498, section 5: a classifier of K + 1 classes, of which the last is "generated"
    and has the logit 0. See `gan.terms.SemiSupervised`.

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels.
        num_classes: Labels are 0 to `num_classes - 1`.
        base_channels: Channels at half the image's resolution; doubled at each further halving.
        norm: Normalisation before each LeakyReLU except the first, see `DCGANDiscriminator`.
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `norm` is unknown, `num_classes` is below 1, or
            `max_channels` is below `base_channels`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        base_channels: int = 32,
        norm: Norm = "none",
        max_channels: int | None = None,
    ) -> None:
        super().__init__(image_shape, base_channels, norm, max_channels)
        self.output = Classes(num_classes, cast(nn.Linear, self.output).in_features, norm)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(images).logsumexp(1)  # (N,)

    def classify(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of the classes of images (N, C, H, W)."""
        return self.output(self.features(images))
