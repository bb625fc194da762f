"""Small image files for tests, each unlike all others."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

FORMS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def picture(number: int, height: int = 12, width: int = 12, grey: bool = False) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (height, width) if grey else (height, width, 3), dtype=np.uint8))


def content(number: int, form: str = "PNG", **settings) -> bytes:
    file = io.BytesIO()
    picture(number, **settings).save(file, form)
    return file.getvalue()


def fill(folder: Path, count: int, first: int = 0, **settings) -> Path:
    """A folder with `count` files, of all formats in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        forms = FORMS if not settings.get("grey") else [form for form in FORMS if form != "WEBP"]  # which has no grey
        form = forms[number % len(forms)]
        (folder / f"{number:05}.{form.lower()}").write_bytes(content(number, form, **settings))
    return folder


def fill_classes(folder: Path, counts: dict[str, int], **settings) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        fill(folder / name, count, 1000 * number, **settings)
    return folder


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path
