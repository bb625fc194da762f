"""The GAN against a loop written out by hand, and what its two steps must do and must leave alone."""

import ast
import inspect
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import Pairs, Recorder, SmallMNIST, TableLogger, same_weights
from lightning import Callback
from torch.nn.functional import softplus
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau

from gan import GAN, networks
from gan.callbacks import GeneratorEMA
from gan.errors import GANError
from gan.losses import NonSaturating, RelativisticPaired, Wasserstein
from gan.networks import (
    AuxiliaryDCGANDiscriminator,
    ConditionalDCGANGenerator,
    DCGANDiscriminator,
    DCGANGenerator,
    PatchDiscriminator,
    ProjectionDCGANDiscriminator,
    UNetGenerator,
)
from gan.penalties import DRAGAN, R1, R2, GradientPenalty
from gan.terms import Classification, Reconstruction

SHAPE = (1, 28, 28)


def by_hand(gan: GAN, data: SmallMNIST, batches: int, n_critic: int = 1, rate: float = 0.1) -> None:
    """Plain SGD on both networks: non-saturating loss, R1 of weight 0.3 every 2 batches. None of our own steps."""
    data.setup("fit")
    generator, discriminator = gan.generator, gan.discriminator
    for step, (real, _) in zip(range(batches), data.train_dataloader(), strict=False):
        real = real.double()
        rng = gan.rng("batch", step)
        fake = generator(torch.randn(len(real), 8, generator=rng, dtype=torch.float64)).detach()
        loss = (softplus(-discriminator(real)) + softplus(discriminator(fake))).mean()
        if step % 2 == 0:
            x = real.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
            loss = loss + 2 * 0.3 * 0.5 * gradient.pow(2).sum((1, 2, 3)).mean()
        descend(discriminator, loss, rate)
        if step % n_critic == n_critic - 1:
            fake = generator(torch.randn(len(real), 8, generator=rng, dtype=torch.float64))
            descend(generator, softplus(-discriminator(fake)).mean(), rate)


PENALTIES = ([], [R1(0.3, every=2), GradientPenalty(1.0), DRAGAN(1.0, every=3)])


