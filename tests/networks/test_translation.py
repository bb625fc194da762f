"""The pair that is told a source image: what reaches what, and what a patch sees."""

import copy
from typing import get_args

import pytest
import torch

from gan.networks import Norm, PatchDiscriminator, UNetGenerator
from gan.networks.translation import resized

MNIST, SMALL = (1, 28, 28), (1, 7, 7)
NORMS = get_args(Norm)
SHAPES = [(MNIST, SMALL), ((3, 32, 16), (4, 32, 16)), ((1, 6, 10), (3, 12, 20)), ((3, 64, 64), (1, 64, 64))]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("image_shape", "condition_shape"), SHAPES)
@pytest.mark.parametrize("n", [1, 3])
def test_generator_makes_images_in_range(image_shape, condition_shape, n):
    generator = UNetGenerator(image_shape, condition_shape, latent_dim=7, base_channels=4, norm="group")
    assert generator.condition_shape == condition_shape
    images = generator(100 * torch.randn(n, 7), torch.rand(n, *condition_shape) * 200 - 100)
    assert images.shape == (n, *image_shape)
    assert -1 <= images.min() < 0 < images.max() <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sources_are_resized_in_16_bits_too(dtype):
    """Which CPUs do not by themselves; to the nearest of its numbers."""
    source = torch.rand(2, *SMALL, dtype=torch.float64).to(dtype)
    made = resized(source, MNIST)
    assert made.dtype == dtype
    torch.testing.assert_close(made, resized(source.double(), MNIST).to(dtype))
    assert resized(source.double(), MNIST).dtype == torch.float64


@pytest.mark.parametrize(("size", "halvings"), [(28, 2), (32, 4), (64, 4), (6, 1), (40, 3)])
def test_generator_halves_while_it_can(size, halvings):
    generator = UNetGenerator((1, size, size), SMALL, base_channels=4)
    assert len(generator.downs) == len(generator.ups) == halvings


@pytest.mark.parametrize("norm", NORMS)
def test_generator_draws_of_its_source_and_its_latents(norm):
    """Each image of its own alone: of several sources, and of several latents of one source."""
    generator = UNetGenerator(MNIST, SMALL, latent_dim=7, base_channels=8, norm=norm)
    z, sources = torch.randn(3, 7, requires_grad=True), torch.randn(3, *SMALL, requires_grad=True)
    images = generator(z, sources)[0]
    for gradient in torch.autograd.grad((images * torch.randn_like(images)).sum(), (z, sources)):
        assert gradient[0].abs().max() > 0
        assert (gradient[1:].abs().max() > 0) == (norm == "batch")


def test_what_is_seen_at_each_size_is_at_hand_where_it_is_drawn():
    """With nothing coming up from below, the image still follows its source, pixel by pixel."""
    generator = UNetGenerator(MNIST, MNIST, base_channels=4, norm="none")
    with torch.no_grad():
        for up in generator.ups:
            up[0].weight.zero_()
    sources = torch.randn(1, *MNIST, requires_grad=True)
    pixel = generator(torch.randn(1, 16), sources)[0, 0, 14, 14]
    (gradient,) = torch.autograd.grad(pixel, sources)
    seen = gradient[0, 0].nonzero()
    assert seen.min() == 12  # two convolutions of 3x3
    assert seen.max() == 16


@pytest.mark.parametrize(
    ("image_shape", "patch", "logits"), [(MNIST, 16, 12), ((3, 64, 64), 34, 14), ((1, 128, 128), 70, 14)]
)
def test_a_logit_is_of_a_patch_of_image_and_source(image_shape, patch, logits):
    discriminator = PatchDiscriminator(image_shape, image_shape, base_channels=2)
    images, sources = (torch.randn(1, *image_shape, requires_grad=True) for _ in range(2))
    judged = discriminator(images, sources)
    assert judged.shape == (1, 1, logits, logits)
    middle = judged[0, 0, logits // 2, logits // 2]
    for gradient in torch.autograd.grad(middle, (images, sources)):
        seen = gradient.abs().sum((0, 1)).nonzero()
        assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [patch, patch]


def test_sources_are_resized_as_pillow_does():
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    from gan.networks.translation import resized

    picture = torch.randint(64, 192, (7, 7), dtype=torch.uint8)  # Pillow cuts off in between
    expected = pil_to_tensor(Image.fromarray(picture.numpy()).resize((28, 28), Image.Resampling.BICUBIC))
    made = resized(picture[None, None] / 127.5 - 1, MNIST)[0] * 127.5 + 127.5
    assert (made.clamp(0, 255) - expected).abs().max() < 1  # which Pillow rounds
    same = torch.randn(2, 3, 28, 28)
    assert resized(same, MNIST) is same


@pytest.mark.parametrize("cls", [UNetGenerator, PatchDiscriminator])
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_reach_every_parameter_and_copies_are_equal(cls, norm):
    network = cls(MNIST, SMALL, base_channels=8, norm=norm)
    inputs = torch.randn(4, 16) if cls is UNetGenerator else torch.rand(4, *MNIST)
    sources = torch.rand(4, *SMALL) * 2 - 1
    outputs = network(inputs, sources)
    (outputs * torch.randn_like(outputs)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    twin = cls(**network.spec["init_args"])
    twin.load_state_dict(network.state_dict())
    expected = network.eval()(inputs, sources)
    for other in (twin, copy.deepcopy(network)):
        torch.testing.assert_close(other.eval()(inputs, sources), expected, rtol=0, atol=0)
    double = network.double()(inputs.double(), sources.double())
    torch.testing.assert_close(double.float(), expected, rtol=1e-3, atol=1e-5)


def test_initialisation_is_the_papers():
    for cls in (UNetGenerator, PatchDiscriminator):
        network = cls((3, 64, 64), (3, 64, 64), base_channels=16, norm="batch")
        for name, parameter in network.named_parameters():
            if parameter.ndim == 4:
                assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
            elif name.endswith("bias"):
                assert not parameter.any(), name
            else:
                assert parameter.mean().item() == pytest.approx(1, abs=0.02), name


@pytest.mark.parametrize("cls", [UNetGenerator, PatchDiscriminator])
@pytest.mark.parametrize(
    ("condition_shape", "message"),
    [
        (None, "is told source images, and the data has none: take a data module that states condition_shape"),
        ((28, 28), r"condition_shape must be \(channels, height, width\) of a source image.*\(28, 28\)"),
        ((1, 0, 7), r"got \(1, 0, 7\)"),
    ],
)
def test_bad_condition_shape_is_named(cls, condition_shape, message):
    with pytest.raises(ValueError, match=f"{cls.__name__}.*{message}"):
        cls(MNIST, condition_shape)


def test_images_that_are_too_small_or_odd_are_named():
    with pytest.raises(ValueError, match=r"image_shape=\(1, 27, 28\): UNetGenerator halves height and width"):
        UNetGenerator((1, 27, 28), SMALL)
    with pytest.raises(ValueError, match=r"PatchDiscriminator takes images of at least 6x6 pixels"):
        PatchDiscriminator((1, 5, 28), SMALL)
