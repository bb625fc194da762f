"""Shards: what is found there, how images come out of them, and what is wrong with them, in a line."""

import builtins
import io
import json
import pickle

import numpy as np
import pytest
import torch
from pictures import content, picture
from PIL import Image

pytest.importorskip("litdata", reason="data in shards needs LitData: pip install gan[stream]")

from shards import samples, write

from gan.data.reading import Unreadable, read_array
from gan.data.shards import Fields, Shards, Stretch, decoded
from gan.errors import GANError

FIELDS = Fields("image", "label")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def shards(place, cache: float = 1) -> Shards:
    return Shards(str(place), "data.shards", cache)


def test_they_are_counted_and_read_by_number(tmp_path):
    folder = write(tmp_path / "s", samples(25))
    for place in (folder, f"file://{folder}", f"local:{folder}"):
        found = shards(place)
        assert (found.count, found.sizes.tolist(), len(found.names)) == (25, [10, 10, 5], 3)
        read = found.read(found.dataset(), [Stretch(2, 22, 25), Stretch(0, 3, 5)], FIELDS)
        assert read == [(number, content(number), number % 3) for number in (22, 23, 24, 3, 4)]


def test_on_several_processes_all_of_them_are_there(tmp_path):
    """LitData has a share for each, where its length and its slices end."""
    found = shards(write(tmp_path / "s", samples(25)))
    dataset = found.dataset()
    dataset.distributed_env.world_size, dataset.drop_last = 4, True
    dataset.shuffler = None  # which had a length for one
    assert len(dataset) < 10
    assert len(found.read(dataset, [Stretch(0, 0, 10), Stretch(2, 20, 25)], FIELDS)) == 15


def test_what_is_read_stays_when_more_is(tmp_path):
    """LitData gives views of bytes that it reads into again."""
    found = shards(write(tmp_path / "s", samples(30)))
    dataset = found.dataset()
    before = found.read(dataset, [Stretch(0, 0, 10)], FIELDS)
    found.read(dataset, [Stretch(1, 10, 20)], FIELDS)
    assert [image for _, image, _ in before] == [content(number) for number in range(10)]


@pytest.mark.parametrize(("room", "left"), [(2.5, 0), (20, 6)])
def test_shards_of_a_bucket_are_kept_if_all_of_them_may_be(tmp_path, cache, room, left):
    folder = write(tmp_path / "s", samples(60, height=40, width=40))
    size = max(path.stat().st_size for path in folder.glob("*.bin"))
    found = shards(f"local:{folder}", cache=room * size / 1e9)
    dataset = found.dataset()
    for turn in (0, 3, 5, 1, 2, 4, 0):
        ((_, image, _), *_) = found.read(dataset, [Stretch(turn, 10 * turn, 10 * turn + 10)], FIELDS)
        assert image == content(10 * turn, height=40, width=40)
        assert sum(path.stat().st_size for path in cache.rglob("*.bin")) <= max(3, left) * size
    kept = {path.name for path in cache.rglob("*.*") if path.is_file()}
    assert {name for name in kept if name.endswith(".bin")} == set(found.names[:left])
    assert not any(".cnt" in name for name in kept), "counts of readers, which would keep a shard for ever"
    assert not list(folder.glob("*.cnt*")), "what is beside the shards stays as it is"


def test_fields_may_be_numbers_and_files_may_be_pixels(tmp_path):
    image = picture(5)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    for number, value in enumerate((content(5), image, tensor)):
        found = shards(write(tmp_path / f"{number}", [(value, 2)] * 12))
        ((_, read, label), _) = found.read(found.dataset(), [Stretch(0, 3, 5)], Fields("0", "1"))
        assert label == 2
        assert np.array_equal(decoded(read, 12, "RGB", "white"), np.asarray(image).transpose(2, 0, 1))


def test_files_are_read_as_those_of_a_folder_are():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGBA", (30, 20), (200, 100, 0, 128)).save(file, "PNG", exif=exif)
    made = decoded(file.getvalue(), 8, "RGB", "black")
    assert np.array_equal(made, read_array(io.BytesIO(file.getvalue()), (8, 8), "RGB", "black"))
    assert made[0].max() <= 101


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"junk", "no image"),
        (content(3)[:60], "."),
        (7, "a int and no file, PIL image or uint8"),
        (torch.zeros(3, 8, 8), r"a Tensor float32 \(3, 8, 8\) and no file"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"uint8 \(8, 8, 3\) and no file"),
    ],
    ids=["junk", "cut off", "number", "floats", "channels last"],
)
def test_what_is_no_image_says_what_it_is(value, says):
    with pytest.raises(Unreadable, match=says):
        decoded(value, 8, "RGB", "white")


@pytest.mark.parametrize(("form", "mode"), [("L", "L"), ("RGBA", "RGBA")])
def test_the_first_image_says_grey_or_colour(tmp_path, form, mode):
    file = io.BytesIO()
    Image.new(form, (9, 9)).save(file, "PNG")
    assert shards(write(tmp_path / "s", [{"image": file.getvalue(), "label": 0}] * 2)).first_mode(FIELDS) == mode


