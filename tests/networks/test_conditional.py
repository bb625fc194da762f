"""The conditional pairs: what a class changes, against the papers' formulas."""

import copy

import pytest
import torch
from torch import nn

from gan.networks import (
    AuxiliaryDCGANDiscriminator,
    AuxiliaryResNetDiscriminator,
    ClassifierDCGANDiscriminator,
    ClassNorm,
    ConditionalDCGANGenerator,
    ConditionalResNetGenerator,
    ProjectionDCGANDiscriminator,
    ProjectionResNetDiscriminator,
)

MNIST = (1, 28, 28)
GENERATORS = (ConditionalDCGANGenerator, ConditionalResNetGenerator)
DISCRIMINATORS = (ProjectionDCGANDiscriminator, ProjectionResNetDiscriminator)
NORMS = ("batch", "layer", "group")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def set_apart(network: nn.Module) -> nn.Module:
    """Gives the classes vectors that differ, as training does."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Embedding):
                module.weight.normal_(1.0, 0.5)
    return network


@pytest.mark.parametrize("norm", NORMS)
def test_class_norm_is_the_normalisation_scaled_and_shifted_by_the_class(norm):
    layer = set_apart(ClassNorm(norm, 16, num_classes=3))
    x, labels = torch.randn(5, 16, 4, 6), torch.tensor([2, 0, 2, 1, 0])
    match norm:
        case "batch":
            mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        case "layer":
            mean, var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True, correction=0)
        case "group":
            groups = x.unflatten(1, (8, 2))
            mean, var = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), keepdim=True, correction=0)
            mean, var = (value.expand_as(groups).flatten(1, 2) for value in (mean, var))
    normal = (x - mean) / (var + 1e-5).sqrt()
    scale, shift = layer.scale.weight[labels], layer.shift.weight[labels]
    expected = torch.stack(
        [s[:, None, None] * n + t[:, None, None] for s, n, t in zip(scale, normal, shift, strict=True)]
    )
    torch.testing.assert_close(layer(x, labels), expected)
    assert {name for name, _ in layer.named_parameters()} == {"scale.weight", "shift.weight"}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("image_shape", [MNIST, (3, 32, 16), (3, 64, 64)])
@pytest.mark.parametrize("cls", GENERATORS)
def test_generator_makes_another_image_of_each_class(cls, image_shape, norm):
    generator = set_apart(cls(image_shape, num_classes=4, latent_dim=7, base_channels=8, norm=norm)).eval().double()
    latents = torch.randn(1, 7, dtype=torch.float64).expand(4, 7)
    images = generator(latents, torch.arange(4))
    assert images.shape == (4, *image_shape)
    assert images.abs().max() <= 1
    apart = (images[:, None] - images[None]).flatten(2).norm(dim=2)
    assert (apart[~torch.eye(4, dtype=torch.bool)] > 1e-3).all()
    one_by_one = torch.cat([generator(latents[:1], label[None]) for label in torch.arange(4)])
    torch.testing.assert_close(images, one_by_one)


@pytest.mark.parametrize("cls", GENERATORS)
def test_every_normalisation_is_told_the_class_at_any_depth(cls):
    for size, count in ((28, 2), (64, 4)):
        generator = cls((3, size, size), num_classes=4, base_channels=8, attention_resolution=size // 2)
        told = [module for module in generator.modules() if isinstance(module, ClassNorm)]
        assert len(told) == (count if cls is ConditionalDCGANGenerator else 1 + 2 * count)
        plain = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d) and module.affine]
        shortcuts = sum(isinstance(module, nn.Sequential) for module in generator.modules())
        assert len(plain) == shortcuts  # whose channels no class scales


@pytest.mark.parametrize("cls", [*DISCRIMINATORS, AuxiliaryDCGANDiscriminator, AuxiliaryResNetDiscriminator])
def test_judges_have_attention_and_minibatch_std_at_any_depth(cls):
    flags = {"max_channels": 16, "attention_resolution": 8, "minibatch_std": True}
    judge = cls((3, 64, 64), num_classes=4, base_channels=8, **flags)
    assert {name for name, _ in judge.named_children()} > {"attention", "minibatch_std", "output"}
    assert max(module.out_channels for module in judge.modules() if isinstance(module, nn.Conv2d)) == 16
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    logits = judge(images, labels) if cls in DISCRIMINATORS else judge.classify(images)[:, 0] + judge(images)
    assert logits.shape == (4,)
    assert judge.spec["init_args"].items() >= flags.items()


@pytest.mark.parametrize("cls", DISCRIMINATORS)
@pytest.mark.parametrize("norm", ["none", "batch", "spectral"])
def test_projection_adds_the_inner_product_with_the_vector_of_the_class(cls, norm):
    discriminator = cls(MNIST, num_classes=4, base_channels=8, norm=norm).eval()
    images, labels = torch.rand(6, *MNIST) * 2 - 1, torch.tensor([0, 1, 2, 3, 3, 0])
    features = discriminator.features(images)
    unconditional = features @ discriminator.output.weight[0] + discriminator.output.bias
    vectors = discriminator.projection.vectors.weight
    expected = unconditional + torch.stack([features[i] @ vectors[label] for i, label in enumerate(labels)])
    torch.testing.assert_close(discriminator(images, labels), expected)


@pytest.mark.parametrize("cls", DISCRIMINATORS)
def test_spectral_normalisation_bounds_the_vectors_of_the_classes_too(cls):
    discriminator = cls(MNIST, num_classes=5, base_channels=8, norm="spectral")
    images = torch.rand(4, *MNIST)
    for _ in range(50):  # a power iteration each
        discriminator(images, torch.tensor([0, 1, 2, 3]))
    assert torch.linalg.matrix_norm(discriminator.projection.vectors.weight, 2).item() == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize("cls", GENERATORS + DISCRIMINATORS)
def test_gradients_reach_every_parameter_and_only_the_classes_that_are_there(cls):
    network = cls(MNIST, num_classes=4, base_channels=8)
    labels = torch.tensor([0, 2, 2, 0])
    inputs = torch.randn(4, 100) if cls in GENERATORS else torch.rand(4, *MNIST)
    outputs = network(inputs, labels)
    (outputs * torch.randn_like(outputs)).sum().backward()
    for name, parameter in network.named_parameters():
        if "conv2" not in name and "conv1" not in name:
            assert parameter.grad.abs().max() > 0, name
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            touched = module.weight.grad.abs().sum(1) > 0
            assert touched.tolist() == [True, False, True, False]


@pytest.mark.parametrize("cls", GENERATORS + DISCRIMINATORS)
def test_is_rebuilt_from_its_spec_and_copied(cls):
    network = set_apart(cls(MNIST, num_classes=4, base_channels=8)).eval()
    twin = cls(**network.spec["init_args"]).eval()
    twin.load_state_dict(network.state_dict())
    labels = torch.arange(4)
    inputs = torch.randn(4, 100) if cls in GENERATORS else torch.rand(4, *MNIST)
    for other in (twin, copy.deepcopy(network)):
        torch.testing.assert_close(other(inputs, labels), network(inputs, labels), rtol=0, atol=0)


@pytest.mark.parametrize("cls", GENERATORS)
@pytest.mark.parametrize("norm", ["spectral", "none"])
def test_a_generator_without_a_normalisation_has_nothing_that_a_class_could_scale(cls, norm):
    with pytest.raises(ValueError, match=f"batch, layer, group.*{norm}"):
        cls(MNIST, num_classes=4, norm=norm)


@pytest.mark.parametrize("cls", GENERATORS + DISCRIMINATORS)
def test_there_is_a_class_at_least(cls):
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        cls(MNIST, num_classes=0)


@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_the_logit_of_a_classifier_is_that_of_its_classes_against_generated(norm):
    """D(x) = Z / (Z + 1) for Z the sum of the classes' exponentials (Salimans et al., section 5)."""
    classifier = ClassifierDCGANDiscriminator(MNIST, num_classes=4, base_channels=8, norm=norm).eval()
    images = torch.rand(6, *MNIST) * 2 - 1
    total = classifier.classify(images).exp().sum(1)
    torch.testing.assert_close(classifier(images).sigmoid(), total / (total + 1))
    assert classifier.classify(images).shape == (6, 4)
    classifier(images).sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())
    again = ClassifierDCGANDiscriminator(**classifier.spec["init_args"])
    again.load_state_dict(classifier.state_dict())
