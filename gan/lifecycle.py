"""What surrounds a GAN's two steps: checks, shards, schedules, scalars, the generator's average, checkpoints."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Self, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.optim import Optimizer

from gan.augment import PROBABILITY, REAL_SIGN, AdaptiveAugment, Augment, Augmentation, real_sign
from gan.batch import as_pair, check_batch, check_labels, check_sources
from gan.checkpoints import check_checkpoint
from gan.config import KEY as CONFIG
from gan.errors import GANError, counted
from gan.games import Extragradient, Lookahead
from gan.gradients.norms import local, unscale
from gan.loader import KeyedLoaders, held_out, key_loaders, place_in
from gan.loggers import number_by_batches
from gan.losses import Loss
from gan.networks import check_characters, check_pair, first_layers, given, is_conditional, trial_condition
from gan.noise import Noise, keyed, seed_all, seed_layers
from gan.normalize import GradientNormalizer
from gan.optim import (
    OPTIMIZER_ORDER,
    Length,
    Resumed,
    check_schedules,
    class_of,
    in_passes,
    rates,
    step_plateaus,
    step_schedules,
)
from gan.order import (
    callbacks_of,
    check_fit,
    check_folder,
    check_order,
    skip_idle_hooks,
    tell_stoppers,
    watch_scores,
)
from gan.outbox import outbox
from gan.parallel import check_manual, check_strategy, is_sharded, shard
from gan.paths import local_path
from gan.penalties import Penalty, mixing_layers
from gan.schedule import Schedule, schedules_in
from gan.spec import class_name, is_compiled, uncompiled
from gan.terms import Terms
from gan.text import noun
from gan.trust import Trust, check_hyper_parameters, imports_of

CARRIED = ("augment", "normalizer")  # parts that are no network, and come to something as training goes on
COMPILED = "._orig_mod"  # what `torch.compile` puts into the names of a network's weights
ON_BAR = ("loss/", "fid/", "images_per_second")  # what any progress bar has room for
MAX_COLUMNS = 10  # of a class in a row: two classes' pictures would be strips


def emulates_bfloat16() -> bool:
    """Whether this processor is known to have no bfloat16 of its own."""
    able = getattr(torch.cpu, "get_capabilities", dict)()  # unknown to torch 2.8
    return able.get("architecture") == "x86_64" and not (able["avx512_bf16"] or able["amx_bf16"])


class Lifecycle(L.LightningModule):
    """A LightningModule of two networks that step in turn, without the steps.

    Attributes:
        generator: The generator.
        discriminator: The discriminator.
        generator_ema: The generator's average; set by the GeneratorEMA callback, or from a checkpoint.
        loss: The adversarial objective.
        penalties: Terms of the discriminator's loss, of its gradient.
        terms: Terms of both losses, of what images show.
        augment: What is done to images before they are judged in training; None for nothing.
        normalizer: What divides the gradient at the generated images by its running norm; None for nothing.
        accumulate: Passes that a batch is worked through in.
        extragradient: Whether batches are evaluated twice, see `gan.games.Extragradient`.
        lookahead: How both networks go back part of their way every so often; None where they do not.
        freeze_discriminator: The first layers of the discriminator, so many, stay as they are.
        frozen_layers: These, by name, each with its modules; from the setup of a fit on.
        num_classes: Classes that a generator is told of; None for one that is told none.
        condition_shape: Channels, height and width of the source images that a generator is told; None for one that is
            told none.
        fixed_latents: Latents (N, latent_dim) whose images are drawn again and again.
        fixed_sources: Of a generator that is told source images, those (N, C', H', W') of the `fixed_latents`, as the
            data has them in front of its test images or else its validation images; None before a run, or without data.
        fixed_target: The real images (M, C, H, W) of the `fixed_sources`, of each once: M is below N where the data
            holds out fewer.
        seed: Of all randomness in training.
        scalars: The latest value of each scalar of training, between two log entries.
        scores: The names of the scores that a FIDTracker measures as the run trains.
        scored_at: The batches completed when it did so last; -1 before.
        scheduled: The numbers that move as this run goes on, by name.
        resumed: What a run that goes on takes of its checkpoint's optimizers.
        run_config: Of a run of the command line, its config as plain data, which its checkpoints carry.
        data_place: What the checkpoint that a run goes on from says of the place in the data.
    """

    generator: nn.Module
    discriminator: nn.Module
    generator_ema: nn.Module | None
    loss: Loss
    penalties: list[Penalty]
    terms: Terms
    augment: Augment | None
    normalizer: GradientNormalizer | None
    accumulate: int
    extragradient: bool
    lookahead: Lookahead | None
    freeze_discriminator: int
    frozen_layers: Mapping[str, Sequence[nn.Module]] = MappingProxyType({})
    num_classes: int | None
    condition_shape: tuple[int, int, int] | None
    fixed_latents: Tensor
    fixed_sources: Tensor | None = None
    fixed_target: Tensor | None = None
    seed: int
    scalars: dict[str, Tensor]
    resumed: Resumed
    run_config: dict[str, Any] | None = None
    data_place: dict[str, Any]
    looked_at: set[str | None]  # the stages whose first batch has been
    scores: Collection[str] = ()  # the names of the scores that this run measures
    scored_at = -1  # the batches completed when they were measured last
    evaluates = False  # whether the present batch goes by `evaluations`
    looks: Extragradient | None = None  # of the present batch, by the extragradient method
    scheduled: Sequence[tuple[str, Schedule]] = ()  # the numbers that move, from the start of training on

    # ------------------------------------------------------------------ what the steps call

    @property
    def latent_dim(self) -> int:
        """Size of a latent vector."""
        return cast(int, self.generator.latent_dim)

    @property
    def fixed_condition(self) -> Tensor | None:
        """What the `fixed_latents` are drawn of; None without a condition.

        Of classes, labels (N,), rows of `fixed_columns` by the classes in turn; of source images, the `fixed_sources`.
        """
        if self.condition_shape is not None:
            return self.fixed_sources
        columns = self.fixed_columns
        if self.num_classes is None or columns is None:
            return None
        return torch.arange(len(self.fixed_latents), device=self.fixed_latents.device) // columns % self.num_classes

    @property
    def fixed_columns(self) -> int | None:
        """Images in a row of a picture of the `fixed_latents`, where each row is of one class; else None."""
        if self.num_classes is None:
            return None
        each = max(1, len(self.fixed_latents) // self.num_classes)
        return each // math.ceil(each / MAX_COLUMNS)

    def classes_in_turn(self, num: int) -> Tensor | None:
        """Labels (num,) of one class after the other; None where the generator is told no class."""
        if self.num_classes is None:
            return None
        return torch.arange(num, device=self.fixed_latents.device) % self.num_classes

    def trial_condition(self, num: int) -> Tensor | None:
        """What can be told of `num` images, to see what the networks make of it; None without a condition."""
        return trial_condition(num, self.num_classes, self.condition_shape, self.fixed_latents)

    def condition_of(self, num: int, condition: Tensor | None) -> Tensor | None:
        """What `num` images are to be of, on the module's device: the condition given, or else the classes in turn.

        Raises:
            GANError: If the generator is told something else.
        """
        if condition is None:
            condition = self.classes_in_turn(num)
        shape = self.condition_shape
        got = None if condition is None else tuple(condition.shape)
        if shape is not None and got != (num, *shape):
            raise GANError(
                f"generator {class_name(self.generator)} is told source images: for {counted(num, 'image')} give a "
                f"condition of shape {(num, *shape)}, floating in [-1, 1], got {got}"
            )
        if self.num_classes is not None and condition is not None and (got != (num,) or condition.is_floating_point()):
            check_labels(condition, self.num_classes, "the condition")
            raise GANError(f"for {counted(num, 'image')} give as many labels as the condition, got {got}")
        return None if condition is None else condition.to(self.fixed_latents.device)

    def condition_asked(self, num: int, condition: Tensor | None) -> Tensor | None:
        """As `condition_of`, where somebody asks for images: the values of a condition are looked at too.

        Raises:
            GANError: If the generator is told something else, or nothing.
        """
        if condition is not None and not is_conditional(self.generator):
            raise GANError(
                f"generator {class_name(self.generator)} is told nothing of what to draw: leave the condition out"
            )
        told = self.condition_of(num, condition)
        if condition is not None and self.num_classes is not None:
            check_labels(condition, self.num_classes, "the condition")
        if condition is not None and self.condition_shape is not None:
            check_sources(condition, self.condition_shape, "the condition")
        return told

    def optimizer(self, network: str) -> LightningOptimizer:
        """The optimizer of a network, by the network's name."""
        optimizers = cast(list[LightningOptimizer], self.optimizers())
        return optimizers[OPTIMIZER_ORDER.index(network)]

    def rng(self, *key: str | int) -> torch.Generator:
        """A random generator keyed by the seed and `key` alone: a resumed run draws what it would have drawn."""
        return keyed(self.seed, *key, device=self.device)

    def noise(self, *key: str | int) -> Noise:
        """This process's part of the noise that `key` names; the same however many processes share a batch."""
        trainer = self.trainer
        dtype = cast(torch.dtype, self.dtype)
        return Noise(self.rng(*key), self.latent_dim, dtype, trainer.global_rank, trainer.world_size)

    def seed_layers(self, step: int) -> None:
        """Keys what layers draw by themselves, as dropout does, by the seed, the batch and the process."""
        seed_layers(self.rng("layers", step, self.global_rank))

    def passes(self, noise: Noise, condition: Tensor | None, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """The passes of a batch: both networks, told what its images are of, and its part of each tensor (N, ...).

        The discriminator judges images as `augment` has them, each time by numbers of its own.
        """
        augmentation = self.augmentation(noise, self.accumulate)
        between = self.normalizer and partial(self.normalizer.between, factor=self.accumulate / self.loss_scale)
        for number, (part, *parts) in enumerate(in_passes(self.accumulate, condition, *tensors)):
            generate, judge = given(part, self.generator, self.discriminator)
            judge.before = augmentation and augmentation.of_pass(number)
            generate.after = between
            yield generate, judge, *parts

    @property
    def loss_scale(self) -> float:
        """What a loss is multiplied by before it flows back: by the scaler of float16 training."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return 1.0 if scaler is None else scaler.get_scale()

    def augmentation(self, noise: Noise, passes: int = 1) -> Augmentation | None:
        """The augmentation of a batch, by a branch of its noise; None where there is none."""
        return None if self.augment is None else Augmentation(self.augment, noise.branch().wide_uniform, passes)

    def watch(self, real_logits: Tensor) -> dict[str, Tensor]:
        """What an augmentation that adapts wants to know of the logits (N, ...) of real images."""
        if not isinstance(self.augment, AdaptiveAugment):
            return {}
        return {REAL_SIGN: real_sign(real_logits, cast(float, self.loss.border))}  # since `check_augment`

    def evaluations(self) -> Iterator[Noise]:
        """The noise of each time that a batch's losses are evaluated: once, or twice by the extragradient method.

        After the last one, both networks go back part of their way if it is Lookahead's time.
        """
        optimizers, step = self.trainer.optimizers, self.global_step
        self.evaluates = True
        if self.extragradient:
            self.looks = Extragradient(optimizers)
            yield self.noise("batch", step)
            self.looks.move()
            self.looks.ahead = True
            self.seed_layers(step)
            yield self.noise("batch", step)
            self.looks.move()
            self.looks = None
        else:
            yield self.noise("batch", step)
        if self.lookahead is not None and self.global_step % self.lookahead.every == 0:
            self.lookahead.go_back(optimizers)

    def update(self, optimizer: LightningOptimizer) -> None:
        """Steps the optimizer of a network. All hooks see it, and `trainer.global_step` counts the discriminator's.

        Raises:
            GANError: If the batch is to be evaluated in a way that a training step of one's own knows nothing of.
        """
        for setting in ("extragradient", "lookahead"):
            if getattr(self, setting) and not self.evaluates:
                raise GANError(
                    f"model.{setting}: a training_step of your own must take its noise from self.evaluations(), each "
                    "time anew"
                )
        first = optimizer is self.optimizer(OPTIMIZER_ORDER[0])
        if not first and self.normalizer is not None:
            self.normalize(self.normalizer)
        if first and (self.looks is None or self.looks.ahead):
            optimizer.step()
        else:
            self.step_uncounted(optimizer)
        if self.looks is not None:
            self.looks.wait(optimizer.optimizer)

    def normalize(self, normalizer: GradientNormalizer) -> None:
        """Divides the generator's gradient by the running norm of that at its images.

        Raises:
            GANError: If nobody has seen that.
        """
        if not normalizer.seen:
            raise GANError(
                "model.normalize_gradient: a training_step of your own must take the generator from self.passes(), "
                "which divides the gradient that comes to its images"
            )
        gradients = [local(weight.grad) for weight in self.generator.parameters() if weight.grad is not None]
        normalizer.settle(gradients, lambda norm: self.over_processes({"norm": norm})["norm"])

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Lets a step of the extragradient method begin where the batch did, after all callbacks have seen it."""
        if self.looks is not None:
            if self.looks.given_up:  # a loss scaler wants to have seen the gradients that are dropped
                unscale(optimizer, getattr(self.trainer.precision_plugin, "scaler", None))
            self.looks.begin(optimizer)

    def rolled_back(self) -> None:
        """Hears, in the midst of a batch, that all weights have been put back: the rest of it moves none."""
        if self.looks is not None:
            self.looks.give_up()

    def step_uncounted(self, optimizer: LightningOptimizer) -> None:
        """A step that all hooks see, as any, and that `trainer.global_step` does not count."""
        self.trainer.strategy.optimizer_step(optimizer.optimizer, closure=lambda: None)

    def step_schedulers(self) -> None:
        """Moves each schedule by a batch."""
        step_schedules(self.trainer.lr_scheduler_configs)

    def report(self, scalars: dict[str, Tensor], images: int) -> None:
        """Takes the scalars () of a batch, of this process, and logs the latest of each every `log_every_n_steps`.

        So it does with the learning rates, and the numbers that follow a `Schedule`, that the batch was trained with.
        An augmentation that adapts does so.

        Args:
            scalars: By name.
            images: Real images of the batch, of this process.
        """
        if isinstance(self.augment, AdaptiveAugment):
            scalars |= self.over_processes({REAL_SIGN: scalars[REAL_SIGN]})
            self.augment.adapt(scalars[REAL_SIGN], images * self.trainer.world_size)
            scalars[PROBABILITY] = self.augment.probability.clone()
        self.scalars |= scalars
        if self.logs_now:
            numbers = {f"schedule/{name}": float(schedule) for name, schedule in self.scheduled}
            self.log_scalars(self.over_processes(self.scalars) | rates(self.trainer.lr_scheduler_configs) | numbers)

    @property
    def logs_now(self) -> bool:
        """Whether this is one of the batches that are logged: every `trainer.log_every_n_steps`; of 0, none is."""
        every = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
        return every > 0 and self.global_step % every == 0

    def log_scalars(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Logs scalars of the present batch, numbered by the batches completed; callbacks log theirs by it too.

        Lightning would log them after the batch's checkpoint is saved, and a run that goes on from there never would.
        """
        for shown in (True, False):
            some = {name: value for name, value in scalars.items() if name.startswith(ON_BAR) == shown}
            self.log_dict(some, prog_bar=shown, logger=False)
        values = {name: float(value) for name, value in scalars.items()}
        for logger in self.loggers:
            logger.log_metrics(values, step=self.global_step)

    def log_scores(self, scores: Mapping[str, float]) -> None:
        """Logs scores of the present batch, and lets all that waits for them have them: schedules, and callbacks."""
        self.log_scalars(scores)
        self.scored_at = self.global_step
        step_plateaus(self.trainer.lr_scheduler_configs, scores)
        tell_stoppers(self.trainer, scores)

    def over_processes(self, scalars: dict[str, Tensor]) -> dict[str, Tensor]:
        """The means of scalars over all processes, which each must call."""
        if not scalars:
            return {}
        values = self.trainer.strategy.reduce(torch.stack(list(scalars.values())), reduce_op="mean")
        return dict(zip(scalars, values, strict=True))

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's hook behind `manual_backward`.

        Raises:
            GANError: If a network's weights have no part in its loss.
        """
        if not loss.requires_grad:
            raise GANError(self.why_no_gradient())
        # Forward has left its types in the graph. What autocast would still reach is the second derivative of a
        # penalty, and that must stay float32.
        with torch.autocast(self.device.type, enabled=False):
            loss.backward(*args, **kwargs)

    def why_no_gradient(self) -> str:
        """How a loss can be that no weight has a part in."""
        # The discriminator's weights take no gradient in the generator's step, and in their own they do.
        own = any(parameter.requires_grad for parameter in self.discriminator.parameters())
        name, made = ("discriminator", "logits") if own else ("generator", f"{noun(self.generator)}s")
        return (
            f"model.{name}: no gradient comes back from the {made} that {class_name(getattr(self, name))} makes, so "
            "that nothing could be learnt; see that there is no detach(), no_grad(), numpy() or argmax between its "
            "weights and the loss, in its forward or in a step of your own"
        )

    # ------------------------------------------------------------------ start

    def length(self) -> Length:
        """How long the run is that is about to start."""
        batches = self.trainer.estimated_stepping_batches  # epochs times batches, where epochs end it
        if 0 < batches < math.inf:
            return Length(int(batches))
        timer = next((timer for timer in callbacks_of(self.trainer, Timer) if timer.time_remaining() is not None), None)
        return Length() if timer is None else Length(elapsed=partial(self.elapsed, timer))

    def schedules(self) -> list[tuple[str, Schedule]]:
        """The numbers that move as a run goes on, by name: of penalties, augmentation, optimizers and callbacks."""
        owners: list[tuple[str, object]] = [(penalty.name, penalty) for penalty in self.penalties]
        owners += [] if self.augment is None else [("augment", self.augment)]
        owners += [
            (f"{name}_optimizer", each) for name, each in zip(OPTIMIZER_ORDER, self.trainer.optimizers, strict=False)
        ]
        owners += [(type(each).__name__, each) for each in callbacks_of(self.trainer, L.Callback)]
        return list(schedules_in(owners))

    def move_schedules(self) -> None:
        """Lets each of them be what it is in the batch that follows."""
        if self.scheduled:
            length = self.length().batches
            for _, schedule in self.scheduled:
                schedule.move(self.global_step, length)

    def elapsed(self, timer: Timer) -> float:
        """The share of a timer's time that is over, the same for all processes."""
        over, left = timer.time_elapsed(), cast(float, timer.time_remaining())
        share = torch.tensor(over / max(over + left, 1e-9), device=self.device)
        return float(self.trainer.strategy.reduce(share, reduce_op="mean"))

    def configure_callbacks(self) -> list[L.Callback]:
        """Adds none. It is the last hook before Lightning refuses settings without telling the way out."""
        callbacks = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
        check_manual(self.trainer)
        check_fit(callbacks)
        check_order(callbacks)
        check_folder(self.trainer)
        return []

    def setup(self, stage: str) -> None:
        """Checks, before anything is trained, that networks and data fit."""
        check_strategy(self.trainer, self.penalties)
        self.looked_at, self.scores = set(), ()
        if stage == "fit":
            self.data_place = {}
            key_loaders(self)
        if is_sharded(self.generator):  # a second `fit`, or scores after it: neither network is new
            return
        data = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
        sources = getattr(data, "condition_shape", None)
        if is_conditional(self.generator) and self.num_classes is None and self.condition_shape is None:
            self.condition_shape = sources
            self.num_classes = getattr(data, "num_classes", None) if sources is None else None
        classes = getattr(data, "num_classes", None) if sources is None else None
        shape = getattr(data, "image_shape", None) or getattr(data, "sample_shape", None)
        check_pair(self.generator, self.discriminator, shape, self.num_classes, sources, classes)
        check_characters(self.generator, getattr(data, "characters", None))
        self.terms.check(self.discriminator, self.num_classes, self.condition_shape)
        self.check_augment()
        labels = getattr(data, "num_labels", None)
        if stage == "fit" and labels is not None and not self.terms.need_labels:
            rank_zero_warn(
                f"data.labels={labels}: nothing here learns from labels, and every fourth image of a batch is one of "
                f"these {labels}: set model.classification to gan.terms.SemiSupervised, or leave data.labels out"
            )
        if self.num_classes is not None and not is_conditional(self.discriminator) and not self.terms.terms:
            rank_zero_warn(
                f"generator {class_name(self.generator)} is told the class, and nothing holds it to that: "
                f"discriminator {class_name(self.discriminator)} is not told, and there is no model.classification"
            )
        if self.penalties and self.trainer.precision in ("16-true", "bf16-true"):
            raise GANError(
                f"trainer.precision={self.trainer.precision} leaves no float32 weights to compute a penalty with: "
                f"set it to {self.trainer.precision.replace('true', 'mixed')}, or model.penalties to []"
            )
        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        if stage == "fit" and on_cpu and self.trainer.precision.startswith("bf16") and emulates_bfloat16():
            rank_zero_warn(
                f"trainer.precision={self.trainer.precision}: this processor has no bfloat16 of its own (neither "
                "avx512_bf16 nor amx_bf16) and emulates it: a batch of the default took 1.7 times as long as by "
                "32-true: set trainer.precision to 32-true"
            )
        if self.normalizer is not None and self.trainer.precision == "16-true":
            raise GANError(
                "trainer.precision=16-true has no loss scaler, and a gradient that vanishes is 0 before "
                "model.normalize_gradient divides it: set trainer.precision to 16-mixed or bf16-true"
            )
        twice = [penalty for penalty in self.penalties if penalty.differentiates_twice]
        if twice and is_compiled(self.discriminator):
            raise GANError(
                f"{type(twice[0]).__name__} takes derivatives of derivatives, which torch.compile does not make: give "
                "the discriminator as it is, or take ApproximateR1 in model.penalties, which does not"
            )
        if mixing := mixing_layers(self.discriminator):
            for penalty in self.penalties:
                rank_zero_warn(
                    f"{type(penalty).__name__} is about each image's own gradient, and {' and '.join(mixing)} in the "
                    "discriminator mixes the images of a batch; set its norm to layer, group, spectral or none, and "
                    "its minibatch_std to false"
                )
        if stage == "fit" and self.freeze_discriminator:
            self.freeze_layers()

    def check_augment(self) -> None:
        """Refuses an augmentation that the samples, the discriminator or the loss do not allow."""
        if self.augment is not None and hasattr(self.generator, "sample_shape"):
            raise GANError(
                f"model.augment={type(self.augment).__name__} changes images, and generator "
                f"{class_name(self.generator)} makes none: leave model.augment out"
            )
        if self.augment is not None and self.condition_shape is not None and is_conditional(self.discriminator):
            raise GANError(
                f"model.augment={type(self.augment).__name__} changes images and not the sources that discriminator "
                f"{class_name(self.discriminator)} is told beside them: leave model.augment out, or take a "
                "discriminator that is not told"
            )
        if isinstance(self.augment, AdaptiveAugment) and self.loss.border is None:
            raise GANError(
                f"model.augment={type(self.augment).__name__} goes by how many real images have logits that say real, "
                f"and with model.loss={type(self.loss).__name__} no logit says so by itself: take DiffAugment, or "
                "another loss"
            )

    def freeze_layers(self) -> None:
        """Lets no gradient reach the first layers of the discriminator; see `train` for their buffers."""
        condition = self.trial_condition(1)
        (judge,) = given(condition, uncompiled(self.discriminator))
        images = self(self.fixed_latents[:1], condition)
        with torch.no_grad():
            layers = first_layers(self.discriminator, self.freeze_discriminator, lambda: judge(images))
        self.frozen_layers = layers
        for parameter in self.frozen_parameters():
            parameter.requires_grad_(False)

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Those of the discriminator that stay as they are; under FSDP2, this process's shards."""
        modules = [module for layer in self.frozen_layers.values() for module in layer]
        return [parameter for module in modules for parameter in module.parameters()]

    def train(self, mode: bool = True) -> Self:
        """Torch's, but that frozen layers stay in evaluation mode.

        There, normalisations keep the statistics that they came with, and spectral norm its estimate.
        """
        super().train(mode)
        self.rest_frozen()
        return self

    def rest_frozen(self) -> None:
        """Puts frozen layers in evaluation mode."""
        for layer in self.frozen_layers.values():
            for module in layer:
                module.eval()

    def configure_model(self) -> None:
        """Shards each network on its own, under FSDP2. Called anew for each `fit` and each `validate`."""
        if self.device_mesh is None or is_sharded(self.generator):
            return
        if self.trainer.state.fn != "fit" and self.generator_ema is None:
            self.add_ema()  # a checkpoint may have one, and what is sharded cannot be copied
        networks = (self.generator, self.discriminator, self.generator_ema)
        present = [network for network in networks if network is not None]
        shard(present, self.device_mesh, self.trainer.strategy.root_device)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Keys what layers draw in the steps, after all callbacks have drawn what they want."""
        self.seed_layers(self.global_step)
        self.evaluates = False

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Moves what follows a `Schedule`, after all callbacks have seen the batch."""
        self.move_schedules()

    def on_fit_start(self) -> None:
        """Spares each batch the calls of hooks that do nothing, and numbers what is logged by batches."""
        skip_idle_hooks(self.trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
        number_by_batches(self.trainer)
        self.scored_at = -1
        if self.condition_shape is not None:
            self.fixed_sources, self.fixed_target = self.pairs_to_watch()

    def pairs_to_watch(self) -> tuple[Tensor | None, Tensor | None]:
        """Sources (N, C', H', W') for the `fixed_latents` and the images of them: the data's first; None without data.

        They are test images, or else validation images. Where there are too few, sources follow again and again, and
        there are only as many images as there are.
        """
        num, device, dtype = len(self.fixed_latents), self.fixed_latents.device, self.fixed_latents.dtype
        batches = self.held_out(num)
        if not batches:
            return None, None
        targets, sources = (torch.cat(of_all) for of_all in zip(*batches, strict=True))
        turn = torch.arange(num, device=sources.device) % len(sources)
        pairs = sources[turn], targets[:num]
        if self.trainer.world_size > 1:  # each loads images of its own; what is sent would stay on the sender's device
            pairs = self.trainer.strategy.broadcast((pairs[0].cpu(), pairs[1].cpu()))
        return pairs[0].to(device, dtype), pairs[1].to(device, dtype)

    def held_out(self, num: int, kinds: Sequence[str] = ("test", "val")) -> list[tuple[Tensor, Any]]:
        """Batches with `num` images at least that are not trained on, as training's come, see `gan.loader.held_out`."""
        device = self.fixed_latents.device
        data = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
        with isolate_rng():  # loaders and data sets may draw from it
            seed_all(self.rng("fixed sources"))
            batches = [] if data is None else held_out(data, num, kinds)
            batches = [self._on_before_batch_transfer(batch) for batch in batches]  # private, as below
            batches = [super(Lifecycle, self)._apply_batch_transfer_handler(batch, device) for batch in batches]
        for batch in batches:
            self.look_at(batch, "held-out")
        return [self.taken(batch) for batch in batches]

    def on_train_start(self) -> None:
        """Lets what monitors a score wait for it and schedules begin, and has a batch fetched anew that came too early.

        Lightning fetches the first before it knows where the run goes on.
        """
        self.rest_frozen()  # not before: Lightning would warn of layers in evaluation mode
        batches = self.length().batches
        check_schedules(self.trainer.lr_scheduler_configs, self.scores, batches)
        watch_scores(self.trainer, self, batches)
        self.scheduled = self.schedules()
        for name, schedule in self.scheduled:
            schedule.check(name, batches)
        self.move_schedules()
        loop = self.trainer.fit_loop
        if isinstance(loop._combined_loader, KeyedLoaders) and loop._combined_loader.is_stale:  # private
            iter(cast(Any, loop._data_fetcher))  # private

    def _apply_batch_transfer_handler(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        # Private: the one place where every batch comes before any callback sees it, and that data modules leave alone.
        batch = super()._apply_batch_transfer_handler(batch, *args, **kwargs)
        if self.trainer.predicting:  # from latents, which is all that `forward` takes
            return batch
        stage = self.trainer.state.stage
        if stage not in self.looked_at:
            self.looked_at.add(stage)
            self.look_at(
                batch, "training" if self.trainer.training else "test" if self.trainer.testing else "validation"
            )
        return self.taken(batch)

    def taken(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Images of a batch and their condition, as the networks take them."""
        images, condition = as_pair(batch)
        dtype = cast(torch.dtype, self.dtype)
        if not isinstance(condition, Tensor):  # names, say: nothing that a network could be told
            condition = None
        elif self.condition_shape is not None:
            condition = condition.to(dtype)
        return images.to(dtype), condition

    def look_at(self, batch: Any, kind: str) -> None:
        """Refuses a batch that the networks cannot take."""
        data = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
        name = "the data loader" if data is None else type(data).__name__
        shape = self(cast(Tensor, self.fixed_latents)[:1], self.trial_condition(1)).shape[1:]
        check_batch(batch, shape, f"a {kind} batch of {name}", self.num_classes, self.condition_shape)

    def teardown(self, stage: str) -> None:
        """Warns of what a full disk has not taken to the last."""
        outbox(self.trainer).give_up()

    # ------------------------------------------------------------------ checkpoints

    def add_ema(self) -> None:
        """Adds `generator_ema`, a copy of the generator that no gradient reaches, in float32 at least.

        In 16 bits, steps as small as those of an average are rounded away.
        """
        self.generator_ema = deepcopy(uncompiled(self.generator)).requires_grad_(False)
        for tensor in (*self.generator_ema.parameters(), *self.generator_ema.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(torch.promote_types(tensor.dtype, torch.float32))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Lightning's, by which precisions of 16 bits convert the module: all but what small steps add up in."""
        wide = {name: getattr(self, name) for name in ("generator_ema", *CARRIED)}
        self.generator_ema = self.augment = self.normalizer = None
        super().to(*args, **kwargs)
        narrow = cast(torch.dtype, self.dtype).itemsize < 4
        for name, module in wide.items():
            if module is not None:
                setattr(self, name, module.to(self.fixed_latents.device) if narrow else module.to(*args, **kwargs))
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what a run that goes on needs to log as before, and to know whether it is the same bit for bit."""
        if self.run_config is not None:
            checkpoint[CONFIG] = self.run_config
        checkpoint["world_size"] = self.trainer.world_size
        checkpoint["num_classes"] = self.num_classes  # of a generator that does not say
        checkpoint["condition_shape"] = self.condition_shape
        checkpoint["epoch_batches"] = self.trainer.num_training_batches
        schedules = {id(config.scheduler.optimizer): config.scheduler for config in self.trainer.lr_scheduler_configs}
        checkpoint["optimizer_classes"] = {
            name: [class_of(optimizer), class_of(schedules.get(id(optimizer)))]
            for name, optimizer in zip(OPTIMIZER_ORDER, self.trainer.optimizers, strict=False)  # none in a `validate`
        }
        self.scalars = checkpoint["scalars"] = self.over_processes(self.scalars)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Brings the averaged generator of the checkpoint and that of this run together."""
        if self.num_classes is None and self.condition_shape is None and is_conditional(self.generator):
            self.num_classes, self.condition_shape = checkpoint.get("num_classes"), checkpoint.get("condition_shape")
        names = {"loss/discriminator", "loss/generator", *self.terms.names}
        names |= {f"loss/{penalty.name}" for penalty in self.penalties}
        names |= {REAL_SIGN, PROBABILITY} if isinstance(self.augment, AdaptiveAugment) else set()
        scalars = checkpoint.get("scalars", {}).items()
        self.scalars = {name: value.to(self.device) for name, value in scalars if name in names}
        state = checkpoint["state_dict"]
        average = {key for key in state if key.startswith("generator_ema.")}
        training = self._trainer is not None and self.trainer.state.fn == "fit"
        if training:
            self.resumed.read(checkpoint, self.hparams)
            self.data_place = place_in(checkpoint)
        if average and self.generator_ema is None and training:
            rank_zero_warn("the checkpoint's averaged generator is dropped: this run has no GeneratorEMA")
            for key in average:
                del state[key]
        if not average and self.generator_ema is not None:
            own = [key for key in state if key.startswith("generator.")]
            state |= {key.replace("generator.", "generator_ema.", 1): state[key].clone() for key in own}
        # What these have come to is this run's if it has one of the kind; else that starts anew.
        for name in CARRIED:
            part = cast(nn.Module | None, getattr(self, name))
            start = {} if part is None else part.state_dict(prefix=f"{name}.")
            for key in [key for key in state if key.startswith(f"{name}.") and key not in start]:
                del state[key]
            state |= {key: value.clone() for key, value in start.items() if key not in state}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The weights, by the names that they have without `torch.compile`."""
        state = super().state_dict(*args, **kwargs)
        for key in [key for key in state if COMPILED in key]:
            state[key.replace(COMPILED, "")] = state.pop(key)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Loads weights, those of an averaged generator too."""
        if self.generator_ema is None and any(key.startswith("generator_ema.") for key in state_dict):
            self.add_ema()
        compiled = {key.replace(COMPILED, ""): key for key in super().state_dict() if COMPILED in key}
        state_dict = {compiled.get(key, key): value for key, value in state_dict.items()}
        return super().load_state_dict(state_dict, *args, **kwargs)

    @classmethod
    def load_from_checkpoint(  # what Lightning reads from a file, it imports and calls
        cls, checkpoint_path: str | Path | IO[bytes], *args: Any, trust: Trust = None, **kwargs: Any
    ) -> Self:
        """Lightning's, for checkpoints of this project alone, and without running anything that they bring.

        Args:
            checkpoint_path: A file, or one that is open.
            *args: Lightning's.
            trust: Packages whose classes the checkpoint may name, besides this one and torch's; a name or several.
            **kwargs: Lightning's; and arguments of the constructor, which win over the checkpoint's.

        Raises:
            ValueError: If the checkpoint cannot be used, or names what is not to be trusted.
        """
        if isinstance(checkpoint_path, str | Path):
            checkpoint_path = local_path(checkpoint_path, "the checkpoint")
        checkpoint = check_checkpoint(checkpoint_path)
        check_hyper_parameters(checkpoint, trust, str(checkpoint_path), given=kwargs)
        for name in ("generator", "discriminator"):
            if name not in checkpoint["hyper_parameters"] and name not in kwargs:
                raise GANError(
                    f"{checkpoint_path} cannot rebuild its {name}, which was made in Python and keeps no attributes "
                    f"named as its arguments: give it by GAN.load_from_checkpoint(path, {name}=...)"
                )
        with imports_of(trust):
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
