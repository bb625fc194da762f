"""A folder of images as a data module: its splits, its batches from the file and from memory, and bad input."""

import itertools
import math
import os
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from commands import Pooled, process
from pictures import content, fill, fill_classes, zipped
from PIL import Image

from gan import GAN
from gan.cli import main
from gan.data import DegradedDataModule, Downsample, ImageFolder, InMemoryLoader
from gan.data.folder import MappedLoader
from gan.data.memory import FewLabelsLoader
from gan.errors import GANError
from gan.metrics.feature_cache import real_features
from gan.networks import MLPDiscriminator, MLPGenerator


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def path(tmp_path):
    return fill_classes(tmp_path / "pictures", {"a": 60, "b": 40, "c": 30})


def module(path, **settings) -> ImageFolder:
    return ImageFolder(str(path), **({"size": 8, "batch_size": 8} | settings))


def pixels(images) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def subsets(data: ImageFolder) -> dict[str, set[bytes]]:
    data.setup("fit")
    return {name: pixels(images) for name, (images, _) in data._subsets.items()}


# What it states


@pytest.mark.parametrize(
    ("grey", "channels", "expected"), [(True, None, 1), (False, None, 3), (True, 3, 3), (False, 1, 1)]
)
def test_grey_or_colour_is_as_the_files_or_as_said(tmp_path, grey, channels, expected):
    folder = fill(tmp_path / "p", 20, grey=grey)
    (folder / "junk.png").write_bytes(b"junk")
    for _ in range(2):  # with and without a cache
        data = module(folder, channels=channels)
        assert data.image_shape == (expected, 8, 8)
        (images, labels), *_ = data.train_dataloader()
        assert images.shape[1:] == data.image_shape
        assert labels.tolist() == [0] * 8


def test_one_colour_file_makes_all_colour(tmp_path):
    folder = fill(tmp_path / "p", 20, grey=True)
    (folder / "z.png").write_bytes(content(99))
    assert module(folder).image_shape == (3, 8, 8)


def test_classes_are_the_labels(path):
    data = module(path, validation_share=0, test_share=0)
    assert data.num_classes == 3
    data.setup("fit")
    assert data._subsets["train"][1].bincount().tolist() == [60, 40, 30]


def test_classes_are_named_and_one_without_an_image_to_train_on_is_a_warning(path, tmp_path, capsys):
    data = module(path)
    data.prepare_data()
    assert "130 images and 3 classes (a, b, c), kept in" in " ".join(capsys.readouterr().out.split())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.setup("fit")
    data = module(fill_classes(tmp_path / "p", {"many": 30, "rare": 1}), validation_share=0)
    rare = data.made().labels.tolist().index(data.class_names.index("rare"))
    first, last = (0, rare) if rare else (1, 31)
    data.bounds = lambda: {"validation": slice(0, first), "train": slice(first, last), "test": slice(last, 31)}
    with pytest.warns(UserWarning, match=r"of 1 class no image is left to train on \(rare\)"):
        data.setup("fit")


def test_images_beside_the_folders_of_classes_are_told_of(path, capsys):
    fill(path, 4, first=900)
    told = "4 images lie beside the folders a, b, c"
    module(path).prepare_data()
    assert f"134 images and no classes ({told}), kept in" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(GANError, match=rf"data.labels=3 is .* since {told} of .*: put each into .* or take it away"):
        module(path, labels=3)


def test_a_folder_that_seems_to_be_for_no_class_is_a_warning(tmp_path):
    data = module(fill_classes(tmp_path / "p", {"cat": 20, "dog": 20, "Unlabelled": 20}))
    with pytest.warns(
        UserWarning, match="a folder Unlabelled, which is a class as any other: take it away if its imag"
    ):
        data.prepare_data()


