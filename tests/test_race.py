"""The race: what its clock counts, what its table says, and who runs in it."""

import json
import math
import re
import sys
from itertools import count

import pytest
import torch
from conftest import ROOT
from torch import nn

sys.path.append(str(ROOT / "scripts"))

import benchmark
from benchmarks import published, race, timed
from benchmarks.race import missed, report, time_to, times_until
from benchmarks.timed import Clock

from gan.callbacks.non_finite_guard import NonFiniteGradient

SHAPE = (1, 28, 28)


class Watch:
    """A clock of the processor that tests move."""

    def __init__(self, monkeypatch):
        self.seconds = 100.0
        monkeypatch.setattr(timed, "now", lambda: self.seconds)

    def pass_(self, seconds):
        self.seconds += seconds


def test_the_clock_stands_still_while_images_are_scored(monkeypatch):
    """Of a scorer that takes a hundred times as long as a batch, it counts nothing."""
    watch, calls = Watch(monkeypatch), []

    def score(make, last):
        watch.pass_(50)
        calls.append(last)
        return {"fid": 10.0 - len(calls)}

    clock = Clock([1, 2, 4], score)
    watch.pass_(7)  # start-up
    assert clock.share() == 0
    clock.begin()
    left = True
    while left:
        watch.pass_(0.5)
        left = clock.tick(64, torch.zeros)
    assert [(row["after"], row["at"], row["fid"]) for row in clock.rows] == [(1, 1, 9), (2, 2, 8), (4, 4, 7)]
    assert calls == [False, False, True]
    assert (clock.scoring, clock.images, clock.seconds, clock.share()) == (150, 8 * 64, 4, 1)


def test_a_batch_that_takes_long_passes_several_times_and_is_scored_once(monkeypatch):
    watch, calls = Watch(monkeypatch), []
    clock = Clock([1, 2, 8], lambda make, last: calls.append(last) or {"fid": 5.0})
    clock.begin()
    watch.pass_(3)
    assert clock.tick(1, torch.zeros)
    assert [(row["after"], row["at"]) for row in clock.rows] == [(1, 3), (2, 3)]
    watch.pass_(6)
    assert not clock.tick(1, torch.zeros)
    assert calls == [False, True]
    assert clock.rows[-1] == {"after": 8, "at": 9, "fid": 5.0}


def test_runs_are_scored_until_their_end():
    assert times_until(8) == [1, 2, 3, 5, 8]
    assert times_until(10) == [1, 2, 3, 5, 8, 10]
    assert times_until(0.5) == [0.5]


def rows(*scores):
    return [{"after": at, "at": at, "fid": fid} for at, fid in scores]


def test_time_to_a_target():
    """On a power law, where the straight line of logarithms is exact: FID 32 / t."""
    law = rows((1, 32), (4, 8), (16, 2))
    assert time_to(law, 16) == pytest.approx(2)
    assert time_to(law, 4) == pytest.approx(8)
    assert time_to(law, 8) == pytest.approx(4)
    assert time_to(law, 40) == 1  # before the first score: by that
    assert time_to(law, 1) == math.inf
    assert time_to(rows((1, math.inf), (4, 8)), 9) == 4  # nothing to draw a line from
    assert time_to(rows((1, 9), (2, 3), (3, 9)), 4) < 2  # there once is there


def result(*scores, second=None, start_up=1.0):
    made = rows(*scores)
    made[-1] |= {"kid": 0.004, "coverage": 0.75}
    for row in made if second else []:
        row["fid by second"] = second * row["fid"]
    return {"rows": made, "start_up": start_up, "scoring": 9.0, "images_per_second": 1234.0}


