"""The GAN against a loop written out by hand, and its counting against everything that counts."""

import ast
import inspect
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import SmallMNIST, same_weights
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch.nn.functional import softplus
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau

from gan import GAN
from gan.callbacks import GeneratorEMA
from gan.losses import NonSaturating, RelativisticPaired, Wasserstein
from gan.networks import DCGANDiscriminator, DCGANGenerator, Discriminator, MLPDiscriminator, MLPGenerator
from gan.optim import WarmupCosine
from gan.penalties import DRAGAN, R1, GradientPenalty

SHAPE = (1, 28, 28)


class Recorder(Callback):
    """Keeps what the hooks see."""

    def __init__(self):
        self.optimizer_steps, self.global_steps, self.leaks = [], [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        stepping = trainer.optimizers.index(optimizer)  # 0: discriminator, 1: generator
        self.optimizer_steps.append("dg"[stepping])
        other = pl_module.generator if stepping == 0 else pl_module.discriminator
        own = pl_module.discriminator if stepping == 0 else pl_module.generator
        assert all(parameter.grad is not None for parameter in own.parameters())
        self.leaks.append({name: parameter.grad for name, parameter in other.named_parameters()})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.global_steps.append(trainer.global_step)


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


def test_accumulate_needs_a_batch_that_it_can_divide(make_gan, make_trainer, data):
    loader = data.train_dataloader()  # a loader of one's own: batches of 16
    with pytest.raises(ValueError, match=r"model.accumulate=3 cannot divide a batch of 16 images"):
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
    for one, two in zip(gan.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


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


def test_everything_counts_training_batches(make_gan, make_trainer, data, tmp_path):
    recorder, table = Recorder(), TableLogger()
    checkpoints = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)
    trainer = make_trainer(max_steps=12, logger=table, log_every_n_steps=4, callbacks=[recorder, checkpoints])
    trainer.fit(make_gan(), data)
    assert recorder.global_steps == list(range(1, 13))
    assert recorder.optimizer_steps == ["d", "g"] * 12
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=10.ckpt", "step=5.ckpt"]
    assert [step for step, _ in table.rows] == [4, 8, 12]
    assert set(table.rows[0][1]) == {"loss/discriminator", "loss/generator"}


@pytest.mark.parametrize("where", ["on_train_batch_start", "training_step", "on_train_batch_end"])
def test_what_a_user_logs_has_the_number_of_its_batch(make_gan, make_trainer, data, tmp_path, where):
    """By Lightning's own `log`, in the module or a callback, from the first batch on; files keep their names."""

    class Own(Callback):
        def __getattribute__(self, name):
            return self.note if name == where else super().__getattribute__(name)

        def note(self, trainer, pl_module, *args):
            pl_module.log("own", float(pl_module.global_step + (where == "on_train_batch_start")))

    class OwnGAN(GAN):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            self.log("own", float(self.global_step))

    gan, table = make_gan(), TableLogger()
    if where == "training_step":
        gan.__class__ = OwnGAN
    checkpoints = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)
    own = [] if where == "training_step" else [Own()]
    trainer = make_trainer(max_steps=12, logger=table, log_every_n_steps=4, callbacks=[checkpoints, *own])
    trainer.fit(gan, data)
    noted = [(step, metrics["own"]) for step, metrics in table.rows if "own" in metrics]
    assert noted == [(4, 4.0), (8, 8.0), (12, 12.0)]
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=10.ckpt", "step=5.ckpt"]


def test_n_critic(make_gan, make_trainer, data):
    recorder = Recorder()
    make_trainer(max_steps=7, callbacks=[recorder]).fit(make_gan(n_critic=3), data)
    assert "".join(recorder.optimizer_steps) == "dddgdddgd"
    assert recorder.global_steps == list(range(1, 8))


class TableLogger(Logger):
    name, version = "table", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))

    def log_hyperparams(self, *args, **kwargs):
        pass


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
    real, fake, fresh, again = seen[-4:]  # for D, then for G
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


def test_plain_sgd_and_schedulers(make_gan, make_trainer, data):
    gan = make_gan(
        discriminator_optimizer=partial(SGD, lr=1.0),
        generator_optimizer=partial(Adam, lr=1.0),
        discriminator_scheduler=partial(WarmupCosine, warmup=2),
        n_critic=2,
    )
    trainer = make_trainer(max_steps=4)
    trainer.fit(gan, data)
    discriminators, generators = trainer.optimizers
    assert isinstance(discriminators, SGD)
    assert discriminators.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)  # at the end of max_steps
    assert generators.param_groups[0]["lr"] == 1.0