# Bad input


def test_without_the_library_a_line_says_how_to_get_it(tmp_path, monkeypatch):
    folder = write(tmp_path / "s", samples(5))
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("litdata"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(GANError, match=r'needs one more package: pip install "gan\[stream\]"'):
        shards(folder)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("nowhere", r"data.shards .*nowhere is not there: give the folder that litdata.optimize has written"),
        (".", r"data.shards .* has no index.json: give the folder"),
        ("https://x.org/a", "is a URL that LitData does not read: give a path or one with s3://, gs://"),
        ("pipe://ls", "is a URL that LitData does not read"),
        ("$NOWHERE/x", "the variable NOWHERE is not set"),
        ("local:/nowhere", "cannot be read: .*: look at the network and its rights"),
    ],
)
def test_a_place_without_shards_is_told_of(tmp_path, monkeypatch, place, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GANError, match=says) as error:
        shards(place)
    assert "\n" not in str(error.value)


def change(folder, **settings):
    index = json.loads((folder / "index.json").read_bytes())
    index["config"] |= settings.pop("config", {})
    (folder / "index.json").write_text(json.dumps(index | settings), encoding="utf-8")


def test_an_index_that_is_empty_or_damaged_is_told_of(tmp_path):
    folder = write(tmp_path / "s", samples(25))
    whole = (folder / "index.json").read_bytes()
    change(folder, chunks=[])
    with pytest.raises(GANError, match=r"data.shards: .*s cannot be read: No chunks found .*: copy or write it anew"):
        shards(folder)
    for damaged in (b"{", b"{}", whole[:100], b'{"chunks": [{}], "config": {}}'):
        (folder / "index.json").write_bytes(damaged)
        with pytest.raises(GANError, match=r"data.shards: .*s cannot be read: ") as error:
            shards(folder)
        assert "\n" not in str(error.value)


def test_shards_that_are_missing_or_cut_off_are_told_of_at_the_start(tmp_path):
    folder = write(tmp_path / "s", samples(45))
    (folder / "chunk-0-3.bin").unlink()
    path = folder / "chunk-0-1.bin"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(GANError, match=r"lacks 2 of its 5 shards, chunk-0-1.bin \(cut off\) first: copy them there"):
        shards(folder)


def test_a_shard_that_is_missing_in_a_bucket_is_told_of_when_it_is_its_turn(tmp_path):
    folder = write(tmp_path / "s", samples(25))
    (folder / "chunk-0-1.bin").unlink()
    found = shards(f"local:{folder}")
    dataset = found.dataset()
    assert len(found.read(dataset, [Stretch(0, 0, 10)], FIELDS)) == 10
    with pytest.raises(GANError, match=r"data.shards: chunk-0-1.bin of local:.* cannot be read: .*look at the network"):
        found.read(dataset, [Stretch(1, 10, 20)], FIELDS)


def test_a_shard_that_is_damaged_is_told_of(tmp_path):
    folder = write(tmp_path / "s", samples(25))
    path = folder / "chunk-0-1.bin"
    path.write_bytes(b"\xff" * path.stat().st_size)
    found = shards(folder)
    with pytest.raises(GANError, match=r"chunk-0-1.bin of .*s cannot be read: .*: copy or write it anew") as error:
        found.read(found.dataset(), [Stretch(1, 10, 20)], FIELDS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            Fields("imag", None),
            r"has no 'imag' in its samples, but 'image', 'label'; did you mean image\?: say by data.i",
        ),
        (
            Fields("image", "class"),
            r"has no 'class' in its samples, but .*: say by data.label_field which is the label",
        ),
    ],
)
def test_fields_that_are_not_there_are_told_of(tmp_path, fields, says):
    found = shards(write(tmp_path / "s", samples(5)))
    with pytest.raises(GANError, match=says):
        found.read(found.dataset(), [Stretch(0, 0, 1)], fields)


class Runs:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code of the shards was run')",))


def test_fields_that_may_run_code_are_not_read(tmp_path):
    folder = write(tmp_path / "s", [{"image": content(0), "label": {1, 2}}] * 3)
    path = folder / "chunk-0-0.bin"
    assert b"\x80\x04" in path.read_bytes(), "LitData pickles what it does not know"
    path.write_bytes(pickle.dumps(Runs()))
    with pytest.raises(GANError, match="has fields of the kind pickle, which are not read since that may run"):
        shards(folder)
    change(folder, config={"data_format": ["bytes", "graph:pickle"]})
    with pytest.raises(GANError, match="has fields of the kind graph,"):
        shards(folder)


def test_a_first_image_that_is_damaged_is_told_of(tmp_path):
    found = shards(write(tmp_path / "s", [{"image": b"junk", "label": 0}]))
    with pytest.raises(GANError, match=r"begins with an image that cannot be read \(no image\): say by data.channels"):
        found.first_mode(FIELDS)
