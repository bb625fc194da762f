"""The command that trains features: its data, its training, its judgement, and that it repeats."""

import hashlib
import os
import re
import shlex
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from commands import Colour, ColourDigits, process
from conftest import Pairs
from pictures import fill
from torch import nn

from gan import train_features as script
from gan.cli import main
from gan.data import DegradedDataModule, Grey, ImageFolder, MNISTDataModule, TorchvisionDataModule
from gan.metrics import CNNFeatures, ImageFeatures, load_features
from gan.metrics.damages import DAMAGES
from gan.metrics.features import doubt
from gan.metrics.pretext import Classes, Turns


def write_idx(path: Path, values: torch.Tensor) -> None:
    sizes = b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.to(torch.uint8).numpy().tobytes())


class FewArguments(ColourDigits):
    """An `__init__` of its own, as people write it."""

    def __init__(self, root: str = "x", batch_size: int = 32):
        super().__init__(batch_size, 100)


class NoArguments(ColourDigits):
    def __init__(self):
        super().__init__(8, 16, seed=3)


@pytest.mark.parametrize(
    ("name", "batch_size", "validation_size"), [("FewArguments", 100, 100), ("NoArguments", 8, 16)]
)
def test_a_data_module_is_given_what_it_takes(name, batch_size, validation_size):
    data = script.make_data(Namespace(data=f"test_train_features.{name}", seed=0))
    assert (data.batch_size, data.validation_size) == (batch_size, validation_size)


