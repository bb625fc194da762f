"""Clipping within training: against a loop written by hand, in its logs, over a resume, under every precision."""

from functools import partial

import pytest
import torch
from commands import SMALL, command, fit, load
from conftest import ROOT, SmallMNIST, same_weights
from lightning import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import MixedPrecision
from torch.nn.functional import softplus
from torch.optim import SGD, Adam

from gan.callbacks import GradientClipping
from gan.gradients.clip import Adaptive, Auto, ByNorm, ByValue


class Table(Logger):
    """Keeps what is logged, by step."""

    name, version = None, None

    def __init__(self):
        super().__init__()
        self.rows = {}

    def log_metrics(self, metrics, step=None):
        self.rows.setdefault(step, {}).update(metrics)

    def log_hyperparams(self, *args, **kwargs):
        pass


class Watch(Callback):
    """Keeps the norms that the optimizers see."""

    def __init__(self):
        self.norms = {"discriminator": [], "generator": []}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        name = ("discriminator", "generator")[trainer.optimizers.index(optimizer)]
        gradients = [parameter.grad.double().flatten() for parameter in getattr(pl_module, name).parameters()]
        self.norms[name].append(float(torch.cat(gradients).norm()))


def by_hand(gan, batches: int, rate: float, generator_norm: float, discriminator_value: float) -> None:
    """Plain SGD with the generator clipped by norm and the discriminator by value. None of our own steps."""
    data = SmallMNIST(batch_size=16, validation_size=0)
    data.setup("fit")
    generator, discriminator = gan.generator, gan.discriminator
    for step, (real, _) in zip(range(batches), data.train_dataloader(), strict=False):
        rng = gan.rng("batch", step)
        fake = generator(torch.randn(16, 8, generator=rng, dtype=torch.float64)).detach()
        loss = (softplus(-discriminator(real.double())) + softplus(discriminator(fake))).mean()
        gradients = torch.autograd.grad(loss, list(discriminator.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(discriminator.parameters(), gradients, strict=True):
                parameter -= rate * gradient.clip(-discriminator_value, discriminator_value)
        fake = generator(torch.randn(16, 8, generator=rng, dtype=torch.float64))
        gradients = torch.autograd.grad(softplus(-discriminator(fake)).mean(), list(generator.parameters()))
        norm = sum(gradient.pow(2).sum() for gradient in gradients) ** 0.5
        assert norm > generator_norm
        with torch.no_grad():
            for parameter, gradient in zip(generator.parameters(), gradients, strict=True):
                parameter -= rate * gradient * generator_norm / norm


def test_equals_a_loop_written_by_hand(make_gan, make_trainer, data):
    settings = {"generator_optimizer": partial(SGD, lr=0.1), "discriminator_optimizer": partial(SGD, lr=0.1)}
    gan, other, plain = (make_gan(**settings) for _ in range(3))
    clipping = GradientClipping(generator=ByNorm(0.005), discriminator=ByValue(0.001))
    make_trainer(max_steps=7, precision="64-true", callbacks=[clipping]).fit(gan, data)
    by_hand(other.double(), 7, 0.1, 0.005, 0.001)
    for parameter, expected in zip(gan.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-12)
    make_trainer(max_steps=7, precision="64-true").fit(plain, data)
    assert not same_weights(plain, gan)


def test_logs(make_gan, make_trainer, data):
    """At the steps of the losses: the norms of the last step, and the share that was clipped since the last log."""
    table, before, after = Table(), Watch(), Watch()
    clipping = GradientClipping(discriminator=Auto(50), generator=ByNorm(0.01))
    callbacks = [before, clipping, after]
    make_trainer(max_steps=12, logger=table, log_every_n_steps=4, callbacks=callbacks).fit(make_gan(n_critic=3), data)
    assert list(table.rows) == [4, 8, 12]
    for step, row in table.rows.items():
        assert set(row) == {
            *(f"loss/{network}" for network in before.norms),
            *(
                f"{what}/{network}"
                for what in ("grad_norm", "grad_norm_clipped", "clip_rate")
                for network in before.norms
            ),
        }
        for network, n_critic in (("discriminator", 1), ("generator", 3)):
            done, earlier = step // n_critic, (step - 4) // n_critic
            norms, clipped = before.norms[network], after.norms[network]
            assert row[f"grad_norm/{network}"] == pytest.approx(norms[done - 1], rel=1e-6)
            assert row[f"grad_norm_clipped/{network}"] == pytest.approx(clipped[done - 1], rel=1e-6)
            pairs = list(zip(norms, clipped, strict=True))[earlier:done]
            share = sum(before > after * (1 + 1e-7) for before, after in pairs) / len(pairs)
            assert row[f"clip_rate/{network}"] == share
    assert 0 < sum(row["clip_rate/discriminator"] for row in table.rows.values()) < 3


def test_one_network_alone(make_gan, make_trainer, data):
    table, watch = Table(), Watch()
    callbacks = [GradientClipping(discriminator=ByNorm(0.01)), watch]
    make_trainer(max_steps=3, logger=table, callbacks=callbacks).fit(make_gan(), data)
    assert max(watch.norms["discriminator"]) <= 0.01 < min(watch.norms["generator"])
    for row in table.rows.values():
        assert row["grad_norm/generator"] == row["grad_norm_clipped/generator"]
        assert row["clip_rate/generator"] == 0


@pytest.mark.parametrize("clip", [Auto(20, window=6), Adaptive(0.01)], ids=lambda clip: type(clip).__name__)
def test_resumes_bit_for_bit(make_gan, make_trainer, data, tmp_path, clip):
    """Between two logs, after the generator's last step before the second, and with a window that forgets."""
    runs = []
    for ends in ([20], [10, 20]):
        table, start = Table(), None
        for end in ends:
            gan, clipping = make_gan(n_critic=5), GradientClipping(clip, clip)
            trainer = make_trainer(max_steps=end, logger=table, log_every_n_steps=4, callbacks=[clipping])
            trainer.fit(gan, data, ckpt_path=start, weights_only=True)
            start = tmp_path / "last.ckpt"
            trainer.save_checkpoint(start)
        runs.append((gan, clipping.state_dict(), table.rows))
    assert same_weights(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]


def test_one_way_for_both_keeps_them_apart(make_gan, make_trainer, data):
    clip = Auto(50)
    clipping = GradientClipping(clip, clip)
    make_trainer(max_steps=4, callbacks=[clipping]).fit(make_gan(n_critic=2), data)
    state = clipping.state_dict()["clips"]
    assert [len(state[network]["norms"]) for network in ("discriminator", "generator")] == [4, 2]


# Without a loss scale, float16 loses gradients near 0: Adam would step as far for those as for any, were eps not above.
@pytest.mark.parametrize(
    "optimizer", [partial(SGD, lr=0.1), partial(Adam, lr=1e-3, eps=1e-5, fused=True)], ids=["sgd", "fused"]
)
def test_float16(make_gan, make_trainer, data, optimizer):
    """The loss scale, whatever it is, is out of the gradients that are clipped. Fused optimizers are a case apart."""
    runs = []
    for scale in (1.0, 2.0**12):
        gan, watch, table = make_gan(generator_optimizer=optimizer, discriminator_optimizer=optimizer), Watch(), Table()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        callbacks = [GradientClipping(generator=ByNorm(0.01), discriminator=ByNorm(0.1)), watch]
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        make_trainer(max_steps=6, callbacks=callbacks, plugins=[plugin], logger=table).fit(gan, data)
        for network, bound in (("generator", 0.01), ("discriminator", 0.1)):
            assert watch.norms[network] == pytest.approx([bound] * 6, rel=1e-5)
            assert max(watch.norms[network]) <= bound
        runs.append((gan, table.rows))
    for parameter, other in zip(runs[0][0].parameters(), runs[1][0].parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=0, atol=5e-4)
    for step, row in runs[0][1].items():
        assert row == pytest.approx(runs[1][1][step], rel=0.05)


def test_bfloat16(make_gan, make_trainer, data):
    watch = Watch()
    callbacks = [GradientClipping(generator=ByNorm(0.01), discriminator=Adaptive(0.01)), watch]
    make_trainer(max_steps=4, precision="bf16-mixed", callbacks=callbacks).fit(make_gan(), data)
    assert watch.norms["generator"] == pytest.approx([0.01] * 4, rel=1e-5)
    assert max(watch.norms["generator"]) <= 0.01


def test_nothing_to_clip():
    with pytest.raises(ValueError, match="nothing to clip: set its generator or its discriminator"):
        GradientClipping()


@pytest.mark.parametrize("setting", [{"gradient_clip_val": 1.0}, {"gradient_clip_algorithm": "norm"}])
def test_settings_of_the_trainer(make_gan, make_trainer, data, setting):
    """Lightning refuses one with advice that a GAN cannot take, and drops the other."""
    with pytest.raises(ValueError, match=rf"trainer.{next(iter(setting))} .* add the callback GradientClipping"):
        make_trainer(**setting).fit(make_gan(), data)


def test_accumulation_of_the_trainer(make_gan, make_trainer, data):
    with pytest.raises(ValueError, match=r"use model\.accumulate"):
        make_trainer(accumulate_grad_batches=2).fit(make_gan(), data)


def test_clipping_off_by_zero(make_gan, make_trainer, data):
    make_trainer(gradient_clip_val=0, max_steps=1).fit(make_gan(), data)


def test_line_of_the_default_config(tmp_path):
    """What stands there as a comment runs once it is none."""
    text = (ROOT / "configs" / "default.yaml").read_text(encoding="utf-8")
    mine = text.replace("    # - {class_path: GradientClipping,", "    - {class_path: GradientClipping,")
    assert mine != text
    (tmp_path / "mine.yaml").write_text(mine, encoding="utf-8")
    words = ["--config", tmp_path / "mine.yaml", "--model.generator_scheduler", "null", "--trainer.max_steps", "1"]
    command("fit", *words, "--model.discriminator_scheduler", "null", *SMALL, "--run_dir", tmp_path / "run")
    state = load(tmp_path / "run" / "checkpoints" / "last.ckpt")["callbacks"]["GradientClipping"]
    assert state["clips"] == {"discriminator": {}}


def test_on_the_command_line(tmp_path):
    words = ["--trainer.callbacks+", "GradientClipping", "--trainer.callbacks.generator", "ByNorm"]
    words += ["--trainer.callbacks.generator.max_norm", "0.5", "--trainer.callbacks.discriminator", "Auto"]
    state = load(fit(tmp_path / "run", *words))["callbacks"]["GradientClipping"]
    assert len(state["clips"]["discriminator"]["norms"]) == 3
