"""Penalties on the gradient of the logit with respect to the image: discriminator and images in, penalty out.

D(x) is the logit of an image, or the mean of those of its patches.

The penalty is computed in float32 or wider, with autocast off. Keep `backward` out of autocast too: within
it, PyTorch 2.14 computes the second derivatives in the autocast type. They also need a discriminator that
can be differentiated twice, which one that is compiled or sharded cannot: ApproximateR1 and ApproximateR2 do
without.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from gan.batch import of_samples
from gan.errors import GANError
from gan.schedule import Number, ends
from gan.spec import Described

Critic = Callable[[Tensor], Tensor]  # images (N, ...) to logits (N, ...)


class Penalty(Described, ABC):
    """A term of the discriminator's loss, applied in one batch of `every`.

    Lazy regularisation (Karras et al. 2020, StyleGAN2, arXiv:1912.04958) applies the penalty in one batch
    of `every` and `every` times as strongly, so that its average over time stays `weight` at a fraction of
    the cost. The gradient of such a batch is the larger for it: gradient clipping and Adam's second moment
    see that.

    Args:
        weight: Factor of the mean penalty in the discriminator's loss, >= 0, or its schedule; 0 switches the penalty
            off.
        every: Batches from one application to the next, >= 1; 1 is each batch.

    Attributes:
        name: Its scalar on the dashboards is `loss/<name>`, the mean of the unweighted penalties.
        differentiates_twice: Whether it needs second derivatives of the discriminator.

    Raises:
        ValueError: If `weight` is negative or not finite, or `every` is below 1.
    """

    name: str
    differentiates_twice = True

    def __init__(self, weight: Number, every: int = 1) -> None:
        if not all(math.isfinite(each) and each >= 0 for each in ends(weight)):
            raise GANError(f"{type(self).__name__}: weight must be a finite number >= 0, got {weight}")
        if not every >= 1:
            raise GANError(f"{type(self).__name__}: every must be >= 1 batches, got {every}")
        self.weight = weight
        self.every = every

    def noise_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of the noise that one image of `image_shape` needs; None for a penalty without chance."""
        return None

    @abstractmethod
    def __call__(self, discriminator: Critic, real: Tensor, fake: Tensor, noise: Tensor | None = None) -> Tensor:
        """Per-sample penalties (N,), unweighted, with a graph to the discriminator's parameters.

        Writes no `.grad` and sends no gradient to `real` or `fake`. The gradient is that of the sum of all
        logits, which is each sample's own only if no logit depends on another sample: see `mixes_batch`.

        Args:
            discriminator: Images (N, ...) to logits (N, ...).
            real: Real images (N, ...), of rank 2 or more.
            fake: Generated images of the same shape.
            noise: Numbers from U[0, 1), (N, *noise_shape), drawn by the caller, who knows which part of a larger
                batch these images are; None where `noise_shape` is.
        """

    def is_due(self, step: int) -> bool:
        """Whether to apply the penalty in the batch that follows `step` completed ones."""
        return float(self.weight) > 0 and step % self.every == 0

    def contribution(self, penalties: Tensor) -> Tensor:
        """What the (N,) penalties of a due batch add to the loss, a scalar: weight * every * mean."""
        return float(self.weight) * self.every * penalties.mean()


def due(penalties: Iterable[Penalty], step: int) -> list[Penalty]:
    """Those of the penalties to apply in the batch that follows `step` completed ones."""
    return [penalty for penalty in penalties if penalty.is_due(step)]


def add_penalties(
    loss: Tensor,
    penalties: Sequence[Penalty],
    discriminator: Critic,
    real: Tensor,
    fake: Tensor,
    noises: Sequence[Tensor | None],
    scalars: dict[str, Tensor],
) -> Tensor:
    """The discriminator's loss (), with its graph, and with the penalties of a batch.

    Args:
        loss: The adversarial loss, ().
        penalties: Those that are due.
        discriminator: Images (N, ...) to logits (N, ...).
        real: Real images (N, ...).
        fake: Generated images of the same shape.
        noises: What each of the penalties needs, see `Penalty`.
        scalars: Takes `loss/<name>` of each penalty, the unweighted mean ().
    """
    for penalty, noise in zip(penalties, noises, strict=True):
        values = penalty(discriminator, real, fake, noise)  # (N,)
        scalars[f"loss/{penalty.name}"] = values.detach().mean()
        loss = loss + penalty.contribution(values)
    return loss


class R1(Penalty):
    """||grad D(x)||^2 / 2 at real images (Mescheder et al. 2018, arXiv:1801.04406).

    It keeps D flat around the data, where training then converges locally instead of circling.

    Args:
        weight: The paper's gamma, >= 0: the loss gets gamma / 2 * E||grad||^2. It has no default because
            published values span .05 to 150, rising with the number of pixels; the paper takes 10. 0
            switches the penalty off.
        every: Batches from one application to the next, >= 1; StyleGAN2 takes 16.
    """

    name = "r1"

    def __call__(self, discriminator: Critic, real: Tensor, fake: Tensor, noise: Tensor | None = None) -> Tensor:
        return 0.5 * _input_gradient(discriminator, _widen(real)).square().sum(1)


