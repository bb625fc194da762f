"""The measurements can be made, as the pages write them, and measure what they say."""

import argparse
import json
import math
import re
import shlex
import sys

import pytest
import torch
from commands import FEW_SCORES, process
from conftest import ROOT, SmallMNIST, mnist
from scipy import stats

from gan.generate import save_array
from gan.losses import NonSaturating
from gan.networks import DCGANDiscriminator, DCGANGenerator
from gan.penalties import R1

sys.path.append(str(ROOT / "scripts"))

import benchmark
from benchmarks import classify, failures, games, recipes, scale, sizes, stacked, step
from benchmarks import text as of_text
from benchmarks.bare_loop import bare_loop

DOOR = ROOT / "scripts" / "benchmark.py"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / ".github").glob("*.md"))]
LINES = {
    line for page in PAGES for line in re.findall(r"python scripts/benchmark\.py ([^`\n]+)", page.read_text("utf-8"))
}


def test_each_measurement_is_a_file_and_each_file_a_measurement(capsys):
    files = {path.stem for path in DOOR.with_suffix("").with_name("benchmarks").glob("[!_]*.py")}
    assert files == {*benchmark.MEASUREMENTS, "bare_loop", "published", "report", "runs", "timed"}
    with pytest.raises(SystemExit, match="0"):
        benchmark.main(["--help"])
    assert ",".join(benchmark.MEASUREMENTS) in capsys.readouterr().out


@pytest.mark.parametrize("name", benchmark.MEASUREMENTS)
def test_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        benchmark.main([name, "--help"])
    assert benchmark.MEASUREMENTS[name].__doc__.splitlines()[0][:40] in capsys.readouterr().out


@pytest.mark.parametrize("line", sorted(LINES))
def test_settings_on_the_pages_exist(line, monkeypatch):
    words = shlex.split(line, comments=True)
    asked = []
    monkeypatch.setattr(benchmark.MEASUREMENTS[words[0]], "measure", asked.append)
    benchmark.main(words)
    assert len(asked) == 1


def test_the_pages_name_the_measurements_of_their_figures():
    assert {line.split()[0] for line in LINES} >= {"data", "step", "monitor", "ddp", "fid", "recipes"}


