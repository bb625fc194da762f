"""Wrappers mend a network of one's own without a change to its code, and are networks like any other."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gan import GAN
from gan.errors import GANError
from gan.lab.own_networks import PerceptronDiscriminator, PerceptronGenerator
from gan.networks import first_layers, is_conditional
from gan.networks.network import misses_condition
from gan.networks.repair import Logit, Normalized, ScaledResiduals, Tanh, Unmixed, adds
from gan.spec import described

SHAPE = (1, 4, 4)
IMAGES = torch.linspace(-1, 1, 4 * 16).view(4, 1, 4, 4)
NOT_TOLD = {"num_classes": None, "condition_shape": None}
LATENTS = torch.linspace(-2, 2, 4 * 3).view(4, 3)


class Judge(nn.Module):
    """A discriminator that ends as its argument says."""

    def __init__(self, end: str = "module", scale: float = 1.0) -> None:
        super().__init__()
        self.end, self.scale = end, scale
        self.hidden = nn.Linear(16, 8)
        self.out = nn.Linear(8, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, images: Tensor) -> Tensor:
        x = self.scale * self.out(torch.sigmoid(self.hidden(images.flatten(1))))
        match self.end:
            case "module":
                return self.sigmoid(x).squeeze(1)
            case "function":
                return torch.sigmoid(x.squeeze(1))
            case "method":
                return x.sigmoid().view(-1)
            case "in place":
                return x.sigmoid_()[:, 0]
            case "by hand":
                return (1 / (1 + (-x).exp())).squeeze(1)
        return x.squeeze(1)


class Maker(nn.Module):
    """A generator that ends as its argument says."""

    def __init__(self, latent_dim: int = 3, end: str = "none") -> None:
        super().__init__()
        self.latent_dim, self.end = latent_dim, end
        self.out = nn.Linear(latent_dim, 16)

    def forward(self, z: Tensor) -> Tensor:
        x = self.out(z)
        ends = {"sigmoid": torch.sigmoid, "relu": F.relu, "tanh": torch.tanh, "none": nn.Identity()}
        return ends[self.end](x).view(-1, 1, 4, 4)


class Told(Maker):
    def __init__(self, latent_dim: int = 3, num_classes: int = 10) -> None:
        super().__init__(latent_dim)
        self.num_classes = num_classes

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(z) + condition.view(-1, 1, 1, 1)


class Deep(nn.Module):
    def __init__(self, depth: int = 8, std: float | None = None) -> None:
        super().__init__()
        self.depth, self.std = depth, std
        self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(depth)])
        self.out = nn.Linear(16, 1)
        for parameter in self.parameters():
            if std is not None:
                nn.init.normal_(parameter, std=std)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return self.out(x).squeeze(1)


class Block(nn.Module):
    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.in_place = in_place
        self.layer = nn.Linear(16, 16)
        nn.init.kaiming_normal_(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.layer(x))
        return x.add_(y) if self.in_place else x + y


class Added(nn.Module):
    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.in_place = in_place
        self.blocks = nn.Sequential(*[Block(in_place) for _ in range(16)])
        self.out = nn.Linear(16, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.blocks(images.flatten(1))).squeeze(1)


# ---------------------------------------------------------------------- ends


@pytest.mark.parametrize("end", ["module", "function", "method", "in place"])
def test_logit_is_what_the_sigmoid_was_given_however_it_is_written(end):
    judge = Judge(end, scale=1000.0)  # in float32 each probability is 0 or 1
    images = IMAGES.clone().requires_grad_()
    logits = Logit(judge)(images)
    judge.end = "none"
    torch.testing.assert_close(logits, judge(IMAGES), rtol=0, atol=0)
    logits.sum().backward()
    assert images.grad is not None
    assert images.grad.flatten(1).norm(dim=1).min() > 0


def test_logit_of_a_probability_made_by_hand_is_computed():
    judge = Judge("by hand")
    logits = Logit(judge)(IMAGES)
    judge.end = "none"
    torch.testing.assert_close(logits, judge(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logit_of_a_sure_probability_is_finite_in_half_precision(dtype):
    """1 - 1e-6 is 1 in 16 bits, and the logit of 1 infinite."""
    network = Logit(Judge("by hand", scale=1e3)).to(dtype)
    logits = network(IMAGES.to(dtype))
    assert logits.isfinite().all()
    assert logits.abs().max() > 13


class Checkpointed(Judge):
    """A discriminator that is computed again on the way back, in either of torch's ways."""

    reentrant = False

    def forward(self, images: Tensor) -> Tensor:
        logits = checkpoint(super().forward, images, use_reentrant=self.reentrant)
        assert isinstance(logits, Tensor)
        return logits


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_comes_through_what_is_computed_again(reentrant):
    """A reentrant checkpoint shows what a sigmoid was given without its gradient."""
    own = Checkpointed()
    own.reentrant = reentrant
    images = IMAGES.clone().requires_grad_()
    Logit(own)(images).sum().backward()
    plain = Judge()
    plain.load_state_dict(own.state_dict())
    plain.end = "none"
    expected, *_ = torch.autograd.grad(plain(IMAGES).sum(), [plain.hidden.weight])
    torch.testing.assert_close(own.hidden.weight.grad, expected, rtol=1e-3, atol=1e-5)


