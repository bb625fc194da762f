"""Objects as plain data, and back. That whole checkpoints are rebuilt from it is tested in test_module and test_cli."""

from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import SGD, Adam

from gan.losses import Hinge, Loss
from gan.networks import DCGANGenerator, Generator, MLPDiscriminator, MLPGenerator
from gan.optim import WarmupCosine
from gan.penalties import R1, GradientPenalty, Penalty
from gan.spec import class_name, described, drop_unknown, given_by_cli

SHAPE = (1, 28, 28)


class Margin(Loss):
    """A loss with a setting."""

    def __init__(self, margin: float = 1.0):
        self.margin = margin

    def discriminator(self, real_logits, fake_logits):
        return real_logits

    def generator(self, fake_logits, real_logits=None):
        return fake_logits


class Mine(Generator):
    """A network of a user's, with a setting of its own."""

    def __init__(self, image_shape: tuple[int, int, int], widths: list[int], slope: float = 0.2):
        super().__init__(image_shape, latent_dim=3)


class Forgetful(Penalty):
    """Does not keep its setting under the setting's name."""

    name = "forgetful"

    def __init__(self, strength: float = 1.0):
        super().__init__(strength)

    def __call__(self, discriminator, real, fake, noise=None):
        return real


class Plain(nn.Module):
    """No Network of ours, which forgets what it was made of."""

    def __init__(self, width: int):
        super().__init__()


CASES = {
    "None": (None, None),
    "bool": (True, True),
    "int": (3, 3),
    "float": (2e-4, 2e-4),
    "str": ("batch", "batch"),
    "list": ([1, "a", None], [1, "a", None]),
    "tuple": ((0.5, 0.999), (0.5, 0.999)),
    "dict": ({"a": (1, {"b": 2})}, {"a": (1, {"b": 2})}),
    "class": (Adam, {"class_path": "torch.optim.adam.Adam"}),
    "partial": (
        partial(Adam, lr=1e-3, betas=(0.0, 0.9)),
        {"class_path": "torch.optim.adam.Adam", "init_args": {"lr": 1e-3, "betas": (0.0, 0.9)}},
    ),
    "partial of a partial": (
        partial(partial(SGD, lr=1.0), momentum=0.5),
        {"class_path": "torch.optim.sgd.SGD", "init_args": {"lr": 1.0, "momentum": 0.5}},
    ),
    "scheduler": (
        partial(WarmupCosine, warmup=5),
        {"class_path": "gan.optim.WarmupCosine", "init_args": {"warmup": 5}},
    ),
    "loss": (Hinge(), {"class_path": "gan.losses.Hinge", "init_args": {}}),
    "loss with a setting": (Margin(2.0), {"class_path": "test_spec.Margin", "init_args": {"margin": 2.0}}),
    "penalty": (R1(0.3, every=16), {"class_path": "gan.penalties.R1", "init_args": {"weight": 0.3, "every": 16}}),
    "penalty with defaults": (
        GradientPenalty(),
        {"class_path": "gan.penalties.GradientPenalty", "init_args": {"weight": 10.0, "every": 1}},
    ),
    "penalties": ([R1(1.0)], [{"class_path": "gan.penalties.R1", "init_args": {"weight": 1.0, "every": 1}}]),
}


@pytest.mark.parametrize("case", CASES)
def test_plain(case):
    value, expected = CASES[case]
    result = described(value)
    assert result == expected
    assert only_plain(result)


@pytest.mark.parametrize(
    "network",
    [
        MLPGenerator(SHAPE, latent_dim=7),
        MLPDiscriminator(image_shape=SHAPE),
        DCGANGenerator(image_shape=SHAPE, base_channels=4, norm="group"),
        Mine(SHAPE, [3, 4]),
    ],
    ids=lambda network: type(network).__name__,
)
def test_network_and_back(network):
    """With every argument, the defaults too: one that changes in a later version must not change an old checkpoint."""
    spec = described(network)
    assert only_plain(spec)
    rebuilt = type(network)(**spec["init_args"])
    assert described(rebuilt) == spec
    shapes = [[tuple(parameter.shape) for parameter in module.parameters()] for module in (rebuilt, network)]
    assert shapes[0] == shapes[1]
    if isinstance(network, Mine):
        assert spec["init_args"] == {"image_shape": SHAPE, "widths": [3, 4], "slope": 0.2}


