"""Checkpoints on the disk: never half there, and never used where a bit is not as it was written."""

import os
import pickle
import random
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from commands import equal, fit, load

from gan.checkpoints import (
    AtomicCheckpointIO,
    check_checkpoint,
    checkpoint_in,
    last_in,
    name_again,
    newest_whole,
    read,
    remove_partial,
    steps,
)


class Breaks:
    def __reduce__(self):
        raise OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """What a run saves, with networks small enough to be looked at 200 times."""
    small = ["--model.num_fixed_latents", "4"]
    for network in ("generator", "discriminator"):
        small += [f"--model.{network}", f"DCGAN{network.title()}", f"--model.{network}.base_channels", "2"]
    return fit(tmp_path_factory.mktemp("good") / "run", *small)


@pytest.fixture
def content(checkpoint) -> bytes:
    return checkpoint.read_bytes()


# ---------------------------------------------------------------------- writing


def test_half_written_file_never_replaces_a_whole_one(tmp_path):
    disk = AtomicCheckpointIO()
    disk.save_checkpoint({"value": 1}, tmp_path / "a.ckpt")
    with pytest.raises(OSError, match="No space"):
        disk.save_checkpoint({"value": torch.zeros(1000), "end": Breaks()}, tmp_path / "a.ckpt")
    assert load(tmp_path / "a.ckpt") == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """And the name is, before the save is over: the order that a power cut asks for."""
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda one, two: (done.append("replace"), replace(one, two)))
    AtomicCheckpointIO().save_checkpoint({"value": 1}, tmp_path / "a.ckpt")
    assert done == [str(tmp_path / "a.ckpt.partial"), "replace", str(tmp_path)]


@pytest.mark.parametrize("links", [True, False])
def test_second_name(tmp_path, monkeypatch, links):
    """It takes the place of whatever was there in one go, with hard links or, where there are none, by a copy."""

    def no_links(*args, **kwargs):
        raise OSError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    last, step = tmp_path / "last.ckpt", tmp_path / "step_000001.ckpt"
    for content in (b"one", b"two"):
        step.unlink(missing_ok=True)
        step.write_bytes(content)
        name_again(step, last)
        assert last.read_bytes() == content
        assert last.samefile(step) == links
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "step_000001.ckpt"]


def test_second_name_of_a_folder(tmp_path):
    last = tmp_path / "run" / "last.ckpt"
    for name in ("step_000001.ckpt", "step_000002.ckpt"):
        (last.parent / name).mkdir(parents=True)
        name_again(last.parent / name, last)
        assert os.readlink(last) == name  # the run can be moved elsewhere
    shutil.move(last.parent, tmp_path / "moved")
    assert (tmp_path / "moved" / "last.ckpt").samefile(tmp_path / "moved" / "step_000002.ckpt")


def test_what_belongs_to_a_run(tmp_path):
    """Only names of its own: what else a user keeps there is neither counted nor taken away."""
    own = ["step_000007.ckpt", "step_1000000.ckpt"]
    others = ["last.ckpt", "step_7.ckpt", "step_000007.ckpt.bak", "best_step_000007.ckpt", "notes.partial"]
    for name in [*own, *others, "step_000009.ckpt.partial", "last.ckpt.partial"]:
        (tmp_path / name).touch()
    assert list(steps(tmp_path).items()) == [(7, tmp_path / own[0]), (1000000, tmp_path / own[1])]
    remove_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*own, *others])


# ---------------------------------------------------------------------- reading


def damage(rng: random.Random, content: bytes) -> bytes:
    """What disks, copies and transfers do to a file."""
    data, at, length = bytearray(content), rng.randrange(len(content)), rng.randrange(1, 4000)
    head, tail = min(at, 4000), max(at, len(data) - 9000)  # names, sizes and sums are there
    match rng.choice(["flip", "head", "tail", "flips", "cut", "zeros", "swap", "insert", "append", "drop", "empty"]):
        case "flip":
            data[at] ^= 1 << rng.randrange(8)
        case "head":
            data[head] ^= 1 << rng.randrange(8)
        case "tail":
            data[tail] ^= 1 << rng.randrange(8)
        case "flips":
            for place in rng.sample(range(len(data)), 100):
                data[place] ^= 1 << rng.randrange(8)
        case "cut":
            del data[at:]
        case "zeros":
            data[at : at + length] = bytes(len(data[at : at + length]))
        case "swap":
            one, two = sorted(rng.sample(range(0, len(data) - 512, 512), 2))
            data[one : one + 512], data[two : two + 512] = data[two : two + 512], data[one : one + 512]
        case "insert":
            data[at:at] = rng.randbytes(length)
        case "append":
            data += rng.randbytes(length)
        case "drop":
            del data[at : at + length]
        case "empty":
            data.clear()
    return bytes(data)