@pytest.mark.parametrize("loss", [NonSaturating(), RelativisticPaired()], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("penalties", PENALTIES, ids=["no penalty", "penalties"])
def test_accumulate_gives_the_weights_of_the_larger_batch(make_gan, make_trainer, loss, penalties):
    """Two, four or eight passes: the same images, the same noise, the same losses."""
    trained = []
    for passes in (1, 4, 8):
        gan, logger = make_gan(loss=loss, penalties=penalties, accumulate=passes, n_critic=2), TableLogger()
        data = SmallMNIST(batch_size=16 // passes, validation_size=0)
        make_trainer(max_steps=12, precision="64-true", logger=logger, callbacks=[GeneratorEMA()]).fit(gan, data)
        trained.append((gan.state_dict(), logger.rows))
    for weights, rows in trained[1:]:
        for name, value in trained[0][0].items():
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-10)
        for (step, row), (expected_step, expected) in zip(rows, trained[0][1], strict=True):
            assert step == expected_step
            assert row == pytest.approx(expected, rel=1e-9)


def test_groups_of_images_are_the_same_in_passes(make_trainer):
    """Minibatch standard deviation is of 4 images in a row, which no pass divides."""
    trained = []
    for passes in (1, 2, 4):
        torch.manual_seed(0)
        networks = DCGANGenerator(SHAPE, 8, 4, "layer"), DCGANDiscriminator(SHAPE, 4, minibatch_std=True)
        gan, data = GAN(*networks, accumulate=passes), SmallMNIST(batch_size=16 // passes, validation_size=0)
        make_trainer(max_steps=6, precision="64-true").fit(gan, data)
        trained.append(gan.state_dict())
    for weights in trained[1:]:
        for name, value in trained[0].items():
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-10)


def test_accumulate_needs_a_batch_that_it_can_divide(make_gan, make_trainer, data):
    loader = data.train_dataloader()  # a loader of one's own: batches of 16
    with pytest.raises(ValueError, match=r"model.accumulate=3 cannot divide a batch of 16 samples"):
        make_trainer().fit(make_gan(accumulate=3), loader)


def descend(network: torch.nn.Module, loss: torch.Tensor, rate: float) -> None:
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter -= rate * gradient


@pytest.mark.parametrize("n_critic", [1, 3])
def test_equals_a_loop_written_by_hand(make_gan, make_trainer, data, n_critic):
    settings = {"penalties": [R1(0.3, every=2)], "n_critic": n_critic}
    settings |= {"generator_optimizer": partial(SGD, lr=0.1), "discriminator_optimizer": partial(SGD, lr=0.1)}
    gan, other = make_gan(**settings), make_gan(**settings)
    make_trainer(max_steps=7, precision="64-true").fit(gan, data)
    by_hand(other.double(), SmallMNIST(batch_size=16, validation_size=0), 7, n_critic)
    for trained, expected in zip(gan.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, rtol=0, atol=1e-12)


def test_an_unconditional_run_has_the_bits_of_its_arithmetic(make_trainer):
    """20 batches of the default's networks, penalty and optimizers, in float32: a condition costs those without none.

    That these are the bits from before there were conditions was seen once, on one machine, by both commits.
    """
    optimizer = partial(Adam, lr=0.004, betas=(0.0, 0.9), fused=True)

    def make() -> GAN:
        torch.manual_seed(0)
        networks = DCGANGenerator(SHAPE, 16, 8), DCGANDiscriminator(SHAPE, 8)
        optimizers = {"generator_optimizer": optimizer, "discriminator_optimizer": optimizer}
        return GAN(*networks, penalties=[R1(1.0, every=16)], **optimizers)

    gan, other = make(), make()
    make_trainer(max_steps=20).fit(gan, SmallMNIST(batch_size=64, validation_size=0))

    data = SmallMNIST(batch_size=64, validation_size=0)
    data.setup("fit")
    generator, discriminator = other.generator, other.discriminator
    of_generator, of_discriminator = (optimizer(network.parameters()) for network in (generator, discriminator))
    loader = data.train_dataloader()
    batches = [real for _ in range(3) for real, _ in loader]  # of 8 in an epoch
    for step, real in enumerate(batches[:20]):
        rng = other.rng("batch", step)
        with torch.no_grad():
            fake = generator(torch.randn(64, 16, generator=rng))
        loss = (softplus(-discriminator(real)) + softplus(discriminator(fake))).mean()
        if step % 16 == 0:
            x = real.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
            loss = loss + 1.0 * 16 * (0.5 * gradient.flatten(1).square().sum(1)).mean()
        of_discriminator.zero_grad()
        loss.backward()
        of_discriminator.step()
        of_generator.zero_grad()
        softplus(-discriminator(generator(torch.randn(64, 16, generator=rng)))).mean().backward()
        of_generator.step()
    assert same_weights(gan.generator, generator)
    assert same_weights(gan.discriminator, discriminator)


def conditional_pair(cls, **settings) -> GAN:
    torch.manual_seed(0)
    generator = ConditionalDCGANGenerator(SHAPE, num_classes=10, latent_dim=8, base_channels=4)
    return GAN(generator, cls(SHAPE, num_classes=10, base_channels=4), **settings).double()


@pytest.mark.parametrize("cls", [ProjectionDCGANDiscriminator, AuxiliaryDCGANDiscriminator])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_conditional_step_equals_one_written_by_hand(make_trainer, cls, accumulate):
    """Both players see the labels of the batch: the generator's images, the judge's, the penalty's."""
    auxiliary = cls is AuxiliaryDCGANDiscriminator
    settings = {"penalties": [R1(0.3, every=2)], "classification": Classification(0.7) if auxiliary else None}
    rates = {f"{name}_optimizer": partial(SGD, lr=0.1) for name in ("generator", "discriminator")}
    gan, other = (conditional_pair(cls, **settings, **rates) for _ in range(2))
    gan.accumulate = accumulate
    size = 16 // accumulate
    make_trainer(max_steps=4, precision="64-true").fit(gan, SmallMNIST(batch_size=size, validation_size=0))

    data = SmallMNIST(batch_size=16, validation_size=0)
    data.setup("fit")
    generator, discriminator = other.generator, other.discriminator

    def passes(value):
        return value.chunk(accumulate)

    def judged(images, labels):
        return discriminator(images) if auxiliary else discriminator(images, labels)

    def surprise(images, labels):
        logits = discriminator.classify(images)
        return 0.7 * (logits.logsumexp(1) - logits[torch.arange(len(labels)), labels]).mean()

    for step, (real, labels) in zip(range(4), data.train_dataloader(), strict=False):
        rng = other.rng("batch", step)
        latents = [torch.randn(16, 8, generator=rng, dtype=torch.float64) for _ in range(2)]
        loss = torch.zeros(())
        for x, y, z in zip(passes(real.double()), passes(labels), passes(latents[0]), strict=True):
            fake = generator(z, y).detach()
            part = (softplus(-judged(x, y)) + softplus(judged(fake, y))).mean()
            if step % 2 == 0:
                x = x.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(judged(x, y).sum(), x, create_graph=True)
                part = part + 2 * 0.3 * 0.5 * gradient.pow(2).sum((1, 2, 3)).mean()
            if auxiliary:
                part = part + surprise(x, y) + surprise(fake, y)
            loss = loss + part / accumulate
        descend(discriminator, loss, 0.1)
        loss = torch.zeros(())
        for y, z in zip(passes(labels), passes(latents[1]), strict=True):
            fake = generator(z, y)
            part = softplus(-judged(fake, y)).mean()
            loss = loss + (part + surprise(fake, y) if auxiliary else part) / accumulate
        descend(generator, loss, 0.1)
    for (name, value), expected in zip(gan.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value, expected, msg=name)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_translation_step_equals_one_written_by_hand(make_trainer, accumulate, norm):
    """Both players see the sources: the generator's images, the judge's patches, R1 and R2 at (image, source)."""
    settings = {"penalties": [R1(0.3, every=2), R2(0.2)], "reconstruction": Reconstruction(3.0, norm)}
    settings |= {f"{name}_optimizer": partial(SGD, lr=0.1) for name in ("generator", "discriminator")}

    def make() -> GAN:
        torch.manual_seed(0)
        sources = Pairs.condition_shape
        generator, discriminator = UNetGenerator(SHAPE, sources, 8, 4), PatchDiscriminator(SHAPE, sources, 4)
        return GAN(generator, discriminator, **settings, accumulate=accumulate).double()

    gan, other = make(), make()
    logger = TableLogger()
    data = Pairs(batch_size=16 // accumulate, validation_size=0)
    make_trainer(max_steps=4, precision="64-true", logger=logger).fit(gan, data)

    data = Pairs(batch_size=16, validation_size=0)
    data.setup("fit")
    generator, discriminator = other.generator, other.discriminator

    def passes(value):
        return value.double().chunk(accumulate)

    def steepness(images, sources):  # of the mean of an image's patches
        images = images.clone().requires_grad_()
        logits = discriminator(images, sources).mean((1, 2, 3)).sum()
        (gradient,) = torch.autograd.grad(logits, images, create_graph=True)
        return 0.5 * gradient.pow(2).sum((1, 2, 3)).mean()

    distances = []
    for step, (real, sources) in zip(range(4), data.train_dataloader(), strict=False):
        rng = other.rng("batch", step)
        latents = [torch.randn(16, 8, generator=rng, dtype=torch.float64) for _ in range(2)]
        loss = torch.zeros(())
        for x, y, z in zip(passes(real), passes(sources), passes(latents[0]), strict=True):
            fake = generator(z, y).detach()
            part = (softplus(-discriminator(x, y)) + softplus(discriminator(fake, y))).mean()
            part = part + 0.2 * steepness(fake, y) + (2 * 0.3 * steepness(x, y) if step % 2 == 0 else 0)
            loss = loss + part / accumulate
        descend(discriminator, loss, 0.1)
        loss = torch.zeros(())
        distance = torch.zeros(())
        for x, y, z in zip(passes(real), passes(sources), passes(latents[1]), strict=True):
            fake = generator(z, y)
            apart = ((fake - x).abs() if norm == "l1" else (fake - x) ** 2).mean()
            loss = loss + (softplus(-discriminator(fake, y)).mean() + 3 * apart) / accumulate
            distance = distance + apart.detach() / accumulate
        descend(generator, loss, 0.1)
        distances.append(distance.item())
    for (name, value), expected in zip(gan.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value, expected, msg=name)
    logged = [row["loss/reconstruction_generator"] for _, row in logger.rows]
    assert logged == pytest.approx(distances)


def test_no_gradient_leaks_into_the_other_network(make_gan, make_trainer, data):
    recorder = Recorder()
    penalties = [R1(1.0), GradientPenalty(1.0)]
    make_trainer(max_steps=1, callbacks=[recorder]).fit(make_gan(penalties=penalties), data)
    assert recorder.optimizer_steps == ["d", "g"]
    discriminators_step, _ = recorder.leaks
    assert all(gradient is None for gradient in discriminators_step.values())


def test_generator_step_adds_nothing_to_the_discriminators_gradients(make_gan, make_trainer, data):
    before_and_after = []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            gradients = [parameter.grad.clone() for parameter in pl_module.discriminator.parameters()]
            before_and_after.append(gradients)

    gan = make_gan()
    make_trainer(max_steps=1, callbacks=[Watch()]).fit(gan, data)
    for own, later in zip(*before_and_after, strict=True):
        assert torch.equal(own, later)
    assert all(parameter.requires_grad for parameter in gan.discriminator.parameters())  # thawed again


def test_n_critic(make_gan, make_trainer, data):
    recorder = Recorder()
    make_trainer(max_steps=7, callbacks=[recorder]).fit(make_gan(n_critic=3), data)
    assert "".join(recorder.optimizer_steps) == "dddgdddgd"
    assert recorder.global_steps == list(range(1, 8))


def test_noise_is_fresh_and_repeatable(make_gan, make_trainer, data):
    gan, drawn = make_gan(), []
    gan.generator.register_forward_pre_hook(lambda module, inputs: drawn.append(inputs[0].clone()))
    make_trainer(max_steps=3).fit(gan, data)
    drawn = [latents for latents in drawn if len(latents) == 16]  # without the check of shapes
    assert len(drawn) == 6
    flat = torch.stack(drawn).flatten(1)
    assert len(flat.unique(dim=0)) == 6  # two steps a batch, three batches
    rng = gan.rng("batch", 2)
    assert torch.equal(drawn[4], gan.latents(16, rng))
    assert torch.equal(drawn[5], gan.latents(16, rng))


def test_noise_is_standard_normal(make_gan):
    latents = make_gan().latents(20000, torch.Generator().manual_seed(0))
    assert abs(latents.mean()) < 0.01
    assert abs(latents.std() - 1) < 0.01


def test_weight_clip(make_gan, make_trainer, data):
    gan = make_gan(loss=Wasserstein(), weight_clip=0.01)
    make_trainer(max_steps=2).fit(gan, data)
    assert max(parameter.abs().max() for parameter in gan.discriminator.parameters()) <= 0.01
    assert max(parameter.abs().max() for parameter in gan.generator.parameters()) > 0.01


def test_relativistic_generator_step_sees_the_real_images(make_gan, make_trainer, data):
    gan, seen = make_gan(loss=RelativisticPaired()), []
    gan.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    make_trainer(max_steps=1).fit(gan, data)
    real, fake, again, fresh = seen[-4:]  # for D, then for G
    assert len(real) == len(fake) == 16
    assert torch.equal(real, again)
    assert not torch.equal(fake, fresh)  # fresh noise


def test_penalty_gradients_are_float32_under_bf16(make_gan, make_trainer, data):
    # Weights for which bf16 shows: with the second derivatives in bf16, this differs by 1e-3.
    def gradients(precision):
        kept = []

        class Keep(Callback):
            def on_before_optimizer_step(self, trainer, pl_module, optimizer):
                kept.append([parameter.grad.clone() for parameter in pl_module.discriminator.parameters()])

        gan = make_gan(penalties=[R1(1e4)])  # strong enough to drown the adversarial part, which is bf16 by right
        make_trainer(max_steps=1, precision=precision, callbacks=[Keep()]).fit(gan, SmallMNIST(16, 0))
        return torch.cat([gradient.flatten() for gradient in kept[0]])

    exact, mixed = gradients("32-true"), gradients("bf16-mixed")
    assert (exact - mixed).norm() / exact.norm() < 1e-4


def test_sampling_changes_nothing(make_gan):
    torch.manual_seed(0)
    gan = GAN(DCGANGenerator(image_shape=SHAPE), DCGANDiscriminator(image_shape=SHAPE)).train()
    gan.generator.norm1.eval()  # one part in another mode than the rest
    before = {name: value.clone() for name, value in gan.state_dict().items()}
    modes = [module.training for module in gan.modules()]
    images = gan(gan.fixed_latents)
    assert images.shape == (64, *SHAPE)
    assert not images.requires_grad
    assert modes == [module.training for module in gan.modules()]
    assert all(torch.equal(before[name], value) for name, value in gan.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_fixed_latents": 1}, "num_fixed_latents must be at least 2"),
        ({"n_critic": 0}, "n_critic must be at least 1"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"weight_clip": 0.0}, "weight_clip must be above 0"),
    ],
)
def test_bad_settings(make_gan, settings, message):
    with pytest.raises(ValueError, match=message):
        make_gan(**settings)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [(partial(SGD, lr=-1.0), "model.generator_optimizer: Invalid learning rate"), (LBFGS, "LBFGS evaluates a batch")],
)
def test_optimizers_that_cannot_be(make_gan, make_trainer, data, optimizer, message):
    with pytest.raises(ValueError, match=message):
        make_trainer().fit(make_gan(generator_optimizer=optimizer), data)