def settings(**given):
    parser = race.argparse.ArgumentParser()
    race.add_arguments(parser)
    made = parser.parse_args([])
    vars(made).update(given)
    return made


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_by_hand():
    """Medians over seeds, the share that misses, and times against the classic script's."""
    results = {
        "default": [result((1, 16), (4, 1)), result((1, 8), (4, 2)), result((1, 64), (4, 32))],
        "dcgan": [result((1, 32), (4, 8)), result((1, 64), (4, 4)), result((1, 32), (4, 10))],
    }
    lines = list(report(settings(seconds=4, seeds=[1, 2, 3]), results, {"mnist_cnn": "abc"}))
    assert lines[1] == "race      FID of 10,000 images by mnist_cnn abc"
    head, default, classic = (cells(line) for line in (lines[3], lines[5], lines[6]))
    assert head[1:3] == ["seconds to FID 8.00", "of 4 s, times as fast"]  # the median of dcgan's at its end
    # 16 to 1 over a factor of 4: a quarter of the logarithm, 4 ** 0.25. The second is there at 1 s, the third never.
    assert default[1:4] == ["1.4 (1.0 to inf)", "2.8", "33%"]
    assert classic[1:4] == ["4.0 (2.8 to inf)", "1.0", "33%"]
    assert default[4:7] == ["1,234 (1,234 to 1,234)", "4.0 (4.0 to 4.0)", "0.750 (0.750 to 0.750)"]
    assert cells(lines[8]) == ["FID", "1 s", "4 s"]
    assert cells(lines[10]) == ["default", "16.00 (8.00 to 64.00)", "2.00 (1.00 to 32.00)"]
    assert len(lines) == 12
    assert missed([1, math.inf, 3, math.inf]) == 0.5


def test_times_as_fast_where_half_of_the_classic_scripts_seeds_miss():
    """With an even number of them the median lies between two: one of them has not come there."""
    results = {"default": [result((1, 9), (4, 1))], "dcgan": [result((1, 32), (4, 8)), result((1, 64), (4, 10))]}
    lines = list(report(settings(seconds=4, seeds=[1, 2]), results, {"mnist_cnn": "abc"}))
    assert cells(lines[3])[1] == "seconds to FID 9.00"
    assert cells(lines[5])[1:4] == ["1.0 (1.0 to 1.0)", "4.0", "0%"]
    assert cells(lines[6])[3] == "50%"


def test_the_table_of_a_second_extractor():
    results = {"default": [result((1, 16), (4, 1), second=2)], "mlp": [result((1, 16), (4, 1))]}
    lines = list(report(settings(seconds=4, target=8, seeds=[1]), results, {"mnist_cnn": "a", "second": "b"}))
    assert "by mnist_cnn a, second b" in lines[1]
    assert cells(lines[-4]) == ["FID by second", "1 s", "4 s"]
    assert cells(lines[-2]) == ["default", "32.00 (32.00 to 32.00)", "2.00 (2.00 to 2.00)"]
    assert cells(lines[-1]) == ["mlp", "", ""]  # has not been seen by it


def test_a_target_is_asked_for_where_nobody_gives_it():
    with pytest.raises(SystemExit, match="--target"):
        list(report(settings(seconds=4), {"default": [result((1, 16), (4, 1))]}, {}))


@pytest.fixture
def few_images(monkeypatch):
    """Scores of no worth, and at once: the mean of ten images; how often they were asked for."""
    asked = []

    def judged(judges, make, last):
        images = make(0)
        assert images.shape[1:] == SHAPE
        assert images.abs().max() <= 1
        asked.append(last)
        return {"fid": 10 + images[:10].mean().item(), **({"kid": 0.1, "coverage": 0.5} if last else {})}

    monkeypatch.setattr(race, "judged", judged)
    monkeypatch.setattr(race, "TIMES", (0.08, 1))
    looks = count(step=0.05)  # whatever a batch takes: a twentieth of a second passes at each look at the clock
    monkeypatch.setattr(timed, "now", lambda: next(looks))
    return asked


