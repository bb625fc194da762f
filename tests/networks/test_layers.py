"""What the convolutional networks share: normalisations, depth and channels by the image's size, attention, groups."""

from itertools import product
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from gan.networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    MinibatchStd,
    MLPDiscriminator,
    MLPGenerator,
    Norm,
    ResNetDiscriminator,
    ResNetGenerator,
    SelfAttention,
)
from gan.networks.layers import (
    SelfModulation,
    channel_plan,
    halved,
    halvings,
    level_of,
    nearest_sizes,
    normalization,
)

MNIST = (1, 28, 28)
NORMS = get_args(Norm)
CONVOLUTIONAL = (DCGANGenerator, DCGANDiscriminator, ResNetGenerator, ResNetDiscriminator)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def weighted_layers(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]


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


# ---------------------------------------------------------------------- depth and channels


@pytest.mark.parametrize(
    ("size", "times", "grid"),
    [
        ((8, 12), 2, (2, 3)),
        ((16, 16), 2, (4, 4)),
        ((28, 28), 2, (7, 7)),
        ((32, 32), 3, (4, 4)),
        ((28, 64), 2, (7, 16)),
        ((40, 40), 3, (5, 5)),
        ((48, 64), 3, (6, 8)),
        ((64, 64), 4, (4, 4)),
        ((112, 112), 4, (7, 7)),
        ((128, 128), 5, (4, 4)),
        ((256, 256), 6, (4, 4)),
        ((256, 320), 6, (4, 5)),
    ],
)
def test_depth_follows_the_image(size, times, grid):
    assert halvings((3, *size)) == times
    assert halved((3, *size), times) == grid


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((30, 5), "32x8"),
        ((4, 4), "8x8"),
        ((30, 28), "28x28 or 32x28"),
        ((36, 36), "32x32 or 40x40"),
        ((100, 100), "96x96 or 112x112"),
        ((60, 72), "56x72 or 64x80"),
        ((63, 90), "56x88 or 64x96"),
        ((250, 250), "224x224 or 256x256"),
    ],
)
@pytest.mark.parametrize("cls", CONVOLUTIONAL)
def test_error_says_which_sizes_would_do(cls, size, nearest):
    with pytest.raises(
        ValueError, match=rf"^image_shape=\(1, {size[0]}, {size[1]}\): .* to {nearest}, or use MLPGen"
    ) as one:
        cls((1, *size))
    assert "\n" not in str(one.value)


def test_networks_of_any_size_are_there():
    MLPGenerator((1, 30, 5))(torch.randn(2, 100))
    MLPDiscriminator((1, 30, 5))(torch.randn(2, 1, 30, 5))


def fits(*size: int) -> bool:
    try:
        return halvings((1, *size)) > 0
    except ValueError:
        return False


def test_the_sizes_that_errors_name_are_the_nearest_on_both_sides():
    """Of all sizes up to 140: they can be halved, and none that is nearer in both directions can."""
    good = [size for size in range(8, 320) if fits(size, size)]
    assert good[:18] == [8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224]
    for size in set(range(1, 140)) - set(good):
        nearest = [below for below in good if below < size][-1:] + [above for above in good if above > size][:1]
        assert nearest_sizes((size, size)) == [(side, side) for side in nearest]
    for size in product(range(1, 140, 3), range(2, 140, 5)):
        if not fits(*size):
            assert all(fits(*named) for named in nearest_sizes(size)), size
            assert [named > size for named in nearest_sizes(size)][-1]


def test_channels_double_up_to_a_cap():
    assert channel_plan(32, 3, None) == [32, 64, 128]
    assert channel_plan(32, 7, None) == [32, 64, 128, 256, 512, 512, 512]
    assert channel_plan(24, 4, 64) == [24, 48, 64, 64]
    generator, discriminator = DCGANGenerator((3, 64, 64), max_channels=48), ResNetDiscriminator((3, 64, 64), 8)
    assert [generator.get_submodule(f"up{n}").in_channels for n in range(1, 5)] == [48, 48, 48, 32]
    assert [discriminator.get_submodule(f"block{n}").conv2.out_channels for n in range(1, 5)] == [8, 16, 32, 64]
    for cls in CONVOLUTIONAL:
        with pytest.raises(ValueError, match="max_channels must be at least base_channels=32, got 16"):
            cls((3, 64, 64), max_channels=16)


NAMES_OF_28 = {
    DCGANGenerator: ["project", "norm1", "up1", "norm2", "up2"],
    DCGANDiscriminator: ["down1", "down2", "norm2", "down3", "norm3", "output"],
    ResNetGenerator: ["project", "norm", "block1", "block2", "output"],
    ResNetDiscriminator: ["stem", "block1", "block2", "output"],
}


