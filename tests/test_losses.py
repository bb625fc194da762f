"""The objectives against closed forms: values, and derivatives with respect to the logit, by autograd."""

from math import exp, log, log1p

import jsonargparse
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from gan.losses import (
    Hinge,
    LeastSquares,
    Loss,
    MaximumLikelihood,
    NonSaturating,
    RelativisticPaired,
    Saturating,
    Wasserstein,
)

LOSSES = [Saturating, NonSaturating, MaximumLikelihood, LeastSquares, Hinge, Wasserstein, RelativisticPaired]
LOGITS = [-50.0, -8.0, 0.0, 8.0, 50.0]


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def softplus(x: float) -> float:
    return max(x, 0.0) + log1p(exp(-abs(x)))


# Each objective by hand, as functions of the real logit r and the fake logit f:
# D's loss, its derivatives by r and by f; G's loss, its derivative by f.
CROSS_ENTROPY = (
    lambda r, f: softplus(-r) + softplus(f),
    lambda r, f: -sigmoid(-r),
    lambda r, f: sigmoid(f),
)
CLOSED_FORMS = {
    Saturating: (*CROSS_ENTROPY, lambda r, f: -softplus(f), lambda r, f: -sigmoid(f)),
    NonSaturating: (*CROSS_ENTROPY, lambda r, f: softplus(-f), lambda r, f: -(1 - sigmoid(f))),
    MaximumLikelihood: (*CROSS_ENTROPY, lambda r, f: -exp(f), lambda r, f: -exp(f)),
    LeastSquares: (
        lambda r, f: (r - 1) ** 2 / 2 + f**2 / 2,
        lambda r, f: r - 1,
        lambda r, f: f,
        lambda r, f: (f - 1) ** 2 / 2,
        lambda r, f: f - 1,
    ),
    Hinge: (
        lambda r, f: max(0, 1 - r) + max(0, 1 + f),
        lambda r, f: -float(r < 1),
        lambda r, f: float(f > -1),
        lambda r, f: -f,
        lambda r, f: -1.0,
    ),
    Wasserstein: (
        lambda r, f: f - r,
        lambda r, f: -1.0,
        lambda r, f: 1.0,
        lambda r, f: -f,
        lambda r, f: -1.0,
    ),
    RelativisticPaired: (
        lambda r, f: softplus(f - r),
        lambda r, f: -sigmoid(f - r),
        lambda r, f: sigmoid(f - r),
        lambda r, f: softplus(r - f),
        lambda r, f: -sigmoid(r - f),
    ),
}


