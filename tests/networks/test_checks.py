"""Whether two networks fit each other and the data."""

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor import config
from torch._inductor.exc import CppCompileError, TritonMissing

from gan.errors import GANError
from gan.networks import (
    ConditionalDCGANGenerator,
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    PatchDiscriminator,
    ProjectionDCGANDiscriminator,
    UNetGenerator,
    check_pair,
)

MNIST = (1, 28, 28)


class OfBatch(MLPDiscriminator):
    """A logit of all images together."""

    def forward(self, images):
        return super().forward(images).mean(0, keepdim=True)


class Patches(MLPDiscriminator):
    """Logits of two patches of an image, or of more."""

    def __init__(self, patches):
        super().__init__(MNIST)
        self.patches = patches

    def forward(self, images):
        return super().forward(images)[:, None, None].expand(-1, 1, self.patches)


class Lying(MLPGenerator):
    """Says that it takes other latents than it does."""

    def __init__(self):
        super().__init__(MNIST, 8)
        self.latent_dim = 9


TOLD = ConditionalDCGANGenerator(MNIST, 3, 8, 4)


@pytest.mark.parametrize(
    ("generator", "discriminator", "image_shape", "message"),
    [
        (Lying(), MLPDiscriminator(MNIST), MNIST, r"Lying does not take latents \(N, 9\), as its latent_dim says"),
        (
            MLPGenerator(MNIST),
            MLPDiscriminator(MNIST),
            (3, 32, 32),
            r"makes images \(1, 28, 28\), and the data has",
        ),
        (MLPGenerator(MNIST), MLPDiscriminator((3, 32, 32)), None, r"does not take images \(1, 28, 28\)"),
        (MLPGenerator(MNIST), OfBatch(MNIST), MNIST, r"OfBatch must return a logit for each image, \(N,\), .* \(1,\)"),
        (MLPGenerator(MNIST), Patches(0), MNIST, r"or for each of its patches, \(N, ...\), got \(4, 1, 0\)"),
    ],
)
def test_what_does_not_fit_is_named(generator, discriminator, image_shape, message):
    with pytest.raises(ValueError, match=message):
        check_pair(generator, discriminator, image_shape)


@pytest.mark.parametrize(
    ("generator", "discriminator", "num_classes", "message"),
    [
        (DCGANGenerator(MNIST, 8, 4), ProjectionDCGANDiscriminator(MNIST, 3, 4), None, "DCGANGenerator is not"),
        (TOLD, DCGANDiscriminator(MNIST, 4), None, "nothing says what that is: let it, or the data module"),
        (TOLD, ProjectionDCGANDiscriminator(MNIST, 3, 4), 1, "the data has one class: give the data module labels"),
    ],
)
def test_classes_that_do_not_fit_are_named(generator, discriminator, num_classes, message):
    with pytest.raises(ValueError, match=message):
        check_pair(generator, discriminator, MNIST, num_classes)


class MayBeTold(ConditionalDCGANGenerator):
    def forward(self, z, labels=None):
        return super().forward(z, torch.zeros(len(z), dtype=torch.int64) if labels is None else labels)


class ToldByName(ConditionalDCGANGenerator):
    def forward(self, z, *, condition):
        return super().forward(z, condition)


class MayJudge(ProjectionDCGANDiscriminator):
    def forward(self, images, condition=None):
        return self.output(self.features(images)).squeeze(1)


@pytest.mark.parametrize(
    ("generator", "discriminator", "who"),
    [
        (MayBeTold(MNIST, 3, 8, 4), DCGANDiscriminator(MNIST, 4), "MayBeTold"),
        (ToldByName(MNIST, 3, 8, 4), DCGANDiscriminator(MNIST, 4), "ToldByName"),
        (TOLD, MayJudge(MNIST, 3, 4), "MayJudge"),
    ],
)
def test_a_condition_that_would_be_left_out_is_named(generator, discriminator, who):
    with pytest.raises(GANError, match=f"{who} is to be told .* make condition its second input, without a default"):
        check_pair(generator, discriminator, MNIST, 3)


def test_other_inputs_with_defaults_are_nobodys_business():
    class Truncates(MLPGenerator):
        def forward(self, z, psi=1.0):
            return super().forward(psi * z)

    check_pair(Truncates(MNIST, 8), MLPDiscriminator(MNIST), MNIST, of_data=10)


@pytest.mark.parametrize("of_data", [1, 2, 10])
def test_another_number_of_classes_than_the_datas_is_named(of_data):
    with pytest.raises(GANError, match=rf"told 3 classes, and the data has {of_data}: set its num_classes"):
        check_pair(TOLD, DCGANDiscriminator(MNIST, 4), MNIST, 3, of_data=of_data)
    check_pair(TOLD, DCGANDiscriminator(MNIST, 4), MNIST, 3, of_data=3)


@pytest.mark.parametrize("classes", [3, 9])
def test_a_judge_of_fewer_classes_is_named(classes):
    generator = ConditionalDCGANGenerator(MNIST, 10, 8, 4)
    with pytest.raises(GANError, match=r"ProjectionDCGANDiscriminator does not take .* labels 0 to 9: "):
        check_pair(generator, ProjectionDCGANDiscriminator(MNIST, classes, 4), MNIST, 10)


