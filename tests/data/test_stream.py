"""Shards as a data module: the order of its images, processes and threads, resuming, and bad input."""

import io
import itertools
import math
import os
import re
import sys
import threading
import time
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
from commands import FAST, MLPS, Pooled, equal, load, process, table
from conftest import ROOT
from pictures import content, fill_classes
from PIL import Image

pytest.importorskip("litdata", reason="data in shards needs LitData: pip install gan[stream]")

from lightning.fabric.utilities.exceptions import MisconfigurationException
from shards import samples, write

from gan import GAN
from gan.callbacks import FIDTracker
from gan.cli import main
from gan.data import StreamDataModule
from gan.data.reading import read_array
from gan.data.stream import StreamLoader
from gan.errors import GANError
from gan.images import to_float
from gan.networks import MLPDiscriminator, MLPGenerator


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """107 images, each of one grey level, which its label is too, in shards of 10 and one of 7."""
    return write(tmp_path_factory.mktemp("shards") / "s", levels(107))


def levels(count: int) -> list[dict]:
    return [{"image": flat(level), "label": level} for level in range(count)]


@cache
def flat(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "PNG")
    return file.getvalue()


def module(path, **settings) -> StreamDataModule:
    return StreamDataModule(str(path), **({"num_classes": 200, "size": 4, "batch_size": 8} | settings))


def labels(batches) -> list[list[int]]:
    """The labels of some batches, whose images are those of the labels."""
    found = []
    for images, some in batches:
        assert (images.dtype, some.dtype) == (torch.float32, torch.int64)
        assert torch.allclose(images, (some / 127.5 - 1).view(-1, 1, 1, 1).expand_as(images), atol=1e-6)
        found.append(some.tolist())
    return found


def loader(data: StreamDataModule, rank=0, world_size=1, counter=None, **options) -> StreamLoader:
    settings = {"shuffle": True, "drop_last": True, "window": 3, "seed": 1} | options
    batch_size = settings.pop("batch_size", data.batch_size)
    return StreamLoader(
        data.subsets["train"],
        data.fields,
        data.decoding,
        batch_size,
        rank=rank,
        world_size=world_size,
        counter=counter,
        **settings,
    )


# What it gives


def test_shape_and_labels(path):
    data = module(path)
    assert (data.image_shape, data.num_classes) == ((1, 4, 4), 200)
    batches = labels(data.train_dataloader())
    assert [len(batch) for batch in batches] == [8] * 13
    assert module(path, channels=3, size=6).image_shape == (3, 6, 6)


def test_without_classes_labels_are_not_read(tmp_path):
    folder = write(tmp_path / "s", [{"image": content(number)} for number in range(20)])
    data = StreamDataModule(str(folder), size=8, batch_size=5)
    assert data.num_classes == 1
    for images, some in data.train_dataloader():
        assert images.shape == (5, 3, 8, 8)
        assert some.tolist() == [0] * 5


def test_flips_mirror_half_of_the_images_anew_each_epoch(tmp_path):
    folder = write(tmp_path / "s", samples(64, classes=64))
    settings = {"num_classes": 64, "size": 8}
    plain = {}
    for images, some in batches(folder, **settings):
        plain |= dict(zip(some.tolist(), images, strict=True))
    mirrored = StreamDataModule(str(folder), flips=True, batch_size=8, **settings).train_dataloader()
    epochs = []
    for _ in range(2):
        flipped = {}
        for images, some in mirrored:
            for image, label in zip(images, some.tolist(), strict=True):
                assert torch.equal(image, plain[label]) or torch.equal(image, plain[label].flip(-1))
                flipped[label] = not torch.equal(image, plain[label])
        assert 16 < sum(flipped.values()) < 48
        epochs.append(flipped)
    assert epochs[0] != epochs[1]


def batches(folder, **settings):
    return list(StreamDataModule(str(folder), batch_size=8, **settings).train_dataloader())


# The order


