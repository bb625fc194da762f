"""GradientStats against mathematics by hand, and against a second way to compute them."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from conftest import same_weights
from torch import Tensor, nn

from gan.gradients import BINS, measure
from gan.gradients.measure import histogram, neighbours, slopes
from gan.losses import Hinge, LeastSquares, NonSaturating, RelativisticPaired, Saturating, Wasserstein
from gan.networks import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator
from gan.penalties import DRAGAN, R1, R2
from gradients.pairs import SHAPE, Pipe, batch, by_hand, close, linear_pair

# ---------------------------------------------------------------------- closed forms


@pytest.mark.parametrize(("loss", "of_real"), [(LeastSquares(), 0), (NonSaturating(), 1)])
def test_right_is_told_from_the_border_of_the_loss(loss, of_real):
    """A logit of 0.25 everywhere says generated to least squares, whose targets are 0 and 1, and real to others."""
    generator, discriminator = linear_pair()
    with torch.no_grad():
        for layer in discriminator.layers:
            layer.weight.zero_()
            layer.bias.fill_(0.25)
    stats = measure(generator, discriminator, loss, step=7, **batch(8))
    assert (stats.accuracy_real, stats.accuracy_fake) == (of_real, 1 - of_real)


@pytest.mark.parametrize("num", [8, 3])
def test_linear_networks_by_hand(num):
    generator, discriminator = linear_pair()
    data = batch(num)
    stats = measure(generator, discriminator, NonSaturating(), step=7, **data)
    assert stats.step == 7
    (w1, b1), (w2, b2) = ((layer.weight, layer.bias) for layer in generator.layers)
    (v1, c1), (v2, c2) = ((layer.weight, layer.bias) for layer in discriminator.layers)
    with torch.no_grad():
        hidden = data["latents"] @ w1.T + b1
        fake = hidden @ w2.T + b2
        real = data["real"].flatten(1)
        real_hidden, fake_hidden = real @ v1.T + c1, fake @ v1.T + c1
        real_logits, fake_logits = ((values @ v2.T + c2).squeeze(1) for values in (real_hidden, fake_hidden))
        slope = (v2 @ v1).squeeze(0)  # dD/dx, everywhere

        # dl/dlogit of each image: of G's loss, and of D's at reals and fakes.
        of_g, at_real, at_fake = -torch.sigmoid(-fake_logits), -torch.sigmoid(-real_logits), torch.sigmoid(fake_logits)
        close(stats.image_gradient, (of_g.abs() * slope.norm()).mean().item())
        for value in (stats.slope_real, stats.slope_fake, stats.slope_between, stats.lipschitz):
            close(value, slope.norm().item())

        g, d = stats.generator, stats.discriminator
        rms = of_g.square().mean().sqrt()
        close(g.activation_gradients["layers.1"], (rms * slope.norm()).item())
        close(g.activation_gradients["layers.0"], (rms * (slope @ w2).norm()).item())
        close(g.first_to_last, ((slope @ w2).norm() / slope.norm()).item())
        rms = (at_real.square() + at_fake.square()).mean().sqrt()
        close(d.activation_gradients["layers.1"], rms.item())
        close(d.activation_gradients["layers.0"], (rms * v2.norm()).item())
        close(d.first_to_last, v2.norm().item())

        expected = (
            torch.outer(slope, (of_g[:, None] * hidden).mean(0)).square().sum() + (of_g.mean() * slope).norm() ** 2
        )
        close(g.parameter_gradients["layers.1"], expected.sqrt().item())
        expected = (at_real[:, None] * real_hidden + at_fake[:, None] * fake_hidden).mean(0).square().sum()
        expected += (at_real + at_fake).mean() ** 2
        close(d.parameter_gradients["layers.1"], expected.sqrt().item())
        for network in (g, d):
            close(network.total, math.hypot(*network.parameter_gradients.values()))
            assert network.terms == {"adversarial": network.total}
            assert (network.dead, network.saturated, network.dead_share, network.saturated_share) == ({}, {}, 0, 0)

        close(stats.accuracy_real, (real_logits > 0).double().mean().item())
        close(stats.accuracy_fake, (fake_logits < 0).double().mean().item())
        close(stats.logit_real, real_logits.mean().item())
        close(stats.logit_fake, fake_logits.mean().item())
        close(stats.logit_gap, (real_logits - fake_logits).mean().item())
        logits = torch.cat([real_logits, fake_logits])
        close(stats.range_logit, (logits.min().item(), logits.max().item()))
        close(stats.response, (fake - fake[neighbours(len(fake))]).norm(dim=1).square().mean().sqrt().item())
        assert (g.ends, d.ends, g.activations, d.activations) == ("linear", "linear", (), ())
        assert (g.trainable, d.trainable) == (4 * 5 + 6 * 16, 17 * 6 + 7)
        close(stats.range_real, (real.min().item(), real.max().item()))
        close(stats.range_fake, (fake.min().item(), fake.max().item()))
        close(stats.extreme_real, (real.abs() > 0.99).double().mean().item())
        close(stats.extreme_fake, (fake.abs() > 0.99).double().mean().item())
        for spread, images in ((stats.spread_real, real), (stats.spread_fake, fake)):
            close(spread, nn.functional.pdist(images.flatten(1)).square().mean().sqrt().item())


class Dice(nn.Module):
    """Draws images without looking at its latents."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, latents: Tensor) -> Tensor:
        return torch.sigmoid(self.scale * torch.randn(len(latents), *SHAPE, dtype=torch.float64))


