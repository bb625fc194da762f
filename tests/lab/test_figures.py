"""The style of all figures: lines named where they end, none on top of another."""

from itertools import pairwise

import pytest

from gan.lab.figures import BLUE, GREEN, key, label_lines, panels, sheet, spread


@pytest.mark.parametrize(
    "places", [[], [0.5], [0.5, 0.5, 0.5], [0.0, 0.01, 0.9], [0.97, 0.98, 1.0], [0.1, 0.15, 0.2, 0.8]]
)
def test_names_do_not_lie_on_each_other(places):
    moved = spread(places, 0.1)
    assert len(moved) == len(places)
    assert all(0 <= place <= 1 for place in moved)
    assert all(after - before >= 0.1 - 1e-9 for before, after in pairwise(moved))


def test_names_stay_where_there_is_room():
    assert spread([0.2, 0.5, 0.9], 0.1) == [0.2, 0.5, 0.9]
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])  # moved as little as it takes


def test_lines_are_named_where_they_end():
    """Those that reach the right edge beyond it, others beside their last point, and those without a name not."""
    _, axes = panels()
    axes.set(xlim=(0, 10), ylim=(0, 1))
    axes.plot([0, 10], [0, 0.5], color=BLUE, label="far")
    axes.plot([0, 5], [0, 0.5], color=GREEN, label="near")
    axes.plot([0, 10], [1, 1], label="_hidden")
    label_lines(axes)
    names = {text.get_text(): text for text in axes.texts}
    assert names.keys() == {"far", "near"}
    assert names["far"].get_color() == BLUE
    assert names["far"].xy == pytest.approx((1, 0.5))
    assert names["far"].xyann[0] > 1
    assert names["near"].xy == pytest.approx((0.5, 0.5))


def test_colours_have_names():
    """In a row above all panels, or one below the other in the corner of one."""
    page = sheet(3)
    (left, _) = page.subplots(1, 2)
    for where in (page, left):
        key(where, {"one": BLUE, "two": GREEN})
    page.draw_without_rendering()
    assert page.get_size_inches().tolist() == [10, 3]
    for legend, rows in ((page.legends[0], 1), (left.get_legend(), 2)):
        assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
        assert len({round(text.get_window_extent().y0) for text in legend.get_texts()}) == rows