@pytest.mark.slow
def test_script_twice_gives_the_same_bytes(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, train, n in (("train", True, 400), ("t10k", False, 300)):
        images, labels = MNISTDataModule().load(train)
        write_idx(folder / f"{name}-images-idx3-ubyte", images[:n, 0])
        write_idx(folder / f"{name}-labels-idx1-ubyte", labels[:n])

    command = [
        "train_features",
        "--data",
        "FashionMNIST",
        "--data_dir",
        "..",
        "--epochs",
        "3",
        "--out",
        "small.safetensors",
        "--flip",
    ]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    torch.manual_seed(5)  # what came before in a process must not matter, nor the threads of its environment
    monkeypatch.chdir(tmp_path / "one")
    main(command)
    words = ["python", "-m", "gan.cli", *command]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert process(words, cwd=tmp_path / "two", env=dict(os.environ)).wait() == 0
    for name in ("small.safetensors", "small.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    output = capsys.readouterr().out
    assert len(re.findall(r"^epoch ", output, re.MULTILINE)) == 3
    assert "Accuracy on the 300 test images" in output
    card = (tmp_path / "one" / "small.md").read_text(encoding="utf-8")
    assert "--epochs 3 --lr 0.1 --weight_decay 0.0005 --flip --dim 64 --seed 0" in card
    assert "| N | floor |\n|---|---|\n| 400 | " in card
    assert hashlib.sha256((tmp_path / "one" / "small.safetensors").read_bytes()).hexdigest() in card
    assert load_features(tmp_path / "one" / "small.safetensors").num_classes == 10


@pytest.mark.slow
def test_script_trains_on_a_data_module_of_ones_own(tmp_path):
    """In colour, and of another size."""
    file = tmp_path / "own.safetensors"
    main(["train_features", "--data", "commands.ColourDigits", "--epochs", "15", "--dim", "16", "--out", str(file)])
    extractor = load_features(file)
    images, labels = ColourDigits().load(train=True)
    logits = extractor.classify(extractor(images.float() / 127.5 - 1))
    assert (logits.argmax(1) == labels).float().mean() > 0.5


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--data", "nowhere.Flowers"], "neither a data set's name nor the class path of an InMemoryDataModule"),
        (["--data", "torch.nn.Linear"], "neither a data set's name nor the class path of an InMemoryDataModule"),
        (["--data", "fashionmnist"], "did you mean FashionMNIST?"),
        (["--data", "ImageFoldr"], "did you mean ImageFolder?"),
        (["--data", "ImageFolder"], "data.folder"),
        (["--data", "ImageFolder", "--data.folder", "x", "--data.foldr", "y"], "did you mean --data.folder?"),
        (["--data", "MNIST", "--data.batch_size", "many"], "data.batch_size"),
        (["--data", "test_train_features.NoArguments", "--data.size", "3"], "--data.size"),
        (["--data", "KMNIST"], "KMNIST could not be read"),
        (["--out", "s3://bucket/own.safetensors"], "--out s3://bucket/own.safetensors is a URL"),
        (["--out", "own.pt"], "--out must end in .safetensors"),
        (["--out", "/proc/own.safetensors"], "cannot write --out /proc/own.safetensors"),
        (["--epochs", "0", "--out", "s3://bucket/own.safetensors"], "--out s3://bucket/own.safetensors is a URL"),
        (["--out", "~/own.pt"], "--out must end in .safetensors, got /home/of/me/own.pt"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--lr", "-1"], "--lr must be above 0"),
        (["--dim", "0"], "dim >= 1"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_refusals(tmp_path, monkeypatch, capsys, words, complaint):
    """Each is a line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of/me")
    if "/proc" in words[1]:
        monkeypatch.setattr(script, "train", lambda *_: (load_features("mnist_cnn"), None))
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit, match="2"):
        main(["train_features", "--out", "own.safetensors", *words])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert complaint in line
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads


def test_settings_of_the_data_are_given_by_their_names(tmp_path):
    folder = fill(tmp_path / "photos", 20)
    words = ["--data", "ImageFolder", "--data.folder", str(folder), "--data.size=16", "--data.flips", "true", "--flip"]
    others, own = script.split(words)
    assert others == ["--data", "ImageFolder", "--flip"]
    data = script.make_data(Namespace(data="ImageFolder", seed=3), own)
    assert (data.folder, data.size, data.flips, data.seed, data.batch_size) == (str(folder), 16, True, 3, script.BATCH)
    data = script.make_data(Namespace(data="MNIST", seed=0), ["--data.batch_size", "50"])
    assert data.batch_size == 50


class PairsOfClasses(Pairs):
    """What it gives in the place of labels are sources."""

    num_classes = 10


@pytest.mark.parametrize(
    ("data", "task"),
    [(Colour(), Turns), (ColourDigits(), Classes), (PairsOfClasses(), Turns)],
    ids=["no classes", "classes", "sources in the place of classes"],
)
def test_what_has_no_classes_is_learnt_without(data, task):
    assert type(script.task_of(data)) is task
    assert type(script.task_of(data, unlabelled=True)) is Turns


def test_what_was_learnt_without_classes_knows_none(tmp_path, capsys):
    """And its card says what it is worth: how many turns it tells, and the order of damages."""
    file = tmp_path / "own.safetensors"
    words = ["--data", "commands.ColourDigits", "--unlabelled", "--epochs", "12", "--dim", "16"]
    main(["train_features", *words, "--data.batch_size", "128", "--out", str(file)])
    extractor = load_features(file)
    assert type(extractor) is ImageFeatures
    assert not hasattr(extractor, "classify")
    assert not any(module.training for module in extractor.modules())
    card = file.with_suffix(".md").read_text("utf-8")
    assert "learnt, without classes, to tell how an image of commands.ColourDigits is turned" in card
    found = re.search(r"Turns told on the 512 test images: ([\d.]+)%; a guess: 25.00%", card)
    assert float(found[1]) > 50
    assert "classes missing" not in card
    assert "generator collapsed to one image" in card
    assert "--data commands.ColourDigits --data.batch_size 128 " in card
    assert doubt(file, None) is None
    file.with_suffix(".md").write_text(card.replace(found[1], "27.00"), "utf-8")
    assert "a guess about 25.0%" in doubt(file, None)


@pytest.mark.slow
def test_fid_by_what_was_learnt_without_classes_rises_with_each_damage(tmp_path):
    """On real digits, in a minute or so."""
    file = tmp_path / "own.safetensors"
    main(["train_features", "--unlabelled", "--epochs", "1", "--out", str(file)])
    rows = re.findall(r"^\| [\w ]+[^|]*\| ([\d.]+: .*) \|$", file.with_suffix(".md").read_text("utf-8"), re.M)
    assert len(rows) == len(DAMAGES) - 1
    for row in rows:
        values = [float(cell.split(": ")[1]) for cell in row.split(", ")]
        assert values == sorted(values), row


def test_few_test_images_are_no_dead_end_at_the_end_of_training(tmp_path, monkeypatch, recwarn):
    """Of 30 images no covariance has more than rank 29: said before training, and no fault of the features."""
    monkeypatch.setattr(script, "MIN_STD", 0)
    file, folder = tmp_path / "own.safetensors", fill(tmp_path / "p", 60)
    words = ["--data", "ImageFolder", "--data.folder", str(folder), "--data.size", "16", "--data.batch_size", "8"]
    main(["train_features", *words, "--data.test_share", "0.4", "--epochs", "1", "--out", str(file)])
    (few,) = [str(each.message) for each in recwarn if "will be of little worth" in str(each.message)]
    count = int(few.split()[0])
    assert 2 < count < 64
    assert f"rank {count - 1}," in file.with_suffix(".md").read_text("utf-8")


def test_features_that_are_refused_leave_the_file_as_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "MIN_STD", 2)
    file = tmp_path / "own.safetensors"
    file.write_bytes(b"of before")
    with pytest.raises(SystemExit):
        main(["train_features", "--data", "commands.ColourDigits", "--epochs", "1", "--out", str(file)])
    assert "64 of 64 features hardly vary" in capsys.readouterr().err
    assert file.read_bytes() == b"of before"


def test_few_images_are_gone_through_more_often(monkeypatch, tmp_path):
    """So that there are batches enough, of which the default of 12 passes would leave few."""
    asked = []

    class Enough(Exception):
        pass

    def train(data, args, task):
        asked.append(args.epochs)
        raise Enough

    monkeypatch.setattr(script, "train", train)
    for words in (["--data", "commands.ColourDigits"], ["--data", "MNIST"], ["--epochs", "2"]):
        with pytest.raises(Enough):
            script.train_features([*words, "--out", str(tmp_path / "own.safetensors")])
    assert asked == [300, 12, 2]  # of 5 batches, and of 600


@pytest.mark.parametrize(
    ("make", "command"),
    [
        (lambda folder: ImageFolder(str(folder)), "--data ImageFolder --data.folder {} --out photos.safetensors"),
        (
            lambda folder: ImageFolder(str(folder), 32, 1, flips=True, test_share=0.25, batch_size=8),
            "--data ImageFolder --data.folder {} --data.size 32 --data.channels 1 --data.flips true "
            "--data.test_share 0.25 --out photos.safetensors",
        ),
        (
            lambda folder: TorchvisionDataModule("CIFAR10", str(folder)),
            "--data TorchvisionDataModule --data.dataset CIFAR10 --data.data_dir {} --out cifar10.safetensors",
        ),
        (lambda _: ColourDigits(batch_size=8), "--data commands.ColourDigits --out colourdigits.safetensors"),
        (
            lambda folder: DegradedDataModule(ImageFolder(str(folder)), Grey()),
            "--data ImageFolder --data.folder {} --out photos.safetensors",
        ),
    ],
)
def test_the_command_for_a_data_module_makes_it_again(tmp_path, make, command):
    folder = fill(tmp_path / "photos", 20)
    data = make(folder)
    line, file = script.command_for(data)
    assert line == "python -m gan.cli train_features " + command.format(folder)
    _, own = script.split(shlex.split(line))
    again = script.make_data(Namespace(data=command.split()[1], seed=0), own)
    data = getattr(data, "of", data)
    for name in ("folder", "size", "channels", "flips", "test_share", "dataset", "data_dir", "image_shape"):
        assert getattr(again, name, None) == getattr(data, name, None)
    assert file == command.split()[-1]


def test_it_is_quick_to_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train_features", "--help"])
    assert "FashionMNIST" in capsys.readouterr().out


def test_script_folds_what_it_trained():
    torch.manual_seed(0)
    extractor = CNNFeatures(dim=8)
    normed = script.with_norms(extractor.layers)
    images = torch.rand(50, 1, 28, 28) * 2 - 1
    for norm in normed:
        if hasattr(norm, "running_mean"):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.uniform_(norm.bias)
    for _ in range(3):
        normed(images)
    assert not torch.allclose(extractor(images), normed.eval()(images), atol=1e-2)
    expected = normed.eval()(images)
    script.fold_norms(normed, extractor.layers)
    torch.testing.assert_close(extractor(images), expected, rtol=0, atol=1e-5)


def test_script_augments_within_its_bounds():
    torch.manual_seed(0)
    images = torch.full((200, 1, 28, 28), -1.0)
    torch.testing.assert_close(script.augment(images, flip=False), images)  # the background comes in at the border
    images[:, :, 12:16, 4:8] = 1.0  # left of the middle
    changed = script.augment(images, flip=False)
    centres = (changed.clamp_min(0).sum((1, 2)) * torch.arange(28)).sum(1) / changed.clamp_min(0).sum((1, 2, 3))
    assert centres.std() > 0.5
    assert centres.max() < 11  # not mirrored
    mirrored = script.augment(images, flip=True)[..., 14:].amax((1, 2, 3)) > 0
    assert 60 < mirrored.sum() < 140


def test_script_refuses_bad_features(data):
    dead = load_features("mnist_cnn")
    dead.layers[-2].weight[7] = 0
    with pytest.raises(ValueError, match=r"features \[7\] hardly vary"):
        script.evaluate(dead, data, 0)
    twins = load_features("mnist_cnn")
    twins.layers[-2].weight[7], twins.layers[-2].bias[7] = twins.layers[-2].weight[3], twins.layers[-2].bias[3]
    with pytest.raises(ValueError, match=r"covariance of rank 63"):
        script.evaluate(twins, data, 0)