def test_plateau_scheduler_is_refused(make_gan, make_trainer, data):
    with pytest.raises(ValueError, match="ReduceLROnPlateau"):
        make_trainer().fit(make_gan(generator_scheduler=ReduceLROnPlateau), data)


@pytest.mark.parametrize("norm", ["none", "layer", "spectral", "batch"])
def test_discriminator_sees_real_and_generated_images_apart(make_trainer, data, norm):
    """Statistics of a batch are of images of one kind, as the literature has it."""
    small = {"image_shape": SHAPE, "base_channels": 4}
    gan = GAN(DCGANGenerator(**small), DCGANDiscriminator(**small, norm=norm))
    weights = {name: value.clone() for name, value in gan.discriminator.state_dict().items()}
    sizes = []

    class Watch(Callback):
        def on_fit_start(self, trainer, pl_module):  # the checks before it left no trace
            assert all(torch.equal(weights[name], value) for name, value in gan.discriminator.state_dict().items())
            gan.discriminator.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))

    make_trainer(max_steps=1, callbacks=[Watch()]).fit(gan, data)
    assert sizes == [16, 16, 16]


class Pictures(SmallMNIST):
    """8 colour images of one size, noise."""

    def __init__(self, size):
        super().__init__(batch_size=4, validation_size=0)
        self.image_shape = (3, size, size)

    def load(self, train):
        return torch.randint(256, (8, *self.image_shape), dtype=torch.uint8), torch.arange(8)


