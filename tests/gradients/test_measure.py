"""GradientStats against mathematics by hand, published figures, and a second way to compute them."""

import math
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from conftest import mnist, same_weights
from torch import Tensor, nn

from gan.gradients import BINS, Probe, measure, updates, weights
from gan.gradients.measure import histogram, slopes, summary
from gan.gradients.norms import alone, parameter_gradients, set_aside
from gan.gradients.probe import largest_singular_value, spectral_norm
from gan.losses import Hinge, NonSaturating, RelativisticPaired, Saturating, Wasserstein
from gan.networks import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator
from gan.networks.layers import normalize_weights
from gan.penalties import DRAGAN, R1, R2

SHAPE = (1, 4, 4)


class Pipe(nn.Module):
    """Any layers as a network: latents to images, or images to logits."""

    def __init__(self, *layers: nn.Module, shape: tuple[int, ...] = ()):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1)).reshape(len(x), *self.shape)


def linear_pair(dtype=torch.float64) -> tuple[Pipe, Pipe]:
    torch.manual_seed(1)
    generator = Pipe(nn.Linear(3, 5), nn.Linear(5, 16), shape=SHAPE)
    return generator.to(dtype), Pipe(nn.Linear(16, 6), nn.Linear(6, 1)).to(dtype)


def batch(num=8, latent_dim=3, shape=SHAPE, dtype=torch.float64) -> dict[str, Tensor]:
    torch.manual_seed(2)
    return {
        "real": torch.rand(num, *shape, dtype=dtype) * 2 - 1,
        "latents": torch.randn(num, latent_dim, dtype=dtype),
        "mix": torch.rand(num, *(1,) * len(shape), dtype=dtype),
    }


def close(measured, expected, rtol=1e-9):
    assert measured == pytest.approx(expected, rel=rtol, abs=0)


# ---------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("num", [8, 3])
def test_linear_networks_by_hand(one_pass, num):
    generator, discriminator = linear_pair()
    data = batch(num)
    signals = measure(generator, discriminator, NonSaturating(), one_pass=one_pass, step=7, **data)
    assert signals.step == 7
    (w1, b1), (w2, b2) = ((one.weight, one.bias) for one in generator.layers)
    (v1, c1), (v2, c2) = ((one.weight, one.bias) for one in discriminator.layers)
    with torch.no_grad():
        hidden = data["latents"] @ w1.T + b1
        fake = hidden @ w2.T + b2
        real = data["real"].flatten(1)
        real_hidden, fake_hidden = real @ v1.T + c1, fake @ v1.T + c1
        real_logits, fake_logits = ((one @ v2.T + c2).squeeze(1) for one in (real_hidden, fake_hidden))
        slope = (v2 @ v1).squeeze(0)  # dD/dx, everywhere

        # dl/dlogit of each image: of G's loss, and of D's at reals and fakes.
        of_g, at_real, at_fake = -torch.sigmoid(-fake_logits), -torch.sigmoid(-real_logits), torch.sigmoid(fake_logits)
        close(signals.image_gradient, (of_g.abs() * slope.norm()).mean().item())
        for value in (signals.slope_real, signals.slope_fake, signals.slope_between, signals.lipschitz):
            close(value, slope.norm().item())

        g, d = signals.generator, signals.discriminator
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
        for one in (g, d):
            close(one.total, math.hypot(*one.parameter_gradients.values()))
            assert one.terms == {"adversarial": one.total}
            assert (one.dead, one.saturated, one.dead_share, one.saturated_share) == ({}, {}, 0, 0)

        close(signals.accuracy_real, (real_logits > 0).double().mean().item())
        close(signals.accuracy_fake, (fake_logits < 0).double().mean().item())
        close(signals.logit_real, real_logits.mean().item())
        close(signals.logit_fake, fake_logits.mean().item())
        close(signals.logit_gap, (real_logits - fake_logits).mean().item())
        close(signals.range_real, (real.min().item(), real.max().item()))
        close(signals.range_fake, (fake.min().item(), fake.max().item()))
        close(signals.extreme_real, (real.abs() > 0.99).double().mean().item())
        close(signals.extreme_fake, (fake.abs() > 0.99).double().mean().item())
        for spread, images in ((signals.spread_real, real), (signals.spread_fake, fake)):
            close(spread, nn.functional.pdist(images.flatten(1)).square().mean().sqrt().item())