class R2(Penalty):
    """||grad D(x)||^2 / 2 at generated images (Mescheder et al. 2018, arXiv:1801.04406).

    R3GAN (Huang et al. 2024, arXiv:2501.05441) adds it to R1: before the fakes come near the data, R1 alone
    leaves D's gradient at them, the one that the generator gets, free to explode.

    Args:
        weight: The paper's gamma, >= 0: the loss gets gamma / 2 * E||grad||^2. 0 switches the penalty off.
        every: Batches from one application to the next, >= 1; R3GAN takes 1.
    """

    name = "r2"

    def __call__(self, discriminator: Critic, real: Tensor, fake: Tensor, noise: Tensor | None = None) -> Tensor:
        return 0.5 * _input_gradient(discriminator, _widen(fake)).square().sum(1)


class ApproximateR1(Penalty):
    """R1 without a second derivative: (D(x + sigma u) - D(x))^2 / (2 sigma^2) at real images.

    From adversarial post-training (Lin et al. 2025, APT, arXiv:2501.08316), with signs u, each value -1 or 1, for
    their normal noise: the mean over u is that of R1 as sigma goes to 0, and for a larger one R1 of a D that is
    smoothed over so much. Of one u it is a guess with a deviation of about sqrt(2) times R1, which a batch averages.
    It needs no more of a discriminator than training does, and so allows one that is compiled or in shards.

    Args:
        weight: The paper's gamma of R1, >= 0: the loss gets gamma / 2 * E||grad||^2, as of `R1`. 0 switches the
            penalty off.
        every: Batches from one application to the next, >= 1.
        sigma: How far each value is moved, >= 1e-4, of images in [-1, 1]; the paper takes .01 for images. Below,
            float32 rounds the difference of two logits away; where a GPU's convolutions are in TF32, as by default, so
            it does at a few times as much.

    Raises:
        ValueError: If `sigma` is below 1e-4 or not finite.
    """

    name = "approximate_r1"
    differentiates_twice = False

    def __init__(self, weight: Number, every: int = 1, sigma: float = 0.01) -> None:
        super().__init__(weight, every)
        if not 1e-4 <= sigma < math.inf:
            raise GANError(
                f"{type(self).__name__}: sigma must be a finite number >= 1e-4, got {sigma}: float32 rounds the "
                "difference of logits that are nearer away; the paper takes 0.01"
            )
        self.sigma = sigma

    def noise_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(image_shape)

    def __call__(self, discriminator: Critic, real: Tensor, fake: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.at(discriminator, real, noise)

    def at(self, discriminator: Critic, images: Tensor, noise: Tensor | None) -> Tensor:
        """The penalties (N,) at images (N, ...), of noise as many numbers from U[0, 1)."""
        assert noise is not None  # of `noise_shape`
        images = _widen(images)
        signs = 1 - 2 * (noise < 0.5).to(images.dtype)
        of_device = [] if images.device.type == "cpu" else [images.device]
        # Both must be of one function, or what differs outweighs all else over sigma^2: what layers draw, as dropout
        # does, what an augmentation draws, and the weights of a spectral norm, which each forward improves.
        again = getattr(discriminator, "again", discriminator)
        with torch.autocast(images.device.type, enabled=False), parametrize.cached():
            with torch.random.fork_rng(of_device, device_type=images.device.type if of_device else "cuda"):
                moved = of_samples(discriminator(images + self.sigma * signs))
            logits = of_samples(again(images))
        return 0.5 * ((moved - logits) / self.sigma).square()


class ApproximateR2(ApproximateR1):
    """R2 without a second derivative: `ApproximateR1` at generated images.

    Args:
        weight: As of `R2`, >= 0. 0 switches the penalty off.
        every: Batches from one application to the next, >= 1.
        sigma: How far each value is moved, >= 1e-4.
    """

    name = "approximate_r2"

    def __call__(self, discriminator: Critic, real: Tensor, fake: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.at(discriminator, fake, noise)


class GradientPenalty(Penalty):
    """WGAN-GP: (||grad D(x)|| - 1)^2 between real and fake (Gulrajani et al. 2017, arXiv:1704.00028).

    x_i = alpha_i * real_i + (1 - alpha_i) * fake_i, with one alpha_i ~ U[0, 1) per sample.

    Args:
        weight: The paper's lambda, >= 0. 0 switches the penalty off.
        every: Batches from one application to the next, >= 1; the paper takes 1.

    Raises:
        ValueError: If `real` and `fake` differ in shape when it is called.
    """

    name = "gradient_penalty"

    def __init__(self, weight: Number = 10.0, every: int = 1) -> None:
        super().__init__(weight, every)

    def noise_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1,) * len(image_shape)

    def __call__(self, discriminator: Critic, real: Tensor, fake: Tensor, noise: Tensor | None = None) -> Tensor:
        if real.shape != fake.shape:
            raise GANError(f"GradientPenalty pairs images: real is {tuple(real.shape)}, fake is {tuple(fake.shape)}")
        assert noise is not None  # of `noise_shape`
        real, fake = _widen(real), _widen(fake)
        alpha = noise.to(real.dtype)  # (N, 1, 1, 1)
        return _distance_to_unit_norm(discriminator, alpha * real + (1 - alpha) * fake)


class DRAGAN(Penalty):
    """(||grad D(x)|| - 1)^2 in a neighbourhood of the data (Kodali et al. 2017, arXiv:1705.07215).

    x = real + 0.5 * std * u, with u ~ U[-1, 1) per value, and std that of the image's values. This is the form
    of Google's compare_gan (Lucic et al. 2018, arXiv:1711.10337) without its clipping to the pixel range, and
    with the std of each image for that of the batch: what an image adds must not depend on how a batch is
    divided among processes. Like the paper's N(0, c) noise it is centred on the data, and it needs no c in pixel
    units. The authors' notebook has u ~ U[0, 1) times a second uniform number per sample; they call that an old
    draft (kodalinaveen3/DRAGAN, issues 5 and 6).

    Args:
        weight: The paper's lambda, >= 0. 0 switches the penalty off.
        every: Batches from one application to the next, >= 1; the paper takes 1.
    """

    name = "dragan"

    def __init__(self, weight: Number = 10.0, every: int = 1) -> None:
        super().__init__(weight, every)

    def noise_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(image_shape)

    def __call__(self, discriminator: Critic, real: Tensor, fake: Tensor, noise: Tensor | None = None) -> Tensor:
        assert noise is not None  # of `noise_shape`
        real = _widen(real)
        u = 2 * noise.to(real.dtype) - 1
        std = real.flatten(1).std(dim=1, correction=0).view(-1, *(1,) * (real.ndim - 1))  # (N, 1, 1, 1)
        return _distance_to_unit_norm(discriminator, real + 0.5 * std * u)


@torch.no_grad()
def clip_weights(discriminator: nn.Module, limit: float, but: Iterable[nn.Parameter] = ()) -> None:
    """Clamp each parameter to [-limit, limit] in place: WGAN (Arjovsky et al. 2017, arXiv:1701.07875).

    Call it after each step of the discriminator's optimizer. As in the paper it clamps all parameters,
    biases and the affine ones of norm layers included; buffers stay.

    Args:
        discriminator: The critic.
        limit: Largest magnitude of a parameter, > 0; the paper takes .01.
        but: Parameters that stay as they are.

    Raises:
        ValueError: If `limit` is not above 0.
    """
    if not limit > 0:
        raise GANError(f"clip_weights: limit must be > 0, got {limit}")
    still = {id(parameter) for parameter in but}
    for parameter in discriminator.parameters():
        if id(parameter) not in still:
            parameter.clamp_(-limit, limit)


def clip_weights_after(
    optimizer: Optimizer, discriminator: nn.Module, limit: float, but: Sequence[nn.Parameter] = ()
) -> None:
    """Lets `clip_weights` follow each step of an optimizer."""
    optimizer.register_step_post_hook(lambda *_: clip_weights(discriminator, limit, but))


def mixes_batch(discriminator: nn.Module) -> bool:
    """Whether a layer lets one sample's logit depend on the others, see `mixing_layers`.

    Every penalty here is then about a gradient that belongs to no single sample; Gulrajani et al. 2017 take
    layer norm instead. Modes are ignored.
    """
    return bool(mixing_layers(discriminator))


def mixing_layers(discriminator: nn.Module) -> list[str]:
    """The classes of layers that mix the samples of a batch: batch norms, and what says so by `mixes_batch = True`.

    Minibatch standard deviation (`gan.networks.MinibatchStd`) does, and so should a layer of your own.
    """
    mixing = (m for m in discriminator.modules() if isinstance(m, _BatchNorm) or getattr(m, "mixes_batch", False))
    return sorted({type(layer).__name__ for layer in mixing})


def _distance_to_unit_norm(discriminator: Critic, images: Tensor) -> Tensor:
    """(||grad D(x)|| - 1)^2, shape (N,)."""
    # A gradient of 0 is pushed nowhere: vector_norm takes the subgradient 0 there, where sqrt would give NaN.
    return (torch.linalg.vector_norm(_input_gradient(discriminator, images), dim=1) - 1).square()


def _input_gradient(discriminator: Critic, images: Tensor) -> Tensor:
    """Gradient of each image's logit with respect to it, flattened: (N, values per image), with its graph."""
    images = images.detach().requires_grad_()
    with torch.autocast(images.device.type, enabled=False):
        logits = of_samples(discriminator(images))
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.flatten(1)


def _widen(images: Tensor) -> Tensor:
    """The images in float32 or wider, without their graph."""
    return images.detach().to(torch.promote_types(images.dtype, torch.float32))