@pytest.mark.parametrize("size", [16, 64, 128, 256])
@pytest.mark.parametrize("kind", ["DCGAN", "ResNet"])
def test_trains_on_images_of_any_size(make_trainer, kind, size):
    """With all that larger images are given, under a penalty; every weight moves."""
    torch.manual_seed(0)
    flags = {"base_channels": 4, "norm": "layer", "max_channels": 16, "attention_resolution": 8}
    make_generator, judge = (getattr(networks, f"{kind}{end}") for end in ("Generator", "Discriminator"))
    data = Pictures(size)
    pair = make_generator(data.image_shape, **flags), judge(data.image_shape, **flags, minibatch_std=True)
    gan = GAN(*pair, penalties=[R1(0.1)])
    for network in pair:
        torch.nn.init.constant_(network.attention.gamma, 0.5)  # it starts at 0, and what is behind it moves later
    before = {name: value.clone() for name, value in gan.named_parameters()}
    make_trainer(max_steps=3).fit(gan, data)
    for name, value in gan.named_parameters():
        assert value.isfinite().all(), name
        assert not torch.equal(value, before[name]), name
    assert gan.sample(2).shape == (2, 3, size, size)


def test_discriminator_sees_images_and_what_they_are_of_apart_too(told, make_trainer):
    """One pass a kind, each with the condition of its batch, which is what the generator was told."""
    gan, data = told(norm="batch")
    seen = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            for network in (gan.generator, gan.discriminator):
                network.register_forward_pre_hook(lambda network, inputs: seen.append((network, *inputs)))
            self.batch = batch

    watch = Watch()
    make_trainer(max_steps=1, callbacks=[watch]).fit(gan, data)
    assert [network is gan.generator for network, *_ in seen] == [True, False, False, True, False]
    assert [len(images) for _, images, _ in seen] == [16] * 5
    assert all(torch.equal(condition, watch.batch[1]) for _, _, condition in seen)