def test_conditional_pairs_fit():
    check_pair(TOLD, ProjectionDCGANDiscriminator(MNIST, 3, 4), MNIST, 3)
    check_pair(TOLD, DCGANDiscriminator(MNIST, 4), MNIST, 2)


SOURCES = (1, 7, 7)
TRANSLATES = UNetGenerator(MNIST, SOURCES, 8, 4)


class TakesWhatThereIs(nn.Module):
    """Is told what an image is to be of, and does not say what."""

    latent_dim = 8

    def forward(self, z, condition):
        assert condition.shape == (len(z), *SOURCES)
        return nn.functional.interpolate(condition, MNIST[1:])


@pytest.mark.parametrize("generator", [TRANSLATES, TakesWhatThereIs()])
@pytest.mark.parametrize("discriminator", [PatchDiscriminator(MNIST, SOURCES, 4), MLPDiscriminator(MNIST), Patches(3)])
def test_pairs_that_are_told_source_images_fit(generator, discriminator):
    check_pair(generator, discriminator, MNIST, condition_shape=SOURCES)


@pytest.mark.parametrize(
    ("generator", "discriminator", "of_data", "message"),
    [
        (TRANSLATES, PatchDiscriminator(MNIST, SOURCES), (1, 14, 14), r"\(1, 7, 7\), and the data has \(1, 14, 14\)"),
        (TRANSLATES, PatchDiscriminator(MNIST, (3, 7, 7)), SOURCES, r"images \(1, 28, 28\), and sources \(1, 7, 7\): "),
        (TakesWhatThereIs(), MLPDiscriminator(MNIST), None, "or condition_shape for source images"),
        (MLPGenerator(MNIST), PatchDiscriminator(MNIST, SOURCES), SOURCES, "MLPGenerator is not: its forward takes no"),
    ],
)
def test_sources_that_do_not_fit_are_named(generator, discriminator, of_data, message):
    with pytest.raises(ValueError, match=message):
        check_pair(generator, discriminator, MNIST, condition_shape=of_data)


def test_a_machine_without_a_compiler_is_named():
    with (
        config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}),
        pytest.raises(
            GANError, match=r"^model.generator: torch.compile finds no C\+\+ compiler: install one, such as g"
        ),
    ):
        check_pair(torch.compile(MLPGenerator(MNIST)), MLPDiscriminator(MNIST), MNIST)


def compiled(network, error):
    """As by a compiler that fails so."""

    def fail(*_):
        raise error

    return torch.compile(network, backend=fail)


def test_a_compiler_that_fails_is_named():
    error = CppCompileError(["/usr/bin/c++", "-O3"], "In file included:\nx.cpp:1: fatal error: Python.h: none\nstop\n")
    message = r"^model.discriminator: .* compiler /usr/bin/c\+\+ fails \(x.cpp:1: fatal error: Python.h: none\): repair"
    with pytest.raises(GANError, match=message):
        check_pair(MLPGenerator(MNIST), compiled(MLPDiscriminator(MNIST), error), MNIST)


def test_a_gpu_without_triton_is_named():
    message = "^model.generator: torch.compile on a GPU needs Triton, which is not installed: install it, or leave"
    with pytest.raises(GANError, match=message):
        check_pair(compiled(MLPGenerator(MNIST), TritonMissing(None)), MLPDiscriminator(MNIST), MNIST)


def test_another_failure_of_the_compiler_keeps_its_traceback():
    with pytest.raises(BackendCompilerFailed, match="TypeError: a bug"):
        check_pair(compiled(MLPGenerator(MNIST), TypeError("a bug")), MLPDiscriminator(MNIST), MNIST)


def test_other_samples_are_not_called_images():
    class Numbers(nn.Linear):
        latent_dim, sample_shape = 4, (6,)

    with pytest.raises(GANError, match=r"Linear does not take samples \(6,\): "):
        check_pair(Numbers(4, 6), nn.Linear(7, 1), None)


def test_a_compiled_network_has_its_own_name():
    """What it does not take is said of it, and not of torch's wrapper."""
    with pytest.raises(GANError, match="Lying does not take latents"):
        check_pair(torch.compile(Lying(), backend="eager"), MLPDiscriminator(MNIST), MNIST)


def test_leaves_no_trace():
    """Not in batch norms, not in torch's random numbers, not in the mode of any part."""
    torch.manual_seed(0)
    pair = DCGANGenerator(MNIST, 8, 4), DCGANDiscriminator(MNIST, 4, "batch")
    nn.init.ones_(pair[0].norm1.running_mean)
    before = [{key: value.clone() for key, value in network.state_dict().items()} for network in pair]
    state = torch.get_rng_state()
    check_pair(*pair, MNIST)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(network.training for network in pair)
    for network, values in zip(pair, before, strict=True):
        for key, value in network.state_dict().items():
            assert torch.equal(value, values[key]), key
