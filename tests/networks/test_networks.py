"""The shipped networks: shapes, ranges, gradients, normalisation, copies, export."""

import copy
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from gan.networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    Norm,
    ResidualBlock,
    ResNetDiscriminator,
    ResNetGenerator,
)
from gan.networks.layers import normalization

MNIST = (1, 28, 28)
NORMS = get_args(Norm)
GENERATORS = (MLPGenerator, DCGANGenerator, ResNetGenerator)
DISCRIMINATORS = (MLPDiscriminator, DCGANDiscriminator, ResNetDiscriminator)
CONVOLUTIONAL = (DCGANGenerator, DCGANDiscriminator, ResNetGenerator, ResNetDiscriminator)
# Every network under every normalisation that it has.
EVERY = [(cls, {}) for cls in (MLPGenerator, MLPDiscriminator)]
EVERY += [(cls, {"norm": norm, "base_channels": 8}) for cls in CONVOLUTIONAL for norm in NORMS]


def parametrize_networks(cases):
    ids = ["-".join([cls.__name__, *map(str, kwargs.values())]) for cls, kwargs in cases]
    return pytest.mark.parametrize(("cls", "kwargs"), cases, ids=ids)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():  # networks as small as these lose more by waiting for threads than they gain
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def inputs_of(network: nn.Module, n: int) -> torch.Tensor:
    latent_dim = getattr(network, "latent_dim", None)
    return torch.randn(n, latent_dim) if latent_dim else torch.rand(n, *network.image_shape) * 2 - 1


def weighted_layers(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("image_shape", [MNIST, (3, 32, 32), (1, 28, 32), (2, 8, 12)])
@pytest.mark.parametrize("cls", GENERATORS)
def test_generator_makes_images_in_range(cls, image_shape, n):
    generator = cls(image_shape=image_shape, latent_dim=7)
    assert generator.latent_dim == 7
    assert generator.image_shape == image_shape
    images = generator(100 * torch.randn(n, 7))  # far from N(0, 1), to reach for the ends of the range
    assert images.shape == (n, *image_shape)
    assert images.dtype == torch.float32
    assert images.min() >= -1
    assert images.max() <= 1
    assert images.min() < 0 < images.max()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("image_shape", [MNIST, (3, 32, 32), (1, 28, 32), (2, 8, 12)])
@pytest.mark.parametrize("cls", DISCRIMINATORS)
def test_discriminator_makes_one_unbounded_logit_per_image(cls, image_shape, n):
    discriminator = cls(image_shape=image_shape)
    assert discriminator.image_shape == image_shape
    logits = discriminator(1e4 * torch.randn(n, *image_shape))
    assert logits.shape == (n,)
    assert logits.dtype == torch.float32
    assert logits.abs().max() > 1


@parametrize_networks(EVERY)
def test_gradients_reach_every_parameter(cls, kwargs):
    network = cls(MNIST, **kwargs)
    for _ in range(2):  # a residual branch that ends in zeros passes no gradient before its first step
        network.zero_grad()
        outputs = network(inputs_of(network, 4))
        (outputs * torch.randn_like(outputs)).sum().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.01 * parameter.grad
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@parametrize_networks(EVERY)
def test_copies_are_equal_and_independent(cls, kwargs):
    network = cls(MNIST, **kwargs)
    inputs = inputs_of(network, 4)
    network(inputs).sum().backward()  # training mode: batch statistics and power iterations have moved
    twin = copy.deepcopy(network)
    loaded = cls(MNIST, **kwargs)
    loaded.load_state_dict(network.state_dict())
    outputs = network.eval()(inputs)
    for other in (twin, loaded):
        torch.testing.assert_close(other.eval()(inputs), outputs, rtol=0, atol=0)
        for (name, mine), theirs in zip(network.named_parameters(), other.parameters(), strict=True):
            assert theirs.stride() == mine.stride(), name  # channels_last
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 1
    torch.testing.assert_close(network(inputs), outputs, rtol=0, atol=0)
    assert not torch.allclose(twin(inputs), outputs)


@parametrize_networks(EVERY)
def test_double(cls, kwargs):
    network = cls(MNIST, **kwargs).eval()
    inputs = inputs_of(network, 2)
    single = network(inputs)
    double = network.double()(inputs.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-3, atol=1e-5)


@parametrize_networks(EVERY)
def test_images_of_a_batch_are_mixed_by_batch_norm_alone(cls, kwargs):
    network = cls(MNIST, **kwargs)
    inputs = inputs_of(network, 3).requires_grad_()
    outputs = network(inputs)[0]
    (gradient,) = torch.autograd.grad((outputs * torch.randn_like(outputs)).sum(), inputs)
    assert gradient[0].abs().max() > 0
    assert (gradient[1:].abs().max() > 0) == (kwargs.get("norm") == "batch")


@pytest.mark.parametrize("cls", CONVOLUTIONAL)
def test_spectral_norm_holds_every_weight_at_one(cls):
    for layer in weighted_layers(cls(MNIST, norm="spectral", base_channels=8)):
        assert parametrize.is_parametrized(layer, "weight")
        nn.init.normal_(layer.parametrizations.weight.original, std=3)
        for _ in range(100):
            _ = layer.weight  # one power iteration, as in a forward in training mode
        transposed = isinstance(layer, nn.ConvTranspose2d)
        matrix = (layer.weight.transpose(0, 1) if transposed else layer.weight).flatten(1)
        assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "spectral"])