def grid(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Every real logit against every fake one, (25,) and (25,)."""
    real, fake = torch.cartesian_prod(*[torch.tensor(LOGITS, dtype=dtype)] * 2).unbind(1)
    return real.clone().requires_grad_(), fake.clone().requires_grad_()


def expected(formula, real, fake):
    values = [formula(r, f) for r, f in zip(real.tolist(), fake.tolist(), strict=True)]
    return torch.tensor(values, dtype=real.dtype)


def generator_loss(loss: Loss, real, fake):
    return loss.generator(fake, real) if loss.relativistic else loss.generator(fake)


def generator_slope(loss: Loss, logit: float) -> float:
    """dG/dl_f at one fake logit; a relativistic loss sees it against a real logit of 0."""
    fake = torch.tensor([logit], requires_grad=True)
    generator_loss(loss, torch.zeros(1), fake).sum().backward()
    return fake.grad.item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cls", LOSSES)
def test_discriminator_closed_form(cls, dtype):
    value, by_real, by_fake, _, _ = CLOSED_FORMS[cls]
    real, fake = grid(dtype)
    loss = cls().discriminator(real, fake)
    slopes = torch.autograd.grad(loss.sum(), (real, fake))

    # PyTorch's softplus is linear from 20 on: e^-20 = 2e-9. The relative check includes the tails, where a
    # slope such as sigmoid(-50) = 2e-22 must be that and not 0.
    tolerance = {"rtol": 1e-5, "atol": 1e-25} if dtype == torch.float32 else {"rtol": 1e-8, "atol": 1e-25}
    torch.testing.assert_close(loss, expected(value, real, fake), **tolerance)
    torch.testing.assert_close(slopes[0], expected(by_real, real, fake), **tolerance)
    torch.testing.assert_close(slopes[1], expected(by_fake, real, fake), **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cls", LOSSES)
def test_generator_closed_form(cls, dtype):
    _, _, _, value, by_fake = CLOSED_FORMS[cls]
    real, fake = grid(dtype)
    loss = generator_loss(cls(), real, fake)
    (slope,) = torch.autograd.grad(loss.sum(), fake)

    # 1 - sigmoid(50), by hand, is exactly 0 in float64: hence no relative check of that one.
    tolerance = {"rtol": 1e-5, "atol": 1e-15} if dtype == torch.float32 else {"rtol": 1e-8, "atol": 1e-15}
    torch.testing.assert_close(loss, expected(value, real, fake), **tolerance)
    torch.testing.assert_close(slope, expected(by_fake, real, fake), **tolerance)


@pytest.mark.parametrize("cls", [cls for cls in LOSSES if cls is not MaximumLikelihood])
def test_extreme_logits_stay_finite(cls):
    real, fake = (1e4 * x.detach().sign() for x in grid())
    real.requires_grad_(), fake.requires_grad_()
    losses = cls().discriminator(real, fake), generator_loss(cls(), real, fake)
    slopes = torch.autograd.grad(torch.stack(losses).sum(), (real, fake))
    assert all(x.isfinite().all() for x in (*losses, *slopes))


def test_where_the_generator_vanishes():
    # The loss-curve figure of Goodfellow's NIPS 2016 tutorial (arXiv:1701.00160).
    assert abs(generator_slope(Saturating(), -8.0)) < 4e-4
    assert generator_slope(NonSaturating(), -8.0) < -0.999
    assert generator_slope(Saturating(), 0.0) == generator_slope(NonSaturating(), 0.0) == -0.5
    # Far out it is tiny, not 0: a clamped or rounded log would give exactly 0, and the curve an artefact.
    assert generator_slope(Saturating(), -50.0) == pytest.approx(-exp(-50), rel=1e-5)
    assert generator_slope(NonSaturating(), 50.0) == pytest.approx(-exp(-50), rel=1e-5)
    # The others have no vanishing end on the side of the rejected fakes.
    assert generator_slope(LeastSquares(), -8.0) == -9.0
    assert generator_slope(Hinge(), -8.0) == generator_slope(Wasserstein(), -8.0) == -1.0
    assert generator_slope(RelativisticPaired(), -8.0) < -0.999


def test_where_maximum_likelihood_explodes():
    assert generator_slope(MaximumLikelihood(), -8.0) == pytest.approx(-exp(-8), rel=1e-5)
    assert generator_slope(MaximumLikelihood(), 88.0) == pytest.approx(-exp(88), rel=1e-4)
    assert generator_slope(MaximumLikelihood(), 89.0) == -float("inf")  # said, not hidden by a clamp


def test_maximum_likelihood_follows_the_likelihood():
    # With the optimal logit log(p / q), the gradient of E_q[G] by the parameters of q is that of KL(p || q).
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    scores = torch.tensor([0.5, -0.3, 0.1, 0.2], dtype=torch.float64, requires_grad=True)
    q = scores.softmax(0)
    losses = MaximumLikelihood().generator((p / q).log().detach())
    (ours,) = torch.autograd.grad((q * losses).sum(), scores, retain_graph=True)
    (theirs,) = torch.autograd.grad((p * (p / q).log()).sum(), scores)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("logit", LOGITS)
def test_cross_entropy_oracle(logit):
    torch.manual_seed(0)
    real, fake = logit + torch.randn(8), logit + torch.randn(8)

    def bce(logits, target):
        return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target), reduction="none")

    for loss in (Saturating(), NonSaturating(), MaximumLikelihood()):
        torch.testing.assert_close(loss.discriminator(real, fake), bce(real, 1.0) + bce(fake, 0.0))
    torch.testing.assert_close(Saturating().generator(fake), -bce(fake, 0.0))
    torch.testing.assert_close(NonSaturating().generator(fake), bce(fake, 1.0))


def test_saturating_game_is_zero_sum():
    # G minimises minus what D minimises on fakes: together they keep only D's real term, which G cannot move.
    real, fake = grid()
    both = Saturating().discriminator(real, fake) + Saturating().generator(fake)
    torch.testing.assert_close(both, torch.nn.functional.softplus(-real))
    (by_fake,) = torch.autograd.grad(both.sum(), fake)
    assert by_fake.abs().max() == 0


def test_relativistic_sees_only_differences():
    torch.manual_seed(0)
    loss, real, fake = RelativisticPaired(), torch.randn(16), torch.randn(16)
    for shift in (-3.0, 100.0):
        shifted = loss.discriminator(real + shift, fake + shift), loss.generator(fake + shift, real + shift)
        torch.testing.assert_close(shifted[0], loss.discriminator(real, fake), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(shifted[1], loss.generator(fake, real), rtol=1e-4, atol=1e-4)


def test_relativistic_game_is_symmetric():
    # The generator's loss is the discriminator's with real and fake exchanged (R3GAN swaps the sign).
    torch.manual_seed(0)
    loss, real, fake = RelativisticPaired(), torch.randn(16), torch.randn(16)
    torch.testing.assert_close(loss.generator(fake, real), loss.discriminator(fake, real))


def test_optimal_discriminator_gives_jensen_shannon():
    # Goodfellow 2014, theorem 1: max_D E_r[log D] + E_f[log(1 - D)] = 2 JSD(p_r || p_f) - 2 log 2, at the
    # logit log(p_r / p_f). Two discrete distributions, so that both sides are finite sums.
    p_real = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    p_fake = torch.tensor([0.6, 0.2, 0.15, 0.05], dtype=torch.float64)
    outcomes = torch.arange(4)
    real, fake = torch.cartesian_prod(outcomes, outcomes).unbind(1)  # every pair (i, j), with weight p_i q_j

    def minimax(logits):
        losses = Saturating().discriminator(logits[real], logits[fake])
        return -(p_real[real] * p_fake[fake] * losses).sum()

    def kl(p, q):
        return (p * (p / q).log()).sum()

    middle = (p_real + p_fake) / 2
    jensen_shannon = kl(p_real, middle) / 2 + kl(p_fake, middle) / 2
    optimum = (p_real / p_fake).log()
    torch.testing.assert_close(minimax(optimum), 2 * jensen_shannon - 2 * log(2))
    torch.manual_seed(0)
    assert all(minimax(optimum + 0.1 * torch.randn(4)) < minimax(optimum) for _ in range(20))


@pytest.mark.parametrize("cls", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_widened(cls, dtype):
    real, fake = torch.tensor([-8.0, 3.0], dtype=dtype), torch.tensor([5.0, -8.0], dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cls().discriminator(real, fake), generator_loss(cls(), real, fake)
    exact = cls().discriminator(real.float(), fake.float()), generator_loss(cls(), real.float(), fake.float())
    for got, want in zip(loss, exact, strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, want)


@pytest.mark.parametrize("cls", LOSSES)
def test_wrong_shapes_are_refused(cls):
    good, column, longer, none = torch.zeros(8), torch.zeros(8, 1), torch.zeros(9), torch.zeros(())
    for real, fake in [(column, good), (good, column), (good, longer), (none, none)]:
        with pytest.raises(ValueError, match="logits must be of one shape"):
            cls().discriminator(real, fake)
    with pytest.raises(ValueError, match=r"logits must be of one shape.*\(\)"):
        generator_loss(cls(), none, none)


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 2, 3)])
@pytest.mark.parametrize("cls", LOSSES)
def test_a_sample_of_patches_has_the_mean_of_their_losses(cls, shape):
    """Against the closed forms: value, and the derivative by each patch's logit."""
    torch.manual_seed(0)
    real, fake = (torch.randn(4, *shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    of_discriminator, by_real, by_fake, of_generator, generator_by_fake = CLOSED_FORMS[cls]
    patches = real[0].numel()

    def by_hand(formula):
        return expected(formula, real.flatten(), fake.flatten()).view(4, *shape)

    loss = cls().discriminator(real, fake)
    torch.testing.assert_close(loss, by_hand(of_discriminator).flatten(1).mean(1))
    slopes = torch.autograd.grad(loss.sum(), (real, fake))
    torch.testing.assert_close(slopes[0], by_hand(by_real) / patches)
    torch.testing.assert_close(slopes[1], by_hand(by_fake) / patches)
    loss = generator_loss(cls(), real, fake)
    torch.testing.assert_close(loss, by_hand(of_generator).flatten(1).mean(1))
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), fake)[0], by_hand(generator_by_fake) / patches)