@pytest.mark.parametrize("competitor", race.BY_HAND)
def test_loops_run_by_the_clock_and_what_has_run_is_kept(competitor, few_images, tmp_path, capsys):
    words = ["race", "--seconds", "0.2", "--target", "20", "--competitors", competitor, "--out", str(tmp_path)]
    benchmark.main([*words, "--seeds", "1"])
    assert few_images == [False, True]
    first = json.loads((tmp_path / f"{competitor}-0.2-1.json").read_text("utf-8"))
    assert [row["after"] for row in first["rows"]] == [0.08, 0.2]
    assert all(row["at"] >= row["after"] for row in first["rows"])
    assert first["images_per_second"] > 0
    capsys.readouterr()
    benchmark.main([*words, "--seeds", "1", "2"])  # one seed more
    assert len(few_images) == 4
    assert json.loads((tmp_path / f"{competitor}-0.2-1.json").read_text("utf-8")) == first
    assert re.search(rf"\| {competitor} \| .* \| 0% \|", capsys.readouterr().out)


def test_a_run_that_dies_has_missed(few_images, tmp_path, monkeypatch, capsys):
    def by_config(config, seed, clock, run_dir):
        clock.begin()
        while clock.tick(64, lambda number: torch.zeros(1, *SHAPE)) and clock.seconds < 2:
            pass
        raise NonFiniteGradient("a gradient is NaN")

    monkeypatch.setattr(race, "by_config", by_config)
    words = ["race", "--seconds", "4", "--target", "1", "--competitors", "default", "--seeds", "1"]
    benchmark.main([*words, "--out", str(tmp_path)])
    assert re.search(r"\| default \| inf \(inf to inf\) \| .* \| 100% \|", capsys.readouterr().out)
    kept = json.loads((tmp_path / "default-4-1.json").read_text("utf-8"))
    assert [math.isinf(row["fid"]) for row in kept["rows"]] == [False, False, True]
    assert kept["images_per_second"] > 0


@pytest.mark.parametrize("config", ["default", "speedrun"])
def test_configs_run_by_the_clock(config, few_images, tmp_path, monkeypatch):
    """Their schedules keep to it: the rate has risen, and is near zero at the end."""
    rates = []
    ticking = Clock.tick
    monkeypatch.setattr(
        Clock, "tick", lambda clock, *rest: rates.append(schedule.get_last_lr()[0]) or ticking(clock, *rest)
    )
    started = timed.ByClock.on_train_start

    def on_train_start(self, trainer, pl_module):
        nonlocal schedule
        started(self, trainer, pl_module)
        schedule = trainer.lr_scheduler_configs[0].scheduler

    schedule = None
    monkeypatch.setattr(timed.ByClock, "on_train_start", on_train_start)
    race.raced(settings(seconds=2, out=tmp_path), config, 1, {})
    (kept,) = tmp_path.iterdir()
    scored = json.loads(kept.read_text("utf-8"))
    assert [row["after"] for row in scored["rows"]] == [0.08, 1, 2]
    assert few_images == [False, False, True]
    assert max(rates) > 10 * rates[-1]
    assert rates[0] < max(rates)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_published_networks_have_the_parameters_of_their_description():
    """Matrices and biases; kernels and biases; two for each channel or unit of a normalisation."""
    generator = 100 * 128 + 128 + 128 * 256 + 256 + 256 * 512 + 512 + 512 * 1024 + 1024 + 1024 * 784 + 784
    assert parameters(published.MLP(SHAPE)) == generator + 2 * (256 + 512 + 1024) == 1_510_032
    discriminator = 784 * 512 + 512 + 512 * 256 + 256 + 256 + 1
    assert parameters(published.mlp_discriminator(SHAPE)) == discriminator == 533_505
    generator = 100 * 8192 + 8192 + 9 * (128 * 128 + 128 * 64 + 64) + 128 + 64 + 1 + 2 * (128 + 128 + 64)
    assert parameters(published.Upsampling()) == generator == 1_049_985
    discriminator = 9 * (16 + 16 * 32 + 32 * 64 + 64 * 128) + 240 + 2 * (32 + 64 + 128) + 512 + 1
    assert parameters(published.dropping_out()) == discriminator == 98_113


