"""How near a run's images have come to real ones, as it trains and when it has ended.

FID: Heusel et al. 2017, arXiv 1706.08500.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from rich.table import Table
from torch import nn

from gan.callbacks.images import save_grid, tensorboards
from gan.callbacks.scores import Generated, Judge, NotFinite
from gan.checkpoints import best_path
from gan.metrics import fingerprint, load_features
from gan.module import GAN

ROWS = {  # of the table: a score, what it is called, and how it is written
    "fid": ("FID", "{:.3f}"),
    "fid_infinity": ("FID of infinitely many", "{:.3f}"),
    "kid": ("KID", "{:.5f}"),
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
    "density": ("density", "{:.3f}"),
    "coverage": ("coverage", "{:.3f}"),
    "modes_covered": ("classes covered", "{:.0f}"),
    "entropy": ("entropy of the classes, nats", "{:.3f}"),
    "inception_score": ("inception score", "{:.3f}"),
    "accuracy_score": ("accuracy of a classifier trained on it", "{:.3f}"),
}


class FIDTracker(Callback):
    """Scores the generator during training and in `validate`: FID, KID, precision, recall, density, coverage.

    Where the extractor is a classifier, also the classes covered, their entropy and the inception score. The averaged
    generator is scored where there is one. Generated images are held against the test images; the floor is the mean
    FID that real training images have there, of up to five draws of as many of them. Below all of these a generator
    has learnt images by heart, or something is measured wrongly: that is a warning. Nothing here touches training,
    and no score is ever NaN: where there is none, a warning says why.

    During training all scores are of the same latents, so that a curve shows the weights and not the draw. At the end,
    the generator of the best score is scored again, with other latents and more of them: the lowest of many scores
    is in part luck.

    The scalars are `fid/<extractor>` and so on; `ModelCheckpoint(monitor="fid/mnist_cnn")` can watch them, and
    RunCheckpoint keeps `best.ckpt` by the first tracker of a run.

    Args:
        extractor: What sees the images: `auto` for the one that is shipped for the data, the name of a shipped one, the
            path of a file that `scripts/train_features.py` has written, or a module that turns images (N, C, H, W) in
            [-1, 1] into features (N, D). It may have a method `classify` that turns those into logits (N, K).
        every: Batches or epochs between two scores.
        unit: What `every` counts. The last batch of a run is scored in any case.
        num_samples: Images that are generated for a score in training.
        final_samples: Images that are generated for the report at the end, and in `validate`.

    Raises:
        ValueError: if a setting is out of range, the extractor cannot be used, or there are no real images.
    """

    def __init__(
        self,
        extractor: nn.Module | str = "auto",
        every: int = 500,
        unit: Literal["batches", "epochs"] = "batches",
        num_samples: int = 1000,
        final_samples: int = 10_000,
    ):
        if every < 1:
            raise ValueError(f"FIDTracker's every is a number of {unit} of at least 1, and is {every}")
        for name, number in (("num_samples", num_samples), ("final_samples", final_samples)):
            if number < 20:
                raise ValueError(f"FIDTracker's {name} is a number of images of at least 20, and is {number}")
        self.extractor = extractor
        self.every = every
        self.unit = unit
        self.num_samples = num_samples
        self.final_samples = final_samples
        self.judge: Judge | None = None
        self.best: float | None = None  # the lowest FID in training
        self.best_step = -1  # the batches completed when it was measured
        self._scored_at = -1

    @property
    def state_key(self) -> str:
        return f"FIDTracker {self.extractor if isinstance(self.extractor, str) else type(self.extractor).__name__}"

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "what": self.what()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["what"] == self.what():  # scores of other features, or of another number of images, do not compare
            self.best, self.best_step = state["best"], state["best_step"]

    def what(self) -> list[Any]:
        return [None if self._module is None else fingerprint(self._module), self.num_samples]

    # ------------------------------------------------------------------ start

    def setup(self, trainer: Trainer, pl_module: GAN, stage: str) -> None:
        self._module, self.name, data = None, None, trainer.datamodule
        choice = self.extractor
        if choice == "auto":
            choice = getattr(data, "extractor", None)
            if choice is None:
                return  # `on_train_start` says so
        if data is None:
            raise ValueError("FIDTracker needs training and test images: give the trainer a data module")
        self._module = load_features(choice) if isinstance(choice, str) else choice
        self._module.eval().requires_grad_(False)
        self.name = name_of(choice)
        loop = {"validate": trainer.validate_loop, "test": trainer.test_loop}.get(stage)
        if loop is not None:  # Lightning's table would show the same scores, without saying what they are
            self._verbose, loop.verbose = loop.verbose, False

    @property
    def active(self) -> bool:
        """Whether there is something to see images with."""
        return self._module is not None

    def prepare(self, trainer: Trainer) -> None:
        """Measures the real images, unless that is done."""
        if self.judge is None or self.judge.trainer is not trainer:
            data = trainer.datamodule
            self._module.to(trainer.strategy.root_device)
            self.judge = Judge(trainer, self._module, data.train_dataloader(), data.test_dataloader())

    def on_fit_start(self, trainer: Trainer, pl_module: GAN) -> None:
        if self.active:
            self.prepare(trainer)

    # ------------------------------------------------------------------ training

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        if self.active:
            self.say(trainer, f"FID            of {self.terms(self.num_samples)}")
        else:
            name = type(trainer.datamodule).__name__
            self.say(
                trainer,
                f"FID            none: no features are shipped for {name}; scripts/train_features.py trains some",
            )

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if (self.unit == "batches" and step % self.every == 0) or step == trainer.max_steps:
            self.track(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if self.unit == "epochs" and (trainer.current_epoch + 1) % self.every == 0:
            self.track(trainer, pl_module)

    def track(self, trainer: Trainer, pl_module: GAN) -> None:
        """Scores the generator of this batch, and logs it."""
        if not self.active or trainer.global_step == self._scored_at:
            return
        self._scored_at = trainer.global_step
        generated = self.generate(pl_module, self.num_samples, "curve")
        if generated is None:
            return
        scores = self.judge.scores(generated) | {"fid_floor": mean(self.judge.floor(self.num_samples))}
        pl_module.log_scalars(self.named(scores))
        self.draw_classes(trainer, generated)
        if self.best is None or scores["fid"] < self.best:
            self.best, self.best_step = scores["fid"], trainer.global_step

    def generate(self, pl_module: GAN, num: int, noise: str) -> Generated | None:
        """Images and their features; None, with a warning, where they have none. Warns of scores that are too good."""
        try:
            generated = self.judge.generate(pl_module, num, noise)
        except NotFinite as error:
            rank_zero_warn(f"no FID of batch {pl_module.global_step:,}: {error}")
            return None
        fid, draws = self.judge.fid(generated), self.judge.floor(num)
        if fid < min(draws):
            rank_zero_warn(
                f"FID {fid:.4f} is below the floor, {min(draws):.4f} to {max(draws):.4f} for real training images: too "
                "good to be true. The generator has learnt images by heart (see samples/nearest), or test images are "
                "among those it trains on"
            )
        return generated

    def draw_classes(self, trainer: Trainer, generated: Generated) -> None:
        logits = self.judge.logits(generated.features)
        if logits is None:
            return
        edges = torch.arange(logits.shape[1] + 1).sub(0.5).tolist()
        for logger in tensorboards(trainer):
            logger.experiment.add_histogram(f"classes/{self.name}", logits.argmax(1), trainer.global_step, bins=edges)

    # ------------------------------------------------------------------ the end

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if not self.active or self._scored_at < 0:
            return
        weights = best_weights(trainer, self.best_step) if self.best_step < trainer.global_step else None
        step = trainer.global_step if weights is None else self.best_step
        with holding(trainer, pl_module, weights):
            generated = self.generate(pl_module, self.final_samples, "report")
            if generated is None:
                return
            sheet = self.judge.nearest_images(pl_module, 16, "report")
        fid = self.judge.fid(generated)
        for logger in trainer.loggers:
            logger.log_metrics(self.named({"fid_of_best": fid}), step=trainer.global_step)
        save_grid(trainer, "nearest", sheet.flatten(0, 1), columns=sheet.shape[1])
        best = ", the best" if step == self.best_step else ""
        self.say(trainer, f"FID            {fid:.3f} of batch {step:,}{best}; {self.terms(self.final_samples)}")

    # ------------------------------------------------------------------ validate

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if trainer.state.fn == "fit" or not self.active:
            return
        self.prepare(trainer)
        self.table = None
        generated = self.generate(pl_module, self.final_samples, "report")
        if generated is None:
            return
        scores = self.judge.scores(generated)
        more = {
            "fid_infinity": self.judge.fid_infinity(generated),
            "accuracy_score": self.judge.accuracy_score(pl_module, self.final_samples, "report"),
        }
        scores |= {metric: value for metric, value in more.items() if value is not None}
        pl_module.log_dict(self.named(scores), sync_dist=True)
        self.table = scores, self.judge.real_scores(self.final_samples)

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if trainer.state.fn != "fit" and self.active and self._verbose and trainer.is_global_zero:
            loss = float(trainer.callback_metrics["validation/discriminator"])
            console = Console(highlight=False, soft_wrap=True)
            console.print(f"Scores of {self.terms(self.final_samples)}")
            console.print(table(self.table, loss))

    on_test_end = on_validation_end

    # ------------------------------------------------------------------ words

    @property
    def id(self) -> str:
        """What the images are seen with, beyond confusion."""
        return f"{self.name} {self.judge.id}"

    def named(self, scores: dict[str, float]) -> dict[str, float]:
        return {f"{metric}/{self.name}": value for metric, value in scores.items()}

    def say(self, trainer: Trainer, text: str) -> None:
        if trainer.progress_bar_callback is not None:
            trainer.progress_bar_callback.print(text)

    def terms(self, num: int) -> str:
        """What a score of `num` images is by, without which it means nothing."""
        real, floor = len(self.judge.real), mean(self.judge.floor(num))
        return f"{num:,} images against {real:,} test images, by {self.id}; floor {floor:.3f}"


def name_of(extractor: str | nn.Module) -> str:
    """What an extractor is called in the names of scalars: mnist_cnn, inception."""
    if isinstance(extractor, str):
        return Path(extractor).stem
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(extractor).__name__).lower()


def best_weights(trainer: Trainer, step: int) -> dict[str, Any] | None:
    """The checkpoint of the best score, if there is one and it is of batch `step`."""
    path = best_path(trainer.default_root_dir)
    if not trainer.strategy.broadcast(path.exists()):
        return None
    checkpoint = trainer.strategy.load_checkpoint(path, weights_only=True)
    return checkpoint if checkpoint["global_step"] == step else None


@contextmanager
def holding(trainer: Trainer, gan: GAN, checkpoint: dict[str, Any] | None) -> Iterator[None]:
    """Gives the module the weights of a checkpoint, if there is one, and afterwards its own again."""
    if checkpoint is None:
        yield
        return
    own = {name: value.clone() for name, value in gan.state_dict().items()}
    trainer.strategy.load_model_state_dict(checkpoint)
    try:
        yield
    finally:
        gan.load_state_dict(own)


def table(scores: tuple[dict[str, float], dict[str, float]] | None, loss: float) -> Table:
    """Scores of generated images, beside those of as many real ones."""
    rows = Table("score")
    for images in ("generated", "real"):
        rows.add_column(images, justify="right")
    generated, real = scores or ({}, {})
    for metric, (name, form) in ROWS.items():
        if metric in generated:
            rows.add_row(name, form.format(generated[metric]), form.format(real[metric]) if metric in real else "")
    rows.add_row("loss of the discriminator", f"{loss:.3f}", "")
    return rows