def test_what_the_generator_gets_from_a_sure_discriminator():
    """Saturating: sigmoid(l) of what comes back; non-saturating: all of it (Goodfellow et al. 2014)."""
    generator, discriminator = linear_pair()
    with torch.no_grad():
        discriminator.layers[1].bias.fill_(-20.0)
    shares = {}
    for loss in (Saturating(), NonSaturating()):
        signals = measure(generator, discriminator, loss, **batch())
        shares[type(loss)] = signals.image_gradient / signals.slope_fake
        assert signals.accuracy_fake == 1
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
    signals = measure(generator, Bowl(), Wasserstein(), **data)
    lengths = [one.flatten(1).norm(dim=1) for one in (data["real"], fake, between)]
    for measured, expected in zip(
        (signals.slope_real, signals.slope_fake, signals.slope_between), lengths, strict=True
    ):
        close(measured, expected.mean().item())
    close(signals.lipschitz, torch.cat(lengths).max().item())
    assert len({signals.slope_real, signals.slope_fake, signals.slope_between}) == 3
    assert list(signals.discriminator.parameter_gradients) == ["self"]  # a parameter of the network itself
    close(signals.discriminator.total, abs(lengths[1].square().mean() - lengths[0].square().mean()).item() / 2)


# ---------------------------------------------------------------------- published figures


def deep(kind: str, depth: int, seed: int, width: int = 128) -> nn.Module:
    """The networks of the depth plots: of Glorot & Bengio 2010, He et al. 2015, Ioffe & Szegedy 2015."""
    torch.manual_seed(seed)
    sizes = [784] + [width] * depth
    layers = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs, bias=kind == "sigmoid")
        if kind == "relu he":
            nn.init.kaiming_normal_(linear.weight)
        elif kind in ("relu xavier", "tanh xavier"):
            nn.init.xavier_normal_(linear.weight)
        elif kind == "tanh":
            nn.init.uniform_(linear.weight, -(inputs**-0.5), inputs**-0.5)
        elif kind == "relu .02":
            nn.init.normal_(linear.weight, 0, 0.02)
        layers.append(linear)
        if "bn" in kind:
            layers.append(nn.BatchNorm1d(outputs))
        layers.append({"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}[kind.split()[0]]())
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, 10))


def depth_signals(kind: str, depth: int, seed: int):
    """On 256 digits, of their classification."""
    images, labels = mnist()
    network = deep(kind, depth, seed)
    with Probe(network, 256) as probe:
        scores = network(images[:256].float().reshape(-1, 1, 28, 28) / 127.5 - 1)
    loss = nn.functional.cross_entropy(scores, labels[:256].long())
    return summary(network, probe, {"loss": parameter_gradients(loss, network, [network], alone)}, alone)


def depth_ratio(kind: str, depth: int) -> float:
    """||dL/dh_1|| over ||dL/dh_depth||, the median of three seeds; the output layer does not count."""
    ratios = []
    for seed in range(3):
        norms = list(depth_signals(kind, depth, seed).activation_gradients.values())
        ratios.append(norms[0] / norms[-2])
    return sorted(ratios)[1]


@pytest.mark.parametrize(
    ("kind", "depth", "low", "high"),
    [
        ("sigmoid", 5, 1e-5, 1e-2),
        ("sigmoid", 20, 1e-20, 1e-10),
        ("relu he", 20, 0.3, 3),
        ("relu .02", 10, 1e-9, 1e-5),
        ("tanh xavier", 20, 0.05, 0.8),
        ("tanh", 20, 1e-6, 1e-3),
        ("sigmoid bn", 20, 0.3, 10),
        ("relu bn", 20, 5, 300),
    ],
)
def test_gradients_through_depth(kind, depth, low, high):
    assert low < depth_ratio(kind, depth) < high


def test_relu_under_xavier_halves_the_square_at_each_layer():
    slope = (math.log2(depth_ratio("relu xavier", 20)) - math.log2(depth_ratio("relu xavier", 5))) / 15
    assert -0.6 < slope < -0.4


def test_gradients_of_weights_miss_it():
    """The trap: small signals that come back meet large activations."""
    measured = depth_signals("tanh", 20, 0)
    flowing, of_weights = list(measured.activation_gradients.values()), list(measured.parameter_gradients.values())
    assert flowing[0] / flowing[-2] < 1e-3
    assert 0.1 < of_weights[1] / of_weights[-2] < 10


