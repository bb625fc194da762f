"""The zoo: which recipes are in it, what its tables say, and how runs are kept and divided."""

import argparse
import json
import math
import sys

import pytest
import torch
import yaml
from conftest import ROOT

sys.path.append(str(ROOT / "scripts"))

import benchmark
from benchmarks import sizes, timed, zoo
from benchmarks.zoo import FASHION, MNIST, Run

from gan.callbacks.non_finite_guard import NonFiniteGradient
from gan.errors import GANError
from gan.folder import lock
from gan.networks import DCGANDiscriminator, DCGANGenerator


def settings(out, *words):
    parser = argparse.ArgumentParser()
    zoo.add_arguments(parser)
    return parser.parse_args(["--out", str(out), *words])


def test_all_of_its_folder_are_in_it_and_each_has_a_rate_of_both_networks():
    assert {name for name in zoo.RECIPES if "/" in name} == {
        f"zoo/{path.stem}" for path in (ROOT / "configs" / "zoo").glob("*.yaml")
    }
    assert {recipe for recipe, *_ in zoo.PUBLISHED.values() if recipe} <= set(zoo.RECIPES)
    for recipe in zoo.RECIPES:
        assert (ROOT / "configs" / f"{recipe}.yaml").is_file()
        assert all(rate > 0 for rate in zoo.rates_of(recipe, 1).values())
    assert zoo.rates_of("zoo/two_time_scales", 0.5) == {"generator": 0.0005, "discriminator": 0.002}
    assert zoo.setting("resnet", "data", "init_args", "batch_size") == 32
    assert zoo.setting("zoo/wgan", "data", "init_args", "batch_size") == 64


def test_recipes_of_the_zoo_are_diffs_of_the_default_in_a_few_lines():
    for path in (ROOT / "configs" / "zoo").glob("*.yaml"):
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= 10
        assert set(yaml.safe_load(text)) == {"model"}
        assert any(name in text.splitlines()[1] for name in ("et al.", "Jolicoeur-Martineau"))


class Judge:
    """Of no images."""

    id = "abc"

    def __init__(self, *of):
        pass

    def scores(self, make, last):
        return {"fid": 1.0, "kid": 0.002, "coverage": 0.5, "modes_covered": 10, "entropy": 2.3}


