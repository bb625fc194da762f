"""Data in shards that LitData has written: what they hold, some images of them, and what is wrong with them."""

import io
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from gan.data.reading import Mode, Unreadable, array_of, natural, read_array, read_mode, reason
from gan.errors import GANError, counted, or_meant
from gan.paths import URL, cache_folder, local_path

if TYPE_CHECKING:
    from litdata import StreamingDataset

REMOTE = ("s3", "gs", "r2", "azure")  # what LitData reads beside paths, and `local:`
# Kinds of fields that are data. LitData knows others, of which reading `pickle` and `graph` may run what they hold.
PLAIN = {"bytes", "int", "float", "bool", "str", "text", "json", "pil", "jpeg", "jpeg_array", "image"}
PLAIN |= {"tensor", "no_header_tensor", "numpy", "no_header_numpy"}


class Fields(NamedTuple):
    """Which fields of a sample are what."""

    image: str  # a file's bytes, a PIL image or a uint8 tensor (C, H, W)
    label: str | None  # a whole number; None where no labels are wanted


class Stretch(NamedTuple):
    """Some of the images of a shard, which follow each other."""

    shard: int
    start: int  # the number of the first among all images
    stop: int


class Shards:
    """A folder or bucket of shards.

    Args:
        place: Its path; or `s3://...`, `gs://...`, `r2://...`, `azure://...`; or `local:PATH` for a folder whose shards
            are copied to the cache as those are.
        setting: What errors call it.
        cache: Gigabytes that the shards of a bucket may take on this machine's disk.

    Raises:
        ValueError: If LitData is missing, or there are no shards to be had.
    """

    def __init__(self, place: str, setting: str, cache: float) -> None:
        self.setting, self.cache = setting, cache
        url = URL.match(place)
        self.remote = place.startswith("local:") or (url is not None and url[1] in REMOTE)
        if url and url[1] == "file":
            place = place.removeprefix("file://")
        elif url and not self.remote:
            known = ", ".join(f"{name}://" for name in REMOTE)
            raise GANError(f"{setting} {place} is a URL that LitData does not read: give a path or one with {known}")
        self.place = place if self.remote else str(local_path(place, setting).absolute())
        self.folder: Path | None = None  # of the cache
        if self.remote:
            home = cache_folder()
            if home is None:
                raise GANError("this user has no home to keep shards in: set the environment variable GAN_CACHE")
            self.folder = home / "shards"
        elif not Path(self.place, "index.json").is_file():
            what = "has no index.json" if Path(self.place).is_dir() else "is not there"
            raise GANError(f"{setting} {self.place} {what}: give the folder that litdata.optimize has written")
        with self.told():
            dataset = self.dataset()
            index = json.loads(Path(dataset.input_dir.path or self.place, "index.json").read_bytes())
            self.names = [str(chunk["filename"]) for chunk in index["chunks"]]
            self.sizes = np.array([int(chunk["chunk_size"]) for chunk in index["chunks"]], dtype=np.int64)
            self.bytes = sum(int(chunk["chunk_bytes"]) for chunk in index["chunks"])
            kinds = [str(kind).partition(":")[0] for kind in index["config"]["data_format"]]
        if strange := sorted({*kinds} - PLAIN):
            raise GANError(
                f"{setting} {self.place} has fields of the kind {', '.join(strange)}, which are not read since that "
                "may run what they hold: write images as the bytes of their files, and labels as whole numbers"
            )
        if not self.remote:
            self.look(index)
        self.ends = self.sizes.cumsum()

    def look(self, index: dict[str, Any]) -> None:
        """Refuses a folder in which shards are missing or cut off.

        Raises:
            ValueError: If they are.
        """
        least = 0 if index["config"].get("compression") else 1  # of the bytes that the index knows
        lacking = []
        for chunk in index["chunks"]:
            path = Path(self.place, chunk["filename"])
            if not path.is_file() or path.stat().st_size < least * chunk["chunk_bytes"]:
                lacking.append(f"{path.name} ({'cut off' if path.is_file() else 'missing'})")
        if lacking:
            raise GANError(
                f"{self.setting} {self.place} lacks {len(lacking)} of its {counted(len(index['chunks']), 'shard')}, "
                f"{lacking[0]} first: copy them there, or write all of them anew"
            )

    @property
    def count(self) -> int:
        """How many images there are."""
        return int(self.ends[-1])

    def dataset(self) -> "StreamingDataset":
        """The shards, for one thread to read.

        Raises:
            ValueError: If LitData is missing.
        """
        try:
            from litdata import StreamingDataset
        except ImportError as error:
            raise GANError('data in shards needs one more package: pip install "gan[stream]"') from error
        logging.getLogger("litdata.streaming.dataset").setLevel(logging.ERROR)  # it has wishes for the size of a cache
        room = {} if self.folder is None else {"cache_dir": str(self.folder), "max_cache_size": int(self.cache * 1e9)}
        dataset = StreamingDataset(self.place, **room)
        dataset[0:0]  # from here on it fetches whole shards, where it would images one by one
        return dataset

    def read(self, dataset: "StreamingDataset", stretches: Sequence[Stretch], fields: Fields) -> list[tuple]:
        """The images of some stretches as they lie: `(number, image, label)` of each.

        Raises:
            ValueError: If they cannot be read, or have no such fields.
        """
        from litdata.streaming.sampler import ChunkedIndex

        samples, last = [], stretches[-1].stop - 1
        for shard, start, stop in stretches:
            with self.told(self.names[shard]):
                # Not by a slice: of several processes it gives none beyond the share that LitData has for each. With
                # the last it lets go of the shard, which the cache may lose then.
                found = [dataset[ChunkedIndex(n, shard, is_last_index=n == last)] for n in range(start, stop)]
            for number, sample in enumerate(found, start):
                named = sample if isinstance(sample, dict) else dict(enumerate(sample))
                named = {str(name): value for name, value in named.items()}
                image = self.field(named, fields.image, "image")
                label = 0 if fields.label is None else self.field(named, fields.label, "label")
                # What LitData gives of bytes is a view of what it will overwrite.
                samples.append((number, bytes(image) if isinstance(image, memoryview) else image, label))
        return samples

    def field(self, sample: dict[str, Any], name: str, what: str) -> Any:
        """One of a sample's.

        Raises:
            ValueError: If it has none of that name.
        """
        if name not in sample:
            raise GANError(
                f"{self.setting} {self.place} has no {name!r} in its samples, but {', '.join(map(repr, sample))}"
                f"{or_meant(name, sample)}: say by data.{what}_field which is the {what}"
            )
        return sample[name]

    def first_mode(self, fields: Fields) -> Mode:
        """Grey or colour, with alpha or without, as the first image is."""
        dataset = self.dataset()
        ((_, image, _),) = self.read(dataset, [Stretch(0, 0, 1)], fields)
        try:
            return read_mode(io.BytesIO(image)) if isinstance(image, bytes) else natural(opened(image))
        except Unreadable as error:
            raise GANError(
                f"{self.setting} {self.place} begins with an image that cannot be read ({error}): say by data.channels "
                "whether images are grey or colour"
            ) from error

    @contextmanager
    def told(self, name: str | None = None) -> Iterator[None]:
        """Has what LitData raises said in a line."""
        try:
            yield
        except GANError:
            raise
        except Exception as error:  # of damaged shards and of clouds it raises anything
            what = self.place if name is None else f"{name} of {self.place}"
            why = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            way = "look at the network and its rights" if self.remote else "copy or write it anew"
            raise GANError(f"{self.setting}: {what} cannot be read: {why}: {way}") from error


def decoded(image: Any, size: int, mode: Mode, background: str) -> np.ndarray:
    """A sample's image as uint8 (C, size, size).

    Raises:
        Unreadable: If it is no image, or a damaged one.
    """
    if isinstance(image, bytes):
        return read_array(io.BytesIO(image), (size, size), mode, background)
    try:
        return array_of(opened(image), (size, size), mode, background)
    except Unreadable:
        raise
    except Exception as error:  # of Pillow
        raise Unreadable(reason(error)) from error


def opened(image: Any) -> Image.Image:
    """An image that was no file in its shard.

    Raises:
        Unreadable: If it is none.
    """
    if isinstance(image, Image.Image):
        return image
    array = np.asarray(image) if isinstance(image, Tensor | np.ndarray) else None
    if array is None or array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] not in (1, 3, 4):
        shape = "" if array is None else f" {array.dtype} {tuple(array.shape)}"
        raise Unreadable(f"a {type(image).__name__}{shape} and no file, PIL image or uint8 (C, H, W)")
    return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))