@pytest.mark.parametrize("cls", CONVOLUTIONAL)
def test_digits_have_the_layers_that_their_checkpoints_have(cls):
    """In this order too, in which weights are drawn and gradients listed."""
    network = cls(MNIST, norm="batch")
    assert [name for name, _ in network.named_children()] == NAMES_OF_28[cls]
    sizes = {DCGANGenerator: 350209, DCGANDiscriminator: 165921, ResNetGenerator: 421025, ResNetDiscriminator: 79969}
    assert sum(parameter.numel() for parameter in network.parameters()) == sizes[cls]


# ---------------------------------------------------------------------- self-modulation


@pytest.mark.parametrize("norm", ["batch", "layer", "group"])
def test_latents_scale_and_shift_what_is_normalised(norm):
    layer, x, z = SelfModulation(norm, 8, 3, 5).double(), torch.randn(4, 8, 6, 5).double(), torch.randn(4, 3).double()
    nn.init.normal_(layer.scale_and_shift.weight)
    nn.init.normal_(layer.scale_and_shift.bias)
    made = layer(x, z)
    plain = normalization(norm, 8, affine=False).double()(x)
    for image, latents, normalised in zip(made, z, plain, strict=True):
        units = (layer.hidden.weight @ latents + layer.hidden.bias).clamp(min=0)
        both = layer.scale_and_shift.weight @ units + layer.scale_and_shift.bias
        for channel in range(8):
            torch.testing.assert_close(image[channel], normalised[channel] * (1 + both[channel]) + both[8 + channel])


def test_a_generator_is_modulated_at_each_of_its_normalisations():
    """Each image by its own latents, from a start at which all images have nearly the same scales."""
    network = DCGANGenerator((3, 64, 64), 16, 8, modulation=32)
    layers = [layer for layer in network.modules() if isinstance(layer, SelfModulation)]
    assert [layer.scale_and_shift.out_features for layer in layers] == [2 * channels for channels in network.channels]
    for layer in layers:
        assert layer.hidden.weight.std() > 0.1  # torch's own: the DCGAN's 0.02 would stop the latents here
        assert layer.scale_and_shift.weight.std().item() == pytest.approx(0.02, rel=0.2)
        assert not layer.scale_and_shift.bias.any()
    nn.init.zeros_(network.project.weight)  # so that two images differ by what modulates them alone
    for layer in layers:
        for other in layers:
            nn.init.constant_(other.scale_and_shift.weight, 0.5 if other is layer else 0)
        first, second = network.eval()(torch.randn(2, 16))
        assert not torch.allclose(first, second, atol=1e-3)


def test_modulation_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="modulation must be at least 1 hidden unit, got 0; leave it out for none"):
        DCGANGenerator(MNIST, modulation=0)
    for norm in ("spectral", "none"):
        with pytest.raises(ValueError, match=f"norm must be one of batch, layer, group, .*, got '{norm}'"):
            DCGANGenerator(MNIST, norm=norm, modulation=8)


# ---------------------------------------------------------------------- self-attention


def naive_attention(layer: SelfAttention, x: torch.Tensor) -> torch.Tensor:
    """Position by position, as the paper has it, over keys and values that are the largest of 2x2 positions."""
    query, key, value = layer.query(x), layer.key(x), layer.value(x)
    seen = torch.zeros_like(value)
    corners = list(product(range(0, x.shape[2], 2), range(0, x.shape[3], 2)))
    for n, i, j in product(range(len(x)), range(x.shape[2]), range(x.shape[3])):
        keys = torch.stack([key[n, :, a : a + 2, b : b + 2].amax((1, 2)) for a, b in corners])
        values = torch.stack([value[n, :, a : a + 2, b : b + 2].amax((1, 2)) for a, b in corners])
        scores = (keys @ query[n, :, i, j]).exp()
        seen[n, :, i, j] = (scores / scores.sum()) @ values
    return x + layer.gamma * layer.output(seen)


@pytest.mark.parametrize("size", [(4, 6), (7, 5)])
def test_attention_is_the_papers(size):
    layer, x = SelfAttention(16).double(), torch.randn(2, 16, *size, dtype=torch.float64)
    assert torch.equal(layer(x), x)  # as it starts
    nn.init.constant_(layer.gamma, 0.7)
    torch.testing.assert_close(layer(x), naive_attention(layer, x))
    assert (layer.query.out_channels, layer.value.out_channels) == (2, 8)
    assert not torch.allclose(layer(x), x, atol=0.05)


