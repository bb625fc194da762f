"""The shipped networks: shapes, ranges, gradients, normalisation, copies, export."""

import copy
from typing import get_args

import pytest
import torch
from torch import nn

from gan.networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    Norm,
    R3GANDiscriminator,
    R3GANGenerator,
    ResNetDiscriminator,
    ResNetGenerator,
)
from gan.penalties import mixes_batch

MNIST = (1, 28, 28)
NORMS = get_args(Norm)
GENERATORS = (MLPGenerator, DCGANGenerator, ResNetGenerator, R3GANGenerator)
DISCRIMINATORS = (MLPDiscriminator, DCGANDiscriminator, ResNetDiscriminator, R3GANDiscriminator)
CONVOLUTIONAL = (DCGANGenerator, DCGANDiscriminator, ResNetGenerator, ResNetDiscriminator)
GROUPED = (R3GANGenerator, R3GANDiscriminator)
# Every network under every normalisation that it has.
EVERY = [(cls, {}) for cls in (MLPGenerator, MLPDiscriminator)]
EVERY += [(cls, {"norm": norm, "base_channels": 8}) for cls in CONVOLUTIONAL for norm in NORMS]
EVERY += [(cls, {"base_channels": 8, "blocks": 1}) for cls in GROUPED]
ATTENTION = {"base_channels": 8, "attention_resolution": 14}
EVERY += [(cls, {"norm": norm, **ATTENTION}) for cls in CONVOLUTIONAL for norm in ("group", "spectral")]
EVERY += [(cls, {"norm": "none", "base_channels": 8, "minibatch_std": True}) for cls in CONVOLUTIONAL[1::2]]
SIZES = [
    MNIST,
    (3, 32, 32),
    (1, 28, 32),
    (2, 8, 12),
    (1, 16, 16),
    (3, 48, 64),
    (3, 64, 64),
    (3, 128, 128),
    (1, 256, 256),
]


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


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("image_shape", SIZES)
@pytest.mark.parametrize("cls", GENERATORS)
def test_generator_makes_images_in_range(cls, image_shape, n):
    generator = cls(image_shape=image_shape, latent_dim=7, **({} if cls is MLPGenerator else {"base_channels": 8}))
    assert generator.latent_dim == 7
    assert generator.image_shape == image_shape
    images = generator(100 * torch.randn(n, 7))  # far from N(0, 1), to reach for the ends of the range
    assert images.shape == (n, *image_shape)
    assert images.dtype == torch.float32
    assert images.min() >= -1
    assert images.max() <= 1
    assert images.min() < 0 < images.max()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("image_shape", SIZES)
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
    for _ in range(2):  # a branch that ends in zeros, residual or attention, passes no gradient before its first step
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
def test_images_of_a_batch_are_mixed_by_batch_norm_and_minibatch_std_alone(cls, kwargs):
    network = cls(MNIST, **kwargs)
    inputs = inputs_of(network, 3).requires_grad_()
    outputs = network(inputs)[0]
    (gradient,) = torch.autograd.grad((outputs * torch.randn_like(outputs)).sum(), inputs)
    assert gradient[0].abs().max() > 0
    assert (gradient[1:].abs().max() > 0) == (kwargs.get("norm") == "batch" or "minibatch_std" in kwargs)
    assert mixes_batch(network) == (gradient[1:].abs().max() > 0)


@pytest.mark.parametrize(
    ("cls", "image_shape"),
    [(cls, shape) for cls in CONVOLUTIONAL + GROUPED for shape in [(1, 30, 28), (1, 28, 30), (3, 4, 4)]]
    + [(cls, shape) for cls in GENERATORS + DISCRIMINATORS for shape in [(28, 28), (0, 28, 28), (1, 28.0, 28)]],
)
def test_bad_image_shape_is_named(cls, image_shape):
    with pytest.raises(ValueError, match="image_shape"):
        cls(image_shape)


@pytest.mark.slow  # tests/test_generate.py has one of them in the default suite
@parametrize_networks([(cls, kwargs) for cls, kwargs in EVERY if cls in GENERATORS])
def test_generator_exports_with_any_batch_size(cls, kwargs):
    generator = cls(MNIST, **kwargs).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(generator, (torch.randn(2, generator.latent_dim),), dynamic_shapes=({0: batch},))
    for n in (1, 5):
        z = torch.randn(n, generator.latent_dim)
        torch.testing.assert_close(program.module()(z), generator(z))


@pytest.mark.parametrize("cls", CONVOLUTIONAL + GROUPED)
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
