"""Clipping against its mathematics, written out in float64."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan.gradients.clip import Adaptive, Auto, ByNorm, ByValue, Clip, Gradients


def network(groups: int = 1, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(6, 8),
        nn.Unflatten(1, (4, 2, 1)),
        nn.ConvTranspose2d(4, 6, 3, groups=groups),
        nn.GroupNorm(2, 6),
        spectral_norm(nn.ConvTranspose2d(6, 4, (2, 3), groups=groups)),
        nn.Conv2d(4, 5, 3, groups=groups if groups == 1 else 1),
        nn.Flatten(),
        nn.Linear(10, 2),
    )
    return layers.to(memory_format=torch.channels_last).to(dtype)


def fill(module: nn.Module, scale: float = 1.0, seed: int = 0) -> list[Tensor]:
    """Gives each parameter a gradient. Returns copies in float64."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        values = torch.randn(parameter.shape, generator=rng, dtype=torch.float64) ** 3 * scale
        parameter.grad = torch.empty_like(parameter).copy_(values)
    return gradients(module)


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.double().clone() for parameter in module.parameters()]


def length(tensors: list[Tensor]) -> float:
    """The norm, by a sum that is exact."""
    return math.sqrt(math.fsum(float(value) ** 2 for tensor in tensors for value in tensor.flatten()))


def bits(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone().view(torch.int32) for parameter in module.parameters()]


# ---------------------------------------------------------------------- the norm


@pytest.mark.parametrize("place", [2, 7])
def test_a_parameter_that_takes_the_place_of_another_counts(place):
    """A norm and a clip of the gradients that there are: what is replaced has one too, which nothing steps along."""
    module = network()
    own = Gradients(module)
    fill(module, 100.0)
    old, new = module[place].weight, nn.Parameter(module[place].weight.detach().clone())
    new.grad, module[place].weight = torch.ones_like(new), new
    expected = length(gradients(module))
    assert own.norm() == pytest.approx(expected, rel=1e-6)
    before = old.grad.clone()
    assert ByNorm(1.0)(own).before == pytest.approx(expected, rel=1e-6)
    assert length(gradients(module)) == pytest.approx(1, rel=1e-5)
    assert torch.equal(old.grad, before)
    assert {named.name for named in own.named} == {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e18, 1e30])
def test_norm(scale):
    """Of float32 gradients whose squares are 0 or infinite in float32, too."""
    module = network()
    expected = length(fill(module, scale))
    assert Gradients(module).norm() == pytest.approx(expected, rel=1e-6)


def test_norm_of_many():
    module = nn.Linear(1500, 1000)
    (weight, bias) = fill(module)
    assert Gradients(module).norm() == pytest.approx(
        float((weight.square().sum() + bias.square().sum()).sqrt()), rel=1e-6
    )


def test_norm_without_gradients():
    module = network()
    measured = [clip(Gradients(module)) for clip in (ByNorm(1), ByValue(1), Adaptive(1), Auto())]
    assert measured == [(0.0, 0.0, False)] * 4
    module[0].bias.grad = torch.full((8,), 2.0)
    assert Gradients(module).norm() == pytest.approx(math.sqrt(32))


def test_finite():
    """Also where a sum of finite values is not; and a loss counts as a gradient does."""
    module = network()
    gradients = Gradients(module)
    assert gradients.finite()
    fill(module)
    assert gradients.finite([torch.tensor(1.0)])
    assert not gradients.finite([torch.tensor(1.0), torch.tensor(math.inf)])
    module[0].weight.grad[:2] = 3e38
    assert gradients.finite([torch.tensor(3e38)])
    assert not gradients.finite([torch.tensor(3e38), torch.tensor(math.nan)])
    module[2].weight.grad[1, 2] = -math.inf
    assert not gradients.finite()


# ---------------------------------------------------------------------- by norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_by_norm(dtype, scale):
    module = network(dtype=dtype)
    for seed in range(10):
        before = fill(module, scale, seed)
        bound = length(before) * 10 ** -(seed / 3 + 0.01)
        measured = ByNorm(bound)(Gradients(module))
        after = gradients(module)
        assert length(after) <= bound  # not by the last digit
        close = partial(torch.testing.assert_close, atol=1e-9 * bound)
        precision = 4 * torch.finfo(dtype).eps
        assert length(after) == pytest.approx(bound, rel=2 * precision)
        assert measured == (pytest.approx(length(before), rel=1e-6), pytest.approx(length(after), rel=precision), True)
        for gradient, other in zip(before, after, strict=True):  # the direction is the same, and to the digit
            close(other, gradient * bound / length(before), rtol=2 * precision)


def test_by_norm_leaves_short_ones():
    module = network()
    norm = length(fill(module))
    before = bits(module)
    assert ByNorm(norm * 1.01)(Gradients(module)) == (pytest.approx(norm), pytest.approx(norm), False)
    assert all(map(torch.equal, bits(module), before))


# ---------------------------------------------------------------------- by value


def test_by_value():
    module = network()
    before = fill(module)
    measured = ByValue(0.5)(Gradients(module))
    for gradient, other in zip(before, gradients(module), strict=True):
        assert torch.equal(other, gradient.clamp(-0.5, 0.5))
    assert measured == (pytest.approx(length(before)), pytest.approx(length(gradients(module))), True)


@pytest.mark.parametrize("sign", [-1, 1])
def test_by_value_sees_a_single_one(sign):
    module = network()
    fill(module, scale=1e-3)
    with torch.no_grad():
        module[-1].bias.grad[1] = 3.0 * sign
    assert ByValue(2.0)(Gradients(module)).clipped
    assert float(module[-1].bias.grad[1]) == 2.0 * sign
    assert not ByValue(2.0)(Gradients(module)).clipped


