"""Normalisation of the gradient at the generated images: its numbers, in training, in checkpoints, as measured."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from commands import SHORT, SMALL, command, equal, load
from conftest import SmallMNIST, same_weights
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.optim import SGD

from gan import GAN
from gan.callbacks import GradientMonitor
from gan.gradients.causes import saturated_discriminator
from gan.gradients.rules import Record, Thresholds
from gan.losses import NonSaturating
from gan.normalize import GradientNormalizer, mean_norm

ON = ["--model.normalize_gradient", "true"]


class Scaled(NonSaturating):
    """A loss whose generator gets so many times the gradient."""

    factor: float

    def generator(self, fake_logits, real_logits=None):
        return self.factor * super().generator(fake_logits, real_logits)


def scaled(factor: float) -> Scaled:
    loss = Scaled()
    loss.factor = factor
    return loss


def alone(tensor: torch.Tensor) -> torch.Tensor:
    """The mean over one process."""
    return tensor


def back(normalizer: GradientNormalizer, *passes: torch.Tensor) -> torch.Tensor:
    """What comes to a weight 1 of which all images are, when their gradients (N, ...) are those of `passes`."""
    weight = torch.ones(passes[0].shape[1:], dtype=torch.float64, requires_grad=True)
    for gradient in passes:
        images = normalizer.between(weight.expand(gradient.shape), factor=len(passes))
        (images * gradient / len(passes)).sum().backward()
    assert weight.grad is not None
    normalizer.settle([weight.grad], alone)
    return weight.grad


def gradients(scale: float = 1.0, num: int = 6) -> torch.Tensor:
    """Of the mean over images, (N, 2, 3)."""
    return scale * torch.randn(num, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / num


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1.0, 1e30])
def test_divides_by_the_running_norm(scale):
    normalizer = GradientNormalizer().double()
    first = gradients(scale)
    own = (6 * first).flatten(1).norm(dim=1).mean() if scale > 1e-100 else scale * mean_norm(gradients())
    torch.testing.assert_close(back(normalizer, first) * own, first.sum(0), rtol=1e-9, atol=0)
    torch.testing.assert_close(normalizer.norm, own, rtol=1e-9, atol=0)
    after = 0.9 * own + 0.1 * 3 * own
    torch.testing.assert_close(back(normalizer, 3 * first) * after, 3 * first.sum(0), rtol=1e-9, atol=0)
    torch.testing.assert_close(normalizer.norm, after, rtol=1e-9, atol=0)


def test_passes_are_as_one_batch():
    whole, parts = GradientNormalizer().double(), GradientNormalizer().double()
    for scale in (1.0, 5.0):
        first, second = gradients(scale, 8).chunk(2)
        one, two = back(whole, torch.cat([first, second])), back(parts, 2 * first, 2 * second)
        torch.testing.assert_close(one, two, rtol=1e-12, atol=0)
    torch.testing.assert_close(whole.norm, parts.norm, rtol=1e-12, atol=0)


def test_what_explodes_is_bounded_and_what_is_nothing_stays_so():
    normalizer = GradientNormalizer().double()
    assert not back(normalizer, gradients(0.0)).any()
    assert normalizer.norm == 0
    back(normalizer, gradients(1e-20))
    spike = gradients(1e20)
    assert (back(normalizer, spike) / spike.sum(0)).mean() * mean_norm(spike) == pytest.approx(10)
    assert not back(normalizer, gradients(0.0)).any()


def test_what_is_not_finite_is_not_kept():
    normalizer = GradientNormalizer().double()
    back(normalizer, gradients())
    before = normalizer.norm.clone()
    assert back(normalizer, gradients(float("nan"))).isnan().all()
    assert torch.equal(normalizer.norm, before)


# ---------------------------------------------------------------------- in training


@pytest.mark.parametrize("settings", [{}, {"extragradient": True}, {"n_critic": 2, "accumulate": 2}])
def test_the_size_of_the_gradient_is_nothing_to_the_generator(settings, make_gan, make_trainer, data):
    """By plain descent, which without would take steps as small or as large."""
    gans = []
    for factor in (1e-12, 1.0, 1e12):
        gan = make_gan(
            loss=scaled(factor), normalize_gradient=True, generator_optimizer=partial(SGD, lr=0.1), **settings
        )
        start = gan.generator.state_dict()["output.weight"].clone()
        make_trainer(max_steps=4, precision="64-true").fit(gan, data)
        assert not torch.equal(gan.generator.state_dict()["output.weight"], start.double())
        gans.append(gan)
    for gan in gans[1:]:
        for value, other in zip(gans[0].parameters(), gan.parameters(), strict=True):
            torch.testing.assert_close(value, other, rtol=0, atol=1e-9)


def test_passes_of_a_batch_are_as_one(make_gan, make_trainer):
    runs = []
    for accumulate in (1, 2):
        gan = make_gan(accumulate=accumulate, normalize_gradient=True, generator_optimizer=partial(SGD, lr=0.1))
        data = SmallMNIST(batch_size=16 // accumulate, validation_size=0)
        make_trainer(max_steps=5, precision="64-true").fit(gan, data)
        runs.append(gan.state_dict())
    for name, value in runs[0].items():
        torch.testing.assert_close(value, runs[1][name], rtol=0, atol=1e-9)


def test_float16_is_taken_without_its_scale(make_gan, make_trainer, data):
    norms = []
    for scale in (1.0, 2.0**12):
        gan = make_gan(normalize_gradient=True)
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
        make_trainer(max_steps=3, plugins=[plugin]).fit(gan, data)
        norms.append(float(gan.normalizer.norm))
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def test_float16_without_a_scale_is_refused(make_gan, make_trainer, data):
    with pytest.raises(ValueError, match=r"16-true has no loss scaler.*set trainer\.precision to 16-mixed") as caught:
        make_trainer(max_steps=1, precision="16-true").fit(make_gan(normalize_gradient=True), data)
    assert "\n" not in str(caught.value)


def test_a_step_of_ones_own_that_goes_past_it_is_refused(make_gan, make_trainer, data):
    class Own(GAN):
        def generator_step(self, real, condition, noise):
            optimizer = self.optimizer("generator")
            optimizer.zero_grad()
            self.manual_backward(-self.discriminator(self.generator(noise.latents(len(real)))).mean())
            self.update(optimizer)
            return {}

    like = make_gan()
    gan = Own(like.generator, like.discriminator, normalize_gradient=True)
    with pytest.raises(ValueError, match=r"model\.normalize_gradient: .* take the generator from self\.passes\(\)"):
        make_trainer(max_steps=1).fit(gan, data)


def test_the_monitor_measures_what_the_generator_gets_and_changes_nothing(make_gan, make_trainer, data):
    runs = []
    monitor = GradientMonitor(every=1, images=16)
    for callbacks in ([], [monitor]):
        gan = make_gan(loss=scaled(1e-12), normalize_gradient=True)
        make_trainer(max_steps=4, callbacks=callbacks).fit(gan, data)
        runs.append(gan)
    assert same_weights(*runs)
    assert monitor.stats is not None
    assert monitor.stats.image_gradient == pytest.approx(1, rel=0.3)
    plain = GradientMonitor(every=1, images=16)
    make_trainer(max_steps=4, callbacks=[plain]).fit(make_gan(loss=scaled(1e-12)), data)
    assert plain.stats is not None
    assert (monitor.stats.normalized, plain.stats.normalized) == (True, False)
    # Nor does a slope of a million say that the loss is flat.
    steep = replace(monitor.stats, slope_fake=1e6, logit_gap=20.0, accuracy_fake=1.0)
    record = Record([steep], [])
    assert saturated_discriminator(record, Thresholds()) is None
    assert saturated_discriminator(Record([replace(steep, normalized=False)], []), Thresholds()) is not None
    assert plain.stats.image_gradient < 1e-10
    assert monitor.stats.generator.total > 1e9 * plain.stats.generator.total


def test_off_it_is_not_there(make_gan):
    assert not [key for key in make_gan().state_dict() if key.startswith("normalizer")]


# ---------------------------------------------------------------------- the command, and checkpoints


def test_goes_on_bit_for_bit_with_its_norm(tmp_path):
    words = [*SMALL, *SHORT, *ON, "--trainer.max_steps"]
    command("fit", *words, 8, "--run_dir", tmp_path / "whole")
    command("fit", *words, 5, "--run_dir", tmp_path / "parts")
    command("fit", "--run_dir", tmp_path / "parts", "--resume", "auto", "--trainer.max_steps", 8)
    one, two = (load(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("whole", "parts"))
    assert equal(one["state_dict"], two["state_dict"])
    assert one["state_dict"]["normalizer.norm"] > 0
    GAN.load_from_checkpoint(tmp_path / "parts" / "checkpoints" / "last.ckpt").sample(2)


@pytest.mark.parametrize("then", ["false", "true"], ids=["to none", "from none"])
def test_a_run_that_goes_on_may_change_it(tmp_path, then):
    words = [*SMALL, *SHORT, "--trainer.max_steps"]
    command("fit", *words, 3, *(ON if then == "false" else ()), "--run_dir", tmp_path / "run")
    command("fit", "--run_dir", tmp_path / "run", "--resume", "auto", ON[0], then, "--trainer.max_steps", 5)
    state = load(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    assert ("normalizer.norm" in state) == (then == "true")
