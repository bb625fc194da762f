"""The picture: each value in its place and colour."""

import numpy as np
import pytest

from gan.gradients.heatmap import ABSENT, COLOURS, NOT_FINITE, ZERO, colour, heat_map


def test_heat_map_has_each_value_in_its_place():
    columns = [{"a": 1e-10, "b": 1e2, "c": 1.0}, {"a": 0.0, "b": float("nan"), "c": 1e-25}, {"a": 1e-4, "c": 1e30}]
    image = heat_map("title", [1, 2, 3], columns)
    pixels = np.asarray(image)
    width, height = 640 // 3, 28

    def corner():
        """Of the plot: the first pixel of the darkest colour."""
        found = np.argwhere((pixels == np.array(colour(1e-10))).all(-1))
        return found[0]

    top, left = corner()
    for row, layer in enumerate("abc"):
        for number, column in enumerate(columns):
            y, x = top + row * height + height // 2, left + number * width + width // 2
            assert tuple(pixels[y, x]) == rgb(colour(column.get(layer))), (layer, number)


def rgb(value) -> tuple[int, int, int]:
    return tuple(int(value[start : start + 2], 16) for start in (1, 3, 5)) if isinstance(value, str) else value


def test_colours():
    assert colour(None) == ABSENT
    assert colour(0.0) == ZERO
    assert colour(float("inf")) == colour(float("nan")) == NOT_FINITE
    assert colour(1e-30) == colour(1e-10) == rgb(COLOURS[0])
    assert colour(1e9) == colour(1e2) == rgb(COLOURS[-1])
    luminance = [sum(np.array(colour(10.0**power)) * (0.3, 0.59, 0.11)) for power in range(-10, 3)]
    assert luminance == sorted(luminance)  # and so it prints in grey
    assert len(set(luminance)) == 13


@pytest.mark.parametrize(("layers", "measurements"), [(1, 1), (3, 200), (150, 13)])
def test_heat_maps_of_all_sizes(layers, measurements):
    columns = [{f"block{number}.layer": 10.0**-number for number in range(layers)} for _ in range(measurements)]
    image = heat_map("a title", list(range(measurements)), columns)
    assert image.width < 1600
    assert image.height < 2200
