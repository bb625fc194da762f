"""The penalties on critics whose gradient is known, and against finite differences where it is not."""

import io
from contextlib import redirect_stdout

import jsonargparse
import pytest
import torch
from torch import Tensor, nn

from gan.networks import DCGANDiscriminator, MinibatchStd, PatchDiscriminator, given
from gan.penalties import (
    DRAGAN,
    R1,
    R2,
    ApproximateR1,
    ApproximateR2,
    GradientPenalty,
    Penalty,
    clip_weights,
    mixes_batch,
    mixing_layers,
)

PENALTIES = [R1, R2, GradientPenalty, DRAGAN]
APPROXIMATE = [ApproximateR1, ApproximateR2]
SHAPES = [(1, 8, 8), (3, 5, 4), (4, 2, 2), (6,), (2, 3, 4, 5)]


class Linear(nn.Module):
    """D(x) = w . x + b, with gradient w everywhere."""

    def __init__(self, shape, dtype=torch.float32):
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape, dtype=dtype))
        self.b = nn.Parameter(torch.randn((), dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.w).flatten(1).sum(1) + self.b


class Quadratic(nn.Module):
    """D(x) = x'Ax / 2 with a symmetric A and gradient Ax, which tells the point where it was taken."""

    def __init__(self, values: int):
        super().__init__()
        a = torch.randn(values, values, dtype=torch.float64)
        self.a = nn.Parameter(a + a.T)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.detach()
        x = x.flatten(1)
        return 0.5 * ((x @ self.a) * x).sum(1)


class Probe(nn.Module):
    """A small convolutional critic, smooth, that records what it was given and under which autocast."""

    def __init__(self, channels=1, activation=nn.Tanh):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 3),
            activation(),
            nn.Flatten(),
            nn.LazyLinear(8),
            activation(),
            nn.Linear(8, 1),
        )
        self.layers(torch.zeros(1, channels, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        self.seen, self.autocast = x.detach(), torch.is_autocast_enabled("cpu")
        return self.layers(x).squeeze(1)


def images(*shape, dtype=torch.float32, seed=0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand((2, *shape), generator=generator, dtype=dtype) - 1).unbind(0)


def noise(cls, images, seed=0) -> Tensor | None:
    """What a penalty of this class needs beside the images."""
    shape = cls(1.0).noise_shape(images.shape[1:])
    rng = torch.Generator().manual_seed(seed)
    return None if shape is None else torch.rand(len(images), *shape, generator=rng, dtype=images.dtype)


def distance_to_uniform(samples: Tensor) -> float:
    """Kolmogorov-Smirnov distance between samples and U[0, 1); 1.95 / sqrt(n) is exceeded once in 1000."""
    samples = samples.flatten().double().sort().values
    return (samples - (torch.arange(len(samples)) + 0.5) / len(samples)).abs().max().item()


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    # Tiny operations: on a busy machine, waiting for a second thread makes them more than ten times slower.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# -- values and gradients in closed form -------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_critic(shape):
    critic = Linear(shape)
    real, fake = images(5, *shape)
    norm = critic.w.detach().norm()
    for cls in (R1, R2):
        torch.testing.assert_close(cls(1.0)(critic, real, fake, noise(cls, real)), (norm**2 / 2).expand(5))
    for cls in (GradientPenalty, DRAGAN):
        torch.testing.assert_close(cls(1.0)(critic, real, fake, noise(cls, real)), ((norm - 1) ** 2).expand(5))


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_critic_gradient_of_the_penalty(shape):
    critic = Linear(shape)
    real, fake = images(5, *shape)
    w = critic.w.detach()
    for cls in PENALTIES:
        (slope,) = torch.autograd.grad(cls(1.0)(critic, real, fake, noise(cls, real)).mean(), critic.w)
        zero_centred = cls in (R1, R2)
        torch.testing.assert_close(slope, w if zero_centred else 2 * (w.norm() - 1) * w / w.norm())


def test_quadratic_critic_tells_the_point():
    critic = Quadratic(12)
    real, fake = images(7, 3, 2, 2, dtype=torch.float64)
    a = critic.a.detach()

    def norm(x):
        return (x.flatten(1) @ a).norm(dim=1)

    torch.testing.assert_close(R1(1.0)(critic, real, fake, noise(R1, real)), norm(real) ** 2 / 2)
    torch.testing.assert_close(R2(1.0)(critic, real, fake, noise(R2, real)), norm(fake) ** 2 / 2)
    for cls in (GradientPenalty, DRAGAN):
        penalties = cls(1.0)(critic, real, fake, noise(cls, real))
        torch.testing.assert_close(penalties, (norm(critic.seen) - 1) ** 2)
        assert not torch.isclose(penalties, (norm(real) - 1) ** 2).any()
        assert not torch.isclose(penalties, (norm(fake) - 1) ** 2).any()


def test_quadratic_critic_gradient_of_the_penalty():
    # With S = (A + A') / 2, R1 is ||S x||^2 / 2 and its derivative by A the symmetric part of S x x'.
    critic = Quadratic(6)
    real, fake = images(4, 6, dtype=torch.float64)
    (slope,) = torch.autograd.grad(R1(1.0)(critic, real, fake, noise(R1, real)).sum(), critic.a)
    outer = critic.a.detach() @ real.T @ real
    torch.testing.assert_close(slope, (outer + outer.T) / 2)


@pytest.mark.parametrize(("approximate", "exact"), zip(APPROXIMATE, (R1, R2), strict=True))
def test_the_mean_over_all_signs_is_the_exact_penalty_and_what_sigma_adds(approximate, exact):
    """Of D(x) = x'Ax / 2 with g = Ax, D moves by sigma g.u + sigma^2 u'Au / 2: in the mean of u only squares are left.

    The mean of (u'Au)^2 is (trace A)^2 + 2 sum of the squares off the diagonal.
    """
    critic, sigma = Quadratic(6), 0.05
    real, fake = images(3, 6, dtype=torch.float64)
    points = torch.cartesian_prod(*[torch.tensor([0.25, 0.75], dtype=torch.float64)] * 6)  # the 64 signs
    at = [approximate(1.0, sigma=sigma)(critic, real, fake, point.expand(3, 6)) for point in points]
    a = critic.a.detach()
    bias = sigma**2 / 8 * (a.trace() ** 2 + 2 * (a.square().sum() - a.diagonal().square().sum()))
    torch.testing.assert_close(torch.stack(at).mean(0), exact(1.0)(critic, real, fake) + bias)


def test_dropout_draws_the_same_at_both_points():
    """Else its noise over sigma^2 would be the penalty; what it draws next is what it would after one pass."""
    critic = nn.Sequential(nn.Linear(6, 64), nn.Dropout(0.5), nn.Linear(64, 1), nn.Flatten(0)).double()
    real, fake = images(3, 6, dtype=torch.float64)
    penalty = ApproximateR1(1.0)
    torch.manual_seed(0)
    values = penalty(critic, real, fake, noise(ApproximateR1, real))
    after = torch.get_rng_state()
    assert values.max() < 10
    torch.manual_seed(0)
    critic(real)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("sigma", [0.0, 9e-5, -1.0, float("nan"), float("inf")])
def test_refuses_a_sigma_that_rounds_away(sigma):
    with pytest.raises(ValueError, match=r"ApproximateR1: sigma must be a finite number >= 1e-4, got .*rounds"):
        ApproximateR1(1.0, sigma=sigma)


def test_the_least_sigma_is_within_what_float32_can_tell():
    """To a tenth, of logits of size 1 and a slope of 1: what stands in the way of a smaller one."""
    critic = Probe()
    real, fake = images(64, 1, 6, 6)
    u = noise(ApproximateR1, real)
    near = ApproximateR1(1.0, sigma=1e-4)(critic, real, fake, u)
    exact = ApproximateR1(1.0, sigma=1e-4)(critic.double(), real.double(), fake.double(), u.double())
    torch.testing.assert_close(near.mean().double(), exact.mean(), rtol=0.1, atol=0)


def test_both_points_have_the_weights_of_one_forward_under_spectral_normalisation():
    """Each forward in training improves the weights; what that changes is no slope."""
    critic = DCGANDiscriminator((1, 8, 8), base_channels=4, norm="spectral").double()
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.05)
    real, _ = images(5, 1, 8, 8, dtype=torch.float64)
    for _ in range(20):
        optimizer.zero_grad()
        critic(real).sum().backward()
        optimizer.step()
    penalty, u = ApproximateR1(1.0), torch.rand_like(real)
    values = penalty(critic, real, real, u)
    values.mean().backward()  # reaches the weights
    torch.testing.assert_close(values, penalty(critic.eval(), real, real, u))


@pytest.mark.parametrize("cls", APPROXIMATE)
def test_approximate_penalties_need_no_second_derivative(cls):
    """And the exact ones do, which is what those are refused for."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, slope):
            return 2 * slope

    first, last = nn.Linear(6, 6), nn.Linear(6, 1)

    def critic(x):
        return last(Once.apply(first(x))).squeeze(1)

    real, fake = images(3, 6)
    torch.autograd.grad(cls(1.0)(critic, real, fake, noise(cls, real)).mean(), last.weight)
    assert not cls.differentiates_twice
    for exact in PENALTIES:
        assert exact.differentiates_twice
        with pytest.raises(RuntimeError):
            torch.autograd.grad(exact(1.0)(critic, real, fake, noise(exact, real)).mean(), last.weight)


class Patches(nn.Module):
    """D(x) = x'A_k x / 2 of patch k, (N, 1, 2, 3): six critics whose mean is a `Quadratic`."""

    def __init__(self, values: int):
        super().__init__()
        self.critics = nn.ModuleList(Quadratic(values) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([critic(x) for critic in self.critics], 1).view(-1, 1, 2, 3)

    def mean(self) -> Quadratic:
        whole = Quadratic(len(self.critics[0].a))
        whole.a = nn.Parameter(torch.stack([critic.a.detach() for critic in self.critics]).mean(0))
        return whole


@pytest.mark.parametrize("cls", [*PENALTIES, *APPROXIMATE])
def test_of_patches_the_penalty_is_that_of_their_mean(cls):
    """Value, and what moves each patch's critic: a sixth of what would move one of the mean."""
    critic = Patches(12)
    whole = critic.mean()
    real, fake = images(7, 3, 2, 2, dtype=torch.float64)
    penalties = [cls(1.0)(one, real, fake, noise(cls, real)) for one in (critic, whole)]
    torch.testing.assert_close(*penalties)
    (expected,) = torch.autograd.grad(penalties[1].sum(), whole.a)
    for slope in torch.autograd.grad(penalties[0].sum(), [one.a for one in critic.critics]):
        torch.testing.assert_close(slope, expected / 6)


@pytest.mark.parametrize("cls", [*PENALTIES, *APPROXIMATE])
def test_penalties_of_a_patch_discriminator_are_per_sample(cls):
    """At (image, source): neither another image nor another image's source has a part."""
    critic = PatchDiscriminator((3, 8, 8), (2, 4, 4), base_channels=4).double()
    real, fake = images(6, 3, 8, 8, dtype=torch.float64)
    sources, u = torch.randn(6, 2, 4, 4, dtype=torch.float64), noise(cls, real)

    def penalty(index):
        (judge,) = given(sources[index], critic)
        return cls(1.0)(judge, real[index], fake[index], None if u is None else u[index])

    together = penalty(slice(None))
    assert together.unique().numel() == 6
    torch.testing.assert_close(together, torch.cat([penalty(slice(i, i + 1)) for i in range(6)]))
    sources[:3] += 1
    assert (penalty(slice(None)) != together).tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("cls", [*PENALTIES, *APPROXIMATE])
def test_second_derivatives_against_finite_differences(cls):
    critic = Probe(channels=2).double()
    real, fake = images(3, 2, 6, 6, dtype=torch.float64)
    names, parameters = zip(*critic.named_parameters(), strict=True)

    def penalty(*values):
        def call(x):
            return torch.func.functional_call(critic, dict(zip(names, values, strict=True)), (x,))

        return cls(3.0).contribution(cls(3.0)(call, real, fake, noise(cls, real)))

    assert torch.autograd.gradcheck(penalty, parameters)


@pytest.mark.parametrize("cls", PENALTIES)
def test_penalties_are_per_sample(cls):
    critic = Probe(channels=3)
    real, fake = images(6, 3, 6, 6)
    u = noise(cls, real)
    together = cls(1.0)(critic, real, fake, u)
    one = [slice(i, i + 1) for i in range(6)]
    alone = [cls(1.0)(critic, real[i], fake[i], None if u is None else u[i]) for i in one]
    assert together.shape == (6,)
    assert together.unique().numel() == 6
    torch.testing.assert_close(together, torch.cat(alone))


# -- where the penalty looks -------------------------------------------------------------------------------


def test_interpolates_lie_on_their_own_segments():
    critic = Quadratic(12)
    real, fake = images(4096, 3, 2, 2, dtype=torch.float64)
    GradientPenalty()(critic, real, fake, noise(GradientPenalty, real))
    x, real, fake = critic.seen.flatten(1), real.flatten(1), fake.flatten(1)

    alpha = ((x - fake) * (real - fake)).sum(1) / (real - fake).square().sum(1)  # projection on its own segment
    torch.testing.assert_close(x, fake + alpha[:, None] * (real - fake))
    assert alpha.min() >= 0
    assert alpha.max() < 1
    assert alpha.unique().numel() == 4096
    assert distance_to_uniform(alpha) < 1.95 / 4096**0.5


def test_dragan_looks_around_the_data():
    critic = Quadratic(12)
    real, fake = images(512, 3, 2, 2, dtype=torch.float64)
    real = 0.3 + 0.1 * real
    DRAGAN()(critic, real, fake, noise(DRAGAN, real))
    std = real.std((1, 2, 3), correction=0, keepdim=True)
    u = (critic.seen - real) / (0.5 * std)
    assert u.min() >= -1
    assert u.max() < 1
    assert u.unique().numel() == u.numel()  # one draw per value
    assert distance_to_uniform((u + 1) / 2) < 1.95 / u.numel() ** 0.5

    DRAGAN()(critic, real, fake + 1, noise(DRAGAN, real))
    assert torch.equal((critic.seen - real) / (0.5 * std), u)  # fakes play no part


@pytest.mark.parametrize("cls", [*PENALTIES, *APPROXIMATE])
def test_randomness_comes_from_noise_alone(cls):
    critic = Quadratic(4)
    real, fake = images(8, 4, dtype=torch.float64)
    state = torch.get_rng_state()
    first = cls(1.0)(critic, real, fake, noise(cls, real, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(cls(1.0)(critic, real, fake, noise(cls, real, 1)), first)
    assert torch.equal(cls(1.0)(critic, real, fake, noise(cls, real, 2)), first) == (cls in (R1, R2))


# -- lazy regularisation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", PENALTIES)
def test_lazy_penalty_keeps_the_average_strength(cls):
    critic = Linear((1, 4, 4))
    real, fake = images(5, 1, 4, 4)

    def over_batches(every):
        penalty = cls(weight=0.7, every=every)
        terms = [penalty(critic, real, fake, noise(cls, real, step)) for step in range(32) if penalty.is_due(step)]
        assert len(terms) == 32 / every
        total = sum(penalty.contribution(term) for term in terms)
        return total, torch.autograd.grad(total, critic.w)[0]

    torch.testing.assert_close(over_batches(16), over_batches(1))
    expected = 32 * 0.7 * cls(1.0)(critic, real, fake, noise(cls, real)).mean()
    torch.testing.assert_close(over_batches(1)[0], expected)


def test_is_due():
    assert [step for step in range(40) if R1(1.0, every=16).is_due(step)] == [0, 16, 32]
    assert all(R1(1.0).is_due(step) for step in range(5))
    assert not any(R1(0.0).is_due(step) for step in range(5))


def test_contribution_is_a_scalar():
    contribution = R1(weight=3.0, every=4).contribution(torch.tensor([1.0, 2.0, 6.0]))
    assert contribution.shape == ()
    assert contribution.item() == 3 * 4 * 3


# -- precision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", PENALTIES)
def test_autocast_changes_nothing(cls):
    critic = Probe(activation=nn.LeakyReLU)
    real, fake = (x.bfloat16() for x in images(4, 1, 6, 6))
    exact = cls(1.0)(critic, real.float(), fake.float(), noise(cls, real.float()))
    exact_slopes = torch.autograd.grad(exact.mean(), critic.parameters(), allow_unused=True)

    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            assert critic(real).dtype == torch.bfloat16  # also fills autocast's cache with bfloat16 weights
        penalties = cls(1.0)(critic, real, fake, noise(cls, real.float()))
    assert critic.seen.dtype == torch.float32
    assert not critic.autocast
    assert penalties.dtype == torch.float32
    torch.testing.assert_close(penalties, exact, rtol=1e-6, atol=1e-6)
    slopes = torch.autograd.grad(penalties.mean(), critic.parameters(), allow_unused=True)
    for slope, exact_slope in zip(slopes, exact_slopes, strict=True):
        assert (slope is None) == (exact_slope is None)  # None for the last bias, which no gradient depends on
        if slope is not None:
            torch.testing.assert_close(slope, exact_slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cls", [*PENALTIES, *APPROXIMATE])
def test_float64_stays_float64(cls):
    critic = Probe().double()
    real, fake = images(4, 1, 6, 6, dtype=torch.float64)
    assert cls(1.0)(critic, real, fake, noise(cls, real)).dtype == torch.float64
    assert critic.seen.dtype == torch.float64


@pytest.mark.parametrize("cls", PENALTIES)
def test_dead_critic_has_finite_gradients(cls):
    # sqrt(0) has the derivative inf, and 0 * inf is NaN; the gradient norm of a dead critic is exactly that.
    for critic in (Linear((1, 4, 4)), Probe(activation=nn.ReLU)):
        for parameter in critic.parameters():
            nn.init.zeros_(parameter)
        real, fake = images(4, 1, *((4, 4) if isinstance(critic, Linear) else (6, 6)))
        penalties = cls(1.0)(critic, real, fake, noise(cls, real))
        assert torch.equal(penalties, torch.full((4,), 0.0 if cls in (R1, R2) else 1.0))
        slopes = torch.autograd.grad(penalties.mean(), critic.parameters(), allow_unused=True)
        assert all(slope.abs().max() == 0 for slope in slopes if slope is not None)


def test_one_dead_sample_leaves_the_others_alone():
    # D(x) = max(0, w . x): where it is negative, that sample's gradient is exactly 0.
    critic = Linear((3,), dtype=torch.float64)
    real = torch.stack([critic.w.detach(), -critic.w.detach()])

    def rectified(x):
        return (critic(x) - critic.b).relu()

    penalties = GradientPenalty()(rectified, real, real, noise(GradientPenalty, real))
    (slope,) = torch.autograd.grad(penalties.sum(), critic.w)
    w = critic.w.detach()
    torch.testing.assert_close(penalties, torch.stack([(w.norm() - 1) ** 2, torch.ones_like(w[0])]))
    torch.testing.assert_close(slope, 2 * (w.norm() - 1) * w / w.norm())


# -- what it leaves behind ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", PENALTIES)
def test_leaves_no_trace(cls):
    critic, generator = Probe(), nn.Linear(2, 36)
    real, fake = images(4, 1, 6, 6)[0], generator(torch.randn(4, 2)).unflatten(1, (1, 6, 6))
    copies = real.clone(), fake.detach().clone()
    penalties = cls(1.0)(critic, real, fake, noise(cls, real))
    assert penalties.requires_grad
    assert all(p.grad is None for p in (*critic.parameters(), *generator.parameters()))
    assert not real.requires_grad
    assert torch.equal(real, copies[0])
    assert torch.equal(fake, copies[1])

    penalties.mean().backward()
    assert all(p.grad is None for p in generator.parameters())
    assert [name for name, p in critic.named_parameters() if p.grad is None] == ["layers.5.bias"]


@pytest.mark.parametrize("cls", PENALTIES)
def test_critic_that_ignores_the_image_raises(cls):
    bias = nn.Parameter(torch.zeros(4))
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        cls(1.0)(lambda x: bias.clone(), *images(4, 1, 4, 4), noise(cls, torch.zeros(4, 1, 4, 4)))


# -- settings ----------------------------------------------------------------------------------------------


def test_names_and_defaults():
    assert [cls.name for cls in PENALTIES] == ["r1", "r2", "gradient_penalty", "dragan"]
    assert all(cls().weight == 10 for cls in (GradientPenalty, DRAGAN))
    assert all(cls(1.0).every == 1 for cls in PENALTIES)


@pytest.mark.parametrize("cls", PENALTIES)
def test_wrong_settings_are_refused_by_name(cls):
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{cls.__name__}: weight must be"):
            cls(weight)
    for every in (0, -4):
        with pytest.raises(ValueError, match=f"{cls.__name__}: every must be"):
            cls(1.0, every=every)


def test_unpaired_batches_are_refused():
    with pytest.raises(ValueError, match=r"real is \(4, 1, 4, 4\), fake is \(1, 1, 4, 4\)"):
        GradientPenalty()(Linear((1, 4, 4)), torch.zeros(4, 1, 4, 4), torch.zeros(1, 1, 4, 4), torch.rand(4, 1, 1, 1))


def test_command_line():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--penalties", type=list[Penalty])
    arguments = ["--penalties+=R1", "--penalties.weight=1", "--penalties.every=16", "--penalties+=DRAGAN"]
    r1, dragan = parser.parse_args(arguments).penalties
    assert r1.class_path == "gan.penalties.R1"
    assert (r1.init_args.weight, r1.init_args.every) == (1, 16)
    assert dragan.class_path == "gan.penalties.DRAGAN"
    assert (dragan.init_args.weight, dragan.init_args.every) == (10, 1)

    with redirect_stdout(io.StringIO()) as output, pytest.raises(SystemExit):
        parser.parse_args(["--penalties.help=R1"])
    assert "The paper's gamma" in output.getvalue()


# -- batch norm and weight clipping ------------------------------------------------------------------------


def test_mixes_batch():
    for layer in (nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.SyncBatchNorm(4), nn.LazyBatchNorm2d()):
        assert mixes_batch(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(layer)))
    for layer in (nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.Dropout()):
        assert not mixes_batch(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(layer)))


def test_a_layer_can_say_that_it_mixes_the_batch():
    network = nn.Sequential(nn.BatchNorm2d(4), nn.Sequential(MinibatchStd()), nn.BatchNorm2d(4))
    assert mixing_layers(network) == ["BatchNorm2d", "MinibatchStd"]
    assert mixes_batch(network[1])
    assert not mixing_layers(nn.Conv2d(1, 4, 3))


@pytest.mark.parametrize(("norm", "mixes"), [(nn.BatchNorm1d, True), (nn.LayerNorm, False)])
def test_batch_norm_spoils_the_per_sample_gradient(norm, mixes):
    # The reason for the warning: with batch norm, a sample's penalty depends on its neighbours.
    critic = nn.Sequential(nn.Linear(4, 8), norm(8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    real, fake = images(6, 4)
    other = torch.cat([real[:3], fake[3:]])
    penalties, among_others = (R1(1.0)(critic, x, fake, noise(R1, x)) for x in (real, other))
    assert torch.allclose(penalties[:3], among_others[:3], rtol=1e-4) != mixes
    assert mixes_batch(critic) == mixes


def test_clip_weights():
    critic = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    critic[0].weight.requires_grad_(False)
    critic[1].running_mean.fill_(5.0)
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    parameters = list(critic.parameters())
    clip_weights(critic, 0.1)
    assert [id(p) for p in critic.parameters()] == [id(p) for p in parameters]  # in place: optimizers keep them
    for name, parameter in critic.named_parameters():
        assert torch.equal(parameter, before[name].clamp(-0.1, 0.1)), name
        assert parameter.is_leaf
        assert parameter.grad is None
        assert parameter.requires_grad == (name != "0.weight")
    assert max(p.abs().max() for p in critic.parameters()) == pytest.approx(0.1)
    assert torch.equal(critic[1].running_mean, before["1.running_mean"])
    assert torch.equal(critic[1].running_var, before["1.running_var"])


@pytest.mark.parametrize("limit", [0.0, -0.01, float("nan")])
def test_clip_weights_refuses_a_wrong_limit(limit):
    with pytest.raises(ValueError, match="limit must be > 0"):
        clip_weights(nn.Linear(2, 1), limit)
