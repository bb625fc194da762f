"""A network remembers how it was built, as plain data."""

import copy
import importlib
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from gan.networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    Generator,
    MLPDiscriminator,
    MLPGenerator,
    Network,
    R3GANDiscriminator,
    R3GANGenerator,
    ResNetDiscriminator,
    ResNetGenerator,
    slerp,
)

MNIST = (1, 28, 28)
NETWORKS = (
    MLPGenerator,
    MLPDiscriminator,
    DCGANGenerator,
    DCGANDiscriminator,
    ResNetGenerator,
    ResNetDiscriminator,
    R3GANGenerator,
    R3GANDiscriminator,
)


class Custom(Generator):
    def __init__(self, image_shape, *sizes, activation=None, **options):
        super().__init__(image_shape)
        self.layer = nn.Linear(1, 1)
        self.options = options


class Inherited(DCGANGenerator):
    pass


def rebuild(spec: dict) -> Network:
    module, _, name = spec["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**spec["init_args"])


@pytest.mark.parametrize("cls", [MLPGenerator, DCGANGenerator, ResNetGenerator])
def test_bad_latent_dim_is_named(cls):
    with pytest.raises(ValueError, match="latent_dim"):
        cls(MNIST, latent_dim=0)


def test_spec_holds_the_arguments_and_the_defaults():
    given = {"image_shape": MNIST, "latent_dim": 64, "norm": "group"}
    defaults = {"base_channels": 32, "max_channels": None, "attention_resolution": None, "modulation": None}
    assert DCGANGenerator(MNIST, 64, norm="group").spec == {
        "class_path": "gan.networks.dcgan.DCGANGenerator",
        "init_args": given | defaults,
    }


@pytest.mark.parametrize(
    ("cls", "settings"),
    [(cls, {}) for cls in NETWORKS[:2]]
    + [(cls, {"norm": norm, "base_channels": 8}) for cls in NETWORKS[2:6] for norm in ("batch", "group", "spectral")]
    + [(cls, {"blocks": 1, "base_channels": 8}) for cls in NETWORKS[6:]]
    + [(DCGANGenerator, {"modulation": 8})],
)
def test_checkpoint_rebuilds_an_equal_network(cls, settings):
    network = cls(MNIST, **settings)
    inputs = torch.randn(2, *([network.latent_dim] if isinstance(network, Generator) else MNIST))
    network(inputs)  # training mode: batch statistics and power iterations have moved
    file = io.BytesIO()
    torch.save({"spec": network.spec, "weights": network.state_dict()}, file)
    file.seek(0)
    checkpoint = torch.load(file, weights_only=True)
    assert checkpoint["spec"] == network.spec
    rebuilt = rebuild(checkpoint["spec"])
    assert type(rebuilt) is type(network)
    rebuilt.load_state_dict(checkpoint["weights"])
    torch.testing.assert_close(rebuilt.eval()(inputs), network.eval()(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("cls", NETWORKS)
def test_spec_survives_copies(cls):
    network = cls(image_shape=list(MNIST))
    assert network.image_shape == MNIST
    assert copy.deepcopy(network).spec == network.spec
    assert copy.copy(network).spec == network.spec
    assert pickle.loads(pickle.dumps(network)).spec == network.spec
    assert not any("spec" in key for key in network.state_dict())


def test_spec_survives_a_change_of_class():
    """FSDP2 gives a module a class of its own, and so do parametrizations."""
    network = DCGANGenerator(MNIST)
    spec = network.spec
    network.__class__ = type("FSDPDCGANGenerator", (DCGANGenerator,), {})
    assert network.spec == spec


def test_spec_of_your_own_network():
    options = {"rate": 0.5, "names": ["a", None], "nested": {"on": True}}
    network = Custom(torch.Size(MNIST), depth=3, **options)
    spec = network.spec
    assert spec["init_args"] == {"image_shape": MNIST, "activation": None, "depth": 3, **options}
    assert type(spec["init_args"]["image_shape"]) is tuple
    assert rebuild(spec).options == {"depth": 3, **options}
    assert rebuild(Inherited(MNIST, latent_dim=3).spec).latent_dim == 3


def test_spec_shares_nothing():
    names = ["a"]
    network = Custom(MNIST, names=names)
    names.append("b")
    network.spec["init_args"]["names"].append("c")
    assert network.spec["init_args"]["names"] == ["a"]


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: Custom(MNIST, activation=nn.ReLU()), "argument activation of Custom holds a ReLU"),
        (lambda: Custom(MNIST, activation=[nn.ReLU]), "argument activation of Custom holds a type"),
        (lambda: Custom(MNIST, activation=np.float64(1)), "argument activation of Custom holds a float64"),
        (lambda: Custom(MNIST, 64, 128), "argument sizes of Custom cannot be passed by name"),
        (lambda: type("Local", (Custom,), {"__qualname__": "f.<locals>.Local"})(MNIST), "importable module"),
        (lambda: type("Script", (Custom,), {"__module__": "__main__"})(MNIST), "importable module"),
    ],
)
def test_missing_spec_says_why(build, reason):
    network = build()  # the network itself is fine
    for same in (network, copy.deepcopy(network)):
        with pytest.raises(TypeError, match=reason):
            _ = same.spec


def test_wrong_arguments_are_reported_by_the_constructor():
    with pytest.raises(TypeError, match=r"__init__\(\) got an unexpected keyword argument 'width'"):
        DCGANGenerator(MNIST, width=3)
    with pytest.raises(TypeError, match=r"__init__\(\) missing 1 required positional argument: 'image_shape'"):
        DCGANGenerator()


def test_slerp_keeps_to_the_sphere():
    torch.manual_seed(0)
    start, end = torch.nn.functional.normalize(torch.randn(2, 5, 16, dtype=torch.float64), dim=-1)
    angle = torch.acos((start * end).sum(-1))
    for t in (0.0, 0.3, 1.0):
        point = slerp(start, end, t)
        torch.testing.assert_close(point.norm(dim=-1), torch.ones(5, dtype=torch.float64))
        torch.testing.assert_close(torch.acos((start * point).sum(-1).clamp(-1, 1)), t * angle)
    assert torch.equal(slerp(start, start, 0.5), start)