def test_alpha_shows_the_background(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    for number in range(12):
        Image.new("RGBA", (8, 8), (10 * number, 0, 0, 0)).save(folder / f"{number}.png")
    for background, level in (("white", 1), ("black", -1)):
        ((images, _),) = module(
            folder, background=background, validation_share=0, test_share=0, batch_size=12
        ).train_dataloader()
        assert torch.allclose(images, torch.full_like(images, level))


# Splits


def test_subsets_are_disjoint_and_lose_nothing(path):
    data = module(path, validation_share=0.2, test_share=0.3)
    parts = subsets(data)
    assert len(set.union(*parts.values())) == sum(map(len, parts.values())) == 130
    assert 10 <= len(parts["validation"]) <= 45
    assert 20 <= len(parts["test"]) <= 60
    assert len(data.load(train=True)[0]) == len(parts["train"]) + len(parts["validation"])
    assert pixels(data.load(train=False)[0]) == parts["test"]
    assert sum(len(labels) for _, labels in data.val_dataloader()) == len(parts["validation"])
    assert sum(len(labels) for _, labels in data.test_dataloader()) == len(parts["test"])


def test_files_that_are_added_move_no_other(path):
    before = subsets(module(path, validation_share=0.2, test_share=0.3))
    fill(path / "b", 70, 5000)
    (path / "a" / "00000.png").rename(path / "a" / "zzz.png")
    after = subsets(module(path, validation_share=0.2, test_share=0.3))
    for name, images in before.items():
        assert images < after[name]


def test_another_share_of_one_moves_nothing_of_the_other(path):
    few, many = (subsets(module(path, validation_share=share, test_share=0.3)) for share in (0.1, 0.4))
    assert few["test"] == many["test"]
    assert few["validation"] < many["validation"]


def test_copies_of_a_file_come_to_the_same_side(path):
    for number in range(60):
        name = f"{number:05}.*"
        (file,) = (path / "a").glob(name)
        (path / "c" / f"copy of {file.name}").write_bytes(file.read_bytes())
    parts = subsets(module(path, validation_share=0.3, test_share=0.3))
    assert len(set.union(*parts.values())) == sum(map(len, parts.values())) == 130


# Batches


def batches(data_loader) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(data_loader)


def both(data: ImageFolder, **options):
    """A loader of the training images that reads the file, and one that has them in memory."""
    data.setup("fit")
    mapped = data._loader("train", 8, shuffle=True, drop_last=True, **options)
    images, labels = (part.clone() for part in data._subsets["train"])
    assert isinstance(mapped, MappedLoader)
    settings = {"shuffle": True, "drop_last": True, "seed": data.seed} | options
    return mapped, InMemoryLoader(images, labels, 8, **settings)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("counter", [None, lambda: (17, 5)])
def test_batches_from_the_file_are_those_from_memory(path, flips, counter):
    for one, other in zip(*both(module(path), counter=counter, flips=flips), strict=True):
        for ours, theirs in zip(one, other, strict=True):
            assert torch.equal(ours, theirs)


def test_without_what_only_linux_has_they_are_the_same(path, monkeypatch):
    mapped, memory = both(module(path))
    for name in ("preadv", "posix_fadvise"):
        monkeypatch.delattr(os, name)
    assert all(torch.equal(one, other) for (one, _), (other, _) in zip(mapped, memory, strict=True))


def test_few_labels_come_by_fours_from_the_file_as_from_memory(path):
    data = module(path, labels=7)
    data.setup("fit")
    assert data._subsets["train"][1].add(1).bincount().tolist()[1:] == [3, 2, 2]
    assert (data._subsets["validation"][1] >= 0).all()
    options = {"shuffle": True, "drop_last": True, "counter": lambda: (3, 5)}
    mapped = data._loader("train", 8, **options)
    assert isinstance(mapped, MappedLoader)
    memory = FewLabelsLoader(*data._subsets["train"], 8, seed=data.seed, **options)
    for (ours, labels), (theirs, others) in zip(mapped, memory, strict=True):
        assert (labels >= 0).tolist() == [True, False, False, False] * 2
        assert torch.equal(ours, theirs)
        assert torch.equal(labels, others)


def test_labels_that_a_folder_has_not_are_refused(path, tmp_path):
    with pytest.raises(GANError, match=r"labels=90 asks for 30 images of class c, and \d+ of \d+ training images are"):
        module(path, labels=90).setup("fit")
    with pytest.raises(GANError, match="labels=9 is for images with classes, and those of ImageFolder have none"):
        module(path / "a", labels=9).setup("fit")


def test_processes_share_the_batches_that_one_would_see(path):
    data = module(path)
    data.setup("fit")
    options = {"shuffle": True, "drop_last": True, "flips": True, "counter": lambda: (3, 10)}
    whole = batches(data._loader("train", 8, **options))

    def of(rank):
        data.trainer = type(
            "T",
            (),
            {"global_rank": rank, "world_size": 2, "strategy": type("S", (), {"root_device": torch.device("cpu")})},
        )()
        return batches(data._loader("train", 4, **options))

    for one, first, second in zip(whole, of(0), of(1), strict=True):
        assert torch.equal(one[0], torch.cat([first[0], second[0]]))


def test_flips_mirror_half_of_the_training_images_anew_each_epoch(path):
    data = module(path, flips=True, validation_share=0.2)
    loader = data.train_dataloader()
    plain = module(path, validation_share=0.2).train_dataloader()
    flipped = []
    for _ in range(2):
        for (images, _), (unflipped, _) in zip(loader, plain, strict=True):
            for image, other in zip(images, unflipped, strict=True):
                assert torch.equal(image, other) or torch.equal(image, other.flip(-1))
                flipped.append(not torch.equal(image, other))
    epochs = np.reshape(flipped, (2, -1))
    assert (epochs.mean(1) > 0.3).all()
    assert (epochs.mean(1) < 0.7).all()
    assert (epochs[0] != epochs[1]).any()
    for other in (data.val_dataloader(), data.test_dataloader()):
        assert not other.flips


def test_pairs_are_made_of_it(path):
    data = DegradedDataModule(module(path, batch_size=32), Downsample(2), batch_size=8, validation_size=10)
    for images, sources in data.train_dataloader():
        assert sources.shape == (8, 3, 4, 4)
        assert (torch.nn.functional.avg_pool2d(images, 2) - sources).abs().mean() < 0.2


def test_a_cache_that_is_gone_or_cut_is_an_error(path):
    data = module(path)
    loader = data.train_dataloader()
    data.kept.path.unlink()
    assert batches(loader), "a file that is open stays"
    with pytest.raises(GANError, match="is no more: start the run again"):
        data.train_dataloader()
    os.ftruncate(os.open(f"/proc/self/fd/{loader._file}", os.O_WRONLY), 2000)
    with pytest.raises(GANError, match="has been cut off: start the run again"):
        batches(loader)


# Runs


def run(path, make_trainer, ckpt_path=None, **settings):
    torch.manual_seed(0)
    data = module(path, flips=True)
    model = GAN(MLPGenerator(data.image_shape, 8), MLPDiscriminator(data.image_shape))
    trainer = make_trainer(**settings)
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return trainer, model


def test_a_run_that_is_stopped_goes_on_to_the_bit(path, make_trainer, tmp_path):
    _, straight = run(path, make_trainer, max_steps=23)
    first, _ = run(path, make_trainer, max_steps=9)
    first.save_checkpoint(tmp_path / "x.ckpt")
    _, resumed = run(path, make_trainer, tmp_path / "x.ckpt", max_steps=23)
    for one, other in zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_features_are_kept_by_what_the_files_hold(path, cache):
    def kept() -> int:
        return len(list(cache.glob("*.pt")))

    def features(**settings):
        data = module(path, size=28, channels=1, **settings)
        return real_features(data.test_dataloader(), Pooled(), 1000)[0]

    first = features()
    assert kept() == 1
    assert torch.equal(features(), first)
    assert torch.equal(features(validation_share=0.2), first)
    for file in path.rglob("*.*"):
        os.utime(file, (1, 1))
    assert torch.equal(features(), first)
    assert kept() == 1, "the same images by another time of change"
    fill(path / "a", 60, 9000)
    assert len(features()) > len(first)
    features(background="black")
    assert kept() == 3, "other pixels, perhaps, of the same files"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path):
    """Of 12 MB and of 120 MB, an epoch of batches."""
    program = (
        "import sys, resource, torch; from gan.data.folder import MappedLoader; from pathlib import Path;"
        "path, n = Path(sys.argv[1]), int(sys.argv[2]);"
        "images = torch.from_file(str(path), False, n * 12288, dtype=torch.uint8).view(n, 3, 64, 64);"
        "place = {'path': path, 'start': 0, 'device': torch.device('cpu')};"
        "loader = MappedLoader(images, torch.zeros(n).long(), 50, **place, shuffle=True);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "seen = sum(len(x) for x, _ in loader); assert seen == n;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = []
    for count in (1_000, 10_000):
        with (tmp_path / "images").open("wb") as file:
            file.truncate(count * 12288)
        started = process([sys.executable, "-c", program, str(tmp_path / "images"), str(count)])
        output, errors = started.communicate()
        assert (started.returncode, errors) == (0, "")
        grown.append(int(output))
    assert grown[1] < grown[0] + 10_000, f"kB: {grown}"


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "data.size must be from 1 to 4096 pixels, got 0"),
        ({"channels": 2}, r"data.channels must be 1 \(grey\), 3"),
        ({"background": "whitish"}, "data.background must be a colour such as white"),
        ({"validation_share": 1.0}, "data.validation_share must be from 0 to below 1"),
        ({"test_share": -0.1}, "data.test_share must be from 0 to below 1"),
        ({"max_damaged": math.nan}, "data.max_damaged must be from 0 to below 1"),
        ({"validation_share": 0.5, "test_share": 0.5}, "leave nothing to train on"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(path, settings, message):
    with pytest.raises(GANError, match=message):
        module(path, **settings)


def test_one_image_is_trained_on_or_told_of(tmp_path):
    folder = fill(tmp_path / "p", 1)
    data = module(folder, validation_share=0, test_share=0, batch_size=1)
    assert len(data.train_dataloader()) == 1
    with pytest.raises(GANError, match="takes 8 images a batch, but there are only 1: lower batch_size"):
        module(folder, validation_share=0, test_share=0).train_dataloader()
    data = module(folder, validation_share=0, test_share=1e-9)
    data.setup("fit")
    with pytest.raises(GANError, match=r"has 1 image, and none for tests, .*: raise data.test_share"):
        data.setup("test")
    with (
        pytest.warns(UserWarning, match="no validation"),
        pytest.raises(GANError, match=r"1 image, and none for training, .*: lower data.validation_share"),
    ):
        module(folder, validation_share=0.5, test_share=0.5 - 1e-9).setup("fit")


def test_a_share_that_is_nobody_is_told(tmp_path):
    data = module(fill(tmp_path / "p", 10), validation_share=1e-9)
    with pytest.warns(UserWarning, match=r"data.validation_share=1e-09 of 10 images is none, .* no validation"):
        data.setup("fit")
    assert data.val_dataloader() == []


@pytest.mark.parametrize("make", ["empty", "others", "class", "nothing", "outside", "damaged"])
def test_the_command_says_it_in_a_line_and_leaves_nothing(make, tmp_path, capsys, cache):
    folder = tmp_path / "p"
    folder.mkdir()
    match make:
        case "others":
            (folder / "x.txt").touch()
        case "class":
            fill_classes(folder, {"a": 2, "b": 2, "c": 0})
        case "nothing":
            folder = tmp_path / "q"
        case "outside":
            folder = zipped(tmp_path / "x.zip", {"../x.png": content(0)})
        case "damaged":
            (folder / "x.png").touch()
    words = ["--data", "ImageFolder", "--data.folder", str(folder), "--run_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        main(["fit", *words])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "data.folder" in line or "data.max_damaged" in line
    assert not (tmp_path / "run").exists()
    assert not [file for file in cache.rglob("*") if file.is_file()]


@pytest.mark.slow
def test_a_new_user_is_training_within_a_minute(tmp_path):
    """500 colour images of mixed sizes and formats with 5 damaged ones: the README's command, from being typed."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, (height, width) in zip(range(500), itertools.cycle([(300, 400), (64, 64), (800, 600), (50, 900)])):
        fill(folder, 1, number, height=height, width=width)
    broken = sorted(folder.iterdir())[100:105]
    for file in broken:
        file.write_bytes(file.read_bytes()[:2000])
    words = ["fit", "--data", "ImageFolder", "--data.folder", "photos", "--trainer.max_steps", "10"]
    begin = time.perf_counter()
    started = process(
        [sys.executable, "-m", "gan.cli", *words], cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "2"}
    )
    lines, until = [], math.inf
    for line in started.stdout:
        lines.append(line)
        if line.startswith("batch 1/10"):
            until = time.perf_counter() - begin
    assert started.wait() == 0, started.stderr.read()
    assert until < 60
    (left,) = [line for line in lines if line.startswith("left out")]
    assert "5 of 500 files" in left
    assert all(file.name in left for file in broken)
