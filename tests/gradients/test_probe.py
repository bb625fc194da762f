"""The probe in any network: published figures of depth, layers, dead units, saturated values, spectral norms."""

import math
from itertools import pairwise

import pytest
import torch
from conftest import mnist
from torch import Tensor, nn

from gan.gradients import Probe, measure
from gan.gradients.measure import network_stats
from gan.gradients.norms import one_process, parameter_gradients
from gan.gradients.probe import largest_singular_value, spectral_norm
from gan.losses import Hinge, NonSaturating
from gan.networks import DCGANDiscriminator, DCGANGenerator
from gan.networks.layers import normalize_weights
from gradients.pairs import SHAPE, batch, by_hand, close, linear_pair

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


def depth_stats(kind: str, depth: int, seed: int):
    """On 256 digits, of their classification."""
    images, labels = mnist()
    network = deep(kind, depth, seed)
    with Probe(network, 256) as probe:
        scores = network(images[:256].float().reshape(-1, 1, 28, 28) / 127.5 - 1)
    loss = nn.functional.cross_entropy(scores, labels[:256].long())
    return network_stats(
        network, probe, {"loss": parameter_gradients(loss, network, [network], one_process)}, one_process
    )


def depth_ratio(kind: str, depth: int) -> float:
    """||dL/dh_1|| over ||dL/dh_depth||, the median of three seeds; the output layer does not count."""
    ratios = []
    for seed in range(3):
        norms = list(depth_stats(kind, depth, seed).activation_gradients.values())
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
    """The trap: small stats that come back meet large activations."""
    measured = depth_stats("tanh", 20, 0)
    flowing, of_weights = list(measured.activation_gradients.values()), list(measured.parameter_gradients.values())
    assert flowing[0] / flowing[-2] < 1e-3
    assert 0.1 < of_weights[1] / of_weights[-2] < 10


def test_what_has_vanished_is_not_rounded_to_zero():
    """At depth 30 the squares of a sigmoid's gradients are below all float32 numbers."""
    norms = list(depth_stats("sigmoid", 30, 0).activation_gradients.values())
    assert 0 < norms[0] < 1e-22


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
    sums = [8 * gradient.square().sum() for gradient in gradients]  # (8 g)^2 / 8
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
    stats = measure(DCGANGenerator((1, 8, 8), 3, 4), discriminator, Hinge(), **batch(8, 3, (1, 8, 8), torch.float32))
    names = ["down1", "down2", "down3", "output"]
    for layers in (stats.discriminator.parameter_gradients, stats.discriminator.spectral_norms):
        assert list(layers) == names
    assert all(value > 0 for value in stats.discriminator.parameter_gradients.values())
    close(stats.discriminator.total, math.hypot(*stats.discriminator.parameter_gradients.values()))


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
def test_dead_units(kind):
    data, network = batch(), pinned(kind)
    data["real"][:, 0, 0, 0] = -0.5
    stats = measure(Constant(-3.0), network, Hinge(), **data)
    assert stats.discriminator.dead == {"linear": 0.5}
    assert stats.discriminator.dead_share == 0.5
    stats = measure(Constant(3.0), network, Hinge(), **data)  # generated images wake the second
    assert stats.discriminator.dead == {"linear": 0.25}
    data["real"][3, 0, 0, 0] = 0.5  # or one real image does
    stats = measure(Constant(-3.0), network, Hinge(), **data)
    assert stats.discriminator.dead == {"linear": 0.25}


def test_no_unit_is_dead_without_a_relu():
    stats = measure(Constant(-3.0), pinned("leaky"), Hinge(), **batch())
    assert stats.discriminator.dead == {}


def test_a_unit_of_a_convolution_is_a_channel():
    network = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 1), nn.Flatten(0))
    network.double()
    with torch.no_grad():
        network[0].bias.copy_(torch.tensor([-100.0, -100.0, 100.0, 100.0, 100.0]))
        network[0].weight[4].zero_()
    stats = measure(linear_pair()[0], network, Hinge(), **batch())
    assert stats.discriminator.dead == {"0": 0.4}


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
    stats = measure(generator, linear_pair()[1], Hinge(), **batch())
    assert stats.generator.saturated_share == 0.75 * share
    assert stats.generator.saturated == ({} if squash is torch.sin else {"input": 0.75 * share})


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
