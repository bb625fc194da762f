"""The cache of images: what is in it, who makes it when, and what becomes of it when things go wrong."""

import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FullDisk, SmallDisk
from pictures import content, fill, fill_classes, zipped
from safetensors import safe_open

from gan.data import image_cache
from gan.data.image_cache import Settings, as_bytes, make, place_of, recall
from gan.data.reading import read_image
from gan.data.sources import Sources
from gan.errors import GANError

SETTINGS = Settings(8, None, "white")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def folder(tmp_path):
    return fill_classes(tmp_path / "pictures", {"a": 7, "b": 9})


def made(folder: Path, settings=SETTINGS, channels=3, most=0.1):
    return make(Sources(folder), settings, channels, most)


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def test_each_image_is_there_once_with_its_label(folder):
    kept = made(folder)
    assert kept.images.shape == (16, 3, 8, 8)
    assert kept.labels.bincount().tolist() == [7, 9]
    expected = {
        read_image(path, (8, 8), "RGB").numpy().tobytes(): int(path.parent.name == "b") for path in folder.rglob("*.*")
    }
    assert {
        image.numpy().tobytes(): int(label) for image, label in zip(kept.images, kept.labels, strict=True)
    } == expected
    assert kept.left_out == []


def test_order_and_hashes_are_by_content_alone(folder, tmp_path):
    kept = made(folder)
    assert kept.hashes.tolist() == sorted(kept.hashes.tolist())
    assert (kept.hashes >= 0).all()
    assert len(set(kept.hashes.tolist())) == 16
    members = {f"x/{path.name}": path.read_bytes() for path in folder.rglob("*.*")} | {"y/z.png": content(77)}
    other = made(
        zipped(
            tmp_path / "x.zip",
            {name[::-1].replace("/", "_") + Path(name).suffix: data for name, data in members.items()},
        )
    )
    assert set(kept.hashes.tolist()) < set(other.hashes.tolist())


def test_it_is_a_file_that_others_read_too(folder):
    with safe_open(made(folder).path, framework="np") as file:
        assert set(file.keys()) == {"images", "labels", "hashes", "notes"}
        assert file.get_tensor("images").shape == (16, 3, 8, 8)
        assert b'"classes": ["a", "b"]' in file.get_tensor("notes").tobytes()


@pytest.mark.parametrize("size", [1, 3, 7, 8])
def test_what_follows_the_images_is_aligned(tmp_path, size):
    kept = made(fill(tmp_path / "p", 5), Settings(size, 1, "white"), 1)
    assert kept.labels.tolist() == [0] * 5
    assert kept.images.shape == (5, 1, size, size)


def test_the_second_time_nothing_is_read(folder, monkeypatch):
    first = made(folder)
    monkeypatch.setattr(image_cache, "read_array", None)
    again = recall(Sources(folder), SETTINGS)
    assert again.path == first.path
    for name in ("images", "labels", "hashes"):
        assert torch.equal(getattr(again, name), getattr(first, name))


def test_a_copy_elsewhere_shares_it(folder, tmp_path):
    first = made(folder)
    folder.rename(tmp_path / "moved")
    assert recall(Sources(tmp_path / "moved"), SETTINGS).path == first.path


@pytest.mark.parametrize("other", [Settings(9, None, "white"), Settings(8, 1, "white"), Settings(8, None, "black")])
def test_other_settings_have_one_of_their_own(folder, other, cache):
    made(folder)
    assert recall(Sources(folder), other) is None
    made(folder, other, other.channels or 3)
    assert len(files(cache)) == 2


def test_a_folder_that_has_changed_has_a_new_one_and_says_so(folder, cache, capsys):
    before = made(folder)
    assert "changed" not in capsys.readouterr().out
    fill(folder / "a", 3, 100)
    assert recall(Sources(folder), SETTINGS) is None
    after = made(folder)
    assert f"{folder} has changed: its cache is made anew" in capsys.readouterr().out.replace("\n", "")
    assert len(after.images) == 19
    assert files(cache) == [after.path.name]
    assert int(before.images.sum()) > 0, "who has the old one open can go on"


# Files that are damaged