def test_the_published_networks_give_images_and_probabilities():
    z = torch.randn(4, 100)
    for generator, discriminator in (
        (published.MLP(SHAPE), published.mlp_discriminator(SHAPE)),
        (published.Upsampling(), published.dropping_out()),
    ):
        images = generator(z)
        assert images.shape[1:] == (SHAPE if images.shape[-1] == 28 else (1, 32, 32))
        probabilities = discriminator(images)
        assert probabilities.shape == (4, 1)
        assert ((probabilities > 0) & (probabilities < 1)).all()
    epsilons = [layer.eps for layer in published.Upsampling().modules() if isinstance(layer, nn.BatchNorm2d)]
    assert epsilons == [1e-5, 0.8, 0.8]


def test_the_published_loop_trains_each_network_by_its_own_loss():
    """The first steps of Adam are of the size of its rate, along the signs of the gradients of cross entropy."""
    torch.manual_seed(0)
    generator, discriminator = published.MLP(SHAPE), published.mlp_discriminator(SHAPE)
    real = torch.rand(8, *SHAPE) * 2 - 1
    networks = generator, discriminator
    before = [[parameter.detach().clone() for parameter in network.parameters()] for network in networks]
    torch.manual_seed(1)
    z = torch.randn(8, 100)
    fake = generator(z)
    of_generator = torch.autograd.grad(-discriminator(fake).log().mean(), [*generator.parameters()])
    of_real, of_fake = discriminator(real), discriminator(fake.detach())
    loss = -(of_real.log().mean() + (1 - of_fake).log().mean()) / 2
    of_discriminator = torch.autograd.grad(loss, [*discriminator.parameters()])
    torch.manual_seed(1)
    assert next(published.published_loop(generator, discriminator, [real])) is real
    for network, was, gradients in zip(networks, before, (of_generator, of_discriminator), strict=True):
        for parameter, old, gradient in zip(network.parameters(), was, gradients, strict=True):
            clear = gradient.abs() > 1e-6
            moved = (parameter - old).detach()[clear]
            torch.testing.assert_close(moved, -2e-4 * gradient[clear].sign(), rtol=0.02, atol=1e-6)


def test_digits_for_the_larger_networks_have_a_border_that_is_taken_off_again(monkeypatch):
    images = next(race.batches(4, seed=1, border=2))
    assert images.shape == (4, 1, 32, 32)
    assert (images[..., :2, :] == -1).all()
    assert images[..., 2:-2, 2:-2].max() == pytest.approx(1)
    monkeypatch.setattr(race, "CHUNK", 4)
    seen = []

    class Framed(nn.Module):
        latent_dim = 3

        def forward(self, z):
            return nn.functional.pad(z.new_ones(len(z), *SHAPE), [2] * 4)

    clock = Clock([0], lambda make, last: seen.append(make(0)) or {"fid": 1.0})
    race.by_hand(lambda seed: (Framed(), iter([images])), 1, clock)
    assert torch.equal(seen[0], torch.ones(4, *SHAPE))


def test_numbers_that_move_over_a_run_move_by_the_clock(monkeypatch, tmp_path):
    """All of R3GAN's recipe go from where they start to where they end, though nothing tells the batches."""
    watch, seen = Watch(monkeypatch), []
    starting = timed.ByClock.on_train_batch_start

    def on_train_batch_start(self, trainer, pl_module, *batch):
        starting(self, trainer, pl_module, *batch)
        seen.append({name: float(number) for name, number in pl_module.scheduled})
        watch.pass_(1)

    monkeypatch.setattr(timed.ByClock, "on_train_batch_start", on_train_batch_start)
    clock = Clock([4], lambda make, last: {"fid": 1.0})
    timed.by_config("r3gan", 1, clock, tmp_path / "run", "--data.batch_size", 4)
    assert len(seen) == 5  # in the last of which it is told to stop
    of_all = zip(*(numbers.values() for numbers in seen), strict=True)
    ways = dict(zip(seen[0], of_all, strict=True))
    assert ways["r1.weight"] == pytest.approx([1, 1 - 0.9 * 0.146447, 0.55, 0.1 + 0.9 * 0.146447, 0.1], abs=1e-5)
    assert ways["GeneratorEMA.half_life"] == pytest.approx([0, 732.2, 2500, 4267.8, 5000], abs=0.1)
    assert len(ways) == 5