def test_each_epoch_has_every_image_once_in_an_order_of_its_own(path):
    data = module(path)
    epochs = [list(itertools.chain(*labels(loader(data, counter=lambda: (13 * e, 13))))) for e in range(3)]  # noqa: B023
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == 104
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({frozenset(epoch) for epoch in epochs}) == 3, "others are left out each time"
    assert epochs[0] != list(itertools.chain(*labels(loader(data, seed=2))))
    alone = loader(data)
    assert [list(itertools.chain(*labels(alone))) for _ in range(3)] == epochs, "without a trainer, one after the other"


def test_of_a_single_window_epochs_and_seeds_are_others_too(tmp_path):
    data = module(write(tmp_path / "s", levels(40), each=40), flips=True)
    keys = [(1, 0), (1, 5), (2, 0)]
    orders = [labels(loader(data, seed=seed, counter=lambda: (done, 5), flips=True)) for seed, done in keys]  # noqa: B023
    assert len({tuple(itertools.chain(*order)) for order in orders}) == 3


def test_images_of_a_window_are_mixed_and_no_others(path):
    each = loader(module(path), batch_size=1)
    order, place = list(itertools.chain(*labels(each))), 0
    windows = each._windows(0)
    assert [len(window) for window in windows] == [3, 3, 3, 2]
    for window in windows:
        numbers = [number for stretch in window for number in range(stretch.start, stretch.stop)]
        found = order[place : place + len(numbers)]
        assert sorted(found) == sorted(numbers)
        assert len({label // 10 for label in found[:10]}) > 1
        place += len(numbers)


@pytest.mark.parametrize("window", [1, 3, 50])
@pytest.mark.parametrize("workers", [1, 3])
def test_any_place_of_a_run_is_found_at_once(path, window, workers):
    data = module(path)
    settings = {"window": window, "workers": workers}
    alone = loader(data, **settings)
    whole = [batch for _ in range(3) for batch in labels(alone)]
    for done in (0, 1, 4, 12, 13, 15):
        resumed = labels(loader(data, counter=lambda: (done, 13), **settings))  # noqa: B023
        assert resumed == whole[done : done + 13]


def test_a_run_that_goes_on_reads_no_more_than_a_window_that_is_done(path, monkeypatch):
    data = module(path)
    read = []
    real = type(data.subsets["train"]).read
    monkeypatch.setattr(
        type(data.subsets["train"]),
        "read",
        lambda self, dataset, stretches, fields: read.extend(stretches) or real(self, dataset, stretches, fields),
    )
    list(itertools.islice(loader(data, counter=lambda: (9, 13)), 1))
    assert len(read) <= 2 * 3, "the window of batch 9, and the one after it"


def test_the_number_of_threads_changes_nothing(path):
    data = module(path, flips=True)
    few, many = (labels(loader(data, workers=workers, flips=True)) for workers in (1, 5))
    assert few == many


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 4), (3, 8), (12, 2), (2, 32)])
def test_processes_share_an_epoch(path, world_size, batch_size):
    data = module(path)
    ranks = [labels(loader(data, rank, world_size, batch_size=batch_size)) for rank in range(world_size)]
    seen = list(itertools.chain(*itertools.chain(*ranks)))
    assert len(set(seen)) == len(seen) == 107 // (world_size * batch_size) * world_size * batch_size
    assert {len(rank) for rank in ranks} == {107 // (world_size * batch_size)}
    for rank in range(world_size):
        resumed = labels(loader(data, rank, world_size, lambda: (1, len(ranks[0])), batch_size=batch_size))
        assert resumed[: len(ranks[rank]) - 1] == ranks[rank][1:]


@pytest.mark.parametrize("world_size", [1, 2, 3, 107])
def test_for_scores_every_image_is_seen_once_in_as_many_batches(path, world_size):
    data = module(path)
    options = {"shuffle": False, "drop_last": False, "batch_size": 18}
    ranks = [labels(loader(data, rank, world_size, **options)) for rank in range(world_size)]
    assert sorted(itertools.chain(*itertools.chain(*ranks))) == list(range(107))
    assert len({len(rank) for rank in ranks}) == 1
    assert all(batch for rank in ranks for batch in rank)


def test_validation_and_tests_are_shards_of_their_own(path, tmp_path):
    held_out = write(tmp_path / "held_out", levels(25))
    data = module(path, validation_shards=str(held_out), test_shards=str(held_out))
    for each in (data.val_dataloader(), data.test_dataloader()):
        assert labels(each) == [list(range(25))]
    alone = module(path)
    assert alone.val_dataloader() == []
    with pytest.raises(MisconfigurationException, match=r"there are no test images: give data.test_shards"):
        alone.test_dataloader()


def test_the_first_images_are_the_same_for_all(path):
    data = module(path)
    firsts = [
        list(itertools.chain(*labels(itertools.islice(loader(data, **options).first(5), 1))))
        for options in ({}, {"rank": 1, "world_size": 2}, {"seed": 9, "counter": lambda: (7, 13)}, {"shuffle": False})
    ]
    assert firsts == [firsts[0]] * 4
    assert sorted(firsts[0]) == list(range(107))
    assert firsts[0] != sorted(firsts[0])


def test_an_iteration_that_is_left_leaves_no_thread_behind(path):
    before = threading.active_count()
    for _ in range(5):
        next(iter(loader(module(path))))
    deadline = 50
    while threading.active_count() > before and deadline:
        threading.Event().wait(0.1)
        deadline -= 1
    assert threading.active_count() <= before


# Runs


def run(path, make_trainer, ckpt_path=None, callbacks=(), **settings):
    torch.manual_seed(0)
    data = module(path, size=28, flips=True, test_shards=str(path))
    model = GAN(MLPGenerator(data.image_shape, 8), MLPDiscriminator(data.image_shape))
    trainer = make_trainer(callbacks=list(callbacks), **settings)
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return trainer, model


@pytest.mark.parametrize("stop", [9, 13, 20])
def test_a_run_that_is_stopped_goes_on_to_the_bit(path, make_trainer, tmp_path, stop):
    """In the middle of an epoch of 13 batches, at its end, and in the middle of the next."""
    _, straight = run(path, make_trainer, max_steps=23)
    first, _ = run(path, make_trainer, max_steps=stop)
    first.save_checkpoint(tmp_path / "x.ckpt")
    _, resumed = run(path, make_trainer, tmp_path / "x.ckpt", max_steps=23)
    for one, other in zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_scores_change_no_weight_and_are_against_the_first_images(path, make_trainer):
    _, plain = run(path, make_trainer, max_steps=15)
    tracker = FIDTracker(Pooled(), every=5, num_samples=20, final_samples=20)
    trainer, scored = run(path, make_trainer, callbacks=[tracker], max_steps=15)
    for one, other in zip(plain.state_dict().values(), scored.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert len(tracker.evaluator.real) == len(tracker.evaluator.training) == 107
    assert math.isfinite(trainer.callback_metrics["fid/pooled"])
    assert "20 images against 107 test images, all that StreamLoader gives, by pooled" in tracker.terms(20)


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "data.size must be from 1 to 4096 pixels, got 0"),
        ({"channels": 2}, r"data.channels must be 1 \(grey\), 3"),
        ({"background": "whitish"}, "data.background must be a colour such as white"),
        ({"num_classes": 0}, "data.num_classes must be at least 1, got 0"),
        ({"window": 0}, "data.window must be at least 1, got 0"),
        ({"workers": math.nan}, "data.workers must be at least 1, got nan"),
        ({"cache": 0}, "data.cache must be a number of gigabytes above 0, got 0"),
        ({"cache": math.inf}, "data.cache must be a number of gigabytes above 0, got inf"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"test_shards": "nowhere"}, "data.test_shards .*nowhere is not there"),
        ({"image_field": "picture"}, "has no 'picture' in its samples, but 'image', 'label'"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(path, settings, message):
    with pytest.raises(GANError, match=message):
        module(path, **settings)


def test_too_few_images_are_told_of(tmp_path):
    data = module(write(tmp_path / "s", levels(5)))
    with pytest.raises(GANError, match="takes 8 images a batch, but there are only 5: lower batch_size"):
        data.train_dataloader()


@pytest.mark.parametrize("label", [200, -1, "cat", 1.5, float("nan"), torch.tensor([float("nan")]), None])
def test_labels_that_are_none_are_told_of(tmp_path, label):
    folder = write(tmp_path / "s", [{"image": flat(number), "label": label} for number in range(12)])
    kind = "has the label" if label is not None else "of the kind pickle"
    with pytest.raises(GANError, match=kind) as error:
        list(module(folder).train_dataloader())
    assert "\n" not in str(error.value)


def test_samples_without_labels_are_told_of(tmp_path):
    data = StreamDataModule(str(write(tmp_path / "s", [{"image": flat(1)}] * 12)), size=4, batch_size=4)
    assert len(list(data.train_dataloader())) == 3
    with pytest.raises(GANError, match=r"has no 'label' in its samples, but 'image': say by data.label_field"):
        module(tmp_path / "s")


def test_a_damaged_image_is_replaced_by_another_of_its_batch(tmp_path):
    damaged = levels(40)
    for number in (3, 17, 39):
        damaged[number]["image"] = b"junk"
    data = module(write(tmp_path / "s", damaged))
    with pytest.warns(UserWarning, match="of its batch takes its place") as warned:
        found = labels(loader(data))
    assert "data.shards: image 7 of chunk-0-1.bin in" in "".join(str(each.message) for each in warned)
    assert {len(batch) for batch in found} == {8}
    assert not {3, 17, 39} & set(itertools.chain(*found))
    with pytest.warns(UserWarning, match="takes its place"):
        assert labels(loader(data, workers=4)) == found, "always the same one"


def test_a_batch_that_is_damaged_is_an_error(tmp_path):
    damaged = levels(24)
    for sample in damaged[2:]:
        sample["image"] = b"junk"
    data = module(write(tmp_path / "s", damaged))
    with (
        pytest.warns(UserWarning, match="takes its place"),
        pytest.raises(GANError, match=r"of the 8 images of a batch cannot be read, near data.shards: image") as error,
    ):
        list(data.train_dataloader())
    assert "\n" not in str(error.value)


# The emoji, and the command

PLACES = [parent / "shared" / "data" / "emoji" / "emoji64.zip" for parent in ROOT.parents]
EMOJI = next((place for place in PLACES if place.is_file()), None)


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    """Shards of the emoji, shuffled as one should: the first 1,600 to train on, and the others to test on."""
    if EMOJI is None:
        pytest.skip("the emoji are not there")
    archive = zipfile.ZipFile(EMOJI)
    names = sorted(name for name in archive.namelist() if name.endswith(".png"))
    classes = sorted({Path(name).parent.name for name in names})
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
    taken = [{"image": archive.read(names[n]), "label": classes.index(Path(names[n]).parent.name)} for n in order]
    folder = tmp_path_factory.mktemp("emoji")
    return write(folder / "train", taken[:1600], 150), write(folder / "test", taken[1600:], 150), taken


def test_of_the_emoji_each_comes_once_an_epoch_with_its_label(emoji):
    train, _, taken = emoji
    data = StreamDataModule(str(train), num_classes=9, size=16, background="black", batch_size=4, window=2)
    assert data.image_shape == (3, 16, 16)
    ranks = [loader(data, rank, 2, workers=2, batch_size=40) for rank in range(2)]
    seen = Counter(  # some are equal
        (image.numpy().tobytes(), label)
        for images, some in itertools.chain(*ranks)
        for image, label in zip(images, some.tolist(), strict=True)
    )
    expected = Counter()
    for sample in taken[:1600]:
        pixels = torch.from_numpy(read_array(io.BytesIO(sample["image"]), (16, 16), "RGB", "black"))
        expected[to_float(pixels).numpy().tobytes(), sample["label"]] += 1
    assert seen == expected


def words(emoji, *more) -> list[str]:
    train, test, _ = emoji
    words = ["--config", FAST, "--data", "gan.data.StreamDataModule", "--data.shards", train]
    words += ["--data.test_shards", test, "--data.validation_shards", test, "--data.size", "28", "--data.channels", "1"]
    words += ["--data.batch_size", "16", "--data.flips", "true", *MLPS, "--trainer.max_steps", "130"]
    words += ["--trainer.callbacks+=gan.callbacks.FIDTracker", "--trainer.callbacks.extractor=mnist_cnn"]
    words += ["--trainer.callbacks.every=50", "--trainer.callbacks.num_samples=100"]
    words += ["--trainer.callbacks.final_samples=100", "--trainer.callbacks+=gan.callbacks.ImageLogger"]
    words += ["--trainer.callbacks+=gan.callbacks.GradientMonitor", "--trainer.callbacks+=gan.callbacks.GradientDoctor"]
    words += ["--trainer.callbacks+=gan.callbacks.RunCheckpoint", "--trainer.callbacks.every=40"]
    return [*map(str, words), *map(str, more)]


def started(*words):
    return process([sys.executable, "-m", "gan.cli", *words], env=os.environ | {"PYTHONPATH": str(ROOT)})


def finished(*words) -> str:
    running = started(*words)
    output, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    return output


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--trainer.devices", "2", "--trainer.accelerator", "cpu"]])
def test_a_run_that_is_killed_goes_on_to_the_bit(emoji, tmp_path, monkeypatch, more):
    """In the middle of an epoch of 100 batches, or with two processes of their second of 50."""
    monkeypatch.chdir(tmp_path)
    output = finished("fit", *words(emoji, *more), "--run_dir", "whole")
    assert "306 test images, all that StreamLoader gives, by mnist_cnn" in output
    assert "data           1,600 images and no classes in 11 shards" in output
    running = started("fit", *words(emoji, *more), "--run_dir", "parts")
    deadline = time.monotonic() + 200
    while not Path("parts", "checkpoints", "step_000080.ckpt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.kill()
    running.communicate()
    finished("fit", "--run_dir", "parts", "--resume", "auto")
    one, two = (load(Path(name, "checkpoints", "last.ckpt")) for name in ("whole", "parts"))
    assert one["global_step"] == two["global_step"] == 130
    assert equal(one["state_dict"], two["state_dict"])
    assert table("whole") == table("parts")
    assert (Path("whole", "samples", "real.png").read_bytes()) == Path("parts", "samples", "real.png").read_bytes()


@pytest.mark.slow
def test_the_page_writes_shards_that_are_read(tmp_path):
    fill_classes(tmp_path / "photos", {"a": 30, "b": 20})
    page = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "litdata" in block]
    (tmp_path / "write.py").write_text(program, encoding="utf-8")
    running = process([sys.executable, "write.py"], cwd=tmp_path)
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    shards = tmp_path / "shards"
    data = StreamDataModule(str(shards / "train"), test_shards=str(shards / "test"), num_classes=2, size=8)
    counts = [torch.cat([some for _, some in loader(data, drop_last=False)]).bincount().sum()]
    counts.append(torch.cat([some for _, some in data.test_dataloader()]).bincount().sum())
    assert counts == [45, 5]


@pytest.mark.slow
def test_a_run_is_validated_and_drawn_from(emoji, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished("fit", *words(emoji), "--run_dir", "run")
    assert "100 images against 306 test images" in finished("validate", "--ckpt_path", "run/checkpoints/last.ckpt")
    finished("sample", "--ckpt", "run/checkpoints/last.ckpt", "--num", "4", "--out", "x.png")
    assert {"report.md", "samples", "gradients"} <= {path.name for path in Path("run").iterdir()}


@pytest.mark.parametrize(
    ("shards", "says"),
    [("nowhere", "error: data.shards"), ("https://x.org/a", "error: data.shards https://x.org/a is a URL")],
)
def test_the_command_says_it_in_a_line(tmp_path, monkeypatch, capsys, shards, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--data", "gan.data.StreamDataModule", "--data.shards", shards])
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