@pytest.mark.parametrize("cls", CONVOLUTIONAL)
def test_weights_are_left_alone_unless_spectral(cls, norm):
    assert not any(parametrize.is_parametrized(m) for m in cls(MNIST, norm=norm).modules())


def test_article_pair_has_the_sizes_of_the_article():
    def parameters(network):
        return sum(parameter.numel() for parameter in network.parameters())

    assert parameters(MLPGenerator(MNIST)) == 100 * 128 + 128 + 128 * 256 + 256 + 256 * 784 + 784 == 247_440
    assert parameters(MLPDiscriminator(MNIST)) == 784 * 256 + 256 + 256 * 128 + 128 + 128 * 1 + 1 == 233_985


@pytest.mark.parametrize("cls", [ResNetGenerator, ResNetDiscriminator])
def test_unnormalised_residual_blocks_start_as_their_shortcut(cls):
    def starts_as_shortcut(block):
        x = torch.randn(2, block.conv1.in_channels, 6, 6)
        return torch.equal(block(x), F.leaky_relu(block.shortcut(x), block.slope))

    for norm in NORMS:
        blocks = [m for m in cls(MNIST, norm=norm).modules() if isinstance(m, ResidualBlock)]
        assert [starts_as_shortcut(block) for block in blocks] == [norm == "none"] * 2, norm


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "group"])
def test_residual_pair_starts_at_unit_scale(norm):
    images = ResNetGenerator(MNIST, norm=norm)(torch.randn(64, 100))
    assert 0.2 < images.std() < 0.9  # neither flat nor saturated
    logits = ResNetDiscriminator(MNIST, norm=norm)(torch.randn(64, *MNIST))
    assert 0.1 < logits.square().mean().sqrt() < 4


def test_no_bias_before_batch_norm():
    for cls in CONVOLUTIONAL:
        network = cls(MNIST, norm="batch")
        without = [name for name, m in network.named_modules() if getattr(m, "bias", "") is None]
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        after_linear = cls in (DCGANGenerator, ResNetGenerator)  # whose bias differs by position
        assert len(without) == len(norms) - after_linear
        assert all(layer.bias is not None for layer in weighted_layers(cls(MNIST, norm="none")))


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8, 12, 32, 64, 100])
def test_groups_hold_at_least_two_channels(channels):
    layer = normalization("group", channels)
    assert channels % layer.num_groups == 0
    assert layer.num_groups <= 8
    assert layer.num_groups == 1 or channels // layer.num_groups >= 2
    assert layer(torch.randn(2, channels, 3, 3)).shape == (2, channels, 3, 3)


@pytest.mark.parametrize(
    ("cls", "image_shape"),
    [(cls, shape) for cls in CONVOLUTIONAL for shape in [(1, 30, 28), (1, 28, 30), (3, 4, 4)]]
    + [(cls, shape) for cls in GENERATORS + DISCRIMINATORS for shape in [(28, 28), (0, 28, 28), (1, 28.0, 28)]],
)
def test_bad_image_shape_is_named(cls, image_shape):
    with pytest.raises(ValueError, match="image_shape"):
        cls(image_shape)


def test_error_says_which_size_would_do():
    with pytest.raises(ValueError, match=r"\(1, 30, 5\).* to 32x8, or use MLPGenerator"):
        DCGANGenerator((1, 30, 5))
    MLPGenerator((1, 30, 5))(torch.randn(2, 100))
    MLPDiscriminator((1, 30, 5))(torch.randn(2, 1, 30, 5))


@pytest.mark.parametrize("cls", GENERATORS)
def test_bad_latent_dim_is_named(cls):
    with pytest.raises(ValueError, match="latent_dim"):
        cls(MNIST, latent_dim=0)


@pytest.mark.parametrize("cls", CONVOLUTIONAL)
def test_unknown_norm_lists_the_known(cls):
    with pytest.raises(ValueError, match="batch, layer, group, spectral, none, got 'instance'"):
        cls(MNIST, norm="instance")


@parametrize_networks([(cls, kwargs) for cls, kwargs in EVERY if cls in GENERATORS])
def test_generator_exports_with_any_batch_size(cls, kwargs):
    generator = cls(MNIST, **kwargs).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(generator, (torch.randn(2, 100),), dynamic_shapes=({0: batch},))
    for n in (1, 5):
        z = torch.randn(n, 100)
        torch.testing.assert_close(program.module()(z), generator(z))


@pytest.mark.parametrize("cls", CONVOLUTIONAL)
def test_channels_last_trains_as_contiguous(cls):
    """Fused Adam walks through memory: parameters, gradients and its own state must lie in the same order."""
    network = cls(MNIST, base_channels=8).double()
    contiguous = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    assert any(p.stride() != q.stride() for p, q in zip(network.parameters(), contiguous.parameters(), strict=True))
    inputs = inputs_of(network, 4).double()
    target = torch.randn_like(network(inputs))
    for other in (network, contiguous):
        optimizer = torch.optim.Adam(other.parameters(), lr=1e-2, fused=True)
        for _ in range(2):
            optimizer.zero_grad()
            (other(inputs) * target).sum().backward()
            optimizer.step()
    for (name, p), q in zip(network.named_parameters(), contiguous.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name)