def test_damaged_file_is_refused_or_harmless(checkpoint, content, tmp_path):
    """200 times. Harmless is what changes a date, say, in the archive around the data: what is loaded is the same."""
    original, path, rng, refused = load(checkpoint), tmp_path / "a.ckpt", random.Random(0), 0
    for number in range(200):
        path.write_bytes(damage(rng, content))
        try:
            check_checkpoint(path)
        except ValueError:
            refused += 1
        else:
            assert equal(load(path), original), number
    assert refused > 150


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda content: b"", "is damaged: it is empty"),
        (lambda content: content[:-1000], "is damaged: its end is missing"),
        (lambda content: b"hello", "is not a checkpoint"),
    ],
    ids=["empty", "cut off", "text"],
)
def test_what_is_wrong_is_said(content, tmp_path, kind, message):
    path = tmp_path / "a.ckpt"
    path.write_bytes(kind(content))
    with pytest.raises(ValueError, match=message):
        check_checkpoint(path)


def test_one_bit_of_one_weight(checkpoint, content, tmp_path):
    """Torch loads it without a word."""
    weights = load(checkpoint)["state_dict"]["fixed_latents"].numpy().tobytes()
    path = tmp_path / "a.ckpt"
    path.write_bytes(content.replace(weights, weights[:-1] + bytes([weights[-1] ^ 1])))
    assert not equal(load(path), load(checkpoint))
    with pytest.raises(ValueError, match=r"is damaged: \S*/data/\d+ is not what was written"):
        check_checkpoint(path)


class Virus:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def legacy(virus: Virus, path: Path) -> None:
    torch.save({"state_dict": virus}, path, _use_new_zipfile_serialization=False)


def plain_pickle(virus: Virus, path: Path) -> None:
    path.write_bytes(pickle.dumps(virus))


def in_a_checkpoint(virus: Virus, path: Path) -> None:
    torch.save({"state_dict": {"generator.weight": virus}}, path)


def in_place_of_the_data(virus: Virus, path: Path) -> None:
    """With sums that are right."""
    torch.save({"state_dict": {"generator.weight": torch.zeros(3)}}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, pickle.dumps(virus, protocol=2) if name.endswith("data.pkl") else data)


@pytest.mark.parametrize("kind", [legacy, plain_pickle, in_a_checkpoint, in_place_of_the_data])
def test_code_in_a_checkpoint_never_runs(tmp_path, kind):
    marker, path = tmp_path / "infected", tmp_path / "a.ckpt"
    kind(Virus(marker), path)
    with pytest.raises(ValueError, match=r"a\.ckpt is not a checkpoint"):
        check_checkpoint(path)
    assert not marker.exists()


def test_archive_that_would_fill_the_memory(tmp_path):
    """A kilobyte that unpacks to a gigabyte: torch packs nothing, so it is refused before anything is unpacked."""
    path = tmp_path / "a.ckpt"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a/data.pkl", "w") as record,
    ):
        for _ in range(64):
            record.write(bytes(1 << 20))
    with pytest.raises(ValueError, match="is damaged: the list of its parts"):
        check_checkpoint(path)


# ---------------------------------------------------------------------- folders, one file from each process


@pytest.fixture
def folder(checkpoint, tmp_path) -> Path:
    folder = tmp_path / "step_000003.ckpt"
    folder.mkdir()
    for number in range(3):
        shutil.copy(checkpoint, folder / f"{number}-of-3.ckpt")
    return folder


def test_whole_folder(folder):
    assert check_checkpoint(folder)["global_step"] == 3


@pytest.mark.parametrize("number", range(3))
def test_folder_with_a_part_missing_or_damaged(folder, content, number):
    part = folder / f"{number}-of-3.ckpt"
    part.write_bytes(content[:-1000])
    with pytest.raises(ValueError, match=f"{part.name} is damaged: its end is missing"):
        check_checkpoint(folder)
    part.rename(folder / f"{part.name}.partial")
    with pytest.raises(ValueError, match=f"is damaged: {part.name} is missing"):
        check_checkpoint(folder)


def test_folder_of_two_saves(folder):
    """Parts of three processes and of two: which are those of the last save?"""
    shutil.copy(folder / "0-of-3.ckpt", folder / "0-of-2.ckpt")
    with pytest.raises(ValueError, match=r"is damaged: 0-of-2\.ckpt is too many"):
        check_checkpoint(folder)


def test_empty_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint at"):
        check_checkpoint(tmp_path)


# ---------------------------------------------------------------------- which one to go on from


