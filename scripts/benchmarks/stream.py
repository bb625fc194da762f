"""Images of shards per second, and the start, by the libraries that could read them and by StreamDataModule."""

import argparse
import importlib.util
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image

from benchmarks.data import time_epoch
from benchmarks.report import spread
from gan.data import MNISTDataModule
from gan.data.reading import read_array
from gan.data.sources import Sources

Sample = tuple[bytes, int]  # an image file and its label

SHARD = 1000  # images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, help="a folder, ZIP or tar of images, beside MNIST as PNG files")
    parser.add_argument("--count", type=int, default=10_000, help="digits")
    parser.add_argument("--rounds", type=int, default=3, help="of each, by turns")


def measure(settings: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    sets = {"MNIST, 28 x 28": (digits(settings.count), 28, 1)}
    if settings.folder is not None:
        sets[f"{settings.folder.name}, 64 x 64"] = (files(settings.folder), 64, 3)
    for name, (samples, size, channels) in sets.items():
        with tempfile.TemporaryDirectory() as temporary:
            measure_set(name, samples, size, channels, settings.rounds, Path(temporary))


def measure_set(name: str, samples: list[Sample], size: int, channels: int, rounds: int, folder: Path) -> None:
    print(f"images    {name}: {len(samples):,} files of {sum(len(image) for image, _ in samples) / 1e6:.1f} MB")
    mode = "L" if channels == 1 else "RGB"
    for library, (write, read) in LIBRARIES.items():
        if importlib.util.find_spec(library) is None:
            print(f"{library:9} is not installed")
            continue
        place = folder / library
        place.mkdir()
        write(samples, place)
        reads, decodes, starts = [], [], []
        for _ in range(rounds):
            start = time.perf_counter()
            count = sum(1 for _ in read(place))
            reads.append(count / (time.perf_counter() - start))
            assert count == len(samples)
            start = time.perf_counter()
            for image, _ in read(place):
                read_array(io.BytesIO(image), (size, size), mode)
            decodes.append(count / (time.perf_counter() - start))
            starts.append(first_of(library, place))
        print(
            f"{library:9} {spread(reads, '{:,.0f}')} images/s as they lie, {spread(decodes, '{:,.0f}')} decoded; "
            f"{spread(starts, '{:.2f}')} s from its import to the first"
        )
    if importlib.util.find_spec("litdata"):
        measure_module(folder / "litdata", size, rounds)


def measure_module(place: Path, size: int, rounds: int) -> None:
    """Batches as a run has them: shuffled, decoded by one thread or two."""
    from gan.data import StreamDataModule

    for workers in (1, 2):
        start = time.perf_counter()
        data = StreamDataModule(str(place), size=size, batch_size=64, workers=workers)
        starts = time.perf_counter() - start
        loader = data.train_dataloader()
        rates = [len(loader) * 64 / time_epoch(loader) for _ in range(rounds)]
        print(f"module    {spread(rates, '{:,.0f}')} images/s in batches, workers {workers}; start {starts:.2f} s")


def digits(count: int) -> list[Sample]:
    """Digits of MNIST as PNG files."""
    images, labels = MNISTDataModule().load(train=True)
    return [(png(image[0].numpy()), int(label)) for image, label in zip(images[:count], labels[:count], strict=True)]


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def files(folder: Path) -> list[Sample]:
    """The files of a folder as they are."""
    sources = Sources(folder.absolute())
    samples = []
    for file, label in zip(sources.files, sources.labels, strict=True):
        with sources.open(file) as content:
            samples.append((content.read(), int(label)))
    return samples


# ---------------------------------------------------------------------- the libraries


def write_webdataset(samples: list[Sample], place: Path) -> None:
    from webdataset import ShardWriter  # pyright: ignore[reportMissingImports]

    with ShardWriter(f"{place}/%06d.tar", maxcount=SHARD, verbose=0) as writer:
        for number, (image, label) in enumerate(samples):
            writer.write({"__key__": f"{number:06}", "png": image, "cls": label})


def read_webdataset(place: Path) -> Iterator[Sample]:
    from webdataset import WebDataset  # pyright: ignore[reportMissingImports]

    for sample in WebDataset(sorted(map(str, place.glob("*.tar"))), shardshuffle=False):
        yield sample["png"], int(sample["cls"])


def write_litdata(samples: list[Sample], place: Path) -> None:
    from litdata.streaming import Cache  # what `litdata.optimize` writes by, in processes of its own

    cache = Cache(str(place), chunk_size=SHARD)
    for number, (image, label) in enumerate(samples):
        cache[number] = {"image": image, "label": label}
    cache.done()
    cache.merge()


def read_litdata(place: Path) -> Iterator[Sample]:
    from litdata import StreamingDataset

    for sample in StreamingDataset(str(place)):
        yield sample["image"], sample["label"]


def write_datasets(samples: list[Sample], place: Path) -> None:
    from datasets import Dataset  # pyright: ignore[reportMissingImports]

    for number in range(0, len(samples), SHARD):
        images, labels = zip(*samples[number : number + SHARD], strict=True)
        Dataset.from_dict({"image": images, "label": labels}).to_parquet(str(place / f"{number:06}.parquet"))


def read_datasets(place: Path) -> Iterator[Sample]:
    from datasets import load_dataset  # pyright: ignore[reportMissingImports]

    shards = sorted(map(str, place.glob("*.parquet")))
    for sample in load_dataset("parquet", data_files=shards, split="train", streaming=True):
        yield sample["image"], sample["label"]


LIBRARIES: dict[str, tuple[Callable[[list[Sample], Path], None], Callable[[Path], Iterator[Sample]]]] = {
    "webdataset": (write_webdataset, read_webdataset),
    "litdata": (write_litdata, read_litdata),
    "datasets": (write_datasets, read_datasets),
}


def first_of(library: str, place: Path) -> float:
    """Seconds until a fresh process, which has torch already, has the first sample."""
    program = (
        "import sys, time; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path; from benchmarks import stream\n"
        "start = time.perf_counter(); next(stream.LIBRARIES[sys.argv[3]][1](Path(sys.argv[4])))\n"
        "print(time.perf_counter() - start)"
    )
    scripts = Path(__file__).parents[1]
    words = [sys.executable, "-c", program, str(scripts), str(scripts.parent), library, str(place)]
    return float(subprocess.run(words, check=True, capture_output=True, encoding="utf-8").stdout.splitlines()[-1])
