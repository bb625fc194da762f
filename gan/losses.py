"""Adversarial objectives: logits in, per-sample losses out.

Below, l_r is the logit of a real image, l_f of a fake one, and sigmoid(l) the probability "real".

The generator's gradient is the discriminator's Jacobian times dG/dl_f, the derivative of the generator's loss
with respect to the logit: the second factor is what each objective decides, and its docstring tells where it
vanishes (Arjovsky & Bottou 2017, arXiv:1701.04862).

A discriminator that judges patches has a logit for each: the loss of a sample is the mean of theirs (Isola et al. 2017,
arXiv:1611.07004).

All is computed from the logit by softplus(l) = log(1 + e^l). The float32 sigmoid is exactly 1 from l = 17 up
and exactly 0 from l = -89 down, so log(sigmoid(l)) has infinite values, and NaN or 0 for gradients.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from gan.batch import of_samples
from gan.errors import GANError
from gan.spec import Described


class Loss(Described, ABC):
    """An adversarial objective; both players minimise. It has no state.

    Logits of any floating type come in; losses come out in float32 (float64 for float64 logits), one per
    sample, of whose logits (N, ...) each has its part: the mean over samples and the log are the caller's. Nothing is
    detached here.

    Attributes:
        relativistic: Whether `generator` needs the logits of real images too.
        border: The logit that says neither real nor generated; None where a logit says nothing but by its difference
            to others.
    """

    relativistic: bool = False
    border: float | None = 0.0

    @abstractmethod
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Loss of the discriminator: (N, ...) and (N, ...) logits to (N,) losses.

        Raises:
            ValueError: If the logits are not of one shape.
        """

    @abstractmethod
    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """Loss of the generator: (N, ...) logits to (N,) losses. Only relativistic objectives read `real_logits`.

        Raises:
            ValueError: If the logits are not of one shape, or the objective is relativistic and `real_logits` is None.
        """