def test_logit_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match=r"leave repair\.Logit out"):
        Logit(Judge("none", scale=100.0))(IMAGES)


def test_logit_is_the_same_in_half_precision_in_a_copy_and_compiled():
    judge = Logit(Judge("function"))
    logits = judge(IMAGES)
    torch.testing.assert_close(copy.deepcopy(judge)(IMAGES), logits, rtol=0, atol=0)
    torch.testing.assert_close(torch.compile(judge, backend="eager")(IMAGES), logits, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(judge(IMAGES).float(), logits, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("end", ["none", "sigmoid"])
def test_tanh_takes_the_place_of_what_a_generator_ends_in(end):
    maker = Maker(end=end)
    images = Tanh(maker)(LATENTS)
    maker.end = "tanh"
    torch.testing.assert_close(images, maker(LATENTS), rtol=0, atol=0)


def test_tanh_takes_the_place_of_a_relu_which_has_no_negative_pixels():
    assert Tanh(Maker(end="relu"))(LATENTS).min() < -0.3


def test_tanh_refuses_a_second_one():
    with pytest.raises(ValueError, match=r"leave repair\.Tanh out"):
        Tanh(Maker(end="tanh"))(LATENTS)


# ---------------------------------------------------------------------- between layers


@pytest.mark.parametrize("depth", [8, 30])
@pytest.mark.parametrize("std", [None, 1.0, 1e-4, 0.0])
def test_normalized_brings_the_gradient_to_the_first_layer_of_sigmoids(std, depth):
    torch.manual_seed(0)
    network = Normalized(Deep(depth, std), SHAPE)
    network(IMAGES).sum().backward()
    norms = [parameter.grad.norm() for parameter in network.parameters() if parameter.grad is not None]
    assert 1e-2 < norms[0] / norms[-4] < 1e2


def test_normalized_leaves_images_of_a_batch_alone():
    network = Normalized(Deep(), SHAPE)
    torch.testing.assert_close(network(IMAGES)[:1], network(IMAGES[:1]))


def test_normalized_draws_nothing_and_names_weights_as_they_were():
    torch.manual_seed(0)
    plain, following = Deep(), torch.rand(1)
    torch.manual_seed(0)
    network = Normalized(Deep(), SHAPE)
    assert torch.equal(torch.rand(1), following)
    assert [*network.network.state_dict()] == [*plain.state_dict()]


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("bias", [True, False])
def test_normalized_starts_each_unit_at_one_size(kind, bias):
    """Of random inputs, whatever its weights were; and leaves running averages as they were."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [(2 * 16, 6), (6, 3)] if kind is nn.Linear else [(2, 6, 2), (6, 3, 2)]
            self.one, self.norm, self.two = kind(*sizes[0], bias=bias), nn.BatchNorm1d(6), kind(*sizes[1], bias=bias)
            nn.init.normal_(self.one.weight, std=100)

        def forward(self, images):
            self.hidden = self.one(images.flatten(1) if kind is nn.Linear else images)
            if kind is nn.Linear:
                self.norm(self.hidden)
            self.output = self.two(self.hidden.sigmoid())
            return self.output

    network = Normalized(Two(), (2, 4, 4))
    assert torch.equal(network.network.norm.running_mean, torch.zeros(6))
    network(*network.random_inputs(torch.Generator().manual_seed(1)))
    for values in (network.network.hidden, network.network.output):
        values = values.transpose(0, 1).flatten(1)
        assert 0.2 < values.std(1).min() < values.std(1).max() < 0.5
        assert not bias or values.mean(1).abs().max() < 0.2


def test_normalized_asks_for_the_shape_that_nobody_tells():
    with pytest.raises(ValueError, match=r"give it image_shape=\(channels, height, width\)"):
        Normalized(Judge())


class ToldJudge(nn.Module):
    """A discriminator that is told a class, or an image, and does not keep of how many or of which size."""

    def __init__(self, size: int, classes: int = 0) -> None:
        super().__init__()
        self.table = nn.Embedding(classes, size) if classes else nn.Flatten()
        self.hidden, self.out = nn.Linear(16 + size, 8), nn.Linear(8, 1)

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        x = torch.cat([images.flatten(1), self.table(condition)], 1)
        return self.out(torch.sigmoid(self.hidden(x))).squeeze(1)


def test_normalized_is_told_what_a_conditional_network_is_told():
    """By the command line, from the data, as `image_shape` is."""
    by_class = Normalized(ToldJudge(3, classes=5), SHAPE, num_classes=5)
    assert by_class(IMAGES, torch.tensor([0, 1, 2, 4])).isfinite().all()
    by_image = Normalized(ToldJudge(4), SHAPE, num_classes=5, condition_shape=(1, 2, 2))
    assert by_image(IMAGES, torch.zeros(4, 1, 2, 2)).isfinite().all()
    assert by_image.num_classes is None  # it is not what the network is told
    with pytest.raises(GANError, match=r"ToldJudge is conditional.*give it num_classes"):
        Normalized(ToldJudge(3, classes=5), SHAPE)


def test_normalized_says_of_an_unconditional_network_what_that_says():
    """Data states its classes to each network, and an unconditional one that has options must not seem to miss them."""
    network = Normalized(Deep(depth=3), SHAPE, num_classes=5)
    assert network.num_classes is None
    assert network.condition_shape is None


class Doubled(nn.Module):
    """A discriminator with one batch norm by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.first, self.out = nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)
        self.second = self.first

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.second(torch.relu(self.first(self.hidden(images.flatten(1)))))).squeeze(1)