def test_sampling_of_what_is_told(told, make_trainer):
    """In parts, and each by itself, gives the same images; of sources, as many as there are."""
    gan, data = told()
    make_trainer(max_steps=2, callbacks=[GeneratorEMA()]).fit(gan, data)
    condition = gan.fixed_condition
    assert len(condition) == len(gan.fixed_latents) == 64
    images = gan(gan.fixed_latents, condition)
    one_by_one = torch.cat([gan(gan.fixed_latents[i : i + 1], condition[i : i + 1]) for i in (0, 63)])
    torch.testing.assert_close(images[[0, 63]], one_by_one)
    many = condition.repeat_interleave(5, 0)  # 320: two parts of at most 250
    assert gan.sample(320, 3, many).shape == (320, *SHAPE)
    torch.testing.assert_close(
        gan.sample(320, 3, many)[-64:], gan.sample(320, 3, many[-64:].repeat(5, *(1,) * (many.ndim - 1)))[-64:]
    )
    if gan.num_classes is None:
        for given in (None, condition[:3], condition[:4, :, :6]):
            with pytest.raises(
                ValueError, match=r"UNetGenerator is told source images: for 4 images give .* \(4, 1, 7, 7\)"
            ):
                gan.sample(4, condition=given)
            with pytest.raises(ValueError, match="for 4 images"):
                gan(gan.fixed_latents[:4], given)
        for value, message in ((3.0, "sources of torch.uint8"), (200.0, "sources from 200 to 200")):
            sources = torch.full((4, 1, 7, 7), value)
            with pytest.raises(ValueError, match=f"the condition has {message}"):
                gan.sample(4, condition=sources.byte() if value == 3.0 else sources)
    else:
        assert torch.equal(gan.sample(4), gan.sample(4, condition=torch.arange(4)))
        labels = torch.tensor([1, 2, 3, 4])
        for given, message in (
            (labels + 6, "labels from 7 to 10, and the networks have 10 classes"),
            (labels.float(), "labels of torch.float32: give int64"),
            (torch.eye(10)[labels], "one-hot labels"),
        ):
            with pytest.raises(GANError, match=f"the condition has {message}"):
                gan.sample(4, condition=given)
        with pytest.raises(GANError, match="for 4 images give as many labels as the condition, got"):
            gan.sample(4, condition=labels[:1])


