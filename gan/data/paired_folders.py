"""Pairs to learn a translation from, as files: two folders of images with the same names."""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Never

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from gan.data.epochs import EpochLoader
from gan.data.memory import InMemoryDataModule
from gan.data.pairs import MID_GREY
from gan.data.reading import Mode, Unreadable, read_image, read_mode, suffixes
from gan.errors import GANError, counted
from gan.paths import local_path

SHOWN = 5  # names of files in an error


class PairedFolders(InMemoryDataModule):
    """Pairs from two folders of image files: a source and its target have the same name, but for the suffix.

    Files are read as `gan.data.reading.read_image` does: upright by EXIF, the first frame, in 8 bits, palettes and CMYK
    as colours. All sources have one size, and so have all targets. Either are grey if all its files are, and in
    colour otherwise. The alpha of targets is laid on white. That of sources, which all have or none, is a channel more,
    in which 0 is a hole; see `read_source`. Folders within, and what has no image's suffix, are not looked at.

    Which pairs are kept out of training for validation, or to test on, is told by a hash of the name: it is the same
    for every run, and more pairs leave those that are there where they are.

    Args:
        sources: Folder of the images to start from.
        targets: Folder of the images to make of them.
        batch_size: Training pairs per process and batch.
        validation_share: Share of the pairs for validation, from 0, for none, to below 1.
        test_share: Share of the pairs to test on, from 0, for none, to below 1.
        seed: Seed of the order of the training pairs.

    Raises:
        ValueError: If a setting is out of range, names do not pair up, or a file cannot be used.
    """

    def __init__(
        self,
        sources: str,
        targets: str,
        batch_size: int = 32,
        validation_share: float = 0.1,
        test_share: float = 0.1,
        seed: int = 42,
    ) -> None:
        super().__init__(batch_size, 0, seed)
        shares = {"validation_share": validation_share, "test_share": test_share}
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise GANError(f"data.{name} must be from 0 (none) to below 1, got {share}")
        self.sources = str(local_path(sources, "data.sources"))
        self.targets = str(local_path(targets, "data.targets"))
        self.validation_share = validation_share
        self.test_share = test_share

        from_, to = named_images(Path(self.sources), "data.sources"), named_images(Path(self.targets), "data.targets")
        if Path(self.sources).samefile(self.targets):
            raise GANError(f"data.sources and data.targets are both {self.sources}: give two folders")
        check_paired(from_, to)
        self._sources, self._targets = [*from_.values()], [to[name] for name in from_]
        self._source_mode: Mode = mode_of(self._sources, "data.sources")
        self._target_mode: Mode = "L" if mode_of(self._targets, "data.targets", mixed=True) in ("L", "LA") else "RGB"
        self.condition_shape = shape_of(read_all(self._sources[:1], self._source_mode, "data.sources"))
        self.image_shape = shape_of(read_all(self._targets[:1], self._target_mode, "data.targets"))

        until = test_share + validation_share
        places = [place_of(name) for name in from_]
        self._test = [number for number, place in enumerate(places) if place < test_share]
        validation = [number for number, place in enumerate(places) if test_share <= place < until]
        training = [number for number, place in enumerate(places) if until <= place]
        self._train, self.validation_size = validation + training, len(validation)
        pairs = counted(len(places), "pair")
        if not training:
            raise GANError(
                f"data.validation_share={validation_share} and data.test_share={test_share} leave nothing of {pairs} "
                "to train on: lower them"
            )
        for (name, share), some in zip(shares.items(), (validation, self._test), strict=True):
            if share > 0 and not some:
                rank_zero_warn(f"data.{name}={share} is none of {pairs}: raise it, or set it to 0")

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """uint8 targets `(N, *image_shape)`, and their sources `(N, *condition_shape)`."""
        numbers = self._train if train else self._test
        sources, targets = ([files[number] for number in numbers] for files in (self._sources, self._targets))
        return (
            read_all(targets, self._target_mode, "data.targets", self.image_shape),
            read_all(sources, self._source_mode, "data.sources", self.condition_shape),
        )

    def setup(self, stage: str | None = None) -> None:
        """Read what `stage` needs, once; of what there is nothing to test on, nothing.

        Args:
            stage: "fit" or "validate" for the training pairs, "test" for the test pairs, None for both.
        """
        if self._test or stage in ("fit", "validate"):
            super().setup(stage)
        elif stage is None:
            super().setup("fit")

    def validation_first(self, num: int) -> Tensor:
        """The order in which `load` gives the pairs."""
        return torch.arange(num)

    def test_dataloader(self) -> EpochLoader | list[Never]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Each test pair once. Empty if there is none, when Lightning has nothing to test on."""
        return super().test_dataloader() if self._test else []


# ---------------------------------------------------------------------- names


def named_images(folder: Path, setting: str) -> dict[str, Path]:
    """The image files that lie in a folder, by their names without suffix, in the order of these.

    Args:
        folder: The folder.
        setting: What an error calls it.

    Raises:
        ValueError: If it cannot be read, has no images, or two of one name.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        files = [path for path in paths if path.suffix.lower() in suffixes() and path.is_file()]
        within = next((f"; {path.name} is a folder in it: give that" for path in paths if path.is_dir()), "")
    except OSError as error:
        way_out = "; give the folder that it lies in" if isinstance(error, NotADirectoryError) else ""
        raise GANError(f"{setting} {folder} cannot be read: {error.strerror}{way_out}") from error
    if not files:
        raise GANError(f"{setting} {folder} has no images, such as files that end in .png or .jpg{within}")
    found: dict[str, Path] = {}
    for path in files:
        name = unicodedata.normalize("NFC", path.stem)  # one form of é, whichever a file system has
        if name in found:
            raise GANError(f"{setting} {folder} has {found[name].name} and {path.name}: leave one of that name")
        found[name] = path
    return dict(sorted(found.items()))