def test_unmixed_finds_a_batch_norm_of_two_names():
    network = Unmixed(Doubled()).eval()
    assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]


def test_unmixed_judges_each_image_by_itself():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    assert not torch.allclose(network(IMAGES)[:1], network(IMAGES[:1].repeat(2, 1, 1, 1))[:1])
    unmixed = Unmixed(network)
    torch.testing.assert_close(unmixed(IMAGES)[:1], unmixed(IMAGES[:1]))
    with pytest.raises(ValueError, match=r"leave repair\.Unmixed out"):
        Unmixed(network)


def test_normalized_refuses_a_network_without_hidden_layers():
    with pytest.raises(ValueError, match=r"leave repair\.Normalized out"):
        Normalized(Maker())


# ---------------------------------------------------------------------- residual blocks


def test_residual_branches_are_divided_by_the_root_of_their_number():
    network = Added()
    block = next(network.blocks.children())
    assert isinstance(block, Block)
    x = IMAGES.flatten(1)
    branch = F.relu(block.layer(x))
    ScaledResiduals(network)
    torch.testing.assert_close(block(x), x + branch / 4)


@pytest.mark.parametrize("act", ["ReLU", "Sigmoid", "Tanh"])
@pytest.mark.parametrize("skip", [True, False], ids=["sums", "layers"])
def test_knows_blocks_that_add_to_their_input(skip, act):
    """The sigmoid of nothing is added too, and is 1/2 whatever came in."""
    images, latents = torch.randn(8, *SHAPE), torch.randn(8, 4)
    judge = PerceptronDiscriminator(SHAPE, layers=4, hidden=16, act=act, skip=skip)
    assert adds(judge, (images,)) == skip
    maker = PerceptronGenerator(SHAPE, 4, layers=4, hidden=16, act=act, skip=skip)
    assert adds(maker, (latents,)) == skip