def only_plain(value) -> bool:
    if type(value) in (list, tuple):
        return all(map(only_plain, value))
    if type(value) is dict:
        return all(type(key) is str and only_plain(item) for key, item in value.items())
    return value is None or type(value) in (bool, int, float, str)


def test_loads_with_weights_only(tmp_path):
    torch.save({name: described(value) for name, (value, _) in CASES.items()}, tmp_path / "plain")
    assert set(torch.load(tmp_path / "plain", weights_only=True)) == set(CASES)


def local() -> type:
    class Local(nn.Module):
        pass

    return Local


def make(parameters) -> Adam:
    return Adam(parameters)


REFUSED = {
    "tensor": (torch.zeros(1), "neither a class nor"),
    "function": (make, "neither a class nor a functools.partial of a class"),
    "lambda": (lambda parameters: Adam(parameters), "neither a class nor"),
    "partial of a function": (partial(make), "neither a class nor"),
    "object": (object(), "neither a class nor"),
    "foreign network": (Plain(3), "Plain has no attribute width, as its argument is called"),
    "class within a function": (local(), "not defined at the top of an importable module"),
    "partial of a local class": (partial(local(), lr=1), "not defined at the top of an importable module"),
    "tensor within": ({"a": [torch.zeros(1)]}, "neither a class nor"),
    "tensor in a partial": (partial(Adam, lr=torch.zeros(1)), "neither a class nor"),
    "network of a tensor": (Mine(SHAPE, torch.zeros(1)), "widths of Mine holds a Tensor, which is not plain data"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    """Rather than pickled: such a checkpoint would not load with weights_only=True, or not without this very script."""
    value, message = REFUSED[case]
    with pytest.raises(TypeError, match=message):
        described(value)


def test_setting_that_is_not_kept_is_refused():
    with pytest.raises(TypeError, match="strength"):
        described(Forgetful(2.0))


def test_class_of_the_program_itself_is_refused(monkeypatch):
    """Another program that loads the checkpoint has another `__main__`."""
    monkeypatch.setattr(Margin, "__module__", "__main__")
    with pytest.raises(TypeError, match="not defined at the top of an importable module"):
        described(Margin())


def test_subclasses_of_plain_types():
    assert type(described(OrderedDict(a=1))) is dict


def test_outside_the_command_line_nothing_is_given():
    assert not given_by_cli()


class WithShape(nn.Module):
    def __init__(self, width: int, image_shape: tuple[int, int, int]):
        super().__init__()


class Passing(WithShape):
    def __init__(self, slope: float, **settings):
        super().__init__(**settings)


@pytest.mark.parametrize(
    ("network", "kept"),
    [
        (Plain(3), False),
        (WithShape(1, SHAPE), True),
        (Passing(0.1, width=1, image_shape=SHAPE), True),
        (MLPDiscriminator(SHAPE), True),
    ],
)
def test_shape_is_dropped_where_it_is_no_argument(network, kept):
    spec = {"class_path": "a.B", "init_args": {"width": 1, "image_shape": SHAPE}}
    drop_unknown(spec, network)
    assert spec["init_args"] == ({"width": 1, "image_shape": SHAPE} if kept else {"width": 1})
    bare = {"class_path": "a.B"}
    drop_unknown(bare, network)
    assert bare == {"class_path": "a.B"}


class Widths(nn.Module):
    """Keeps no argument."""

    def __init__(self, width: int = 3, depth: int = 1):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)])


class Scaled(nn.Module):
    """Keeps its argument where no one can compare it."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.after = [lambda images: scale * images]


@pytest.mark.parametrize("network", [Widths(), Widths(3, 1)])
def test_arguments_that_are_not_kept_may_be_the_defaults(network):
    assert described(network) == {"class_path": "test_spec.Widths", "init_args": {"width": 3, "depth": 1}}


@pytest.mark.parametrize("network", [Widths(4), Widths(depth=2), Scaled(), Scaled(2.0)])
def test_other_arguments_that_are_not_kept(network):
    with pytest.raises(TypeError, match="makes another network of"):
        described(network)


def test_a_network_is_called_by_its_own_class():
    """Whatever torch has put around it."""
    network = nn.Linear(1, 1)
    assert class_name(network) == class_name(torch.compile(network, backend="eager")) == "Linear"
    network.__class__ = type("FSDPLinear", (FSDPModule, nn.Linear), {})  # as `fully_shard` does
    assert class_name(network) == "Linear"
