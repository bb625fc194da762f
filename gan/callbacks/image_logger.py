"""Pictures of a run, for its loggers and for the eye."""

import re
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from gan.errors import GANError
from gan.images import encoded, image_grid, show, to_pil, visible
from gan.loggers import log_image
from gan.module import GAN
from gan.networks import slerp
from gan.outbox import outbox
from gan.spec import class_name

MAX_FRAMES = 100  # of the animation: past that a long run's GIF would be too large to share


class ImageLogger(Callback):
    """Draws what the generator makes of the same latents again and again, so that training can be watched.

    Writes PNGs to `samples/` in the run's folder, and logs them, both numbered by training batches:
    `samples/fixed` (from the module's `fixed_latents`) at the start, every `every` batches and at the end,
    `samples/real` once, and `samples/interpolation` at the end. At the end, `samples/training.gif` shows all fixed
    grids in turn. Of a conditional generator each row of the fixed grid shows one class, and `samples/classes.txt` says
    which. The averaged generator is drawn where there is one. In a notebook, the latest fixed grid is shown
    inline. Nothing here touches training.

    Of a generator that makes images from images, the fixed grid shows what it makes of the module's `fixed_condition`;
    `samples/translation`, with each fixed grid, the same images between their sources and their targets; the
    interpolation a source a row, with other latents in each column; and `samples/training.gif` the translations. Where
    there are no sources, because there is no data module or it holds out no images, a warning says so and nothing is
    drawn but `samples/real`.

    Args:
        every: Training batches between two pictures.
    """

    def __init__(self, every: int = 500):
        if not every >= 1:
            raise GANError(f"ImageLogger's every must be at least 1 training batch, got {every}")
        self.every = every
        self.last_drawn = -1
        self.shown: Any = None  # in a notebook

    def on_fit_start(self, trainer: Trainer, pl_module: GAN) -> None:
        check_makes_images(pl_module, "ImageLogger draws images", "TextLogger")

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        self.shown = None  # by another `fit`
        if not can_draw(pl_module):
            rank_zero_warn(
                "no pictures of what the generator makes: it is told source images, and there are none to draw. Give a "
                "data module with test or validation images"
            )
        if trainer.global_step == 0:  # a resumed run has its first picture
            self.draw_fixed(trainer, pl_module)
            labels = pl_module.fixed_condition
            if pl_module.num_classes is not None and labels is not None and trainer.is_global_zero:
                of_rows = labels[:: pl_module.fixed_columns].tolist()
                names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
                text = "".join(
                    f"row {row} of fixed_*.png: class {label}{'' if names is None else f', {names[label]}'}\n"
                    for row, label in enumerate(of_rows, start=1)
                )
                outbox(trainer).write(Path(trainer.default_root_dir, "samples", "classes.txt"), text.encode())

    def on_train_batch_start(self, trainer: Trainer, pl_module: GAN, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 0:
            save_grid(trainer, "real", batch[0][: len(pl_module.fixed_latents)])

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every == 0:
            self.draw_fixed(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:
        self.draw_fixed(trainer, pl_module)
        if not can_draw(pl_module):
            return
        first, second = pl_module.fixed_latents[:8], pl_module.fixed_latents[-8:]
        steps = torch.linspace(0, 1, 8, device=first.device, dtype=first.dtype)
        path = torch.stack([slerp(first, second, t) for t in steps], dim=1)  # (rows, 8, latent_dim)
        of_rows = pl_module.classes_in_turn(len(path)) if pl_module.fixed_sources is None else pl_module.fixed_sources
        condition = None if of_rows is None else of_rows[: len(path)].repeat_interleave(len(steps), dim=0)
        save_grid(trainer, "interpolation", pl_module(path.flatten(0, 1), condition), columns=len(steps))
        folder = Path(trainer.default_root_dir, "samples")
        name = "fixed" if pl_module.condition_shape is None else "translation"
        if trainer.is_global_zero and (animation := animate(folder, name)):
            outbox(trainer).write(folder / "training.gif", animation)

    def draw_fixed(self, trainer: Trainer, pl_module: GAN) -> None:
        """Draws the images of the fixed latents, unless this batch has its picture already."""
        if trainer.global_step != self.last_drawn and can_draw(pl_module):
            self.last_drawn = trainer.global_step
            images = pl_module(pl_module.fixed_latents, pl_module.fixed_condition)
            picture = save_grid(trainer, "fixed", images, pl_module.fixed_columns)
            sources, targets = pl_module.fixed_sources, pl_module.fixed_target
            if sources is not None and targets is not None:
                once = len(targets)
                trios = in_rows(sources[:once], images[:once], targets)
                picture = save_grid(trainer, "translation", trios, columns=max(1, round((len(trios) / 3) ** 0.5)))
            if picture is not None:
                self.shown = show(picture, self.shown)


def in_rows(sources: Tensor, *others: Tensor) -> Tensor:
    """Sources (N, C', H', W') beside other images of each (N, C, H, W): pictures (N, C'', H, W'') in [-1, 1].

    Sources are resized, each pixel becoming a block where they are smaller, and what they hide is grey.
    """
    sources = interpolate(without_alpha(sources, others[0].shape[1]), others[0].shape[2:], mode="nearest-exact")
    tiles = [visible(tile) for tile in (sources, *others)]
    channels = max(tile.shape[1] for tile in tiles)
    tiles = [with_channels(tile.float(), channels) for tile in tiles]
    gap = torch.ones_like(tiles[0][..., :2])
    return torch.cat([part for tile in tiles for part in (tile, gap)] + [gap], dim=3)


def without_alpha(sources: Tensor, channels: int) -> Tensor:
    """Sources (N, C', H, W) laid on grey, where their last channel is alpha beside images of so many channels."""
    if sources.shape[1] == channels or sources.shape[1] not in (channels + 1, 2, 4):
        return sources
    shown = (sources[:, -1:] + 1) / 2  # 0 where nothing is to be seen
    return sources[:, :-1] * shown


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Images (N, C, H, W) of one channel as colour, and of three as opaque, if they are to have so many channels."""
    if images.shape[1] == 1 and channels > 1:
        images = images.expand(-1, 3, -1, -1)
    missing = channels - images.shape[1]
    return torch.cat([images, torch.ones_like(images[:, :1]).expand(-1, missing, -1, -1)], dim=1)


def check_makes_images(gan: GAN, what: str, instead: str) -> None:
    """Refuses a generator of samples that are no images.

    Args:
        gan: Whose generator states a `sample_shape` then.
        what: What cannot be done with these.
        instead: The callback for texts.

    Raises:
        GANError: If it makes no images.
    """
    if hasattr(gan.generator, "sample_shape"):
        raise GANError(
            f"{what}, and {class_name(gan.generator)} makes none: leave it out of trainer.callbacks, or for texts "
            f"take {instead}"
        )


def can_draw(gan: GAN) -> bool:
    """Whether there is what its images are to be made of: source images, for a generator that is told them."""
    return gan.condition_shape is None or gan.fixed_sources is not None


def save_grid(trainer: Trainer, name: str, images: Tensor, columns: int | None = None) -> Image.Image | None:
    """Writes images (N, C, H, W) in [-1, 1] as one grid to `samples/`, logs it, and returns it, on the first rank.

    All ranks must have made them.
    """
    if not trainer.is_global_zero:
        return None
    grid = to_pil(image_grid(images, columns))
    folder = Path(trainer.default_root_dir, "samples")
    number = "" if name == "real" else f"_{trainer.global_step:06d}"
    outbox(trainer).write(folder / f"{name}{number}.png", encoded(grid))
    log_image(trainer, f"samples/{name}", grid)
    return grid


def animate(folder: Path, name: str = "fixed") -> bytes | None:
    """The `<name>_*.png` of a folder in turn, as a GIF, at most 100 and the last one held; None if there are none."""
    found = ((re.fullmatch(rf"{name}_(\d+)\.png", path.name), path) for path in folder.glob(f"{name}_*.png"))
    # By number: a name of a million batches and more stands before those of fewer.
    pictures = [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]
    if len(pictures) > MAX_FRAMES:
        chosen = torch.linspace(0, len(pictures) - 1, MAX_FRAMES).round().int().tolist()
        pictures = [pictures[index] for index in chosen]
    frames = [Image.open(picture) for picture in pictures]
    durations = [120] * (len(frames) - 1) + [2500]  # milliseconds
    if not frames:
        return None
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
