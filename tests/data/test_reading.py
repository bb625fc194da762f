"""One image file: formats, modes, orientations, sizes, and what is no image."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from gan.data.reading import Unreadable, read_image, read_mode, suffixes

RNG = np.random.default_rng(0)


def smooth(height: int, width: int) -> np.ndarray:
    """A colour image without sharp edges, and unlike itself turned or mirrored."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return (np.stack([x, y**2, 0.3 + 0.5 * x * y], -1) * 255).astype(np.uint8)


def file_of(image: Image.Image, form: str = "PNG", **settings) -> io.BytesIO:
    content = io.BytesIO()
    image.save(content, form, **settings)
    content.seek(0)
    return content


def pixel(image: Image.Image, form: str = "PNG", mode=None, background="white", **settings) -> list[int]:
    """The channels of the first pixel."""
    return read_image(file_of(image, form, **settings), None, mode, background)[:, 0, 0].tolist()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF"])
def test_what_a_file_holds_is_what_it_gives(form):
    levels = np.stack([RNG.integers(0, 256, (7, 5), dtype=np.uint8)] * 3, -1)  # grey, so that GIF is exact
    image = read_image(file_of(Image.fromarray(levels), form, lossless=True), mode="RGB")
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image, torch.from_numpy(levels).permute(2, 0, 1))


def with_transparent_colour() -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    image.info["transparency"] = 0
    image.putpixel((0, 0), 0)
    return image