def test_what_has_vanished_is_not_rounded_to_zero():
    """At depth 30 the squares of a sigmoid's gradients are below all float32 numbers."""
    norms = list(depth_signals("sigmoid", 30, 0).activation_gradients.values())
    assert 0 < norms[0] < 1e-22


def test_what_explodes_is_not_rounded_to_infinity():
    generator, discriminator = linear_pair(torch.float32)
    with torch.no_grad():
        discriminator.layers[0].weight.mul_(1e15)
        discriminator.layers[1].weight.mul_(1e15)
    signals = measure(generator, discriminator, Wasserstein(), **batch(dtype=torch.float32))
    assert 1e28 < signals.lipschitz < 1e31
    assert 1e28 < signals.generator.total < 1e33


# ---------------------------------------------------------------------- a second way


def by_hand(objective: Tensor, network: nn.Module) -> tuple[float, dict[str, float]]:
    for parameter in network.parameters():
        parameter.grad = None
    objective.backward()
    norms = {name: one.grad.double().norm().item() for name, one in network.named_parameters() if one.grad is not None}
    return math.hypot(*norms.values()), norms


def test_terms_and_totals_against_backward():
    torch.manual_seed(0)
    shape = (1, 8, 8)
    generator, discriminator = DCGANGenerator(shape, 5, 4), DCGANDiscriminator(shape, 4)
    data = batch(8, 5, shape, torch.float32)
    r1, dragan, noise = R1(3.0, every=4), DRAGAN(2.0), torch.rand(8, *shape)
    arguments = {"penalties": [(r1, None), (dragan, noise)], **data}
    signals = measure(generator, discriminator, Hinge(), **arguments)

    fake = generator(data["latents"])
    total, norms = by_hand(-discriminator(fake).mean(), generator)
    g, d = signals.generator, signals.discriminator
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
    signals = measure(generator, discriminator, RelativisticPaired(), **data)
    real, fake = discriminator(data["real"]), discriminator(generator(data["latents"]))
    total, _ = by_hand(RelativisticPaired().generator(fake, real).mean(), generator)
    close(signals.generator.total, total)


def test_frozen_parameters_do_not_count():
    generator, discriminator = linear_pair()
    discriminator.layers[0].requires_grad_(False)
    signals = measure(generator, discriminator, NonSaturating(), **batch())
    assert signals.discriminator.parameter_gradients["layers.0"] == 0
    close(signals.discriminator.total, signals.discriminator.parameter_gradients["layers.1"])
    assert list(signals.discriminator.activation_gradients) == ["layers.1"]
    assert all(parameter.grad is None for parameter in discriminator.parameters())


# ---------------------------------------------------------------------- any network