def test_each_image_has_another_one_beside_it():
    """By twos, so that two processes make the pairs that one does."""
    assert neighbours(6) == neighbours(2) + [2 + other for other in neighbours(4)] == [1, 0, 3, 2, 5, 4]
    assert neighbours(5) == [1, 0, 3, 2, 3]
    assert neighbours(1) == [0]


def test_what_layers_draw_is_no_response_to_latents():
    """The same noise comes again, for another latent."""
    _, discriminator = linear_pair()
    stats = measure(Dice(), discriminator, NonSaturating(), **batch())
    assert stats.response == 0
    assert stats.spread_fake > 0
    assert stats.generator.ends == "sigmoid"
    silent = measure(Dice(), discriminator, NonSaturating(), respond=False, **batch())
    assert silent.response is None
    assert replace(stats, response=None) == silent


class Counting(nn.Linear):
    """Counts how often it makes images; `told`, which class moves them by."""

    def __init__(self, of=()):
        super().__init__(3, math.prod(SHAPE), dtype=torch.float64)
        self.calls, self.of = 0, of

    def forward(self, latents: Tensor) -> Tensor:
        self.calls += 1
        images = super().forward(latents)
        images = images + torch.tensor(self.of)[:, None] if self.of else images
        return images.unflatten(1, SHAPE)


def test_other_latents_make_images_that_are_there_where_nothing_else_does():
    """No second pass; a class that stays with its place needs one, else it is taken for a response to latents."""
    _, discriminator = linear_pair()
    given = batch()
    plain, deaf = Counting(), Counting(of=[float(10 * number) for number in range(len(given["real"]))])
    stats = measure(plain, discriminator, NonSaturating(), **given)
    assert plain.calls == 1
    close(stats.response, measure(plain, discriminator, NonSaturating(), told=True, **given).response)
    assert plain.calls == 3
    nn.init.zeros_(deaf.weight)
    assert measure(deaf, discriminator, NonSaturating(), told=True, **given).response == 0
    assert measure(deaf, discriminator, NonSaturating(), **given).response > 1  # what told is for


class Detached(Pipe):
    """A generator whose images have lost their graph."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


@pytest.mark.parametrize("loss", [NonSaturating(), RelativisticPaired()])
def test_a_generator_without_a_graph_is_measured(loss):
    """The gradient that comes to its images is that of any other's, and what comes to its weights is 0."""
    generator, discriminator = linear_pair()
    expected = measure(generator, discriminator, loss, **batch())
    detached = Detached(*generator.layers, shape=SHAPE)
    stats = measure(detached, discriminator, loss, **batch())
    assert stats.generator.total == 0
    assert stats.generator.activation_gradients == {}
    assert set(stats.generator.parameter_gradients.values()) == {0}
    assert stats.generator.ends is None
    close(stats.image_gradient, expected.image_gradient)
    assert stats.discriminator == expected.discriminator
    detached.requires_grad_(False)
    frozen = measure(detached, discriminator, loss, **batch())
    assert (frozen.generator.total, frozen.generator.trainable) == (0, 0)