def check_paired(sources: dict[str, Path], targets: dict[str, Path]) -> None:
    """Refuses two folders, of which a file in one has no file of its name in the other.

    Raises:
        ValueError: If there is one, with the names and how many.
    """
    parts = []
    for files, others, kind in ((sources, targets, "target"), (targets, sources, "source")):
        alone = [path for name, path in files.items() if name not in others]
        if alone:
            have = "has" if len(alone) == 1 else "have"
            parts.append(f"{counted(len(alone), 'file')} of {alone[0].parent} {have} no {kind} ({listed(alone)})")
    if parts:
        raise GANError(
            f"names do not pair up: {' and '.join(parts)}. A source and its target have the same name, but for the "
            "suffix: rename them, or take them out"
        )


def listed(paths: Iterable[Path]) -> str:
    """`a.png, b.png`; the first few, where they are many."""
    names = [path.name for path in paths]
    return ", ".join([*names[:SHOWN], *["..."][: len(names) > SHOWN]])


def place_of(name: str) -> float:
    """A number in [0, 1) that is a name's own everywhere, as evenly spread over names as if it were drawn."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


# ---------------------------------------------------------------------- images


def read_source(path: Path, mode: Mode) -> Tensor:
    """A source, as a generator is given it: with alpha, colours lie on mid grey, so that a hole has no other.

    Args:
        path: The file.
        mode: Channels to give: `L` grey, `LA` grey and alpha, `RGB` colour, `RGBA` colour and alpha.

    Returns:
        uint8 (channels, height, width).

    Raises:
        Unreadable: If it is no image, or damaged.
    """
    image = read_image(path, mode=mode)
    if not mode.endswith("A"):
        return image
    colours, alpha = image[:-1].int(), image[-1:].int()
    return torch.cat([(colours * alpha + MID_GREY * (255 - alpha) + 127) // 255, alpha]).to(torch.uint8)


def read_all(paths: Sequence[Path], mode: Mode, setting: str, shape: tuple[int, int, int] | None = None) -> Tensor:
    """The images of files: uint8 (N, channels, height, width), see `read_source`.

    Args:
        paths: The files.
        mode: Channels to give.
        setting: What an error calls their folder.
        shape: Channels, height and width that they must have; those of the first, if None.

    Raises:
        ValueError: If one cannot be read, or is of another size.
    """
    images = of_each(partial(read_source, mode=mode), paths, setting)
    shape = shape or shape_of(images[0])
    others = [path for path, image in zip(paths, images, strict=True) if shape_of(image) != shape]
    if others:
        sizes = {f"{image.shape[1]} x {image.shape[2]}" for image in images if shape_of(image) != shape}
        raise GANError(
            f"{setting} {paths[0].parent} has {counted(len(others), 'file')} of another size than the others' "
            f"{shape[1]} x {shape[2]} pixels ({listed(others)}: {', '.join(sorted(sizes)[:SHOWN])}): resize or crop "
            "them to one"
        )
    return torch.stack(images)


def mode_of(paths: Sequence[Path], setting: str, mixed: bool = False) -> Mode:
    """The mode that holds the images of files: in colour, if any is; with alpha, if they have it.

    Args:
        paths: The files, of which the heads are read.
        setting: What an error calls their folder.
        mixed: Whether some may have alpha and others not.

    Raises:
        ValueError: If one cannot be read.
    """
    modes = of_each(read_mode, paths, setting)
    without = [path for path, mode in zip(paths, modes, strict=True) if not mode.endswith("A")]
    if without and len(without) < len(paths) and not mixed:
        raise GANError(
            f"{setting} {paths[0].parent} has {counted(len(without), 'file')} without alpha ({listed(without)}), and "
            f"{len(paths) - len(without):,} with it: give all of them an alpha channel, or none"
        )
    colour = any(mode.startswith("RGB") for mode in modes)
    if without:
        return "RGB" if colour else "L"
    return "RGBA" if colour else "LA"


def of_each(
    read: Callable[[Path], Any], paths: Sequence[Path], setting: str, way: str = "Mend them, or take them out"
) -> list[Any]:
    """What `read` makes of each file, by several threads.

    Args:
        read: What to do with a file.
        paths: The files.
        setting: What an error calls their folder.
        way: What it says is to be done.

    Raises:
        ValueError: If `read` raises `Unreadable`, with the names of the files and why.
    """

    def attempt(path: Path) -> Any:
        try:
            return read(path)
        except Unreadable as error:
            return error

    with ThreadPoolExecutor() as pool:  # Pillow and NumPy work without the interpreter's lock
        results = list(pool.map(attempt, paths))
    failed = {path.name: each for path, each in zip(paths, results, strict=True) if isinstance(each, Unreadable)}
    if failed:
        why = [f"{name} ({error})" for name, error in failed.items()]
        raise GANError(
            f"{setting} {paths[0].parent} has {counted(len(failed), 'file')} that cannot be used: "
            f"{', '.join([*why[:SHOWN], *['...'][: len(why) > SHOWN]])}. {way}"
        )
    return results


def shape_of(images: Tensor) -> tuple[int, int, int]:
    """Channels, height and width of images (..., C, H, W)."""
    channels, height, width = images.shape[-3:]
    return channels, height, width