class Odd(nn.Module):
    """A layer that runs twice, one that never does, a tuple, in-place ReLUs, a module that is not used as one."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.last = nn.Linear(16, 1)
        self.shared = nn.Linear(16, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.gain = nn.Parameter(torch.ones(1))
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        x = self.shared(images.flatten(1)).relu_()
        x = self.shared(x).relu_()
        x, _ = self.attention(*(x[:, None],) * 3)
        return self.last(x[:, 0]).squeeze(1) * self.gain


def test_layers_of_any_network():
    torch.manual_seed(0)
    generator, _ = linear_pair()
    network, data = Odd(), batch()
    measured = measure(generator, network, NonSaturating(), **data).discriminator
    order = ["shared", "attention", "last", "self"]  # of execution, not of definition
    assert list(measured.parameter_gradients) == order
    assert list(measured.activation_gradients) == order

    # By hand, without in-place operations.
    images = torch.cat([data["real"], generator(data["latents"]).detach()])
    first = network.shared(images.flatten(1))
    second = network.shared(first.relu())
    x, _ = network.attention(*(second.relu()[:, None],) * 3)
    logits = network.last(x[:, 0]).squeeze(1) * network.gain
    objective = NonSaturating().discriminator(*logits.chunk(2)).mean()
    gradients = torch.autograd.grad(objective, [first, second, x], retain_graph=True)
    sums = [8 * one.square().sum() for one in gradients]  # (8 g)^2 / 8
    close(measured.activation_gradients["shared"], (sums[0] + sums[1]).sqrt().item())
    close(measured.activation_gradients["attention"], sums[2].sqrt().item())
    total, norms = by_hand(objective, network)
    close(measured.total, total)
    inside = [norm for name, norm in norms.items() if name.startswith("attention.")]
    assert len(inside) == 4  # those of attention.out_proj too, which attention uses without calling it
    close(measured.parameter_gradients["attention"], math.hypot(*inside))
    assert measured.spectral_norms.keys() == {"shared", "attention", "last"}


def test_parametrized_layers_are_layers():
    torch.manual_seed(0)
    discriminator = DCGANDiscriminator((1, 8, 8), 4, norm="spectral")
    signals = measure(DCGANGenerator((1, 8, 8), 3, 4), discriminator, Hinge(), **batch(8, 3, (1, 8, 8), torch.float32))
    names = ["down1", "down2", "down3", "output"]
    for layers in (signals.discriminator.parameter_gradients, signals.discriminator.spectral_norms):
        assert list(layers) == names
    assert all(value > 0 for value in signals.discriminator.parameter_gradients.values())
    close(signals.discriminator.total, math.hypot(*signals.discriminator.parameter_gradients.values()))


# ---------------------------------------------------------------------- dead and saturated


def pinned(kind: str) -> nn.Module:
    """Of four units, one is 0 on all images and one on those whose first pixel is not above 0."""

    class Units(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 4).double()
            self.output = nn.Linear(4, 1).double()
            self.relu = nn.ReLU(inplace=kind == "inplace")
            with torch.no_grad():
                self.linear.weight.zero_()
                self.linear.bias.copy_(torch.tensor([-1.0, 0.0, 2.0, 3.0]))
                self.linear.weight[1, 0] = 1.0

        def forward(self, images: Tensor) -> Tensor:
            x = self.linear(images.flatten(1))
            if kind == "function":
                x = nn.functional.relu(x)
            elif kind == "clamp":
                x = x.clamp(min=0)
            elif kind == "relu6":
                x = nn.functional.relu6(x)
            elif kind == "leaky":
                x = nn.functional.leaky_relu(x)
            else:
                x = self.relu(x)
            return self.output(x).squeeze(1)

    return Units()


class Constant(nn.Module):
    """Images of one value."""

    def __init__(self, value: float, squash=torch.tanh):
        super().__init__()
        self.value = nn.Parameter(torch.full((16,), value, dtype=torch.float64))
        self.squash = squash

    def forward(self, latents: Tensor) -> Tensor:
        return self.squash(self.value.expand(len(latents), 16)).reshape(-1, *SHAPE)


@pytest.mark.parametrize("kind", ["function", "module", "inplace", "clamp", "relu6"])
@pytest.mark.parametrize("one_pass", [True, False])
def test_dead_units(kind, one_pass):
    data, network = batch(), pinned(kind)
    data["real"][:, 0, 0, 0] = -0.5
    signals = measure(Constant(-3.0), network, Hinge(), one_pass=one_pass, **data)
    assert signals.discriminator.dead == {"linear": 0.5}
    assert signals.discriminator.dead_share == 0.5
    signals = measure(Constant(3.0), network, Hinge(), one_pass=one_pass, **data)  # generated images wake the second
    assert signals.discriminator.dead == {"linear": 0.25}
    data["real"][3, 0, 0, 0] = 0.5  # or one real image does
    signals = measure(Constant(-3.0), network, Hinge(), one_pass=one_pass, **data)
    assert signals.discriminator.dead == {"linear": 0.25}


def test_no_unit_is_dead_without_a_relu():
    signals = measure(Constant(-3.0), pinned("leaky"), Hinge(), **batch())
    assert signals.discriminator.dead == {}


def test_a_unit_of_a_convolution_is_a_channel():
    network = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 1), nn.Flatten(0))
    network.double()
    with torch.no_grad():
        network[0].bias.copy_(torch.tensor([-100.0, -100.0, 100.0, 100.0, 100.0]))
        network[0].weight[4].zero_()
    signals = measure(linear_pair()[0], network, Hinge(), **batch())
    assert signals.discriminator.dead == {"0": 0.4}


@pytest.mark.parametrize(
    ("value", "squash", "share"),
    [
        (2.6, torch.tanh, 0),
        (2.7, torch.tanh, 1),
        (-2.7, torch.tanh, 1),
        (5.2, torch.sigmoid, 0),
        (5.4, torch.sigmoid, 1),
        (-5.4, torch.sigmoid, 1),
        (-5.4, torch.sin, 0),
    ],
)
def test_saturated_values(value, squash, share):
    generator = Constant(value, squash)
    with torch.no_grad():
        generator.value[:4] = 0  # a quarter is not
    signals = measure(generator, linear_pair()[1], Hinge(), **batch())
    assert signals.generator.saturated_share == 0.75 * share
    assert signals.generator.saturated == ({} if squash is torch.sin else {"input": 0.75 * share})


# ---------------------------------------------------------------------- weights


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e25, 0.0])
@pytest.mark.parametrize(
    "layer", [nn.Linear(30, 7), nn.Conv2d(5, 9, 3), nn.ConvTranspose2d(5, 9, 4), nn.Embedding(9, 4)]
)
def test_spectral_norm_against_svd(layer, scale):
    torch.manual_seed(0)
    nn.init.normal_(layer.weight)
    weight = layer.weight.detach().double()
    weight = weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight
    expected = torch.linalg.svdvals(weight.flatten(1))[0].item() * scale
    with torch.no_grad():
        layer.weight.mul_(scale)
    assert largest_singular_value(layer) == pytest.approx(expected, rel=1e-5)


def test_spectral_norm_of_what_is_normalised_is_one():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 4, 3))
    normalize_weights(layers, "spectral")
    for _ in range(200):
        layers(torch.zeros(1, 4, 5, 5))  # its estimates come near
    for layer in layers:
        assert largest_singular_value(layer) == pytest.approx(1, abs=1e-3)


def test_spectral_norm_of_nothing():
    assert largest_singular_value(nn.BatchNorm2d(3)) is None
    assert math.isnan(spectral_norm(torch.tensor([[1.0, math.nan]])))


def test_updates():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1, bias=False)).double()
    network[2].weight.requires_grad_(False)
    before = weights(network)
    with torch.no_grad():
        network[0].weight.mul_(1.25)
        network[0].bias.mul_(1.25)
        network[1].bias.add_(0.5)
        network[2].weight.mul_(9.0)  # frozen
    total, ratios = updates(network, before, ["0", "1"])
    close(ratios["0"], 0.25)
    close(ratios["1"], 0.5)  # 4 values of .5, over 4 scales of 1
    linear = torch.cat([one.flatten() for one in before[:2]]).norm().item()
    close(total, math.hypot(0.25 * linear, 1.0) / math.hypot(linear, 2.0))
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    total, ratios = updates(network, weights(network), ["0", "1"])
    assert math.isnan(total)
    assert ratios == {}


def test_histogram():
    counts = histogram(torch.tensor([1e-20, 0.0, 1.0, 1.5, 9.9e3, 1e9, math.inf, math.nan], dtype=torch.float64))
    assert counts.sum() == 7
    assert counts[0] == 2  # what is too small
    assert counts[-1] == 3
    one = int(torch.argwhere(BINS == 0))
    assert counts[one] == 2  # 1 and 1.5


def test_histograms_count_images():
    generator, discriminator = linear_pair()
    signals = measure(generator, discriminator, NonSaturating(), **batch())
    assert {name: sum(counts) for name, counts in signals.generator.histograms.items()} == {
        "layers.0": 8,
        "layers.1": 8,
    }
    assert all(sum(counts) == 16 for counts in signals.discriminator.histograms.values())
    low, high = (int(one.argmax()) for one in (torch.tensor(signals.discriminator.histograms["layers.1"]),) * 2)
    assert BINS[low] <= math.log10(0.5) <= BINS[high + 1] + 0.25  # |dl/dlogit| of logits near 0 is about a half


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
    buffers = {name: id(one) for name, one in networks.named_buffers()}
    gradients = [(id(one.grad), one.grad.clone()) for one in networks.parameters()]
    modes = [module.training for module in networks.modules()]
    state = torch.get_rng_state()

    penalties = [(R1(1.0), None)]
    first = measure(generator, discriminator, Hinge(), penalties=penalties, seed=1, **data)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        again = measure(generator, discriminator, Hinge(), penalties=penalties, seed=1, **data)
    other = measure(generator, discriminator, Hinge(), penalties=penalties, seed=2, **data)

    after = networks.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert buffers == {name: id(one) for name, one in networks.named_buffers()}
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


def test_gradients_in_waiting_are_set_aside():
    network, gradient = nn.Linear(2, 1), torch.ones(1, 2)
    network.weight.grad = gradient
    with set_aside([network]):
        assert network.weight.grad is None
        network(torch.zeros(1, 2)).sum().backward()
    assert network.weight.grad is gradient
    assert network.bias.grad is None


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