class Saturating(Loss):
    """The minimax game (Goodfellow et al. 2014, arXiv:1406.2661).

    D: softplus(-l_r) + softplus(l_f).  G: -softplus(l_f) = log(1 - sigmoid(l_f)).

    dG/dl_f = -sigmoid(l_f) vanishes as D rejects the fake, e-fold per unit of logit: -.5 at 0, -3.4e-4 at -8.
    """

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return _cross_entropy(real_logits, fake_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        (fake,) = _alike(fake_logits)
        return of_samples(-softplus(fake))


class NonSaturating(Loss):
    """The minimax D, and a G that maximises log sigmoid(l_f) (Goodfellow et al. 2014, arXiv:1406.2661).

    D: softplus(-l_r) + softplus(l_f).  G: softplus(-l_f) = -log sigmoid(l_f).

    dG/dl_f = -sigmoid(-l_f) tends to -1 as D rejects the fake, and vanishes only on fakes that pass as real;
    what can still explode is D's Jacobian.
    """

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return _cross_entropy(real_logits, fake_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        (fake,) = _alike(fake_logits)
        return of_samples(softplus(-fake))


class MaximumLikelihood(Loss):
    """The minimax D, and a G that climbs the likelihood of the data if D is optimal.

    Goodfellow 2016, arXiv:1701.00160, section 3.2.4.

    D: softplus(-l_r) + softplus(l_f).  G: -exp(l_f), which in expectation over fakes is then that over reals.

    dG/dl_f = -exp(l_f) vanishes as D rejects the fake, as that of `Saturating` does, and explodes as D accepts
    it: a batch is moved by its best few fakes. In float32 it is infinite from l_f = 89 up.
    """

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return _cross_entropy(real_logits, fake_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        (fake,) = _alike(fake_logits)
        return of_samples(-fake.exp())


class LeastSquares(Loss):
    """Half the squared distance to the targets 1 (real) and 0 (fake) (Mao et al. 2017, arXiv:1611.04076).

    D: (l_r - 1)^2 / 2 + l_f^2 / 2.  G: (l_f - 1)^2 / 2.

    dG/dl_f = l_f - 1 grows with the distance: it cannot vanish on rejected fakes, and it has no bound.
    """

    border = 0.5

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        real, fake = _alike(real_logits, fake_logits)
        return of_samples(0.5 * (real - 1).square() + 0.5 * fake.square())

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        (fake,) = _alike(fake_logits)
        return of_samples(0.5 * (fake - 1).square())


class Hinge(Loss):
    """Hinge with margin 1 (Lim & Ye 2017, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957).

    D: max(0, 1 - l_r) + max(0, 1 + l_f).  G: -l_f.

    dG/dl_f = -1 everywhere; it is D's gradient that becomes exactly 0, on each sample beyond the margin.
    """

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        real, fake = _alike(real_logits, fake_logits)
        return of_samples(relu(1 - real) + relu(1 + fake))

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        (fake,) = _alike(fake_logits)
        return of_samples(-fake)


class Wasserstein(Loss):
    """Difference of the critic's means (Arjovsky et al. 2017, arXiv:1701.07875).

    D: l_f - l_r.  G: -l_f.

    dG/dl_f = -1 everywhere; but D's loss has no lower bound, so D explodes unless something holds its
    Lipschitz constant: a gradient penalty, weight clipping (`gan.penalties`) or spectral norm.
    """

    border = None

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        real, fake = _alike(real_logits, fake_logits)
        return of_samples(fake - real)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        (fake,) = _alike(fake_logits)
        return of_samples(-fake)


class RelativisticPaired(Loss):
    """RpGAN: which of the two is real? (Jolicoeur-Martineau 2019, arXiv:1807.00734).

    D: softplus(-(l_r - l_f)).  G: softplus(-(l_f - l_r)).  Real i is compared with fake i, patch by patch. R3GAN
    (Huang et al. 2024, arXiv:2501.05441) proves local convergence with R1 and R2, and shows it failing without.

    dG/dl_f = -sigmoid(l_r - l_f) tends to -1 as D separates the pair, and vanishes only once the fake
    outranks its real; D's Jacobian can still explode.

    The difference says nothing of where logits lie: a shift of all is free, and they drift. Centring (adversarial flow
    models, Lin et al. 2025, arXiv:2511.22475) adds centering * (l_r + l_f)^2 to D's loss, which a shift that makes
    their sum 0 makes least.

    Args:
        centering: Weight of that, >= 0; 0 leaves it out, the paper takes .01.

    Raises:
        GANError: If `centering` is negative or not finite.
    """

    relativistic = True
    border = None

    def __init__(self, centering: float = 0.0) -> None:
        if not 0 <= centering < math.inf:
            raise GANError(f"RelativisticPaired: centering must be a finite number >= 0, got {centering}")
        self.centering = centering

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        real, fake = _alike(real_logits, fake_logits)
        loss = softplus(fake - real)
        return of_samples(loss + self.centering * (real + fake).square() if self.centering else loss)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        if real_logits is None:
            raise GANError("RelativisticPaired compares pairs: its generator loss needs real_logits")
        fake, real = _alike(fake_logits, real_logits)
        return of_samples(softplus(real - fake))


def _cross_entropy(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Binary cross-entropy with target 1 on reals and 0 on fakes, (N,)."""
    real, fake = _alike(real_logits, fake_logits)
    return of_samples(softplus(-real) + softplus(fake))


def _alike(*logits: Tensor) -> list[Tensor]:
    """The logits in float32 or wider, checked to be of one shape."""
    # (N, 1) against (N,) would broadcast to N x N pairs without a word.
    shapes = [tuple(x.shape) for x in logits]
    if any(len(shape) < 1 or shape != shapes[0] for shape in shapes):
        got = " and ".join(map(str, shapes))
        raise GANError(f"logits must be of one shape, (N,), or (N, ...) with one for each patch, got {got}")
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in logits]
