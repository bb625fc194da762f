"""Two folders of image files: which make a pair, how they are read, who is tested on, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from gan.data import Mask, PairedFolders
from gan.data.paired_folders import named_images, place_of, read_source

RNG = np.random.default_rng(0)


def picture(number: int = 0, size: int = 8, mode: str = "RGB") -> Image.Image:
    """All pixels of a level of its own, opaque."""
    return Image.new("L", (size, size), number).convert(mode)


@pytest.fixture
def make(tmp_path):
    """Writes pairs, of which number i has the source i and the target 100 + i, and makes the data module."""

    def write(num: int = 40, source="RGB", target="L", suffix=".png", **settings) -> PairedFolders:
        for folder in ("sources", "targets"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for number in range(num):
            picture(number, 4, source).save(tmp_path / "sources" / f"{number}.png")
            picture(100 + number, 8, target).save(tmp_path / "targets" / f"{number}{suffix}")
        return PairedFolders(str(tmp_path / "sources"), str(tmp_path / "targets"), 4, **settings)

    return write


def numbers(batches) -> list[int]:
    """The numbers of the pairs in batches, each of which is whole."""
    found = []
    for images, sources in batches:
        levels, of_source = (((part[:, 0, 0, 0] + 1) * 127.5).round().long() for part in (images, sources))
        assert torch.equal(levels - 100, of_source)
        found += of_source.tolist()
    return found


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".TIF"])
def test_pairs_have_the_same_name(make, suffix):
    data = make(suffix=suffix)
    assert (data.image_shape, data.condition_shape) == ((1, 8, 8), (3, 4, 4))
    parts = [numbers(batches) for batches in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    assert len(parts[0]) == len(data._train[data.validation_size :]) // 4 * 4
    assert len(parts[1]) == data.validation_size > 0
    assert len(parts[2]) > 0
    assert len({*parts[0], *parts[1], *parts[2]}) == sum(map(len, parts)) >= 37, "a pair in two parts"


def test_more_pairs_leave_the_others_where_they_are(make):
    def split(data):
        return {*numbers(data.val_dataloader())}, {*numbers(data.test_dataloader())}

    before, after = split(make(40)), split(make(100))
    for few, many in zip(before, after, strict=True):
        assert few == {number for number in many if number < 40}
        assert len(many) > len(few)


def test_places_are_spread_evenly():
    places = torch.tensor([place_of(f"image {number}") for number in range(10_000)], dtype=torch.float64)
    assert (places.histc(10, 0, 1) - 1000).abs().max() < 120  # 4 standard deviations
    assert place_of("cat") == place_of("cat") != place_of("cat2")


def test_no_tests_and_no_validation(make, recwarn):
    data = make(validation_share=0, test_share=0)
    assert data.test_dataloader() == data.val_dataloader() == []
    data.setup("test")
    data.setup()
    assert len(numbers(data.train_dataloader())) == 40
    assert not recwarn.list


def test_shares_that_come_to_nothing_are_said(make):
    with pytest.warns(UserWarning, match=r"data.test_share=0.001 is none of 40 pairs: raise it, or set it to 0"):
        make(test_share=0.001)


@pytest.mark.parametrize(
    ("source", "target", "shapes"),
    [
        ("L", "RGB", ((1, 4, 4), (3, 8, 8))),
        ("LA", "LA", ((2, 4, 4), (1, 8, 8))),
        ("RGBA", "RGBA", ((4, 4, 4), (3, 8, 8))),
        ("1", "P", ((1, 4, 4), (1, 8, 8))),
    ],
)
def test_channels_are_those_of_the_files(make, source, target, shapes):
    data = make(source=source, target=target)
    assert (data.condition_shape, data.image_shape) == shapes
    data.setup()


def test_one_in_colour_makes_all_colour(make, tmp_path):
    make(source="L")
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "sources" / "7.png")
    data = make(0)
    assert data.condition_shape == (3, 4, 4)
    sources = torch.cat([data.load(train)[1] for train in (True, False)])
    assert [10, 20, 30] in sources[:, :, 0, 0].tolist()
    assert [9, 9, 9] in sources[:, :, 0, 0].tolist()


def test_what_alpha_hides_is_grey_in_a_source_and_white_in_a_target(tmp_path):
    levels = np.full((1, 3, 4), 200, np.uint8)
    levels[0, :, 3] = [255, 0, 51]
    Image.fromarray(levels).save(tmp_path / "a.png")
    source = read_source(tmp_path / "a.png", "RGBA")
    assert source[0, 0].tolist() == [200, 128, 128 + round(72 / 5)]
    assert source[3, 0].tolist() == [255, 0, 51]
    assert torch.equal(source[0], source[2])
    assert read_source(tmp_path / "a.png", "RGB")[0, 0].tolist()[:2] == [200, 255]


def test_a_source_with_a_hole_is_that_of_mask(tmp_path):
    image = torch.from_numpy(RNG.integers(0, 256, (1, 3, 16, 16), dtype=np.uint8))
    made = Mask(6).degrade(image, ["x"])[0]
    Image.fromarray(torch.cat([image[0], made[3:]]).permute(1, 2, 0).numpy()).save(tmp_path / "x.png")
    assert torch.equal(read_source(tmp_path / "x.png", "RGBA"), made)


# What is refused


def test_names_that_do_not_pair_up_are_told(make, tmp_path):
    make(15)
    for number in range(7):
        (tmp_path / "targets" / f"{number}.png").unlink()
    picture().save(tmp_path / "targets" / "cat.png")
    with pytest.raises(ValueError, match="names do not pair up") as error:
        make(0)
    names = "0.png, 1.png, 2.png, 3.png, 4.png, ..."
    assert f"7 files of {tmp_path / 'sources'} have no target ({names})" in str(error.value)
    assert f" and 1 file of {tmp_path / 'targets'} has no source (cat.png)." in str(error.value)
    assert "\n" not in str(error.value)


def test_an_e_with_an_accent_is_the_same_in_either_form(make, tmp_path):
    make()
    picture(size=4).save(tmp_path / "sources" / "caf\u00e9.png")
    picture(size=8, mode="L").save(tmp_path / "targets" / "cafe\u0301.png")
    assert len(make(0)._sources) == 41


def damage(folder, name, content=b"no image"):
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s, t: damage(s, "3.png"), r"data.sources .*sources has 1 file that cannot be used: 3.png \(no image\)"),
        (
            lambda s, t: damage(t, "3.png", (t / "3.png").read_bytes()[:40]),
            r"data.targets .*targets has 1 file that cannot be used: 3.png \(.+\)\. Mend",
        ),
        (
            lambda s, t: picture(3, 5).save(s / "3.png"),
            r"sources has 1 file of another size than the others' 4 x 4 pixels \(3.png: 5 x 5\): resize or crop",
        ),
        (
            lambda s, t: [picture(3, size, "L").save(t / f"{size}.png") for size in (10, 11)],
            r"targets has 2 files of another size .* 8 x 8 pixels \(10.png, 11.png: 10 x 10, 11 x 11\)",
        ),
        (
            lambda s, t: picture(3, 4, "RGBA").save(s / "3.png"),
            r"sources has 39 files without alpha \(0.png, .*, \.\.\.\), and 1 with it: give all",
        ),
        (
            lambda s, t: picture().save(s / "3.jpg"),
            "data.sources .*sources has 3.jpg and 3.png: leave one of that name",
        ),
        (
            lambda s, t: [path.unlink() for path in t.iterdir()],
            "data.targets .*targets has no images, such as files th",
        ),
        (lambda s, t: (t.rename(s / "in"), t.mkdir(), (s / "in").rename(t / "in")), "in is a folder in it: give that"),
        (lambda s, t: (t.rename(s / "in"), t.touch()), "cannot be read: .+; give the folder that it lies in"),
        (lambda s, t: (t.rename(s / "in"), t.touch()), "data.targets .*targets cannot be read: Not a directory"),
    ],
)
def test_folders_that_cannot_be_used(make, tmp_path, spoil, message):
    make()
    folders = tmp_path / "sources", tmp_path / "targets"
    spoil(*folders)
    with pytest.raises(ValueError, match=message) as error:
        PairedFolders(*map(str, folders)).setup()
    assert "\n" not in str(error.value)


def test_one_folder_twice_is_refused(make, tmp_path):
    make()
    with pytest.raises(ValueError, match=r"data.sources and data.targets are both .*sources: give two folders"):
        PairedFolders(str(tmp_path / "sources"), str(tmp_path / "sources"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_share": 1.0}, r"data.validation_share must be from 0 \(none\) to below 1, got 1.0"),
        ({"test_share": -0.1}, "data.test_share must be"),
        ({"test_share": float("nan")}, "data.test_share must be"),
        ({"validation_share": 0.5, "test_share": 0.5}, "leave nothing of 40 pairs to train on: lower them"),
    ],
)
def test_shares_out_of_range(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_what_is_no_image_by_its_name_is_not_looked_at(tmp_path):
    for name in ("b.png", "a.png", ".hidden.png"):
        picture().save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x", "utf-8")
    assert list(named_images(tmp_path, "x")) == ["a", "b"]