# ---------------------------------------------------------------------- per unit


def units(module: nn.Module) -> list[list[tuple[Tensor, Tensor]]]:
    """The weights and gradients of each unit of each layer but the last, one output channel after the other."""
    found = []
    for layer in list(module)[:-1]:
        own = dict(layer.named_parameters())
        weight = own.pop("weight", own.pop("parametrizations.weight.original", None))
        if isinstance(layer, nn.GroupNorm):
            own["weight"] = weight
        elif isinstance(layer, nn.ConvTranspose2d):
            width, depth = len(weight) // layer.groups, weight.shape[1]
            of_group = [slice(group * width, (group + 1) * width) for group in range(layer.groups)]
            found += [(weight[rows, column], weight.grad[rows, column]) for rows in of_group for column in range(depth)]
        elif weight is not None:
            found += [(weight[row], weight.grad[row]) for row in range(len(weight))]
        found += [(vector, vector.grad) for vector in own.values()]
    return [(weight.detach().double().clone(), gradient.double().clone()) for weight, gradient in found]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("ratio", [0.03, 1.0])
def test_adaptive(groups, ratio):
    module = network(groups)
    with torch.no_grad():
        module[0].bias.zero_()  # bounded by eps
        module[2].weight.mul_(5)  # some units are clipped, some are not
    before = fill(module, scale=0.2)
    last = [before[-2], before[-1]]
    expected, too_long = [], 0
    for weight, gradient in units(module):
        norm, bound = float(gradient.norm()), ratio * max(float(weight.norm()), 0.002)
        expected.append(gradient * min(1.0, bound / norm))
        too_long += norm > bound
    measured = Adaptive(ratio, eps=0.002)(Gradients(module))
    after = units(module)
    assert len(after) == sum([8 + 1, 6 + 1, 2, 4 + 1, 5 + 1])
    for (weight, gradient), value in zip(after, expected, strict=True):
        torch.testing.assert_close(gradient, value, rtol=1e-6, atol=0)
        assert gradient.norm() <= ratio * max(float(weight.norm()), 0.002)
    assert too_long == len(after) if ratio == 0.03 else 0 < too_long < len(after)
    assert torch.equal(gradients(module)[-2], last[0])
    assert torch.equal(gradients(module)[-1], last[1])
    assert measured == (pytest.approx(length(before)), pytest.approx(length(gradients(module))), True)


def test_adaptive_last_layer_is_that_of_the_last_weight():
    """A normalisation behind it has no matrix, and a spectral norm hides its weight."""
    module = nn.Sequential(nn.Linear(2, 3), spectral_norm(nn.Linear(3, 4)), nn.LayerNorm(4))
    assert [named.name for named in Gradients(module).named if named.in_last_layer] == [
        "1.bias",
        "1.parametrizations.weight.original",
    ]


# ---------------------------------------------------------------------- at a percentile


@pytest.mark.parametrize(("percentile", "window"), [(10, 1000), (50, 7), (0, 3), (97.5, 20), (100, 5)])
def test_auto(percentile, window):
    module, clip, norms = network(), Auto(percentile, window), []
    for seed in range(40):
        before = fill(module, scale=1 + seed % 7, seed=seed)
        norms.append(length(before))
        bound = np.percentile(norms[-window:], percentile)
        measured = clip(Gradients(module))
        assert clip.threshold() == pytest.approx(bound, rel=1e-6)
        assert measured.before == pytest.approx(norms[-1])
        assert length(gradients(module)) <= min(norms[-1], bound) * (1 + 1e-6)
        assert measured.clipped == (norms[-1] > bound * (1 + 1e-9))
        if seed == 25:  # a run that is resumed
            state = clip.state_dict()
            clip = Auto(percentile, window)
            clip.load_state_dict(state)


# ---------------------------------------------------------------------- all of them

ALL = [ByNorm(0.1), ByValue(0.1), Adaptive(0.1), Auto(0)]
ENDLESS = [ByNorm(math.inf), ByValue(math.inf), Adaptive(math.inf), Auto(100)]


def name(clip: Clip) -> str:
    return type(clip).__name__


@pytest.mark.parametrize("clip", ENDLESS, ids=name)
def test_without_a_bound_no_bit_changes(clip):
    module = network()
    for seed in range(3):
        fill(module, scale=10.0**seed, seed=seed)
        with torch.no_grad():
            module[0].bias.grad[:3] = torch.tensor([-0.0, 0.0, 1e-42])
        before = bits(module)
        measured = clip(Gradients(module))
        assert measured.after == measured.before
        assert not measured.clipped
        assert all(map(torch.equal, bits(module), before))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clip", ALL, ids=name)
def test_what_is_not_finite_stays(clip, bad):
    """Clamping would make a number of infinity, and a factor of 0 a zero: then nobody would ever know."""
    module = network()
    fill(module)
    with torch.no_grad():
        module[2].weight.grad[1, 2] = bad
    before, state = bits(module), clip.state_dict()
    measured = clip(Gradients(module))
    assert not math.isfinite(measured.before)
    assert not measured.clipped
    assert all(map(torch.equal, bits(module), before))
    assert clip.state_dict() == state


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(ByNorm, 0), "ByNorm's max_norm must be above 0, got 0"),
        (partial(ByNorm, math.nan), "max_norm"),
        (partial(ByValue, -1), "ByValue's max_value"),
        (partial(Adaptive, 0), "Adaptive's ratio"),
        (partial(Adaptive, 0.1, 0), "Adaptive's eps"),
        (partial(Auto, 101), "from 0 to 100, got 101"),
        (partial(Auto, 10, 0), "window"),
    ],
)
def test_bad_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()
