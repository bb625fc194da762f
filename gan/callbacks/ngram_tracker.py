"""How near a run's texts have come to real ones, as it trains and when it has ended."""

import math
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchmetrics import MetricCollection

from gan.callbacks.run_progress import ends_with_epoch, say
from gan.callbacks.text_logger import characters_of
from gan.errors import GANError, counted
from gan.metrics import NgramDistance
from gan.module import GAN
from gan.noise import keyed
from gan.weights import sampled, share_buffers

CHUNK = 500  # texts made at a time, over all processes
SIZES = (1, 2, 3, 4)  # characters of an n-gram


class NgramTracker(Callback):
    """Scores a generator of texts during training and in `validate`, by n-grams of 1 to 4 characters in held-out text.

    A score is the Jensen-Shannon divergence in bits, see `gan.metrics.NgramDistance`; its floor is that of as many
    sequences of the text that is trained on. The averaged generator is scored where there is one. During training all
    scores are of the same latents, so that a curve shows the weights and not the draw; the last one, and `validate`,
    are of others and of more. Nothing here touches training.

    The scalars are `ngram/1` to `ngram/4`, which a ModelCheckpoint, EarlyStopping or ReduceLROnPlateau can monitor, and
    `ngram_floor/1` to `ngram_floor/4`; those of the last one `ngram_of_end/1` and so on.

    Args:
        every: Training batches between two scores. The start and the end of a run are scored in any case.
        num_samples: Texts that are generated for a score in training.
        final_samples: Texts that are generated for the report at the end, and in `validate`.

    Raises:
        ValueError: If a setting is out of range, the generator makes no texts, or the data has none.
    """

    def __init__(self, every: int = 500, num_samples: int = 2000, final_samples: int = 10_000):
        if not every >= 1:
            raise GANError(f"NgramTracker's every must be at least 1 training batch, got {every}")
        for name, number in (("num_samples", num_samples), ("final_samples", final_samples)):
            if not number >= 1:
                raise GANError(f"NgramTracker's {name} must be at least 1 text, got {number}")
        self.every = every
        self.num_samples = num_samples
        self.final_samples = final_samples
        self.scored_at = -1
        self.floors: dict[int, dict[str, float]] = {}  # by the number of texts

    # ------------------------------------------------------------------ training

    def on_fit_start(self, trainer: Trainer, pl_module: GAN) -> None:
        self.prepare(trainer, pl_module)
        pl_module.scores = {*pl_module.scores, *self.names}

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        self.scored_at = -1  # of another `fit`
        if trainer.global_step == 0:
            self.track(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self.track(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if ends_with_epoch(trainer):
            self.track(trainer, pl_module)

    def track(self, trainer: Trainer, pl_module: GAN) -> None:
        """Scores the generator of this batch, and logs it."""
        if trainer.global_step == self.scored_at:
            return
        self.scored_at = trainer.global_step
        scores = self.score(pl_module, self.num_samples, "curve")
        pl_module.log_scores(scores | of_floor(self.floor(pl_module, self.num_samples)))

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:
        scores, floor = self.report(pl_module)
        for logger in trainer.loggers:
            logger.log_metrics(of_end(scores | of_floor(floor)), step=trainer.global_step)
        each = ", ".join(f"{scores[name]:.4f} ({floor[name]:.4f})" for name in scores)
        say(trainer, f"n-grams        of 1 to {len(scores)} characters, and floors: {each}; {self.terms(pl_module)}")

    # ------------------------------------------------------------------ validate

    def setup(self, trainer: Trainer, pl_module: GAN, stage: str) -> None:
        loop = {"validate": trainer.validate_loop, "test": trainer.test_loop}.get(stage)
        self.verbose = loop is not None and loop.verbose
        if loop is not None:
            # Lightning's table would show the same scores, without saying what they are.
            loop.verbose = False

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if trainer.state.fn == "fit":
            return
        self.prepare(trainer, pl_module)
        scores, floor = self.report(pl_module)
        pl_module.log_dict(scores | of_floor(floor), sync_dist=True)
        self.rows = scores, floor

    on_test_epoch_end = on_validation_epoch_end  # pyright: ignore[reportAssignmentType] # a GAN, see pyproject

    def on_validation_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if trainer.state.fn == "fit" or not self.verbose:
            return
        table = Table("characters of an n-gram", "generated", "real")
        for name, value in self.rows[0].items():
            table.add_row(name.removeprefix("ngram/"), f"{value:.4f}", f"{self.rows[1][name]:.4f}")
        console = Console(highlight=False, soft_wrap=True, quiet=not trainer.is_global_zero)
        console.print(f"Jensen-Shannon divergence of n-grams, in bits: {self.terms(pl_module)}", markup=False)
        console.print(table)
        loss = float(trainer.callback_metrics["validation/discriminator"])
        console.print(f"Loss of the discriminator on texts it has not seen: {loss:.3f}")

    on_test_end = on_validation_end  # pyright: ignore[reportAssignmentType] # likewise

    # ------------------------------------------------------------------ scores

    def prepare(self, trainer: Trainer, pl_module: GAN) -> None:
        """Takes the text that is held out, and checks that it is what the generator makes."""
        characters = characters_of(pl_module, "NgramTracker", "use FIDTracker")
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
        if getattr(data, "characters", None) != characters:
            raise GANError("NgramTracker needs text that is held out: give the trainer the generator's TextDataModule")
        self.train, self.real, self.floors = data.sequences("train"), data.sequences("held_out"), {}
        length = self.real.shape[1]
        metrics: dict[str, Any] = {f"ngram/{n}": NgramDistance(n, length) for n in SIZES if n <= length}
        self.names = [*metrics]
        self.metrics = MetricCollection(metrics, compute_groups=[self.names]).to(pl_module.device)

    def report(self, pl_module: GAN) -> tuple[dict[str, float], dict[str, float]]:
        """The scores of the end of a run, and their floor."""
        return self.score(pl_module, self.final_samples, "report"), self.floor(pl_module, self.final_samples)

    def score(self, pl_module: GAN, num: int, noise: str) -> dict[str, float]:
        """The scores of `num` texts that the generator makes of latents by the run's seed and `noise` alone.

        NaN, with a warning, where texts are: the largest of a position's numbers would be no character.
        """
        share_buffers(pl_module, sampled(pl_module))
        damaged = torch.zeros((), device=pl_module.device)  # texts of this process
        for chunk in range(-(-num // CHUNK)):
            latents = pl_module.latents(CHUNK, pl_module.rng("score", noise, chunk))
            texts = pl_module(share(pl_module, latents[: num - chunk * CHUNK]))
            damaged += (~texts.isfinite()).flatten(1).any(1).sum()
            self.metrics.update(texts, real=False)
        scores = self.against_real(pl_module)
        if pl_module.trainer.strategy.reduce(damaged, reduce_op="sum"):
            rank_zero_warn(f"no n-gram scores of batch {pl_module.global_step:,}: the generator makes NaN or infinity")
            return dict.fromkeys(scores, math.nan)
        return scores

    def floor(self, pl_module: GAN, num: int) -> dict[str, float]:
        """The scores of `num` sequences of the text that is trained on."""
        if num not in self.floors:
            drawn = torch.randint(len(self.train), (num,), generator=keyed(0, "n-gram floor"))
            self.metrics.update(share(pl_module, self.train[drawn.to(self.train.device)]), real=False)
            self.floors[num] = self.against_real(pl_module)
        return self.floors[num]

    def against_real(self, pl_module: GAN) -> dict[str, float]:
        """What the metrics say of the texts that they have been given."""
        self.metrics.update(share(pl_module, self.real), real=True)
        scores = {name: float(value) for name, value in self.metrics.compute().items()}
        self.metrics.reset()
        return scores

    def terms(self, pl_module: GAN) -> str:
        """What the scores of the end are of, without which they mean nothing."""
        length = self.real.shape[1]
        texts = counted(self.final_samples, f"text of {length}", f"texts of {length}")
        return f"{texts} against {counted(self.real.numel(), 'character')} held out"


def share(gan: GAN, rows: Tensor) -> Tensor:
    """This process's part of rows (N, ...)."""
    return rows.tensor_split(gan.trainer.world_size)[gan.trainer.global_rank]


def of_floor(scores: dict[str, float]) -> dict[str, float]:
    """Scores under the names of a floor."""
    return {name.replace("ngram/", "ngram_floor/"): value for name, value in scores.items()}


def of_end(scores: dict[str, float]) -> dict[str, float]:
    """Scores, and floors, under the names of those of the end."""
    return {name.replace("/", "_of_end/"): value for name, value in scores.items()}