def test_step(capsys):
    """Each takes its turns, and the one to warm up is left out."""
    fit = ["--config", str(ROOT / "configs" / "debug" / "fast.yaml"), "--data.batch_size", "8", *FEW_SCORES]
    benchmark.main(["step", "--rounds", "2", "--batches", "3", "--", *fit])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) == 1 + 2 * len(step.LOOPS)
    for line, who in zip(lines, ("run", *step.LOOPS, *step.LOOPS), strict=True):
        assert who in line
        median, least, most = map(float, re.search(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)", line).groups())
        assert 0 < least <= median <= most


def test_the_loop_of_all_arithmetic_does_what_the_callbacks_do_as_often_as_they_do_it(monkeypatch):
    """Measurements, pictures and scores of a run, counted in the loop beside it."""
    done = []
    for name in ("measure_gradients", "draw", "check_finite"):
        real = getattr(step, name)
        monkeypatch.setattr(step, name, lambda *inputs, real=real, name=name: done.append(name) or real(*inputs))
    # In place of the default's, which are of the same kinds.
    every = {"ImageLogger": {"every": 2}, "GradientMonitor": {"every": 3}, "FIDTracker": {"every": 6}}
    every["FIDTracker"] |= {"num_samples": 100, "final_samples": 100}
    callbacks = [{"class_path": f"gan.callbacks.{kind}", "init_args": given} for kind, given in every.items()]
    fit = ["--data.batch_size", "8", f"--trainer.callbacks={json.dumps(callbacks)}"]
    benchmark.main(["step", "--rounds", "1", "--batches", "6", "--", *fit])
    assert done.count("check_finite") == 2 * 12  # both networks, two turns of six batches
    assert done.count("measure_gradients") == 4
    assert done.count("draw") == 6 + 2  # the fixed images, and one chunk for each score


@pytest.mark.slow
def test_the_door_runs_as_a_script():
    done = process([sys.executable, str(DOOR), "data", "--batch_sizes", "250", "--epochs", "1"])
    output, errors = done.communicate()
    assert (done.returncode, errors) == (0, "")
    assert re.fullmatch(r"machine .+\nversions .+torch.+\ndata +batch +250: .+ images/s, 1 epochs\n", output)


def test_recipes_are_the_shipped_configs():
    configs = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert set(recipes.RECIPES) == configs - {"text"}  # which has no FID, and `benchmark.py text` of its own


def test_the_table_of_failures_has_a_row_for_each():
    page = failures.PAGE.read_text("utf-8")
    assert sorted(failures.names_on(page)) == failures.FAILURES
    assert failures.with_table(page, "").count(failures.END) == 1


FINDING = {"name": "fever", "since": 2, "until": None, "why": "", "symptoms": []}
FINDING |= {"prescriptions": [{"settings": ["--model.loss", "Hinge"], "text": ""}, {"settings": [], "text": "x"}]}


def test_failures(tmp_path, monkeypatch, capsys):
    """A row for each; what has ended is not trained again, and the page is written for all of them alone."""
    trained = []

    def gan(*words, may_fail):
        run_dir = words[words.index("--run_dir") + 1]
        cured = "--config" in words and run_dir.name.endswith("-cured")
        run_dir.mkdir(parents=True)
        (run_dir / "findings.json").write_text(json.dumps([] if cured else [FINDING]), "utf-8")
        (run_dir / "metrics.csv").write_text(f"step,fid/own\n1,50\n9,{4.4 if cured else 41.6}\n", "utf-8")
        trained.append((run_dir.name, [word.parent.name for word in words if getattr(word, "suffix", "") == ".yaml"]))
        return 12.3

    page = tmp_path / "page.md"
    page.write_text(f"before\n{failures.BEGIN}\nold\n{failures.END}\nafter\n", "utf-8")
    monkeypatch.setattr(failures, "gan", gan)
    monkeypatch.setattr(failures, "PAGE", page)
    out = ["--out", str(tmp_path / "runs"), "--at_once", "1"]
    benchmark.main(["failures", "--configs", "collapse", *out])
    row = "| `collapse.yaml` | a clipped Wasserstein critic, and momentum on both sides | fever | 42 | "
    row += "`--model.loss Hinge` | 4.4 | 12 |"
    assert row in capsys.readouterr().out
    assert trained == [("collapse", ["failures"]), ("collapse-cured", ["failures", "cures"])]
    assert "old" in page.read_text("utf-8")
    benchmark.main(["failures", *out])
    assert len(trained) == 2 * len(failures.FAILURES)
    text = page.read_text("utf-8")
    assert row in text
    assert text.startswith("before\n")
    assert text.endswith(f"{failures.END}\nafter\n")
    assert sorted(failures.names_on(text)) == failures.FAILURES


def test_a_run_that_may_fail(monkeypatch):
    from benchmarks import runs

    monkeypatch.setattr(runs.sys, "executable", "false")
    assert runs.gan("fit", may_fail=True) >= 0
    with pytest.raises(SystemExit, match="a run has failed"):
        runs.gan("fit")


@pytest.mark.parametrize("one_pass", [True, False])
def test_bare_loop_does_the_arithmetic_of_the_default(one_pass):
    """Its gradients are those of the default's losses, with R1 in the first batch and without in the second."""
    shape = SmallMNIST.image_shape
    generator, discriminator = DCGANGenerator(shape, 16, 8), DCGANDiscriminator(shape, 8)
    loss, penalty = NonSaturating(), R1(1, every=16)
    real = mnist()[0][:16] / 127.5 - 1
    compared = []

    class Data:
        def train_dataloader(self):
            return [(real, None)] * 2

    def compare(network):
        theirs = [parameter.grad for parameter in network.parameters()]
        with torch.random.fork_rng([]):
            torch.set_rng_state(before)
            fake = generator(torch.randn(16, 16)).detach()
            if network is discriminator:
                ours = loss.discriminator(discriminator(real), discriminator(fake)).mean()
                if penalty.is_due(len(compared) // 2):
                    ours = ours + penalty.contribution(penalty(discriminator, real, fake))
            else:
                ours = loss.generator(discriminator(generator(torch.randn(16, 16))), None).mean()
        torch.testing.assert_close(theirs, list(torch.autograd.grad(ours, list(network.parameters()))))
        compared.append(network)

    loop = bare_loop(generator, discriminator, Data(), one_pass, reduce=compare)
    for _ in range(2):
        before = torch.get_rng_state()
        next(loop)
    assert compared == [discriminator, generator] * 2


def test_classify(tmp_path, capsys):
    """A row for each way; all train on the same labels; what is measured is not measured again."""
    one = ["classify", "--labels", "20", "--seeds", "1", "--batches", "4", "--out", str(tmp_path)]
    benchmark.main([*one, "--ways", "alone", "augmented", "generated", "both"])
    output = capsys.readouterr().out
    rows = [line for line in output.splitlines() if line.startswith("| ")]
    assert rows[0] == "| trained on | 20 labels |"
    assert len(rows) == 1 + 4
    file = tmp_path / "alone-20-1-4.json"  # of 4 batches: a whole training has another
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {
        *(f"{way}-20-1-4" for way in ("alone", "augmented", "generated", "both")),
    }
    assert classify.kind(argparse.Namespace(batches=None), 20, 1) == "20-1"
    assert f"| these alone | {100 * json.loads(file.read_text('utf-8'))['accuracy']:.2f} +- 0.00 |" in rows
    file.write_text('{"accuracy": 0.5}', "utf-8")
    benchmark.main([*one, "--ways", "alone"])
    assert "| these alone | 50.00 +- 0.00 |" in capsys.readouterr().out
    images, labels = classify.labelled(20, seed=1)
    assert labels.bincount().tolist() == [2] * 10
    more, classes = classify.Labelled(20, seed=1).load(train=True)
    assert len(more) == 10_000
    assert {image.numpy().tobytes() for image in more} == {image.numpy().tobytes() for image in images}
    assert torch.equal(classes[:20], labels)


def test_games_of_runs_that_failed(tmp_path, monkeypatch):
    """They are in the table, whether they end before the first score or before anything."""
    assert games.interval([1.0, 2.0, 3.0, 4.0, 5.0]) == "3.00 ± 1.97 (1.00 to 5.00)"
    assert games.interval([1.0, math.inf]) == "inf (1.00 to inf)"
    assert games.interval([1.0]) == "1.00"
    half = stats.t.ppf(0.975, 19) * (20 / 19 / 20) ** 0.5
    (written,) = re.findall(r"± ([\d.]+) ", games.interval([0.0, 2.0] * 10))
    assert float(written) == pytest.approx(half, rel=0.02)
    monkeypatch.setattr(games, "gan", lambda *words, **settings: words[2].mkdir() or 1.0)
    settings = argparse.Namespace(out=tmp_path, seeds=[1, 2], batches=5)
    cells = games.row(settings, "Adam", 0.1, {"Adam": [1.0]}).split(" | ")
    assert cells[4:6] == ["inf (inf to inf)", "2"]


def test_text_takes_the_scores_of_the_start_and_of_the_report_at_the_end(tmp_path, monkeypatch):
    def fit(*words):
        folder = words[words.index("--run_dir") + 1]
        folder.mkdir()
        scores = {f"ngram/{n}": 1.0 for n in (1, 2, 3, 4)} | {f"ngram_floor/{n}": 0.5 for n in (1, 2, 3, 4)}
        of_end = {f"ngram_of_end/{n}": 0.2 for n in (1, 2, 3, 4)} | {
            f"ngram_floor_of_end/{n}": 0.1 for n in (1, 2, 3, 4)
        }
        rows = [scores, dict.fromkeys(scores, 0.3), {"loss/generator": 1.0}, of_end]
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
        return 7.0

    monkeypatch.setattr(of_text, "gan", fit)
    scores = of_text.train(tmp_path / "run", 1)
    assert {name: value for name, value in scores.items() if name.endswith("3")} == {
        "start/3": 1.0,
        "end/3": 0.2,
        "floor/3": 0.1,
    }


@pytest.mark.slow
def test_classify_by_the_real_command(tmp_path, capsys):
    words = ["classify", "--labels", "20", "--seeds", "1", "--batches", "120", "--out", str(tmp_path)]
    benchmark.main([*words, "--ways", "semisupervised"])
    assert re.search(r"unlabelled: `semisupervised.yaml` \| \d\d\.\d\d \+- 0.00 \|", capsys.readouterr().out)


def test_a_step_has_the_operations_of_its_passes():
    """Four forward passes' worth of the generator, eight of the discriminator: a backward is two, one when frozen."""
    batch, (images, latents) = 4, (torch.zeros(1, 1, 28, 28), torch.zeros(1, 16))
    generator, discriminator = sizes.pair("DCGAN", (1, 28, 28), 8)
    counted = scale.step_cost((batch, 28, 8), "float32", steps=1, rounds=1)
    forward = 2 * batch * (4 * sizes.multiply_adds(generator, latents) + 8 * sizes.multiply_adds(discriminator, images))
    assert 0.9 * forward < counted.operations <= forward  # no gradient for what comes into a first layer
    assert counted.ms > 0


def test_scale(tmp_path, monkeypatch, capsys):
    """Whatever grows has a line for each size, each layer one, each run its memory; and all are in the figure."""
    monkeypatch.setattr(scale, "matrix_rate", lambda dtype: 1e11)
    monkeypatch.setattr(scale, "copy_rate", lambda: 1e10)
    monkeypatch.setattr(scale, "memory_of_run", lambda batches, size: {batches: 1.5 * size})
    few = ["--batch_sizes", "2", "4", "--sizes", "16", "--channels", "4", "--steps", "1", "--rounds", "1"]
    few += ["--batches", "8", "--train_sizes", "1000", "2000", "--plot", str(tmp_path / "scale.png")]
    benchmark.main(["scale", *few])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("scale")]
    assert lines[0] == "scale     matrices 100 Gflop/s in float32, 100 in bfloat16; memory 10.0 GB/s"
    assert sum(" ms  " in line for line in lines) == 2 * 4
    assert sum("Gflop/s of" in line for line in lines) == 7
    assert lines[-1] == "scale     memory of a run on 2,000 images: 3,000 MB at batch 8"
    assert (tmp_path / "scale.png").stat().st_size > 10_000


def test_no_layer_is_told_to_be_able_to_do_more_than_memory_brings_it():
    at_most = [float(re.search(r"of +([\d.]+):", line)[1]) for line in scale.roofline(rate=1e9, bandwidth=1e6)]
    assert max(at_most) < 0.2  # the most operations to a byte of these layers are below 200


def test_stacked_digits_are_of_the_kind_that_they_are_read_as():
    images, kinds = stacked.StackedMNIST().load(train=False)
    assert images.shape == (10_000, 3, 28, 28)
    assert images.dtype == torch.uint8
    assert len(kinds.unique()) == 1000
    again = stacked.StackedMNIST().load(train=False)
    assert torch.equal(again[0], images)
    assert torch.equal(again[1], kinds)
    assert (stacked.read(images[:500]) == kinds[:500]).float().mean() > 0.94  # three digits, each right in 99 of 100
    torch.testing.assert_close(stacked.read(images[:50].float() / 127.5 - 1), stacked.read(images[:50]))
    assert stacked.kind_of(torch.tensor([[1, 2, 3], [0, 0, 9]])).tolist() == [123, 9]


def test_kinds_are_read_from_what_sample_writes(tmp_path):
    images, kinds = stacked.StackedMNIST().load(train=False)
    save_array(images[:500].float() / 127.5 - 1, tmp_path / "samples.npy")
    assert torch.equal(stacked.from_file(tmp_path / "samples.npy"), images[:500])
    assert (stacked.read(stacked.from_file(tmp_path / "samples.npy")) == kinds[:500]).float().mean() > 0.94


def test_the_divergence_of_kinds():
    uniform, one = torch.full((1000,), 5), torch.zeros(1000).index_fill(0, torch.tensor([7]), 3)
    assert stacked.against(uniform, 9 * uniform) == (1000, 0)
    kinds, divergence = stacked.against(one, uniform)
    assert kinds == 1
    assert divergence == pytest.approx(math.log(1000))


def test_stacked(tmp_path, monkeypatch, capsys):
    """Whole runs stay, and a table's row is of all seeds."""
    monkeypatch.setattr(stacked, "gan", pytest.fail)
    monkeypatch.setattr(stacked, "read", lambda images: torch.arange(1000))
    for seed, kinds in ((1, 900), (2, 1000)):
        run = tmp_path / f"R1-9-{seed}"
        run.mkdir()
        (run / "scores.json").write_text(json.dumps({"kinds": kinds, "divergence": 0.1 * seed}), "utf-8")
    benchmark.main(["stacked", "--recipes", "R1", "--seeds", "1", "2", "--batches", "9", "--out", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[-1] == "| R1 | 950 (900 to 1000) | 0.150 (0.100 to 0.200) |"
