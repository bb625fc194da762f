"""The worked example of a training step of one's own, as `docs/own-step.md` has it: CycleGAN."""

import re
import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from conftest import ROOT, SmallMNIST
from lightning import Callback, Trainer

from gan.callbacks import GeneratorEMA, NonFiniteGuard, RunCheckpoint
from gan.data import InMemoryDataModule
from gan.losses import LeastSquares
from gan.noise import Noise, keyed

EXAMPLE, TRAINING = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own-step.md").read_text("utf-8"), re.S)
QUIET = {"accelerator": "cpu", "logger": False, "enable_model_summary": False, "enable_progress_bar": False}


@pytest.fixture
def cyclegan(monkeypatch):
    """The page's module, as a file of the user's."""
    module = ModuleType("cyclegan")
    monkeypatch.setitem(sys.modules, "cyclegan", module)
    exec(compile(EXAMPLE, "cyclegan.py", "exec"), module.__dict__)
    return module


class Negatives(InMemoryDataModule):
    image_shape = condition_shape = (1, 8, 8)

    def load(self, train):
        digits, _ = SmallMNIST().load(train)
        digits = torch.nn.functional.avg_pool2d(digits.float(), 3, 3)[:, :, :8, :8].byte()
        return 255 - digits[:64], digits[64:128]


def made(cyclegan, **settings):
    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
    optimizers = {"generator_optimizer": adam, "discriminator_optimizer": adam}
    networks = cyclegan.TwoWays((1, 8, 8), 4), cyclegan.TwoJudges((1, 8, 8), 4)
    return cyclegan.CycleGAN(
        generator=networks[0], discriminator=networks[1], loss=LeastSquares(), pool=24, **optimizers, **settings
    )


def fit(model, folder, steps, resume=None, callbacks=(), **settings):
    data = Negatives(batch_size=8, validation_size=8)
    callbacks = [GeneratorEMA(), RunCheckpoint(every=5), NonFiniteGuard(), *callbacks]
    trainer = Trainer(max_steps=steps, default_root_dir=folder, callbacks=callbacks, **QUIET, **settings)
    trainer.fit(model, data, ckpt_path=resume)
    return model.state_dict()


def test_it_is_short():
    assert EXAMPLE.count("\n") <= 80


def test_its_generator_descends_on_cycles_and_identities_both_ways(cyclegan, tmp_path):
    """The gradient of the step is that of the paper's terms, written out."""
    model, seen = made(cyclegan, cycle=3.0, identity=0.5), {}

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen["batch"] = batch

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if optimizer is trainer.optimizers[1]:
                seen["gradient"] = [parameter.grad.clone() for parameter in pl_module.generator.parameters()]

    fit(model, tmp_path, 1, callbacks=[Look()], precision="64-true")
    b, a = seen["batch"]
    noise = Noise(keyed(model.seed, "batch", 0), 1, torch.float64)
    noise.latents(len(b))  # the discriminator's
    z, g, judges = (
        noise.latents(len(b)),
        made(cyclegan).generator.double(),
        model.discriminator,
    )  # which has had its step
    fake_b, fake_a = g.to_b(z, a), g.to_a(z, b)
    loss = ((judges.of_b(fake_b) - 1).square().mean() + (judges.of_a(fake_a) - 1).square().mean()) / 2
    loss = loss + 3.0 * ((g.to_a(z, fake_b) - a).abs().mean() + (g.to_b(z, fake_a) - b).abs().mean())
    loss = loss + 0.5 * ((g.to_b(z, b) - b).abs().mean() + (g.to_a(z, a) - a).abs().mean())
    torch.testing.assert_close(
        seen["gradient"], list(torch.autograd.grad(loss, list(g.parameters()))), rtol=1e-9, atol=1e-12
    )


def test_its_pool_gives_back_earlier_images(cyclegan):
    model = made(cyclegan)
    model.rng = lambda *key: torch.Generator().manual_seed(key[1])
    pool = model.pools[0]
    batches = [torch.full((8, 1, 8, 8), float(number)) for number in (1, 2, 3)]
    model.from_pool(batches[0], pool)
    assert pool.flatten(1).mean(1).tolist() == [1.0] * 24
    second = model.from_pool(batches[1], pool).flatten(1).mean(1).tolist()
    assert second == [1.0] * 4 + [2.0] * 4
    assert sorted(pool.flatten(1).mean(1).tolist()) == [1.0] * 20 + [2.0] * 4


def test_it_goes_on_bit_for_bit_with_its_pool(cyclegan, tmp_path):
    whole = fit(made(cyclegan), tmp_path / "whole", 9)
    fit(made(cyclegan), tmp_path / "stopped", 5)
    resumed = fit(made(cyclegan), tmp_path / "stopped", 9, tmp_path / "stopped" / "checkpoints" / "last.ckpt")
    assert whole.keys() == resumed.keys()
    assert {"pools", "generator_ema.to_a.output.bias"} <= whole.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_it_trains_in_16_bits(cyclegan, tmp_path, precision):
    state = fit(made(cyclegan), tmp_path, 2, precision=precision)
    assert all(value.isfinite().all() for value in state.values())
    assert state["pools"].any()


def test_its_checkpoint_is_loaded_by_its_class(cyclegan, tmp_path):
    fit(made(cyclegan, cycle=7.0), tmp_path, 2)
    model = cyclegan.CycleGAN.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", trust="cyclegan")
    assert (model.cycle, len(model.pools[0])) == (7.0, 24)
    sources = torch.zeros(3, 1, 8, 8)
    assert model.sample(3, 0, sources).shape == (3, 1, 8, 8)


def trained(steps, folder, monkeypatch):
    """What the page's second block leaves, after so many steps."""
    monkeypatch.chdir(folder)
    names = {"__name__": "block"}
    exec(compile(TRAINING.replace("max_steps=300", f"max_steps={steps}, accelerator='cpu'"), "page", "exec"), names)
    return names


def test_it_trains_with_all_that_watches_a_run(cyclegan, tmp_path, monkeypatch):
    trained(2, tmp_path, monkeypatch)
    run = tmp_path / "runs" / "cyclegan"
    left = {path.name for path in run.rglob("*")}
    assert {"last.ckpt", "heatmap_generator.png", "report.md", "fixed_000002.png", "training.gif"} <= left
    assert "1 measurement up to batch 1" in (run / "report.md").read_text("utf-8")


@pytest.mark.slow
def test_it_learns_that_the_one_is_the_negative_of_the_other(cyclegan, tmp_path, monkeypatch):
    """The page's training, whole: its images of test digits are their negatives, and it never saw a pair."""
    names = trained(300, tmp_path, monkeypatch)
    digits = names["data"].load(train=False)[1][:500] / 127.5 - 1
    assert psnr(names["model"].sample(500, 0, digits), -digits) > 15
    assert psnr(digits, -digits) < 1  # what doing nothing has


def psnr(one, other):
    """In decibels, of images in [-1, 1]."""
    return 10 * torch.log10(4 / (one - other).square().mean()).item()