def test_newest_whole_one(checkpoint, tmp_path):
    folder = tmp_path / "checkpoints"
    assert newest_whole(folder) is None  # nothing there yet
    folder.mkdir()
    assert newest_whole(folder) is None
    paths = [folder / name for name in ("last.ckpt", "step_000900.ckpt", "step_000800.ckpt")]
    for path in paths:
        shutil.copy(checkpoint, path)
    for number, path in enumerate(paths):
        found, held, damaged = newest_whole(folder)
        assert (found, held["global_step"], damaged) == (path, 3, paths[:number])
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be used"):
        newest_whole(folder)


def test_a_folder_stands_for_a_checkpoint_in_it(checkpoint, tmp_path, monkeypatch):
    """For the best one to look at; for the last one to go on from."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("last.ckpt", "step_000900.ckpt", "best.ckpt"):
        shutil.copy(checkpoint, folder / name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (tmp_path / "run", folder, "~/run"):
        assert checkpoint_in(place) == folder / "best.ckpt"
        assert last_in(place)[::2] == (folder / "last.ckpt", [])
    (folder / "best.ckpt").unlink()
    (folder / "last.ckpt").write_bytes(b"")
    for place in (str(tmp_path / "run"), folder, "~/run/checkpoints"):
        assert checkpoint_in(place) == folder / "last.ckpt"
        assert last_in(place)[::2] == (folder / "step_000900.ckpt", [folder / "last.ckpt"])
    assert checkpoint_in("~/run/x.ckpt") == tmp_path / "run" / "x.ckpt"
    assert last_in("~/run/checkpoints/step_000900.ckpt")[0] == folder / "step_000900.ckpt"
    for look in (checkpoint_in, last_in):
        with pytest.raises(ValueError, match="is a URL"):
            look("hf://owner/name/last.ckpt")
    with pytest.raises(ValueError, match="no checkpoint at"):
        last_in(tmp_path)


def test_killed_before_the_first_one_got_its_second_name(checkpoint, tmp_path):
    shutil.copy(checkpoint, tmp_path / "step_000003.ckpt")
    (tmp_path / "step_000006.ckpt.partial").write_bytes(b"half")
    found, _, damaged = newest_whole(tmp_path)
    assert (found.name, damaged) == ("step_000003.ckpt", [])


def test_last_one_points_to_nothing(checkpoint, tmp_path):
    shutil.copy(checkpoint, tmp_path / "step_000003.ckpt")
    (tmp_path / "last.ckpt").symlink_to("step_000006.ckpt")
    found, _, damaged = newest_whole(tmp_path)
    assert (found.name, [path.name for path in damaged]) == ("step_000003.ckpt", ["last.ckpt"])


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """Gives up the rights of root, who may read everything."""
    monkeypatch.chdir(tmp_path)  # from within, nobody asks who may come here
    tmp_path.chmod(0o755)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def beyond_permission(path: Path) -> None:
    path.write_bytes(b"")
    path.chmod(0)


UNREADABLE = {
    "no permission": beyond_permission,
    "the disk fails": lambda path: path.symlink_to("/proc/self/mem"),  # EIO, for nothing is at 0 in there
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("gone.ckpt"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("kind", UNREADABLE)
def test_last_one_cannot_be_read(checkpoint, tmp_path, monkeypatch, request, kind):
    shutil.copy(checkpoint, tmp_path / "step_000003.ckpt")
    UNREADABLE[kind](tmp_path / "last.ckpt")
    monkeypatch.chdir(tmp_path)
    if kind == "no permission":
        request.getfixturevalue("nobody")
    found, _, damaged = newest_whole(Path())
    assert (found.name, [path.name for path in damaged]) == ("step_000003.ckpt", ["last.ckpt"])
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read: |no checkpoint at last\.ckpt"):
        check_checkpoint("last.ckpt")


def test_folder_that_cannot_be_read_is_no_empty_one(checkpoint, tmp_path, request):
    """Else the run would start afresh."""
    for folder in (tmp_path / "run", tmp_path / "parts"):
        folder.mkdir()
        shutil.copy(checkpoint, folder / "last.ckpt")
        shutil.copy(checkpoint, folder / "0-of-1.ckpt")
        folder.chmod(0)
    request.getfixturevalue("nobody")
    for look in (lambda: newest_whole(Path("run")), lambda: check_checkpoint("parts"), lambda: read("run/last.ckpt")):
        with pytest.raises(ValueError, match="cannot be read: Permission denied"):
            look()


def test_damaged_file_is_not_read_from_python_either(content, tmp_path, make_trainer, make_gan, data):
    """`Trainer.fit` asks for it without having looked."""
    path = tmp_path / "a.ckpt"
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    trainer = make_trainer(plugins=[AtomicCheckpointIO()])
    with pytest.raises(ValueError, match=r"a\.ckpt is damaged"):
        trainer.fit(make_gan(), data, ckpt_path=path)
