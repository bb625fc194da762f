"""Texts of a run, for the terminal, its loggers and the eye."""

from pathlib import Path
from textwrap import indent
from typing import Any

from lightning import Callback, Trainer

from gan.callbacks.run_progress import say
from gan.errors import GANError
from gan.loggers import log_text
from gan.module import GAN
from gan.outbox import outbox
from gan.spec import class_name
from gan.text import decoded, in_lines, shown


class TextLogger(Callback):
    """Writes what the generator makes of the same latents again and again, so that training can be watched.

    Text files go to `samples/` in the run's folder, and their lines to the loggers that take texts, both numbered by
    training batches: `samples/fixed` (from the module's `fixed_latents`) at the start, every `every` batches and at the
    end, and `samples/real` once. The first lines are said on the terminal too. The averaged generator writes where
    there is one. Nothing here touches training.

    Args:
        every: Training batches between two texts.
        lines: Lines of each that are said on the terminal; 0 for none.

    Raises:
        ValueError: If a setting is out of range, or the generator makes no texts.
    """

    def __init__(self, every: int = 500, lines: int = 2):
        if not every >= 1:
            raise GANError(f"TextLogger's every must be at least 1 training batch, got {every}")
        if not lines >= 0:
            raise GANError(f"TextLogger's lines must be at least 0, got {lines}")
        self.every = every
        self.lines = lines
        self.last_written = -1

    def on_fit_start(self, trainer: Trainer, pl_module: GAN) -> None:
        characters_of(pl_module, "TextLogger", "use ImageLogger")

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        self.last_written = -1  # of another `fit`
        if trainer.global_step == 0:  # a resumed run has its first texts
            self.write_fixed(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: GAN, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 0:
            self.write(trainer, pl_module, "real", batch[0][: len(pl_module.fixed_latents)])

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every == 0:
            self.write_fixed(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:
        self.write_fixed(trainer, pl_module)

    def write_fixed(self, trainer: Trainer, pl_module: GAN) -> None:
        """Writes the texts of the fixed latents, unless this batch has them already."""
        if trainer.global_step == self.last_written:
            return
        self.last_written = trainer.global_step
        texts = self.write(trainer, pl_module, "fixed", pl_module(pl_module.fixed_latents))
        for text in texts[: self.lines]:
            say(trainer, f"text           batch {trainer.global_step:,}: {shown(text)}")

    def write(self, trainer: Trainer, pl_module: GAN, name: str, samples: Any) -> list[str]:
        """Writes samples (N, V, L) as lines to `samples/`, logs and returns them."""
        texts = decoded(samples, characters_of(pl_module, "TextLogger", "use ImageLogger"))
        if trainer.is_global_zero:
            number = "" if name == "real" else f"_{trainer.global_step:06d}"
            lines = in_lines(texts)
            outbox(trainer).write(Path(trainer.default_root_dir, "samples", f"{name}{number}.txt"), lines.encode())
            log_text(trainer, f"samples/{name}", indent(lines, "    "))  # code, in Markdown
        return texts


def characters_of(gan: GAN, callback: str, instead: str) -> str:
    """The characters that a generator's texts are made of.

    Raises:
        GANError: If it makes no texts, with what to do instead.
    """
    characters = getattr(gan.generator, "characters", None)
    if characters is None:
        raise GANError(f"{callback} is for texts, and {class_name(gan.generator)} makes none: {instead}")
    return characters