def test_who_is_told_nothing_says_so(make_gan):
    with pytest.raises(GANError, match="MLPGenerator is told nothing of what to draw: leave the condition out"):
        make_gan().sample(4, condition=torch.arange(4))


def test_step_is_small_enough_to_be_held_in_mind():
    """All that a reader must know of it: lines of code, and names of every kind. What else there is lives elsewhere."""
    source = Path(inspect.getsourcefile(GAN)).read_text(encoding="utf-8")
    steps = ("training_step", "discriminator_step", "generator_step")
    functions = [node for node in ast.walk(ast.parse(source)) if getattr(node, "name", None) in steps]
    assert [function.name for function in functions] == list(steps)
    names = set()
    for node in (node for function in functions for node in ast.walk(function)):
        fields = ("id", "attr", "arg", "name")  # variables, attributes, arguments and keywords, functions
        names |= {name for field in fields if isinstance(name := getattr(node, field, None), str)}
    lines = source.splitlines()
    code = [line.strip() for function in functions for line in lines[function.lineno - 1 : function.end_lineno]]
    code = [line for line in code if line and not line.startswith(("#", '"""'))]
    assert len(code) <= 45, len(code)
    assert len(names) <= 50, sorted(names)
    assert not {"world_size", "logger", "loggers", "log_dict"} & set(re.findall(r"\w+", source))