def test_python_checkpoint_loads_with_weights_only(make_gan, make_trainer, data, tmp_path):
    gan = make_gan(
        loss=Wasserstein(),
        penalties=[GradientPenalty(3.0, every=2)],
        generator_optimizer=partial(Adam, lr=1e-3, betas=(0.0, 0.9)),
        n_critic=2,
    )
    trainer = make_trainer(callbacks=[GeneratorEMA()])
    trainer.fit(gan, data)
    path = tmp_path / "gan.ckpt"
    trainer.save_checkpoint(path)
    torch.load(path, weights_only=True)
    loaded = GAN.load_from_checkpoint(path, weights_only=True)
    assert same_weights(gan, loaded)
    assert type(loaded.loss) is Wasserstein
    assert loaded.n_critic == 2
    assert (loaded.penalties[0].weight, loaded.penalties[0].every) == (3.0, 2)
    optimizer = loaded.make_optimizer[1](loaded.generator.parameters())
    assert optimizer.defaults["betas"] == (0.0, 0.9)
    latents = torch.randn(4, 8)
    assert torch.equal(gan(latents), loaded(latents))  # by the averaged generator, in both


def test_unknown_network_is_named_and_can_be_given(make_gan, make_trainer, data, tmp_path):
    class Mine(torch.nn.Sequential):
        latent_dim = 8

    generator = Mine(torch.nn.Linear(8, 784), torch.nn.Tanh(), torch.nn.Unflatten(1, SHAPE))
    with pytest.warns(UserWarning, match="cannot rebuild generator"):
        gan = GAN(generator, MLPDiscriminator(image_shape=SHAPE))
    trainer = make_trainer(max_steps=1)
    trainer.fit(gan, data)
    trainer.save_checkpoint(tmp_path / "gan.ckpt")
    fresh = Mine(torch.nn.Linear(8, 784), torch.nn.Tanh(), torch.nn.Unflatten(1, SHAPE))
    loaded = GAN.load_from_checkpoint(tmp_path / "gan.ckpt", weights_only=True, generator=fresh)
    assert same_weights(gan, loaded)


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


class WrongShape(Discriminator):
    def forward(self, images):
        return images.flatten(1)[:, :1]  # (N, 1)


@pytest.mark.parametrize(
    ("generator", "discriminator", "message"),
    [
        (MLPGenerator(image_shape=(3, 32, 32)), MLPDiscriminator(image_shape=(3, 32, 32)), "the data has"),
        (MLPGenerator(image_shape=SHAPE), MLPDiscriminator(image_shape=(3, 32, 32)), "does not take images"),
        (MLPGenerator(image_shape=SHAPE), WrongShape(image_shape=SHAPE), "one logit per image"),
        (torch.nn.Linear(8, 784), MLPDiscriminator(image_shape=SHAPE), "needs an attribute latent_dim"),
    ],
)
@pytest.mark.filterwarnings("ignore:a checkpoint cannot rebuild")
def test_networks_that_do_not_fit(make_trainer, data, generator, discriminator, message):
    with pytest.raises(ValueError, match=message):
        make_trainer().fit(GAN(generator, discriminator, num_fixed_latents=2), data)


def test_latents_that_do_not_fit(make_trainer, data):
    generator = MLPGenerator(image_shape=SHAPE, latent_dim=8)
    generator.latent_dim = 9
    with pytest.raises(ValueError, match="does not take latents"):
        make_trainer().fit(GAN(generator, MLPDiscriminator(image_shape=SHAPE)), data)


def test_batch_norm_under_a_penalty_warns(make_trainer, data):
    gan = GAN(
        DCGANGenerator(image_shape=SHAPE, base_channels=4),
        DCGANDiscriminator(image_shape=SHAPE, base_channels=4, norm="batch"),
        penalties=[GradientPenalty()],
    )
    with pytest.warns(UserWarning, match="mixes the images of a batch"):
        make_trainer(max_steps=1).fit(gan, data)


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


def test_step_is_small_enough_to_be_held_in_mind():
    """All that a reader must know of it: lines of code, and names of every kind. What else there is lives elsewhere."""
    source = Path(inspect.getsourcefile(GAN)).read_text()
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