@pytest.mark.parametrize(
    ("image", "own", "first"),
    [
        (Image.new("1", (4, 4), 1), "L", [255]),
        (Image.new("L", (4, 4), 7), "L", [7]),
        (Image.new("LA", (4, 4), (7, 100)), "LA", [7, 100]),
        (Image.new("RGB", (4, 4), (1, 2, 3)), "RGB", [1, 2, 3]),
        (Image.new("RGBA", (4, 4), (1, 2, 3, 4)), "RGBA", [1, 2, 3, 4]),
        (Image.fromarray(np.full((4, 4), 65535, np.uint16)), "L", [255]),
        (Image.fromarray(np.full((4, 4), 25700, np.uint16)), "L", [100]),  # what 8 bits of it alone would make 255
        (with_transparent_colour(), "RGBA", [0, 0, 0, 0]),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_each_mode_is_read_in_its_own_channels(image, own, first):
    assert read_mode(file_of(image)) == own
    assert pixel(image) == first
    assert len(pixel(image, mode="RGB")) == 3
    assert len(pixel(image, mode="RGBA")) == 4


def test_a_palette_of_greys_is_grey():
    image = Image.fromarray(smooth(8, 8)).convert("L").convert("P")
    image.putpalette([level for level in range(256) for _ in range(3)])
    assert read_mode(file_of(image)) == "L"
    assert read_mode(file_of(Image.fromarray(smooth(8, 8)).quantize(8))) == "RGB"


def test_ink_becomes_light():
    ink = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for form in ("JPEG", "TIFF"):
        red, green, blue = pixel(ink, form)
        assert red < 10
        assert min(green, blue) > 245


def test_numbers_without_a_range_are_refused():
    for levels in (np.full((4, 4), 0.5, np.float32), np.full((4, 4), 100_000, np.int32)):
        with pytest.raises(Unreadable, match="whose range it does not say"):
            read_image(file_of(Image.fromarray(levels), "TIFF"))


@pytest.mark.parametrize(("background", "seen"), [("white", 255), ("black", 0), ("#808080", 128)])
def test_alpha_is_composited_on_the_background(background, seen):
    clear = Image.new("RGBA", (4, 4), (200, 30, 60, 0))
    assert pixel(clear, mode="RGB", background=background) == [seen] * 3
    assert pixel(clear, mode="L", background=background) == [seen]
    assert pixel(with_transparent_colour(), mode="RGB", background=background) == [seen] * 3
    half = Image.new("LA", (4, 4), (100, 128))
    assert pixel(half, mode="L", background=background) == [pytest.approx((100 + seen) / 2, abs=1)]


def test_colour_behind_no_alpha_does_not_bleed_when_resized():
    """A red disc on a transparent green: mixed without weights, its edge would be yellow."""
    levels = np.zeros((64, 64, 4), np.uint8)
    levels[..., 1] = 255
    levels[16:48, 16:48] = (255, 0, 0, 255)
    image = read_image(file_of(Image.fromarray(levels)), (10, 10), "RGB", "black")
    assert image[0].max() > 200
    assert image[1].max() <= 2


@pytest.mark.parametrize("turn", range(9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_turns_an_image_as_pillow_does(turn, form):
    exif = Image.Exif()
    exif[0x0112] = turn
    image = Image.fromarray(smooth(40, 60))
    content = file_of(image, form, exif=exif.tobytes() if form != "TIFF" else exif)
    with Image.open(content) as opened:
        opened.load()
        expected = np.asarray(ImageOps.exif_transpose(opened))
    content.seek(0)
    made = read_image(content)
    assert np.array_equal(made.permute(1, 2, 0).numpy(), expected)
    content.seek(0)
    small = read_image(content, (8, 16)).permute(1, 2, 0).numpy().astype(int)
    upright = Image.fromarray(expected)
    assert np.abs(small - np.asarray(ImageOps.fit(upright, (16, 8), Image.Resampling.LANCZOS))).max() <= 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_reason_to_leave_an_image_out():
    content = file_of(Image.fromarray(smooth(16, 16)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert read_image(content).shape == (3, 16, 16)


@pytest.mark.parametrize("size", [(64, 64), (8, 8), (64, 32), (200, 100)])
@pytest.mark.parametrize("shape", [(500, 400), (64, 64), (33, 90), (1, 1)])
def test_the_middle_is_resized(shape, size):
    levels = smooth(*shape)
    made = read_image(file_of(Image.fromarray(levels)), size)
    assert made.shape == (3, *size)
    expected = ImageOps.fit(Image.fromarray(levels), size[::-1], Image.Resampling.LANCZOS)
    difference = made.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1


def test_a_jpeg_is_as_if_decoded_whole():
    """It is halved while it is decoded, which must not be seen."""
    rough = np.asarray(Image.fromarray(RNG.integers(0, 256, (60, 48, 3), dtype=np.uint8)).resize((401, 503)))
    content = file_of(Image.fromarray(rough), "JPEG", quality=95)
    made = read_image(content, (32, 32)).permute(1, 2, 0).numpy().astype(int)
    with Image.open(content) as whole:
        expected = np.asarray(ImageOps.fit(whole, (32, 32), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(made - expected).mean() < 1
    assert np.abs(made - expected).max() <= 12


def test_a_checkerboard_becomes_its_mean_and_no_moire():
    board = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    made = read_image(file_of(Image.fromarray(board)), (48, 48)).int()
    assert (made - 127).abs().max() <= 4


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for form in ("GIF", "PNG", "WEBP"):
        settings = {"save_all": True, "append_images": frames[1:]} | ({"lossless": True} if form == "WEBP" else {})
        assert pixel(frames[0], form, "RGB", **settings) == [255, 0, 0]


# What is no image


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_image_is_refused(content):
    for read in (read_image, read_mode):
        with pytest.raises(Unreadable):
            read(io.BytesIO(content))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_half_a_file_is_refused(form, part):
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = file_of(noise, form).getvalue()
    with pytest.raises(Unreadable):
        read_image(io.BytesIO(content[: int(part * len(content))]), (16, 16))


def test_more_pixels_than_pillow_takes_for_safe_are_refused():
    """By the head of the file: 30,000 x 30,000 pixels that are nowhere."""
    content = bytearray(file_of(Image.new("L", (8, 8)), "BMP").getvalue())
    content[18:26] = (30_000).to_bytes(4, "little") * 2
    with pytest.raises(Unreadable, match=r"^image size \(900000000 pixels\) exceeds limit of \d+ pixels$"):
        read_image(io.BytesIO(bytes(content)), (16, 16))


def test_an_image_of_30_000_pixels_in_a_row():
    assert (
        read_image(file_of(Image.new("RGB", (30_000, 2), "red")), (4, 4)).tolist()
        == [[[255] * 4] * 4] + [[[0] * 4] * 4] * 2
    )


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(Unreadable, match="no such file or directory"):
        read_image(tmp_path / "x.png")


def test_names_of_images():
    assert {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"} <= suffixes()
    assert not {".eps", ".pdf", ".txt", ".hdf5", ".mpg"} & suffixes()