def damaged(folder: Path, count: int) -> None:
    for number in range(count):
        whole = content(500 + number, ("PNG", "JPEG", "GIF")[number % 3], height=64, width=64)
        (folder / f"bad{number}.png").write_bytes(whole[: len(whole) // 2] if number % 2 else b"junk")


def test_damaged_files_are_left_out_and_listed(folder):
    fill(folder / "a", 30, 200)
    damaged(folder / "a", 4)
    kept = made(folder)
    assert len(kept.images) == 46
    assert [name for name, _ in kept.left_out] == [f"a/bad{n}.png" for n in range(4)]
    assert kept.left_out[0][1] == "no image"
    assert recall(Sources(folder), SETTINGS).left_out == kept.left_out


def test_more_than_the_share_is_an_error_and_leaves_nothing(folder, cache):
    damaged(folder / "a", 2)
    with pytest.raises(
        GANError,
        match=r"2 of 18 files cannot be read: a/bad0.png \(no image\), a/bad1.png \(.*\): more than data.max_dam",
    ):
        made(folder)
    assert files(cache) == []
    assert len(made(folder, most=0.2).images) == 16


def test_nothing_but_damaged_files_is_an_error_whatever_is_allowed(tmp_path):
    damaged(fill(tmp_path / "p", 0), 3)
    with pytest.raises(GANError, match="3 of 3 files cannot be read"):
        made(tmp_path / "p", most=0.999)


def test_a_class_of_damaged_files_is_an_error(folder, cache):
    damaged(fill(folder / "c", 0), 1)
    with pytest.raises(GANError, match="has no image that can be read of c: mend one there, or take the folder away"):
        made(folder)
    assert files(cache) == []


def test_a_damaged_member_of_a_zip_is_left_out(tmp_path):
    members = {f"{n}.bmp": content(n, "BMP") for n in range(20)}
    path = zipped(tmp_path / "x.zip", members, 0)
    data = bytearray(path.read_bytes())
    data[data.index(members["7.bmp"]) + 300] ^= 255
    path.write_bytes(data)
    kept = made(path)
    assert [name for name, _ in kept.left_out] == ["7.bmp"]
    assert "CRC" in kept.left_out[0][1]


def test_a_damaged_cache_is_made_anew(folder):
    kept = made(folder)
    for data in (b"", b"junk", kept.path.read_bytes()[:-5], b"\xff" * 2000):
        kept.path.write_bytes(data)
        with pytest.warns(UserWarning, match="is damaged, and is made anew"):
            assert recall(Sources(folder), SETTINGS) is None
        assert len(made(folder).images) == 16


# Disks


def test_a_place_that_cannot_be_written_is_an_error_with_the_way_out(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GAN_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        GANError, match=r"cannot be written to .*: not a directory; set the environment variable GAN_CACHE"
    ):
        made(folder)


def test_a_read_only_place_is_an_error_unless_it_has_the_cache(folder, cache, monkeypatch):
    kept = made(folder)
    opening = os.open

    def refusing(path, flags, *more, **options):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opening(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refusing)
    assert recall(Sources(folder), SETTINGS).path == kept.path
    with pytest.raises(GANError, match="read-only file system; set the environment variable GAN_CACHE"):
        made(folder, Settings(9, None, "white"))


def test_a_user_without_a_home_is_told_so(folder, monkeypatch):
    for name in ("GAN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", dict[int, None]().__getitem__)
    with pytest.raises(GANError, match="no home to keep a cache of images in: set the environment variable GAN_CACHE"):
        made(folder)


@pytest.mark.parametrize("size", [0, 500, 2000, 4000])
def test_a_disk_that_fills_while_it_is_written_leaves_nothing(folder, cache, size):
    with SmallDisk(size), pytest.raises(GANError, match=r"cannot be written .*: file too large; set"):
        made(folder)
    assert files(cache) == []
    assert len(made(folder).images) == 16


def test_a_disk_without_room_is_told_before_anything_is_read(folder, cache, monkeypatch, tmp_path):
    full = FullDisk(tmp_path / "disk", 2**20)
    try:
        monkeypatch.setenv("GAN_CACHE", str(full.folder / "cache"))
        with pytest.raises(GANError, match=r"needs 50 MB in .*, where [01] MB are free: set"):
            made(folder, Settings(1024, 3, "white"))
        assert files(full.folder / "cache" / "images") == []
    finally:
        subprocess.run(["umount", "--lazy", full.folder], check=True)


def test_sizes_are_told_in_few_digits():
    assert (as_bytes(12_345_678), as_bytes(3_456_000_000)) == ("12 MB", "3.5 GB")


# Several processes

PROGRAM = """
import sys
from pathlib import Path
from gan.data import image_cache
from gan.data.sources import Sources
read = image_cache.read_array
def slow(*args):
    print("reads", flush=True)
    import time; time.sleep({wait})
    return read(*args)
image_cache.read_array = slow
kept = image_cache.make(Sources(Path(sys.argv[1])), image_cache.Settings(8, None, "white"), 3, 0.1)
print("images", len(kept.images), int(kept.images.long().sum()), flush=True)
"""


def start(folder: Path, wait: float) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM.format(wait=wait), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=os.environ)


@pytest.mark.slow
def test_of_runs_that_start_together_one_reads(folder, cache):
    started = [start(folder, 0.2) for _ in range(2)]
    outputs = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert sorted(output.count("reads") for output in outputs) == [0, 16]
    assert len({output.splitlines()[-1] for output in outputs}) == 1
    assert len(files(cache)) == 1


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_what_the_next_one_goes_on_with(folder, cache):
    process = start(folder, 0.5)
    assert process.stdout.readline() == "reads\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [name.rpartition(".")[2] for name in files(cache)] == ["part"]
    assert recall(Sources(folder), SETTINGS) is None
    assert len(made(folder).images) == 16
    assert [name.rpartition(".")[2] for name in files(cache)] == ["safetensors"]


@pytest.mark.slow
def test_who_waits_for_one_that_is_killed_makes_it(folder):
    first = start(folder, 1.0)
    assert first.stdout.readline() == "reads\n"
    second = start(folder, 0)
    time.sleep(1)
    first.kill()
    first.communicate()
    output, _ = second.communicate()
    assert second.returncode == 0
    assert output.count("reads") == 16


def test_where_no_file_can_be_locked_each_writes_its_own(folder, cache, monkeypatch):
    monkeypatch.setattr(image_cache, "lock", lambda file: False)
    assert len(made(folder).images) == 16
    assert [name.rpartition(".")[2] for name in files(cache)] == ["safetensors"]


def test_pillow_is_silent_about_what_it_reads_all_the_same(tmp_path):
    """A JPEG of 100 million pixels: above Pillow's warning, below its limit."""
    folder = fill(tmp_path / "p", 3)
    from PIL import Image

    Image.fromarray(np.zeros((10_000, 10_000), np.uint8)).save(folder / "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(made(folder, Settings(4, 1, "white"), 1).images) == 4


def test_a_place_has_a_name_that_tells_whose_it_is(folder):
    path, begin = place_of(Sources(folder), SETTINGS)
    assert path.name.startswith(begin)
    assert begin.startswith("pictures-8-")