def test_held_out_images_by_hand():
    """Their mean logit, by whoever judges them; the part of the way; and None where there are none."""
    generator, discriminator = linear_pair()
    data, held_out = batch(8), batch(5)["real"] / 3
    plain = measure(generator, discriminator, NonSaturating(), **data)
    assert plain.logit_held_out is None
    assert plain.by_heart is None
    stats = measure(generator, discriminator, NonSaturating(), held_out=held_out, **data)
    close(stats.logit_held_out, discriminator(held_out).mean().item())
    close(stats.held_out_error, discriminator(held_out).std().item() / 5**0.5)
    assert replace(stats, logit_held_out=None, held_out_error=None) == plain
    way = (stats.logit_real - stats.logit_held_out) / (stats.logit_real - stats.logit_fake)
    assert math.isnan(stats.by_heart) if stats.logit_gap <= 0 else stats.by_heart == pytest.approx(way)
    close(replace(stats, logit_real=3.0, logit_held_out=2.0, logit_gap=4.0).by_heart, 0.25)
    assert math.isnan(replace(stats, logit_gap=-1.0).by_heart)
    other = measure(
        generator, discriminator, NonSaturating(), held_out=held_out, judge_held_out=lambda x: x.sum((1, 2, 3)), **data
    )
    close(other.logit_held_out, held_out.sum((1, 2, 3)).mean().item())


def test_what_the_generator_gets_from_a_sure_discriminator():
    """Saturating: sigmoid(l) of what comes back; non-saturating: all of it (Goodfellow et al. 2014)."""
    generator, discriminator = linear_pair()
    with torch.no_grad():
        discriminator.layers[1].bias.fill_(-20.0)
    shares = {}
    for loss in (Saturating(), NonSaturating()):
        stats = measure(generator, discriminator, loss, **batch())
        shares[type(loss)] = stats.image_gradient / stats.slope_fake
        assert stats.accuracy_fake == 1
    assert shares[NonSaturating] == pytest.approx(1, abs=1e-6)
    assert shares[Saturating] < 1e-7