def test_draws_nothing_to_know_it():
    judge = nn.Sequential(nn.Dropout(), PerceptronDiscriminator(SHAPE, layers=4, hidden=16, skip=True))
    before = torch.get_rng_state()
    adds(judge, (torch.ones(8, *SHAPE),))
    assert torch.equal(torch.get_rng_state(), before)


def test_one_sum_is_no_row_of_them():
    assert not adds(PerceptronDiscriminator(SHAPE, layers=2, hidden=8, skip=True), (torch.randn(8, *SHAPE),))


def test_blocks_that_add_in_place_cannot_be_scaled():
    assert adds(Added(), (IMAGES,))
    assert not adds(Added(in_place=True), (IMAGES.clone(),))


def test_residual_blocks_that_cannot_be_scaled_are_refused():
    with pytest.raises(ValueError, match="no two blocks"):
        ScaledResiduals(Deep())
    with pytest.raises(ValueError, match="in place"):
        ScaledResiduals(Added(in_place=True))(IMAGES.clone())


# ---------------------------------------------------------------------- a network like any other


def test_wrapper_is_told_what_the_network_in_it_is_told():
    wrapped = Tanh(Normalized(Between()))
    assert not is_conditional(wrapped)
    assert not misses_condition(wrapped)
    told = Tanh(Told())
    assert is_conditional(told)
    assert (told.latent_dim, told.num_classes) == (3, 10)
    assert not hasattr(Tanh(Maker()), "num_classes")
    assert told(LATENTS, torch.zeros(4)).shape == (4, 1, 4, 4)


def test_wrapper_is_rebuilt_from_its_description():
    gan = GAN(Tanh(Maker(end="sigmoid")), Logit(Normalized(Deep(depth=3), SHAPE)))
    path = "gan.networks.repair."
    inner = {"class_path": f"{__name__}.Deep", "init_args": {"depth": 3, "std": None}}
    normalized = {"class_path": path + "Normalized", "init_args": {"network": inner, "image_shape": SHAPE, **NOT_TOLD}}
    assert described(gan.discriminator) == {"class_path": path + "Logit", "init_args": {"network": normalized}}
    assert gan.hparams["discriminator"] == described(gan.discriminator)


def test_first_layers_are_those_of_the_network_in_a_wrapper():
    judge = Logit(Normalized(Judge(), SHAPE))
    assert [*first_layers(judge, 1, lambda: judge(IMAGES))] == ["network.network.hidden"]


def test_generator_in_wrappers_is_exported_as_it_is():
    maker = Tanh(Normalized(Between()))
    program = torch.export.export(maker, (LATENTS,), dynamic_shapes=[{0: torch.export.Dim("batch")}])
    torch.testing.assert_close(program.module()(LATENTS[:3]), maker(LATENTS[:3]))


class Between(Maker):
    def __init__(self, latent_dim: int = 3) -> None:
        super().__init__(latent_dim, "sigmoid")
        self.out = nn.Sequential(nn.Linear(latent_dim, 8), nn.Sigmoid(), nn.Linear(8, 16))