@pytest.mark.parametrize("cls", CONVOLUTIONAL)
def test_attention_starts_at_the_scale_of_its_input_in_any_network(cls):
    attention = cls((3, 64, 64), attention_resolution=8).attention
    for conv in (attention.query, attention.key, attention.value, attention.output):
        deviation = conv.in_channels**-0.5
        assert conv.weight.std().item() == pytest.approx(deviation, rel=5 / (2 * conv.weight.numel()) ** 0.5)


def test_attention_can_be_differentiated_twice():
    layer, x = SelfAttention(4).double(), torch.randn(1, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    nn.init.constant_(layer.gamma, 0.7)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


@pytest.mark.parametrize("resolution", [32, 16, 8, 4])
@pytest.mark.parametrize("cls", CONVOLUTIONAL)
def test_attention_looks_at_the_resolution_that_is_asked_for(cls, resolution):
    network = cls((3, 64, 96), base_channels=4, attention_resolution=resolution)
    shapes = []
    network.attention.register_forward_hook(lambda layer, inputs, output: shapes.append(tuple(output.shape)))
    network(torch.randn(2, 100) if hasattr(network, "latent_dim") else torch.randn(2, 3, 64, 96))
    channels = 4 * 32 // resolution
    assert shapes == [(2, channels, resolution, resolution * 3 // 2)]
    plain = cls((3, 64, 96), base_channels=4).state_dict().keys()
    extra = {
        f"attention.{name}" for name in ("gamma", *(f"{one}.weight" for one in ("query", "key", "value", "output")))
    }
    assert network.state_dict().keys() - plain == extra


@pytest.mark.parametrize("cls", CONVOLUTIONAL)
def test_attention_at_no_resolution_of_the_network_lists_what_there_is(cls):
    message = "attention_resolution must be .* 32, 16, 8, 4 for images of 64x96, got 12; leave it out for no attention"
    with pytest.raises(ValueError, match=message):
        cls((3, 64, 96), attention_resolution=12)
    assert level_of(None, (3, 64, 96)) is None


# ---------------------------------------------------------------------- minibatch standard deviation


def test_minibatch_std_tells_how_much_four_in_a_row_differ():
    x = torch.randn(8, 3, 2, 5)
    x[4:] = x[4:5]  # four look-alikes
    y = MinibatchStd()(x)
    assert torch.equal(y[:, :3], x)
    first = x[:4].flatten(1).std(0, correction=0).mean()
    torch.testing.assert_close(y[:, 3], torch.cat([first.expand(4, 2, 5), torch.full((4, 2, 5), 1e-4)]))


@pytest.mark.parametrize("num", [1, 2, 3, 5, 6, 11])
def test_minibatch_std_measures_what_is_left_over_among_the_last(num):
    x = torch.randn(num, 3, 2, 2)
    size = min(4, num)
    expected = [x[i - i % size :][:size] if i < num // size * size else x[-size:] for i in range(num)]
    expected = torch.stack([group.flatten(1).std(0, correction=0).mean() for group in expected])
    torch.testing.assert_close(MinibatchStd()(x)[:, 3, 0, 0], expected, rtol=1e-5, atol=1.1e-4)


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_minibatch_std_is_the_same_however_a_batch_is_divided(parts):
    x, layer = torch.randn(24, 3, 2, 2), MinibatchStd()
    assert torch.equal(torch.cat([layer(part) for part in x.chunk(parts)]), layer(x))


def test_minibatch_std_of_look_alikes_has_gradients_in_half_precision_too():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = torch.ones(4, 3, 2, 2, dtype=dtype, requires_grad=True)
        y = MinibatchStd()(x)
        y.sum().backward()
        assert y.dtype == dtype
        assert x.grad.isfinite().all()
    x = torch.randn(5, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(MinibatchStd(), (x,))


@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.parametrize("cls", [DCGANDiscriminator, ResNetDiscriminator])
def test_minibatch_std_is_told_at_the_smallest_feature_maps(cls, size):
    network = cls((1, size, size), base_channels=4, minibatch_std=True)
    shapes = []
    network.minibatch_std.register_forward_hook(lambda layer, inputs, output: shapes.append(tuple(output.shape)))
    network(torch.randn(4, 1, size, size))
    halved_once_less = cls is ResNetDiscriminator  # its last block makes the channels that the convolution takes
    assert shapes == [(4, 1 + {28: 8, 64: 32}[size] // (1 + halved_once_less), *{28: (7, 7), 64: (4, 4)}[size])]
    assert network.state_dict().keys() == cls((1, size, size), base_channels=4).state_dict().keys()


@pytest.mark.parametrize("cls", CONVOLUTIONAL)
def test_unknown_norm_lists_the_known(cls):
    with pytest.raises(ValueError, match="batch, layer, group, spectral, none, got 'instance'"):
        cls(MNIST, norm="instance")