class Bowl(nn.Module):
    """D(x) = |x|^2 / 2, whose slope at x is |x|."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.flatten(1).square().sum(1) / 2


def test_slopes_are_taken_where_they_are_said_to_be():
    generator, _ = linear_pair()
    data = batch()
    with torch.no_grad():
        fake = generator(data["latents"])
        between = data["mix"] * data["real"] + (1 - data["mix"]) * fake
    stats = measure(generator, Bowl(), Wasserstein(), **data)
    lengths = [images.flatten(1).norm(dim=1) for images in (data["real"], fake, between)]
    for measured, expected in zip((stats.slope_real, stats.slope_fake, stats.slope_between), lengths, strict=True):
        close(measured, expected.mean().item())
    close(stats.lipschitz, torch.cat(lengths).max().item())
    assert len({stats.slope_real, stats.slope_fake, stats.slope_between}) == 3
    assert list(stats.discriminator.parameter_gradients) == ["self"]  # a parameter of the network itself
    close(stats.discriminator.total, abs(lengths[1].square().mean() - lengths[0].square().mean()).item() / 2)


def test_the_logit_of_patches_is_their_mean():
    """With the linear objective, all is as of the discriminator whose one logit is that mean, but its last layer."""
    generator, patches = linear_pair()
    patches.layers[1], patches.shape = nn.Linear(6, 4).double(), (1, 2, 2)
    _, whole = linear_pair()
    whole.layers[0] = patches.layers[0]
    with torch.no_grad():
        whole.layers[1].weight.copy_(patches.layers[1].weight.mean(0))
        whole.layers[1].bias.copy_(patches.layers[1].bias.mean(0))
    of_patches, expected = (
        measure(generator, network, Wasserstein(), penalties=[(R1(1.0), None)], **batch())
        for network in (patches, whole)
    )
    for name in ("image_gradient", "slope_real", "slope_fake", "slope_between", "lipschitz", "logit_gap"):
        close(getattr(of_patches, name), getattr(expected, name))
    for name in ("accuracy_real", "accuracy_fake", "logit_real", "logit_fake"):
        close(getattr(of_patches, name), getattr(expected, name))
    close(of_patches.generator.total, expected.generator.total)
    of_layers = [stats.discriminator.parameter_gradients["layers.0"] for stats in (of_patches, expected)]
    close(*of_layers)


# ---------------------------------------------------------------------- a second way


def test_terms_and_totals_against_backward():
    torch.manual_seed(0)
    shape = (1, 8, 8)
    generator, discriminator = DCGANGenerator(shape, 5, 4), DCGANDiscriminator(shape, 4)
    data = batch(8, 5, shape, torch.float32)
    r1, dragan, noise = R1(3.0, every=4), DRAGAN(2.0), torch.rand(8, *shape)
    arguments = {"penalties": [(r1, None), (dragan, noise)], **data}
    stats = measure(generator, discriminator, Hinge(), **arguments)

    fake = generator(data["latents"])
    total, norms = by_hand(-discriminator(fake).mean(), generator)
    g, d = stats.generator, stats.discriminator
    close(g.total, total, 1e-5)
    close(g.parameter_gradients["up1"], norms["up1.weight"], 1e-5)
    close(g.parameter_gradients["norm1"], math.hypot(norms["norm1.weight"], norms["norm1.bias"]), 1e-5)

    real, fake = data["real"], fake.detach()
    adversarial = Hinge().discriminator(discriminator(real), discriminator(fake)).mean()
    of_r1 = 3 * r1(discriminator, real, fake).mean()  # its share over time, though each application is 4 times that
    of_dragan = 2 * dragan(discriminator, real, fake, noise).mean()
    parts = {"adversarial": adversarial, "r1": of_r1, "dragan": of_dragan}
    total, norms = by_hand(sum(parts.values()), discriminator)
    close(d.total, total, 1e-5)
    close(d.parameter_gradients["down2"], math.hypot(norms["down2.weight"], norms["down2.bias"]), 1e-5)
    assert list(d.terms) == list(parts)
    adversarial = Hinge().discriminator(discriminator(real), discriminator(fake)).mean()
    for name, objective in (
        ("adversarial", adversarial),
        ("r1", 3 * r1(discriminator, real, fake).mean()),
        ("dragan", 2 * dragan(discriminator, real, fake, noise).mean()),
    ):
        close(d.terms[name], by_hand(objective, discriminator)[0], 1e-5)


def test_two_penalties_of_one_name_are_one_term():
    generator, discriminator = linear_pair()
    discriminator.layers.insert(1, nn.Softplus())
    one = measure(generator, discriminator, Hinge(), penalties=[(R2(3.0), None)], **batch())
    two = measure(generator, discriminator, Hinge(), penalties=[(R2(1.0), None), (R2(2.0), None)], **batch())
    close(two.discriminator.terms["r2"], one.discriminator.terms["r2"])
    close(two.discriminator.total, one.discriminator.total)


def test_relativistic_loss_sees_the_real_images():
    generator, discriminator = linear_pair()
    data = batch()
    stats = measure(generator, discriminator, RelativisticPaired(), **data)
    real, fake = discriminator(data["real"]), discriminator(generator(data["latents"]))
    total, _ = by_hand(RelativisticPaired().generator(fake, real).mean(), generator)
    close(stats.generator.total, total)


def test_frozen_parameters_do_not_count():
    generator, discriminator = linear_pair()
    discriminator.layers[0].requires_grad_(False)
    stats = measure(generator, discriminator, NonSaturating(), **batch())
    assert stats.discriminator.parameter_gradients["layers.0"] == 0
    close(stats.discriminator.total, stats.discriminator.parameter_gradients["layers.1"])
    assert list(stats.discriminator.activation_gradients) == ["layers.1"]
    assert all(parameter.grad is None for parameter in discriminator.parameters())


def test_what_explodes_is_not_rounded_to_infinity():
    generator, discriminator = linear_pair(torch.float32)
    with torch.no_grad():
        discriminator.layers[0].weight.mul_(1e15)
        discriminator.layers[1].weight.mul_(1e15)
    stats = measure(generator, discriminator, Wasserstein(), **batch(dtype=torch.float32))
    assert 1e28 < stats.lipschitz < 1e31
    assert 1e28 < stats.generator.total < 1e33


def test_histogram():
    counts = histogram(torch.tensor([1e-20, 0.0, 1.0, 1.5, 9.9e3, 1e9, math.inf, math.nan], dtype=torch.float64))
    assert counts.sum() == 7
    assert counts[0] == 2  # what is too small
    assert counts[-1] == 3
    one = int(torch.argwhere(BINS == 0))
    assert counts[one] == 2  # 1 and 1.5


def test_histograms_count_images():
    generator, discriminator = linear_pair()
    stats = measure(generator, discriminator, NonSaturating(), **batch())
    assert {name: sum(counts) for name, counts in stats.generator.histograms.items()} == {
        "layers.0": 8,
        "layers.1": 8,
    }
    assert all(sum(counts) == 16 for counts in stats.discriminator.histograms.values())
    peak = int(torch.tensor(stats.discriminator.histograms["layers.1"]).argmax())
    assert BINS[peak] <= math.log10(0.5) <= BINS[peak + 1] + 0.25  # |dl/dlogit| of logits near 0 is about a half


# ---------------------------------------------------------------------- nothing happened


def test_nothing_of_training_is_touched():
    """Batch norm, spectral norm, dropout, gradients in waiting, modes, random state."""
    torch.manual_seed(0)
    shape = (1, 8, 8)
    generator = DCGANGenerator(shape, 3, 4, norm="batch")
    discriminator = DCGANDiscriminator(shape, 4, norm="spectral")
    discriminator.output = nn.Sequential(nn.Dropout(0.5), discriminator.output)
    generator.norm2.eval()
    data = batch(8, 3, shape, torch.float32)
    discriminator(generator(data["latents"])).sum().backward()
    networks = nn.ModuleList([generator, discriminator])
    before = {name: value.clone() for name, value in networks.state_dict().items()}
    buffers = {name: id(buffer) for name, buffer in networks.named_buffers()}
    gradients = [(id(parameter.grad), parameter.grad.clone()) for parameter in networks.parameters()]
    modes = [module.training for module in networks.modules()]
    state = torch.get_rng_state()

    penalties = [(R1(1.0), None)]
    first = measure(generator, discriminator, Hinge(), penalties=penalties, seed=1, **data)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        again = measure(generator, discriminator, Hinge(), penalties=penalties, seed=1, **data)
    other = measure(generator, discriminator, Hinge(), penalties=penalties, seed=2, **data)

    after = networks.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert buffers == {name: id(buffer) for name, buffer in networks.named_buffers()}
    for (identity, gradient), parameter in zip(gradients, networks.parameters(), strict=True):
        assert id(parameter.grad) == identity
        assert torch.equal(parameter.grad, gradient)
    assert modes == [module.training for module in networks.modules()]
    assert all(parameter.requires_grad for parameter in networks.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in networks.modules())
    assert again == first  # in float32 even so
    assert other.discriminator.total != first.discriminator.total  # dropout
    assert other.slope_real != first.slope_real


def test_all_is_put_back_when_a_network_fails():
    generator = MLPGenerator(SHAPE, 3)
    generator.append = nn.BatchNorm1d(3)

    class Fails(MLPDiscriminator):
        def forward(self, images: Tensor) -> Tensor:
            generator.append(torch.randn(4, 3))
            raise RuntimeError("no")

    before, discriminator, data = deepcopy(generator), Fails(SHAPE), batch(dtype=torch.float32)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no"):
        measure(generator, discriminator, Hinge(), **data)
    assert torch.equal(state, torch.get_rng_state())
    assert same_weights(before, generator)


def test_slopes_of_single_images():
    torch.manual_seed(0)
    images = torch.randn(5, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(slopes(Bowl(), images), images.flatten(1).norm(dim=1))
    assert not images.requires_grad


def test_slopes_behind_batch_norm():
    """The logits of a batch always have the same sum there, whose gradient is zero: not so those of its images."""
    torch.manual_seed(0)
    discriminator = Pipe(nn.Linear(16, 6), nn.LeakyReLU(0.2), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    norms = slopes(discriminator.double(), torch.randn(6, *SHAPE, dtype=torch.float64))
    assert norms.shape == (6,)
    assert norms.min() > 0.01
