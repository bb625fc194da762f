"""FSDP2 on real processes: the same training as on one, and checkpoints that go either way."""

import os
import sys
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch
from commands import SMALL, equal, load, process
from conftest import ROOT

from gan import GAN
from gan.callbacks import GeneratorEMA
from gan.callbacks.run_progress import describe
from gan.checkpoints import read
from gan.generate import sample
from gan.losses import Hinge
from gan.networks import given
from gan.noise import Noise
from gan.parallel import replace_lightnings
from gan.penalties import due
from parallel.sharded import BATCHES, SETTINGS, SHAPE, make_data, make_gan, make_trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What one process, then three, then two have written."""
    folder = tmp_path_factory.mktemp("runs")
    one_process(folder)
    started = process([sys.executable, ROOT / "tests" / "parallel" / "sharded.py", folder], cwd=ROOT, env=environment())
    _, errors = started.communicate()
    assert started.returncode == 0, errors
    return folder


def environment() -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "tests")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def one_process(folder: Path, resume: Path | None = None, name: str = "one-6.ckpt", **settings) -> GAN:
    gan = make_gan("dcgan", "adam", loss=Hinge(), start=1 if resume else 0)
    trainer = make_trainer(folder, 1, [GeneratorEMA()], **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(gan, datamodule=make_data(gan), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / name)
    return gan


def by_hand(gan: GAN, real: list, condition: list, latents: list, half_life: float = 50) -> GAN:
    """Trains on whole batches, without Lightning and without processes."""
    gan.add_ema()
    networks = gan.discriminator, gan.generator
    optimizers = [make(network.parameters()) for make, network in zip(gan.make_optimizer, networks, strict=True)]
    latents, start = iter(latents), [deepcopy(network.state_dict()) for network in networks]
    for batch, (images, told) in enumerate(zip(real, condition, strict=True), start=1):
        if gan.extragradient:
            look_twice(gan, optimizers, images, latents)
            if batch % 2 == 0:  # Lookahead
                start = go_back(networks, start)
            average(gan, len(images), batch, half_life)
            continue
        generate, judge = given(told, gan.generator, gan.discriminator)
        with torch.no_grad():
            fake = generate(next(latents))
        logits = judge(images), judge(fake)
        optimizers[0].zero_grad()
        loss = gan.loss.discriminator(*logits).mean()
        noise, penalties = Noise(gan.rng("batch", batch - 1), gan.latent_dim), due(gan.penalties, batch - 1)
        noise.latents(len(images))  # which come first
        for penalty, part in zip(penalties, noise.for_penalties(penalties, images), strict=True):
            loss = loss + penalty.contribution(penalty(judge, images, fake, part))
        loss.backward()
        optimizers[0].step()
        if gan.weight_clip:
            for parameter in gan.discriminator.parameters():
                parameter.data.clamp_(-gan.weight_clip, gan.weight_clip)
        if batch % gan.n_critic == 0:
            fake = generate(next(latents))
            real_logits = judge(images) if gan.loss.relativistic else None
            optimizers[1].zero_grad()
            objective = gan.loss.generator(judge(fake), real_logits).mean()
            if gan.condition_shape is not None:
                objective = objective + 2 * (fake - images).abs().mean()
            objective.backward()
            optimizers[1].step()
        average(gan, len(images), batch, half_life)
    return gan


@torch.no_grad()
def average(gan: GAN, images: int, batch: int, half_life: float) -> None:
    decay = 0.5 ** (images / min(half_life, images * batch / 20))
    for mean, now in zip(gan.generator_ema.parameters(), gan.generator.parameters(), strict=True):
        mean.copy_(decay * mean + (1 - decay) * now)


def look_twice(gan: GAN, optimizers: list, images: torch.Tensor, latents: Iterator[torch.Tensor]) -> None:
    """The extragradient method: both networks step at once, ahead, and from where they were by what they see there."""
    networks = gan.discriminator, gan.generator
    starts = [deepcopy(network.state_dict()) for network in networks]
    for _ in range(2):
        fake, own = gan.generator(next(latents)).detach(), gan.generator(next(latents))
        of_discriminator = gan.loss.discriminator(gan.discriminator(images), gan.discriminator(fake)).mean()
        of_generator = gan.loss.generator(gan.discriminator(own)).mean()
        for network, loss in zip(networks, (of_discriminator, of_generator), strict=True):
            parameters = list(network.parameters())
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
        for network, start, optimizer in zip(networks, starts, optimizers, strict=True):
            network.load_state_dict(start)
            optimizer.step()


def go_back(networks: tuple, start: list) -> list:
    """Half of the way, of both networks."""
    for network, before in zip(networks, start, strict=True):
        now = network.state_dict()
        network.load_state_dict({key: before[key] + 0.5 * (now[key] - before[key]) for key in now})
    return [deepcopy(network.state_dict()) for network in networks]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "number"),
    [(name, settings, 2) for name, settings in SETTINGS.items()]
    + [("tiny", {"networks": "tiny"}, 2), ("three", {"networks": "tiny"}, 3)],
)
def test_trains_as_one_process(folder, name, settings, number):
    shares = [load(folder / f"{name}-{rank}.pt") for rank in range(number)]
    real, condition, latents = (
        [torch.cat(parts) for parts in zip(*(share[key] for share in shares), strict=True)] for key in shares[0]
    )
    assert len(real) == BATCHES
    expected = by_hand(make_gan(**settings), real, condition, latents).state_dict()
    state = load(folder / f"{name}.ckpt")["state_dict"]
    assert state.keys() == expected.keys()
    start = make_gan(**settings).state_dict()
    for key, value in expected.items():
        tolerance = 1e-5 if key.endswith(("._u", "._v")) else 1e-6  # power iterations enlarge what differs
        torch.testing.assert_close(
            state[key], value, rtol=0, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
        )
        if key.endswith(("weight", "original")) and "attention" not in key:  # where little flows in six batches
            assert (value - start[key.replace("_ema", "")]).abs().max() > 1e-4  # it moved


@pytest.mark.slow
def test_full_checkpoint_is_that_of_one_process(folder):
    one, sharded_run = load(folder / "one-6.ckpt"), load(folder / "full-6.ckpt")
    assert shapes(one) == shapes(sharded_run)
    GAN.load_from_checkpoint(folder / "full-6.ckpt", weights_only=True)


def shapes(value):
    """A checkpoint with the shapes and types of tensors in their place; of all else, the types."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype, value.device
    if isinstance(value, dict):
        return {key: shapes(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shapes(item) for item in value]
    return type(value)


@pytest.mark.slow
def test_parts_make_the_full_checkpoint(folder):
    for batch in (3, 6):
        assert sorted(path.name for path in (folder / f"parts-{batch}.ckpt").iterdir()) == [
            "0-of-2.ckpt",
            "1-of-2.ckpt",
        ]
        assert equal(read(folder / f"parts-{batch}.ckpt"), load(folder / f"full-{batch}.ckpt"))


@pytest.mark.slow
def test_each_part_is_a_share(folder):
    whole = (folder / "full-6.ckpt").stat().st_size
    for part in (folder / "parts-6.ckpt").iterdir():
        assert part.stat().st_size < 0.75 * whole


@pytest.mark.slow
def test_resumes_bit_for_bit(folder):
    assert equal(load(folder / "full-resumed.ckpt"), load(folder / "full-6.ckpt"))
    assert equal(read(folder / "parts-resumed.ckpt"), read(folder / "parts-6.ckpt"))


@pytest.mark.slow
def test_one_kind_of_checkpoint_takes_the_place_of_the_other(folder):
    assert equal(load(folder / "swap.ckpt"), load(folder / "full-6.ckpt"))
    assert not list(folder.glob("swap.ckpt.*"))


@pytest.mark.slow
def test_one_process_goes_on_with_it(folder):
    gan = one_process(folder, resume=folder / "full-6.ckpt", name="on-one.ckpt", max_steps=6)
    assert same_state(load(folder / "on-one.ckpt"), load(folder / "full-6.ckpt"))
    assert gan.trainer.global_step == 6
    one_process(folder, resume=folder / "full-3.ckpt", name="on-one.ckpt")
    assert load(folder / "on-one.ckpt")["global_step"] == 6


@pytest.mark.slow
def test_goes_on_with_one_process_at_the_rates_of_the_command(folder):
    one, again = load(folder / "one-6.ckpt"), load(folder / "one-again.ckpt")
    assert again["optimizer_states"][0]["param_groups"][0]["lr"] == 0.5
    again["optimizer_states"][0]["param_groups"][0]["lr"] = 1e-3
    assert same_state(one, again)


@pytest.mark.slow
def test_begins_an_average_from_a_checkpoint_without(folder):
    state, before = load(folder / "average.ckpt")["state_dict"], read(folder / "no-average.ckpt")["state_dict"]
    assert not any(key.startswith("generator_ema.") for key in before)
    assert all(equal(state[key], value) for key, value in before.items())
    assert all(equal(state[f"generator_ema.{key[10:]}"], before[key]) for key in before if key.startswith("generator."))


@pytest.mark.slow
def test_a_part_that_one_process_cannot_read_stops_all(folder):
    assert "process 1 failed" in torch.load(folder / "damaged-0.pt")
    assert "1-of-2.ckpt is damaged: it is empty" in torch.load(folder / "damaged-1.pt")


@pytest.mark.slow
def test_two_processes_go_on_with_the_parts_of_three(folder):
    assert len(list((folder / "three-4.ckpt").iterdir())) == 3
    assert same_state(read(folder / "three-4.ckpt"), load(folder / "three-in-two.ckpt"))


def same_state(one: dict, two: dict) -> bool:
    """Whether weights, averages and both optimizers are equal bit for bit."""
    return all(equal(one[key], two[key]) for key in ("state_dict", "optimizer_states"))


@pytest.mark.slow
def test_validates_draws_and_reports(folder):
    for precision in ("bf16-mixed", "bf16-true"):
        scores = [load(folder / f"{precision}-{rank}.pt") for rank in range(2)]
        assert scores[0] == scores[1]
        after_training, from_checkpoint = scores[0]
        assert after_training == from_checkpoint
        state = load(folder / f"{precision}.ckpt")["state_dict"]
        assert state["generator_ema.project.weight"].dtype == torch.float32  # in 16 bits, its steps would get lost
        names = {path.name for path in (folder / precision / "samples").iterdir()}
        assert {"fixed_000002.png", "fixed_000004.png", "training.gif"} <= names
    report = (folder / "two-0.txt").read_text(encoding="utf-8")
    gan = make_gan("batch norm")
    for line in (describe(gan.generator, gan.fixed_latents[:1]), describe(gan.discriminator, torch.zeros(1, *SHAPE))):
        assert line in report


@pytest.mark.slow
def test_moves_each_gradient_once(folder):
    gan = make_gan()
    # Every process has as many rows of a parameter, and some have rows of nothing.
    generator, discriminator = (
        sum(-(-len(parameter) // 2) * 2 * parameter[0].numel() for parameter in network.parameters())
        for network in (gan.generator, gan.discriminator)
    )
    for rank in range(2):
        traffic = load(folder / f"traffic-{rank}.pt")
        assert traffic["reduced"] == [discriminator, generator]
        # The generator to see what images it makes, and for a sample; the discriminator for real images, for these, and
        # for the backward of both; then each network for its forward and its backward.
        expected = [generator] * 2 + [discriminator] * 3 + [generator, *[discriminator] * 2, generator]
        assert traffic["gathered"] == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("penalty", ["model.penalties=[R1]", "trainer.strategy to ddp", "configs/hinge_sn.yaml"]),
        ("optimizer", ["Adafactor", "Adam"]),
        ("scalar", ["scale of Scalar", "(1,)"]),
        ("sync batch norm", ["trainer.sync_batchnorm", "false"]),
    ],
)
def test_refuses(folder, name, words):
    for rank in range(2):
        message = load(folder / f"refused-{rank}.pt")[name]
        for word in words:
            assert word in message


@pytest.mark.slow
def test_takes_a_penalty_that_is_off(folder):
    assert load(folder / "refused-0.pt")["penalty off"] == "runs"


def test_refuses_one_process(tmp_path):
    replace_lightnings()
    with pytest.raises(ValueError, match=r"set trainer\.devices above 1"):
        make_trainer(tmp_path, 1, strategy="fsdp2").fit(gan := make_gan(), datamodule=make_data(gan))


def test_refuses_parts_that_are_not_whole(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint at"):
        read(tmp_path)
    torch.save({"global_step": 1}, tmp_path / "0-of-2.ckpt")
    with pytest.raises(ValueError, match=r"1-of-2\.ckpt is missing"):
        read(tmp_path)
    torch.save({"global_step": 2}, tmp_path / "1-of-2.ckpt")
    with pytest.raises(ValueError, match="different batches"):
        read(tmp_path)


def test_reading_parts_runs_no_code(tmp_path):
    for rank in range(2):
        torch.save({"global_step": 1, "state_dict": Malicious()}, tmp_path / f"{rank}-of-2.ckpt")
    with pytest.raises(UnpicklingError):
        read(tmp_path)
    assert not Malicious.ran


class Malicious:
    ran = False

    def __reduce__(self):
        return mark, ()


def mark():
    Malicious.ran = True


@pytest.mark.slow
def test_command_line(tmp_path):
    run = tmp_path / "run"
    words = ["--config", "configs/hinge_sn.yaml", *SMALL, "--trainer.max_steps", "2", "--run_dir", str(run)]
    words += ["--model.generator_scheduler", "null", "--model.discriminator_scheduler", "null"]
    words += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "fsdp2"]
    started = process([sys.executable, "-m", "gan.cli", "fit", *words], cwd=ROOT, env=environment())
    output, errors = started.communicate(timeout=300)
    assert started.returncode == 0, output + errors
    assert "DCGANDiscriminator, 165,729 parameters" in output
    assert "Warning" not in errors
    sample(str(run / "checkpoints" / "last.ckpt"), str(tmp_path / "images.npy"), num=4)
