"""Images of a folder per second: read once into the cache, against Pillow alone; then as batches of an epoch."""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from benchmarks.data import time_epoch
from benchmarks.report import resident, spread
from gan.data import ImageFolder, InMemoryLoader
from gan.data.image_cache import cores

SIZE = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=int, default=10_000, help="JPEGs of 500 x 400, made for it")
    parser.add_argument(
        "--mapped", type=int, nargs="+", default=[10_000, 100_000], help="images in a cache, for memory"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each, by turns")


def measure(settings: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["GAN_CACHE"] = f"{temporary}/cache"
        paths = make_files(Path(temporary, "photos"), settings.files)
        ours, pillows, starts = [], [], []
        for number in range(settings.rounds):
            pillows.append(settings.files / timed(lambda: read_by_pillow(paths)))
            background = f"#00000{number}"  # which makes the cache another one
            data = ImageFolder(str(paths[0].parent), SIZE, background=background)
            ours.append(settings.files / timed(data.prepare_data))
            starts.append(timed(lambda: ImageFolder(data.folder, SIZE, background=background)))  # noqa: B023
        print(
            f"cache     {spread(ours, '{:,.0f}')} files/s; Pillow alone {spread(pillows, '{:,.0f}')}, {cores()} cores"
        )
        print(f"start     {spread(starts, '{:.2f}')} s once they are read")
        images = [torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8) for count in settings.mapped]
        for some in images:
            measure_epochs(some, Path(temporary, "images"), settings.rounds)


def measure_epochs(images: torch.Tensor, path: Path, rounds: int) -> None:
    """The rates of batches of images in memory, and in a file that the system has at hand or has not."""
    from gan.data.folder import MappedLoader

    path.write_bytes(images.numpy().data)
    labels = torch.zeros(len(images), dtype=torch.int64)
    options = {"batch_size": 64, "shuffle": True, "drop_last": True}
    memory = InMemoryLoader(images, labels, **options)
    mapped_images = torch.from_file(str(path), False, images.numel(), dtype=torch.uint8).view(images.shape)
    mapped = MappedLoader(mapped_images, labels, path=path, start=0, device=torch.device("cpu"), **options)
    before = resident()
    kinds = {
        "memory": [memory, False],
        "file, in the system's memory": [mapped, False],
        "file, on the disk": [mapped, True],
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, (loader, cold) in kinds.items():
            if cold:
                forget(path)
            rates[name].append(len(loader) * 64 / time_epoch(loader))
    for name, values in rates.items():
        print(f"batches   {len(images):,} images in {name}: {spread(values, '{:,.0f}')} images/s")
    print(f"memory    {resident() - before:,.0f} MB more after {3 * rounds} epochs")


def make_files(folder: Path, count: int) -> list[Path]:
    """JPEGs of 500 x 400 about as rough as photos are."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        rough = rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)
        image = Image.fromarray(rough).resize((400, 500), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:06}.jpg", quality=90)
    return sorted(folder.iterdir())


def read_by_pillow(paths: list[Path]) -> None:
    """What Pillow alone does, in as many processes as there are cores."""
    with ProcessPoolExecutor(cores(), get_context("fork")) as pool:
        assert sum(pool.map(by_pillow, map(str, paths), chunksize=50)) == len(paths)


def by_pillow(path: str) -> bool:
    """One file, as Pillow's own functions make it small."""
    with Image.open(path) as image:
        image.draft("RGB", (3 * SIZE, 3 * SIZE))
        pixels = ImageOps.fit(image.convert("RGB"), (SIZE, SIZE), Image.Resampling.LANCZOS).tobytes()
    return len(pixels) == 3 * SIZE**2


def timed(action: Callable[[], object]) -> float:
    """Seconds that something takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def forget(path: Path) -> None:
    """Has the system read a file from the disk again."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