@pytest.fixture
def trained(monkeypatch):
    """The runs that were asked for, which take no time: the higher a rate the better, and one dies."""
    asked = []

    def by_config(recipe, seed, clock, run_dir, *words, watched):
        assert watched == 12
        asked.append((recipe, seed, clock.times, words))
        rate = words[words.index("--model.generator_optimizer.lr") + 1]
        clock.begin()
        if recipe == "zoo/wgan" and seed == 2:
            raise NonFiniteGradient("a gradient is NaN")
        clock.rows.append({**clock.score(None, True), "at": clock.times[-1], "fid": seed + 1 / rate})
        clock.images = 100
        run_dir.mkdir()
        (run_dir / "findings.json").write_text(json.dumps([{"name": "fever"}] * 2 if seed == 1 else []), "utf-8")

    monkeypatch.setattr(zoo, "by_config", by_config)
    monkeypatch.setattr(zoo, "Judge", Judge)
    monkeypatch.setattr(zoo, "data_of", lambda settings, data: None)
    cost = {"multiply_adds": 5e6, "generator": 1e6, "discriminator": 2e6}
    monkeypatch.setattr(zoo, "weighed", lambda settings, recipe: cost)
    return asked


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_tables_by_hand(trained, tmp_path, capsys):
    words = ["zoo", "--recipes", "default", "zoo/wgan", "--seeds", "1", "2", "--fashion_seeds", "1"]
    words += ["--seconds", "9", "--tuning", "0.333333", "--failed", "32", "--fashion", "here", "--out", str(tmp_path)]
    benchmark.main(words)
    lines = [cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [line for line in lines if line[0] in ("`default`", "`zoo/wgan`")]
    assert len(rows) == 2 * 3
    # 1 + 1 / 0.064 and 2 + 1 / 0.064: a deviation of 0.707, over the root of 2, times 12.71: 6.355.
    default = ["17.12 ± 6.36 (16.62 to 17.62)", "2.00", "0.500", "10.0", "2.30", "0 of 2", "11", "fever (1)"]
    assert rows[0][1:] == default
    assert rows[1][1] == "inf (32.25 to inf)"
    assert rows[1][6:] == ["2 of 2", "11", "fever (1)"]
    assert rows[3][1] == "32.25"
    assert rows[4][1:] == ["0.064 + 0.064", "x 16 of 0.5 to 16", "1.00 + 2.00", "5"]
    assert len(trained) == 2 * (3 + zoo.BEYOND) + 2 * 2 + 2
    assert [(recipe, seed) for recipe, seed, *_ in trained[12:]] == [
        *[("default", 1), ("zoo/wgan", 1)] * 2,
        ("default", 2),
        ("zoo/wgan", 2),
    ]
    assert trained[0][2] == [3]
    assert "here" not in map(str, trained[12][3])
    assert {"here", "64"} <= set(map(str, trained[14][3]))
    benchmark.main(words)
    assert len(trained) == 18  # nothing of it again


@pytest.mark.parametrize(
    ("fids", "more"),
    [
        ({0.5: 3.0, 1: 2.0, 2: 3.0}, None),  # the best has been found between two
        ({0.5: 3.0, 1: 2.0, 2: 1.0}, 4),
        ({0.5: 1.0, 1: 2.0, 2: 3.0}, 0.25),
        ({0.0625: 1.0, 0.125: 1.5, 0.25: 2.0, 0.5: 3.0, 1: 4.0, 2: 5.0}, None),  # enough
    ],
)
def test_rates_are_tried_beyond_an_end_that_is_the_best(fids, more, tmp_path):
    assert zoo.factor_beyond(settings(tmp_path), "default", fids) == more


def test_what_another_process_makes_is_waited_for(tmp_path, monkeypatch):
    given, first = settings(tmp_path), "a"
    path = zoo.file_of(given, "cost-a")
    held = path.with_suffix(".lock").open("a", encoding="utf-8")
    lock(held)
    made = []

    def sleep(seconds):  # the other process keeps what it has made
        assert made == ["b"]
        path.write_text("{}", "utf-8")
        held.close()

    monkeypatch.setattr(zoo.time, "sleep", sleep)
    zoo.made(given, [first, "b"], lambda each: made.append(each) or {})
    assert made == ["b"]
    path.unlink()  # of a process that was killed, whose lock is gone
    zoo.made(given, [first], lambda each: made.append(each) or {})
    assert made == ["b", "a"]
    assert not list(tmp_path.glob("*.partial"))


def test_what_no_training_can_mend_is_told(tmp_path, monkeypatch):
    def refuse(recipe, seed, clock, *words, watched):
        clock.begin()
        raise GANError("no space left on the disk")

    monkeypatch.setattr(zoo, "by_config", refuse)
    with pytest.raises(GANError, match="no space left"):
        zoo.trained(settings(tmp_path), Run(MNIST, "default", 1, 1, 1), Judge())
    with pytest.raises(SystemExit, match=r"no Fashion-MNIST in .*--fashion.*--data MNIST"):
        zoo.data_of(settings(tmp_path, "--fashion", str(tmp_path)), FASHION)


@pytest.mark.parametrize("recipe", ["zoo/wgan", "r3gan"])
def test_a_run_by_the_real_command(recipe, tmp_path, monkeypatch):
    seconds = iter(range(100))
    monkeypatch.setattr(timed, "now", lambda: next(seconds))
    result = zoo.trained(settings(tmp_path), Run(MNIST, recipe, 9, 2, 1), Judge())
    assert result["fid"] == 1
    assert result["findings"] == []
    assert result["images_per_second"] > 0


def test_a_run_that_dies_has_failed(tmp_path, monkeypatch):
    """By a rate at which weights are infinite after a batch."""
    monkeypatch.setattr(zoo, "words_of_rates", lambda recipe, factor: ["--model.generator_optimizer.lr", 1e38])
    result = zoo.trained(settings(tmp_path), Run(MNIST, "zoo/plain", 60, 1, 1), Judge())
    assert math.isinf(result["fid"])
    assert result["findings"] == ["non-finite gradients"]


def test_operations_of_a_training_image():
    """As many as passes have: a backward is two forward ones, and one where weights are frozen."""
    shape = (1, 28, 28)
    networks = DCGANGenerator(shape, 16, 32, modulation=64), DCGANDiscriminator(shape, 16)
    inputs = torch.zeros(1, 16), torch.zeros(1, *shape)
    generator, discriminator = (sizes.multiply_adds(*both) for both in zip(networks, inputs, strict=True))
    plain, twice, penalised = (zoo.weighed(settings("."), f"zoo/{name}") for name in ("plain", "n_critic", "dragan"))
    forward = 4 * generator + 8 * discriminator
    assert 0.9 * forward < plain["multiply_adds"] <= forward
    assert plain["multiply_adds"] > twice["multiply_adds"] > plain["multiply_adds"] / 2
    assert penalised["multiply_adds"] > plain["multiply_adds"] + 3 * discriminator
    for network, name in zip(networks, zoo.NETWORKS, strict=True):
        assert plain[name] == sum(parameter.numel() for parameter in network.parameters())
