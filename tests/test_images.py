"""Images as pictures: each pixel in its place and at its grey level."""

import io
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image

from gan.images import encoded, image_grid, show, to_float, to_pil, to_uint8


def test_to_uint8_rounds_and_clamps():
    values = torch.tensor([-1.0, -1.2, 0.0, 1.0, 1.3, -1 + 2.4 / 255, -1 + 2.6 / 255])
    assert to_uint8(values).tolist() == [0, 0, 128, 255, 255, 1, 1]


def test_every_grey_level_comes_back():
    levels = torch.arange(256)
    assert torch.equal(to_uint8(levels / 127.5 - 1), levels.to(torch.uint8))


def test_grid_has_each_image_in_its_place():
    images = torch.full((6, 1, 4, 4), -1.0)
    images[4] = 1.0
    grid = image_grid(images)  # 3 columns, 2 rows, borders of 2
    assert grid.shape == (1, 2 * 6 + 2, 3 * 6 + 2)
    assert (grid[:, 8:12, 8:12] == 255).all()
    assert (grid[:, 2:6, 2:6] == 0).all()


@pytest.mark.parametrize(("num", "columns"), [(2, 2), (4, 2), (5, 3), (64, 8)])
def test_grid_is_near_square(num, columns):
    assert image_grid(torch.zeros(num, 3, 4, 4)).shape[2] == columns * 6 + 2


def test_pictures_go_to_and_fro():
    """A grey one and a colourful one; Pillow's rows are ours."""
    levels = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(3, 4, 2)
    images = to_float(levels[None])
    assert images.dtype == torch.float32
    assert torch.equal(to_uint8(images)[0], levels)
    colour, grey = to_pil(levels), to_pil(levels[:1])
    assert (colour.size, colour.mode, grey.mode) == ((2, 4), "RGB", "L")
    for picture in (colour, grey):
        with Image.open(io.BytesIO(encoded(picture))) as read:
            assert (read.format, read.mode, read.tobytes()) == ("PNG", picture.mode, picture.tobytes())
    assert colour.getpixel((1, 2)) == tuple(levels[:, 2, 1].tolist())
    assert grey.getpixel((1, 2)) == levels[0, 2, 1]


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 4), (5, 3), (9, 3)])
def test_channels_that_a_picture_cannot_show_are_left_out_and_said(channels, shown, recwarn):
    images = torch.rand(6, channels, 4, 4) * 2 - 1
    grid = image_grid(images)
    assert grid.shape[0] == shown
    picture = to_pil(grid)
    assert len(picture.getbands()) == shown
    said = [str(warning.message) for warning in recwarn]
    assert said == ([] if shown == channels else [f"pictures show the first {shown} of {channels} channels"])
    assert torch.equal(grid, image_grid(images[:, :shown]))


# ---------------------------------------------------------------------- notebooks


def ipython(monkeypatch, shell) -> list:
    """Puts an IPython in place, whose displays are in the list: of each the pictures, one in the place of another."""
    shown = []

    class Handle(list):
        update = list.append

    def display(picture, display_id):
        assert display_id is True
        shown.append(Handle([picture]))
        return shown[-1]

    module, its_display = ModuleType("IPython"), ModuleType("IPython.display")
    module.get_ipython, its_display.display = lambda: shell, display
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", its_display)
    return shown


def test_a_notebook_shows_a_picture_in_the_place_of_the_one_before(monkeypatch):
    shown = ipython(monkeypatch, SimpleNamespace(kernel=object()))
    one = show("first")
    assert show("second", one) is one
    show("another")
    assert shown == [["first", "second"], ["another"]]


@pytest.mark.parametrize("shell", [None, SimpleNamespace(), SimpleNamespace(kernel=None)])
def test_nothing_else_shows_pictures(monkeypatch, shell):
    """As IPython in a terminal, or imported by a script."""
    shown = ipython(monkeypatch, shell)
    assert show("first") is None
    assert shown == []


def test_nobody_imports_ipython_for_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert show("first") is None
    assert "IPython" not in sys.modules
