"""How near a run's images have come to real ones, as it trains and when it has ended.

FID: Heusel et al. 2017, arXiv:1706.08500.
"""

import re
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Literal, cast

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console
from torch import Tensor, nn

from gan.callbacks.image_logger import check_makes_images, save_grid
from gan.callbacks.run_progress import ends_with_epoch, say
from gan.data import InMemoryDataModule
from gan.errors import GANError, counted
from gan.loggers import log_histogram
from gan.metrics import fingerprint, load_features
from gan.metrics.evaluator import Evaluator, Generated, NotFinite
from gan.metrics.feature_cache import CHUNK
from gan.metrics.features import doubt
from gan.metrics.paired import LPIPS
from gan.metrics.table import scalar, table
from gan.module import GAN
from gan.noise import keyed, seed_all
from gan.order import callbacks_of
from gan.spec import class_name
from gan.train_features import command_for
from gan.weights import holding, sampled, share_buffers, weights_of


class FIDTracker(Callback):
    """Scores the generator during training and in `validate`: FID, KID, precision, recall, density, coverage.

    Where the extractor is a classifier, also the classes covered, their entropy and the inception score. Of a generator
    that makes images from images, also PSNR and SSIM: it is given the sources of the test images one after the other,
    and what it makes is held against those. The averaged generator is scored where there is one. Generated images are
    held against the test images; the floor is the mean FID that real training images have there, of up to five draws of
    as many of them. Below all of these a generator has learnt images by heart, or something is measured wrongly: that
    is a warning, but where it is given the test images' own sources, which may well bring it nearer. Nothing here
    touches training, and no score is ever NaN: where there is none, a warning says why.

    During training all scores are of the same latents, so that a curve shows the weights and not the draw. At the end,
    the generator of the best score, or where no checkpoint has it the last one, is scored again, with other latents and
    more of them: the lowest of many scores is in part luck.

    The scalars are `fid/<extractor>` and so on. `ModelCheckpoint(monitor="fid/mnist_cnn")` can watch them, and so can
    EarlyStopping and `lightning.pytorch.cli.ReduceLROnPlateau`: each looks when a score has been measured, and its
    patience counts scores. RunCheckpoint keeps `best.ckpt` by the first tracker of a run.

    Args:
        extractor: What sees the images: `auto` for the one that is shipped for the data, the name of a shipped one, the
            path of a file that the command `train_features` has written, or a module that turns images (N, C, H, W)
            in [-1, 1] into features (N, D). It may have a method `classify` that turns those into logits (N, K).
        every: Batches or epochs between two scores.
        unit: What `every` counts. The end of a run is scored in any case.
        num_samples: Images that are generated for a score in training.
        final_samples: Images that are generated for the report at the end, and in `validate`.
        lpips: For generators that make images from images, the file of AlexNet's weights that LPIPS is measured by,
            a state dict of torchvision's; not measured if not given.

    Raises:
        ValueError: If a setting is out of range, the extractor cannot be used, or there are no real images.
    """

    def __init__(
        self,
        extractor: Literal["auto"] | nn.Module | str = "auto",  # in this order: a name is looked up among all modules
        every: int = 500,
        unit: Literal["batches", "epochs"] = "batches",
        num_samples: int = 1000,
        final_samples: int = 10_000,
        lpips: str | None = None,
    ):
        if not every >= 1:
            raise GANError(f"FIDTracker's every is a number of {unit} of at least 1, and is {every}")
        for name, number in (("num_samples", num_samples), ("final_samples", final_samples)):
            if not number >= 20:
                raise GANError(
                    f"FIDTracker's {name} is a number of images of at least 20, and is {number}; for no scores, leave "
                    "FIDTracker out"
                )
        self.extractor = extractor
        self.every = every
        self.unit = unit
        self.num_samples = num_samples
        self.final_samples = final_samples
        self.lpips = lpips
        self.evaluator: Evaluator = None  # pyright: ignore[reportAttributeAccessIssue] # until `prepare`
        self.best: float | None = None  # the lowest FID in training
        self.best_step = -1  # the batches completed when it was measured
        self.latest: dict[str, float] = {}  # the latest scores in training, and their `step`
        self._scored_at = -1
        self._module: nn.Module | None = None
        self._id = ""  # what tells the extractor from all others
        self._own = extractor if isinstance(extractor, str) else fingerprint(extractor)
        self._trainer: Trainer | None = None

    @property
    def state_key(self) -> str:
        return f"FIDTracker {self._own}"

    def state_dict(self) -> dict[str, Any]:
        what = [self._id, self.num_samples]
        return {"best": self.best, "best_step": self.best_step, "latest": self.latest, "what": what}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Scores of other features, or of another number of images, do not compare.
        if state["what"] == [self._id, self.num_samples]:
            self.best, self.best_step, self.latest = state["best"], state["best_step"], state.get("latest", {})

    # ------------------------------------------------------------------ start

    def setup(self, trainer: Trainer, pl_module: GAN, stage: str) -> None:
        if stage not in ("fit", "validate", "test"):
            return
        check_makes_images(pl_module, "FIDTracker scores images", "NgramTracker")
        if trainer is not self._trainer:
            self._trainer, self.best, self.best_step, self._scored_at, self.latest = trainer, None, -1, -1, {}
        choice, data = self.extractor, trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
        if stage == "validate" and trainer.limit_val_batches == 0:
            raise GANError("there is nothing to validate on: set data.validation_size above 0, or use `test`")
        loop = {"validate": trainer.validate_loop, "test": trainer.test_loop}.get(stage)
        self._verbose = loop is not None and loop.verbose
        if choice == "auto":
            choice = getattr(data, "extractor", None)
            if choice is None:
                with_it = "" if pl_module.condition_shape is None else ", and PSNR and SSIM are measured beside FID"
                self.why_none = way_to_scores(data) + with_it
                self._module = None
                return
        if data is None:
            raise GANError("FIDTracker needs training and test images: give the trainer a data module")
        with isolate_rng():  # a network draws the weights that it starts with
            module: Any = load_features(choice) if isinstance(choice, str) else choice
        self._module = module.eval().requires_grad_(False)
        self.name, self._id = name_of(choice), fingerprint(module)
        self._doubt = doubt(choice, getattr(module, "num_classes", None)) if isinstance(choice, str) else None
        if loop is not None and active_trackers(trainer)[0] is self:
            # Lightning's table would show the same scores, without saying what they are.
            self._verbose, loop.verbose = loop.verbose, False

    @property
    def active(self) -> bool:
        """Whether there is something to see images with."""
        return self._module is not None

    def prepare(self, trainer: Trainer, pl_module: GAN) -> None:
        """Measures the real images, unless that is done."""
        assert self._module is not None
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
        translates = pl_module.condition_shape is not None
        now = trainer, self._module, data, translates
        if self.evaluator is not None and self._measured == now:
            return
        if self.lpips is not None and not translates:
            name = class_name(pl_module.generator)
            raise GANError(
                f"FIDTracker's lpips holds images against targets, and {name} makes none from images: leave it out"
            )
        lpips = None if self.lpips is None else LPIPS(self.lpips).to(trainer.strategy.root_device)
        self._module.to(trainer.strategy.root_device)
        with isolate_rng():  # loaders and data sets may draw from it
            seed_all(keyed(0, "real images"))  # and are to draw the same in all runs
            for stage in ("fit", "test"):  # in one order on all processes
                if stage != trainer.state.fn:
                    data.setup(stage)
            try:
                train, test = data.train_dataloader(), data.test_dataloader()
            except MisconfigurationException as error:
                raise GANError(
                    f"FIDTracker needs training and test images, and {type(data).__name__} does not give both: {error}"
                ) from error
            device = trainer.strategy.root_device
            self.evaluator = Evaluator(
                self._module, train, test, device, partial(say, trainer), paired=translates, lpips=lpips
            )
            sizes = {"num_samples": self.num_samples, "final_samples": self.final_samples}
            if trainer.state.fn != "fit":
                del sizes["num_samples"]
            for text in (*self.evaluator.doubts(**sizes), self._doubt):
                if text is not None:
                    rank_zero_warn(f"scores by {self.name} are of little worth: {text}")
        self._measured = now

    def on_fit_start(self, trainer: Trainer, pl_module: GAN) -> None:
        if self.active:
            self.prepare(trainer, pl_module)
            measured = {*self.scalars} - {scalar("fid_of_best", self.name)}  # which the end does
            if pl_module.num_classes is not None:
                measured |= {*self.named({"class_accuracy": 0, "fid_within_classes": 0})}
            pl_module.scores = {*pl_module.scores, *measured}

    # ------------------------------------------------------------------ training

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        if self.active:
            say(trainer, f"FID            of {self.terms(self.num_samples)}")
        elif not active_trackers(trainer):  # of several, one may be the default's
            say(trainer, f"FID            none: {self.why_none}")

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if (self.unit == "batches" and step % self.every == 0) or step == trainer.max_steps:
            self.track(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if ends_with_epoch(trainer) or (self.unit == "epochs" and (trainer.current_epoch + 1) % self.every == 0):
            self.track(trainer, pl_module)

    def track(self, trainer: Trainer, pl_module: GAN) -> None:
        """Scores the generator of this batch, and logs it."""
        if not self.active or trainer.global_step == self._scored_at:
            return
        self._scored_at = trainer.global_step
        generated = self.generate(pl_module, self.num_samples, "curve")
        if generated is None:
            return
        scores = self.evaluator.scores(generated) | {"fid_floor": mean(self.evaluator.floor(self.num_samples))}
        scores |= self.condition_scores(pl_module, generated)
        scores = trainer.strategy.broadcast(scores)  # processors of two kinds may round otherwise
        self.latest = {"step": trainer.global_step, **scores}
        if self.best is None or scores["fid"] < self.best:
            self.best, self.best_step = scores["fid"], trainer.global_step
        pl_module.log_scores(self.named(scores))
        self.draw_classes(trainer, generated)

    def generate(self, pl_module: GAN, num: int, noise: str) -> Generated | None:
        """Images and their features; None, with a warning, where they have none. Warns of scores that are too good."""
        share_buffers(pl_module, sampled(pl_module))
        try:
            generated = self.evaluator.generate(lambda number: self.make(pl_module, noise, number), num)
        except NotFinite as error:
            rank_zero_warn(f"no FID of batch {pl_module.global_step:,}: {error}")
            return None
        draws = self.evaluator.floor(num)
        alone = pl_module.condition_shape is None  # not made from the very images that they are held against
        if alone and generated.fid < min(draws) and num <= len(self.evaluator.training):
            rank_zero_warn(
                f"FID {generated.fid:.4f} is below the floor, {min(draws):.4f} to {max(draws):.4f} for real training "
                "images: too good to be true. The generator has learnt images by heart (see samples/nearest), or test "
                "images are among those it trains on"
            )
        return generated

    def make(self, pl_module: GAN, noise: str, number: int) -> Tensor:
        """Images (CHUNK, C, H, W): by the run's seed, `noise` and the chunk's number alone."""
        return pl_module(latents(pl_module, noise, number), self.asked(pl_module, number))

    def asked(self, pl_module: GAN, number: int) -> Tensor | None:
        """What the images of a chunk are to be of, as the test images are: labels (CHUNK,), or sources (CHUNK, ...).

        Of classes that the test images do not tell, one after the other. None for a generator without a condition.
        """
        if pl_module.condition_shape is not None:
            return self.evaluator.pairs(number)[1].to(pl_module.device, cast(torch.dtype, pl_module.dtype))
        real = self.evaluator.labels
        if pl_module.num_classes is None or real is None:
            return pl_module.classes_in_turn(CHUNK)
        return real[torch.arange(number * CHUNK, (number + 1) * CHUNK) % len(real)].to(pl_module.device)

    def draw_classes(self, trainer: Trainer, generated: Generated) -> None:
        """Draws how many of the generated images the extractor's classifier takes for each class."""
        logits = self.evaluator.logits(generated.features)
        if logits is None:
            return
        counts = logits.argmax(1).bincount(minlength=logits.shape[1]).tolist()
        edges = [number - 0.5 for number in range(len(counts) + 1)]
        log_histogram(trainer, f"scores/classes/{self.name}", counts, edges)

    # ------------------------------------------------------------------ the end

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if not self.active:
            return
        weights = weights_of(self.best_step, trainer, pl_module)
        step = trainer.global_step if weights is None else self.best_step
        with holding(sampled(pl_module), weights), isolate_rng():
            generated = self.generate(pl_module, self.final_samples, "report")
            if generated is None:
                return
            sheet = self.evaluator.nearest_images(self.make(pl_module, "report", 0)[:16])
        fid, best = generated.fid, step == self.best_step
        if best:
            for logger in trainer.loggers:
                logger.log_metrics(self.named({"fid_of_best": fid}), step=trainer.global_step)
        save_grid(trainer, "nearest", sheet.flatten(0, 1), columns=sheet.shape[1])
        which = f"{step:,}, the best" if best else f"{step:,}"
        say(trainer, f"FID            {fid:.3f} of batch {which}; {self.terms(self.final_samples)}")

    # ------------------------------------------------------------------ validate

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if trainer.state.fn == "fit" or not self.active:
            return
        self.prepare(trainer, pl_module)
        self.scores = {}
        self.source_scores = None
        generated = self.generate(pl_module, self.final_samples, "report")
        if generated is None:
            return
        scores = self.evaluator.scores(generated) | self.condition_scores(pl_module, generated)
        more = {
            "fid_infinity": self.evaluator.fid_infinity(generated),
            "accuracy_score": self.accuracy_score(pl_module),
        }
        scores |= {metric: value for metric, value in more.items() if value is not None}
        if pl_module.condition_shape is not None:
            self.source_scores = self.evaluator.source_scores(self.final_samples)
        of_source = {f"{metric}_of_source": value for metric, value in (self.source_scores or {}).items()}
        pl_module.log_dict(self.named(scores | of_source), sync_dist=True)
        self.scores = scores

    on_test_epoch_end = on_validation_epoch_end  # pyright: ignore[reportAssignmentType] # a GAN, see pyproject

    def accuracy_score(self, pl_module: GAN) -> float | None:
        """CAS; None for a generator that is not told the class."""
        if pl_module.num_classes is None:
            return None

        def make(number: int) -> tuple[Tensor, Tensor]:
            labels = self.asked(pl_module, number)
            assert labels is not None  # since there are classes
            return self.make(pl_module, "report", number), labels

        share_buffers(pl_module, sampled(pl_module))
        return self.evaluator.accuracy_score(make, self.final_samples)

    def condition_scores(self, pl_module: GAN, generated: Generated) -> dict[str, float]:
        """What is scored of a generator that is told the class, beside its images."""
        if pl_module.num_classes is None:
            return {}
        num = len(generated.features)
        labels = torch.cat([cast(Tensor, self.asked(pl_module, number)) for number in range(-(-num // CHUNK))])[:num]
        return self.evaluator.condition_scores(generated.features, labels)

    def on_validation_end(self, trainer: Trainer, pl_module: GAN) -> None:
        trackers = active_trackers(trainer) or callbacks_of(trainer, FIDTracker)
        if trainer.state.fn == "fit" or trackers[0] is not self or not self._verbose:
            return
        console = Console(highlight=False, soft_wrap=True, quiet=not trainer.is_global_zero)
        for tracker in trackers:
            if not tracker.active:
                console.print(f"No scores: {tracker.why_none}", markup=False)
            elif not tracker.scores:
                console.print("No scores: the images, or what they look like to the extractor, are NaN or infinite")
            else:
                console.print(f"Scores of {tracker.terms(tracker.final_samples)}")
                real = tracker.evaluator.real_scores(tracker.final_samples)
                console.print(table(tracker.scores, real, tracker.source_scores))
        if self.active:
            loss = float(trainer.callback_metrics["validation/discriminator"])
            console.print(f"Loss of the discriminator on images it has not seen: {loss:.3f}")

    on_test_end = on_validation_end  # pyright: ignore[reportAssignmentType] # likewise

    # ------------------------------------------------------------------ words

    def named(self, scores: dict[str, float]) -> dict[str, float]:
        """Scores under the names that they are logged by, which say what sees the images."""
        return {scalar(metric, self.name): value for metric, value in scores.items()}

    @property
    def scalars(self) -> list[str]:
        """The names of the scores that tell a run from another."""
        metrics = ["fid", "fid_of_best", "kid", "precision", "recall", "density", "coverage"]
        classes = [] if self.evaluator.num_classes is None else ["modes_covered", "entropy", "inception_score"]
        paired = self.evaluator.paired
        pairs = [] if paired is None else paired.names
        return [scalar(metric, self.name) for metric in metrics + classes + pairs]

    def terms(self, num: int) -> str:
        """What a score of `num` images is by, without which it means nothing."""
        real, training, floor = len(self.evaluator.real), len(self.evaluator.training), mean(self.evaluator.floor(num))
        few = f" (of {training:,})" if training < num else ""
        rule = getattr(self.evaluator.test, "rule", None)  # by which images of a stream were drawn
        which = f", {rule}," if rule else ""
        images = f"{counted(num, 'image')} against {counted(real, 'test image')}{which}"
        return f"{images}{'' if rule else ','} by {self.name} {self._id}; floor {floor:.3f}{few}"


def active_trackers(trainer: Trainer) -> list[FIDTracker]:
    """The trackers of a trainer that have something to see images with."""
    return [tracker for tracker in callbacks_of(trainer, FIDTracker) if tracker.active]


def way_to_scores(data: Any) -> str:
    """Why there are no features for the images of a data module, and the command that makes some."""
    if data is None:
        return "there is no data module that test images could be of: give the trainer one"
    none = f"no features are shipped for {type(data).__name__}"
    by = "--trainer.callbacks+=FIDTracker --trainer.callbacks.extractor="
    if not isinstance(data, InMemoryDataModule):
        return f"{none}; `{by}CLASS` scores by a network of your own, images to features (docs/scores.md)"
    command, file = command_for(data)
    return f"{none}; `{command}` trains some, and `{by}{file}` scores by them"


def latents(gan: GAN, noise: str, number: int) -> Tensor:
    """The latents (CHUNK, latent_dim) of a chunk: by the run's seed, `noise` and the chunk's number alone."""
    return gan.latents(CHUNK, gan.rng("score", noise, number))


def name_of(extractor: str | nn.Module) -> str:
    """What an extractor is called in the names of scalars: mnist_cnn, inception."""
    if isinstance(extractor, str):
        return Path(extractor).stem
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(extractor).__name__).lower()