def test_relativistic_generator_needs_real_logits():
    assert [cls for cls in LOSSES if cls.relativistic] == [RelativisticPaired]
    with pytest.raises(ValueError, match="real_logits"):
        RelativisticPaired().generator(torch.zeros(4))


def test_border_is_where_the_best_discriminator_cannot_tell():
    """The logit that is best where as many images are real as generated; none where any is as good as any other."""
    for cls in LOSSES:
        logits = torch.linspace(-4, 4, 33, dtype=torch.float64)
        losses = cls().discriminator(logits, logits)
        best = logits[losses <= losses.min() + 1e-12]
        if cls.border is None:
            assert len(best) == len(logits)
        else:
            assert float(best.mean()) == cls.border


@pytest.mark.parametrize("cls", LOSSES)
def test_command_line_takes_the_class_name(cls):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--loss", type=Loss)
    config = parser.parse_args([f"--loss={cls.__name__}"])
    assert config.loss.class_path == f"gan.losses.{cls.__name__}"


# ---------------------------------------------------------------------- centring


def test_centering_is_its_formula_and_off_by_default():
    real, fake = torch.tensor([3.0, -1.0, 0.5]).double(), torch.tensor([2.0, 1.0, -4.0]).double()
    plain, centred = RelativisticPaired(), RelativisticPaired(centering=0.01)
    added = centred.discriminator(real, fake) - plain.discriminator(real, fake)
    torch.testing.assert_close(added, 0.01 * torch.tensor([25.0, 0.0, 12.25]).double())
    assert torch.equal(centred.generator(fake, real), plain.generator(fake, real))


def test_only_centering_holds_a_shift_of_all_logits():
    """Its gradient is 4 * centering * mean(l_r + l_f), and it goes to where the mean of all logits is 0."""
    real, fake = torch.tensor([3.0, 1.0]).double(), torch.tensor([2.0, -4.0]).double()

    def pull(centering: float, by: float) -> float:
        shift = torch.tensor(by, dtype=torch.float64, requires_grad=True)
        loss = RelativisticPaired(centering).discriminator(real + shift, fake + shift).mean()
        return float(torch.autograd.grad(loss, shift)[0])

    assert pull(0.0, 7.0) == 0
    assert pull(0.01, 7.0) == pytest.approx(4 * 0.01 * ((5 - 3) / 2 + 14))
    assert pull(0.01, -0.5) == pytest.approx(0)


@pytest.mark.parametrize("centering", [-0.1, float("nan"), float("inf")])
def test_centering_out_of_range_is_refused(centering):
    with pytest.raises(ValueError, match=r"RelativisticPaired: centering must be a finite number >= 0, got"):
        RelativisticPaired(centering)
