"""A picture of what flows back through a network: layers by batches."""

import math
from collections.abc import Mapping, Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

LOW, HIGH = -10, 2  # log10 at the ends of the scale; it is the same in all pictures, so that they can be compared
COLOURS = ("#1b0c41", "#4a2377", "#31688e", "#1f9e89", "#6ece58", "#fde725")  # from LOW to HIGH; dark is vanished
ZERO, NOT_FINITE, ABSENT = "#000000", "#e4007c", "#e8e8e8"
PAPER, INK, FAINT = "#ffffff", "#202020", "#707070"
MARGIN, GAP = 14, 10  # pixels, as all sizes here
PLOT_WIDTH = 640  # at least

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def heat_map(title: str, steps: Sequence[int], columns: Sequence[Mapping[str, float]]) -> Image.Image:
    """Draws a row for each layer, the first on top, and a column for each measurement.

    A colour stands for the same log10 in every picture; black is exactly 0, pink not finite, grey not measured. The
    numbers on the right are the latest ones.

    Args:
        title: What it shows.
        steps: Training batches completed at each measurement.
        columns: Norms by layer at each measurement.
    """
    layers = list(dict.fromkeys(layer for column in columns for layer in column))
    height = max(12, min(28, 560 // max(1, len(layers))))  # of a row
    width = max(3, PLOT_WIDTH // len(columns))  # of a column
    plain, small = font(14), font(min(13, height))
    left = MARGIN + max([text_width(layer, small) for layer in layers], default=0) + GAP
    top = MARGIN + 20 + GAP
    right, bottom = left + width * len(columns), top + height * len(layers)
    legend = right + GAP + text_width("+10.0", small) + 3 * GAP
    image = Image.new("RGB", (legend + 18 + GAP + text_width("not finite", font(12)) + MARGIN, 0), PAPER)
    image = image.resize((max(image.width, MARGIN * 2 + text_width(title, plain)), max(bottom, top + 190) + 44))
    image.paste(PAPER, (0, 0, *image.size))
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), title, INK, plain)

    for row, layer in enumerate(layers):
        y = top + row * height
        draw.text((left - GAP, y + height // 2), layer, INK, small, anchor="rm")
        for number, column in enumerate(columns):
            x = left + number * width
            draw.rectangle((x, y, x + width - 1, y + height - 1), colour(column.get(layer)))
        draw.text((right + GAP, y + height // 2), number_text(columns[-1].get(layer)), INK, small, anchor="lm")
    draw.text((right + GAP, top - 4), "latest", FAINT, font(11), anchor="lb")
    draw.rectangle((left - 1, top - 1, right, bottom), outline=FAINT)

    # Steps below, as many as there is room for.
    apart = math.ceil((text_width(f"{steps[-1]:,}", font(12)) + 16) / width)
    for number in range(0, len(steps), apart):
        x = left + number * width + width // 2
        draw.line((x, bottom + 1, x, bottom + 5), FAINT)
        draw.text((x, bottom + 8), f"{steps[number]:,}", FAINT, font(12), anchor="mt")
    draw.text((left, bottom + 26), "training batches", FAINT, font(12))

    # The scale.
    tall = 130
    draw.text((legend, top - 4), "log10", FAINT, font(11), anchor="lb")
    for pixel in range(tall):
        value = HIGH - (HIGH - LOW) * pixel / (tall - 1)
        draw.line((legend, top + pixel, legend + 17, top + pixel), colour(10**value))
    for value in range(LOW, HIGH + 1, 2):
        y = top + round((HIGH - value) / (HIGH - LOW) * (tall - 1))
        draw.text((legend + 18 + GAP // 2, y), str(value), INK, font(11), anchor="lm")
    for number, (name, fill) in enumerate({"zero": ZERO, "not finite": NOT_FINITE, "no value": ABSENT}.items()):
        y = top + tall + 14 + 18 * number
        draw.rectangle((legend, y, legend + 17, y + 11), fill)
        draw.text((legend + 18 + GAP // 2, y + 6), name, INK, font(12), anchor="lm")
    return image


def colour(norm: float | None) -> str | tuple[int, int, int]:
    """The colour of a norm; of one beyond the ends of the scale, that of the end."""
    if norm is None:
        return ABSENT
    if not math.isfinite(norm):
        return NOT_FINITE
    if norm == 0:
        return ZERO
    place = (math.log10(norm) - LOW) / (HIGH - LOW)
    place = min(max(place, 0.0), 1.0) * (len(COLOURS) - 1)
    index = min(int(place), len(COLOURS) - 2)
    pair = [[int(end[start : start + 2], 16) for start in (1, 3, 5)] for end in COLOURS[index : index + 2]]
    red, green, blue = (round(a + (b - a) * (place - index)) for a, b in zip(*pair, strict=True))
    return red, green, blue


def number_text(norm: float | None) -> str:
    """The log10 of a norm, in a few letters."""
    if norm is None:
        return ""
    if not math.isfinite(norm):
        return str(norm)
    return "0" if norm == 0 else f"{math.log10(norm):.1f}"


@cache
def font(size: int) -> Font:
    """Pillow's own font, `size` pixels high."""
    return ImageFont.load_default(size)


def text_width(text: str, face: Font) -> int:
    """The pixels that a text takes."""
    return math.ceil(face.getlength(text))
