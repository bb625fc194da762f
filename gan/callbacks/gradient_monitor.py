"""What flows back through both networks, for charts, for the eye and for whoever has to say why training dies."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer

from gan.callbacks.gradient_clipping import GradientClipping
from gan.callbacks.non_finite_guard import NonFiniteGuard
from gan.errors import GANError
from gan.gradients import BINS, GradientStats, NetworkStats, measure, state_restored, updates, weights
from gan.gradients.batches import LOOK, Batches
from gan.gradients.heatmap import heat_map
from gan.gradients.norms import OverProcesses, total_norm
from gan.images import encoded
from gan.loggers import log_histogram, log_image, takers, tensorboards
from gan.module import GAN
from gan.networks import given, in_own_precision
from gan.optim import OPTIMIZER_ORDER, network_of
from gan.order import callbacks_of
from gan.outbox import outbox
from gan.parallel import is_broken_off
from gan.spec import uncompiled
from gan.text import noun

MAX_COLUMNS = 200  # of a heat map
FEW = 16  # images by which an average is judged


class GradientMonitor(Callback):
    """Measures the gradients of both networks, at each layer and at the images, and draws them.

    Every so many batches it makes passes of its own over images of the batch to come: training is the same to the bit
    with and without. `gan.gradients.GradientStats` says what is measured. The latest are in `stats`, from the end of
    the batch on, for callbacks that come later in the trainer's list. Where training augments images, so does it;
    where it normalises the generator's gradient, what flows back is measured after that.

    Scalars are called `gradients/...`; those of single layers are for TensorBoard alone, and histograms of single
    images' gradients for it and W&B, as `layers/...`. `grad_norm/<network>`, the norm of the gradient that the batch
    trains with, is logged too unless there is a GradientClipping, which does. The heat map of each network, layers by
    batches, is the image `gradients/heatmap_<network>` in the run's loggers and, at the end,
    `gradients/heatmap_<network>.png` in its
    folder.

    Networks in shards (FSDP2) are measured like others. All processes must have as many images in a batch. Networks
    that cannot be measured (with casts of their own, or reentrant checkpoints) are a warning, and train on.

    Args:
        every: Training batches from one measurement to the next. The first is in the first batch, and all are in
            batches in which the generator steps.
        images: Images, over all processes, that are measured with: so many of a batch, or all if it has fewer.

    Raises:
        ValueError: If `every` is below 1, or `images` below 2.
    """

    def __init__(self, every: int = 250, images: int = 64):
        if not every >= 1:
            raise GANError(f"GradientMonitor's every must be at least 1 training batch, got {every}")
        if not images >= 2:
            raise GANError(f"GradientMonitor's images must be at least 2, got {images}")
        self.every = every
        self.images = images
        self.kind = "image"  # what samples are called
        self.stats: GradientStats | None = None
        self.columns: list[dict[str, Any]] = []  # of the heat maps: step, and for each network its layers' norms
        self.stride = 1  # measurements to a column
        self.measured = 0
        self.pictures: Tensor | None = None  # of the module's fixed latents, small, at the latest measurement
        self.first: dict[str, Tensor] = {}  # likewise, smaller, at the first: the generator's and its average's
        self.batches = Batches()
        self.able = True
        self.held_out: tuple[Tensor, Tensor | None] | None = None  # images that are not trained on, and their condition
        self._measuring: GradientStats | None = None  # in the batch that is under way

    def is_due(self, pl_module: GAN) -> bool:
        """Whether to measure in the batch that is about to start."""
        number = pl_module.global_step + 1
        steps = number % pl_module.n_critic == 0
        return steps and (number == pl_module.n_critic or number % self.every < pl_module.n_critic)

    def is_soon_due(self, pl_module: GAN) -> bool:
        """Whether the batch that is about to start is one of the `LOOK` up to one that is measured."""
        number, critic = pl_module.global_step + 1, pl_module.n_critic
        return number <= critic or -number % self.every < LOOK or number % self.every < critic

    # ------------------------------------------------------------------ Lightning's hooks

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        """Takes images that are not trained on: the first of the validation data, or else of the test data."""
        share, self.held_out = max(2, self.images // trainer.world_size), None
        self.kind = noun(pl_module.generator)
        try:
            batches = pl_module.held_out(share, ("val", "test"))
        except Exception as error:  # of a loader that training may never need
            rank_zero_warn(f"GradientMonitor measures no held-out {self.kind}s, since loading them fails: {error}")
            batches = []
        counts = torch.tensor(min(share, sum(len(images) for images, _ in batches)))
        least = -int(self.over_processes(trainer)(-counts.double(), "max"))
        if least < 2:
            return
        images, condition = (list(part) for part in zip(*batches, strict=True))
        told = None if condition[0] is None else torch.cat(condition)[:least]
        self.held_out = torch.cat(images)[:least], told

    def on_train_batch_start(self, trainer: Trainer, pl_module: GAN, batch: Any, batch_idx: int) -> None:
        self._measuring = None
        if not self.able or not self.is_soon_due(pl_module):
            return
        self.batches.see(batch[0])
        if not self.is_due(pl_module):
            return
        step = pl_module.global_step
        # No more than a pass of training has, for which there is memory.
        real = batch[0][: max(2, min(self.images // trainer.world_size, len(batch[0]) // pl_module.accumulate))]
        condition = None if batch[1] is None else batch[1][: len(real)]
        generate, judge = given(condition, pl_module.generator, pl_module.discriminator)
        held_out, of_held_out = (None if part is None else part[: len(real)] for part in self.held_out or (None, None))
        (judge_held_out,) = given(of_held_out, pl_module.discriminator)
        noise = pl_module.noise("monitor", step)
        for each in (judge, judge_held_out):
            augmentation = pl_module.augmentation(noise)
            each.before = augmentation and augmentation.of_pass(0)
        normalizer, mean = pl_module.normalizer, self.over_processes(trainer)
        generate.after = normalizer and (lambda images: normalizer.measured(images, lambda norm: mean(norm, "mean")))
        penalties = [penalty for penalty in pl_module.penalties if float(penalty.weight) > 0]
        self._norms: dict[str, float] = {}
        try:
            self._measuring = measure(
                pl_module.generator,
                pl_module.discriminator,
                pl_module.loss,
                real,
                latents=noise.latents(len(real)),
                mix=noise.uniform(len(real), *(1,) * (real.ndim - 1)),
                penalties=list(zip(penalties, noise.for_penalties(penalties, real), strict=True)),
                step=step + 1,
                seed=pl_module.rng("monitor layers", step, trainer.global_rank).initial_seed(),
                over_processes=self.over_processes(trainer),
                generate=generate,
                judge=judge,
                held_out=held_out,
                judge_held_out=judge_held_out,
                told=bool(generate.others),
                respond=pl_module.condition_shape is None,
            )
        except RuntimeError as error:
            alone = trainer.world_size > 1 and isinstance(error, torch.OutOfMemoryError)
            if alone or is_broken_off(error):
                raise  # not all processes have met it, and those would wait for this one, or one of them is gone
            self.able = False  # what can be trained cannot always be measured
            rank_zero_warn(f"GradientMonitor cannot measure these networks, and stops: {error}")
            return
        batches, labels = trainer.num_training_batches, condition if condition is None else batch[1]
        labels = labels if labels is not None and labels.ndim == 1 and not labels.is_floating_point() else None
        epoch = int(batches) if math.isfinite(batches) else None
        of_batch = self.batches.stats(labels, epoch, self.over_processes(trainer))
        self._measuring = replace(self._measuring, batch=of_batch, normalized=normalizer is not None)
        self._before = {name: weights(getattr(pl_module, name)) for name in OPTIMIZER_ORDER}
        self._bad = self.non_finite(trainer)
        self._stepped: set[str] = set()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: GAN, optimizer: Optimizer) -> None:
        if self._measuring is None:
            return
        network = network_of(optimizer, trainer.optimizers)
        self._stepped.add(network)
        if callbacks_of(trainer, GradientClipping):  # which logs the norms of all batches
            return
        gradients = [parameter.grad for parameter in getattr(pl_module, network).parameters()]
        norm = total_norm(gradient for gradient in gradients if gradient is not None)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        # Lightning leaves the loss scale of float16 training to optimizers that can take it out by themselves.
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            norm /= scaler.get_scale()
        self._norms[f"grad_norm/{network}"] = norm

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._measuring is None:
            return
        networks = {}
        for name, measured in self._measuring.networks.items():
            network, layers = getattr(pl_module, name), measured.parameter_gradients
            ratio, ratios = updates(network, self._before[name], layers, self.over_processes(trainer))
            stepped = name in self._stepped or ratio != 0
            if stepped and self.non_finite(trainer) == self._bad:
                networks[name] = replace(measured, update_ratio=ratio, update_ratios=ratios)
        self.stats = replace(self._measuring, **networks, **self.movements(pl_module))
        self._measuring, self._before = None, {}
        self.keep(self.stats)
        self.show(trainer, self.stats)

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if not trainer.is_global_zero or not self.columns:
            return
        for name in OPTIMIZER_ORDER:
            path = Path(trainer.default_root_dir, "gradients", f"heatmap_{name}.png")
            outbox(trainer).write(path, encoded(self.draw(name)))

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("columns", "stride", "measured", "pictures", "first")} | {
            "batches": self.batches.state()
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            if name == "batches":
                self.batches.restore(value)
            else:
                setattr(self, name, value)

    def non_finite(self, trainer: Trainer) -> int:
        """How many steps a NonFiniteGuard has taken back."""
        return sum(sum(guard.counts.values()) for guard in callbacks_of(trainer, NonFiniteGuard))

    def movements(self, pl_module: GAN) -> dict[str, float | None]:
        """How far the images of the fixed latents have moved, on a scale of whole images.

        Since the measurement before, `movement`; and, where there is an average, since the first one, the generator's
        and the average's, `moved` and `moved_average`. Seen at 16x16 at most, and the first at 4x4, which is enough
        for that and little to keep in a checkpoint.
        """
        if pl_module.fixed_condition is None and pl_module.condition_shape is not None:
            return {}  # there is no data to have sources of
        images = self.drawn(pl_module, pl_module.generator, len(pl_module.fixed_latents))
        size, before = tuple(images.shape[1:]), self.pictures
        self.pictures = small(images, 16)
        moved = {"movement": None if before is None else distance(self.pictures, before, size)}
        if pl_module.generator_ema is None:
            return moved
        of_average = self.drawn(pl_module, pl_module.generator_ema, FEW)
        now = {"moved": small(images[:FEW], 4), "moved_average": small(of_average, 4)}
        if not self.first:
            self.first = now
            return moved
        return moved | {name: distance(now[name], self.first[name], size) for name in now}

    def drawn(self, pl_module: GAN, network: nn.Module, num: int) -> Tensor:
        """The images of the first fixed latents by a generator, in the modes of the one that trains."""
        latents, condition = pl_module.fixed_latents[:num], pl_module.fixed_condition
        condition = None if condition is None else condition[:num]
        modules = list(uncompiled(network).modules())
        modes = [module.training for module in modules]
        try:
            for module, like in zip(modules, uncompiled(pl_module.generator).modules(), strict=False):
                module.training = like.training
            with torch.no_grad(), state_restored([network], pl_module.device, seed=0):
                return in_own_precision(network, latents, condition).float()
        finally:
            for module, training in zip(modules, modes, strict=True):
                module.training = training

    # ------------------------------------------------------------------ what becomes of the stats

    def over_processes(self, trainer: Trainer) -> OverProcesses:
        """What takes the mean, sum or maximum of a tensor over the trainer's processes."""

        def reduce(tensor: Tensor, how: Literal["mean", "sum", "max"]) -> Tensor:
            if trainer.world_size == 1:
                return tensor
            there = tensor.to(trainer.strategy.root_device)
            return trainer.strategy.reduce(there, reduce_op=how).to(tensor.device)

        return reduce

    def keep(self, stats: GradientStats) -> None:
        """Makes a column of the heat maps of every so many measurements, twice as many whenever there are too many."""
        if self.measured % self.stride == 0:
            norms = {name: network.activation_gradients for name, network in stats.networks.items()}
            self.columns.append({"step": stats.step, **norms})
        self.measured += 1
        if len(self.columns) > MAX_COLUMNS:
            self.columns = self.columns[::2]
            self.stride *= 2

    def draw(self, network: str) -> Image.Image:
        """The heat map of a network."""
        steps = [column["step"] for column in self.columns]
        title = f"{network}: gradient at each layer's output, log10 of ||dl/dh|| per {self.kind}"
        return heat_map(title, steps, [column[network] for column in self.columns])

    def show(self, trainer: Trainer, stats: GradientStats) -> None:
        """Logs scalars, histograms and heat maps."""
        scalars = {**summary_scalars(stats), **self._norms}
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=stats.step)
        for name, measured in stats.networks.items():
            for board in tensorboards(trainer):
                for tag, value in layer_scalars(measured).items():
                    board.experiment.add_scalar(f"layers/{name}/{tag}", value, stats.step)
            for layer, counts in measured.histograms.items():
                log_histogram(trainer, f"layers/{name}/activation_log10/{layer}", counts, BINS.tolist())
            if takers(trainer):  # a picture takes a while to draw
                log_image(trainer, f"gradients/heatmap_{name}", self.draw(name))


def small(images: Tensor, side: int) -> Tensor:
    """Images (N, C, H, W), or other samples (N, C, ...), at `side` pixels at most, on the CPU."""
    size = [min(side, length) for length in images.shape[2:]]
    if not size:
        return images.cpu()
    return nn.functional.interpolate(images, size=size, mode="area").cpu()


def distance(images: Tensor, others: Tensor, shape: tuple[int, ...]) -> float:
    """The root mean square distance between small images, one by one, on the scale of images (C, H, W)."""
    pixels = math.prod(shape) / images[0].numel()
    return (pixels * (images - others).square().flatten(1).sum(1).mean()).sqrt().item()


def summary_scalars(stats: GradientStats) -> dict[str, float]:
    """What is logged of both networks as wholes."""
    pair = ("slope_real", "slope_fake", "slope_between", "lipschitz", "accuracy_real", "accuracy_fake")
    names = ("image_gradient", *pair, "logit_gap", "spread_real", "spread_fake")
    scalars = {f"gradients/{name}": getattr(stats, name) for name in names}
    optional = {name: getattr(stats, name) for name in ("movement", "logit_held_out", "by_heart")}
    scalars |= {f"gradients/{name}": value for name, value in optional.items() if value is not None}
    for name, measured in stats.networks.items():
        values = {
            "parameters": measured.total,
            "first_to_last": measured.first_to_last,
            "update_ratio": measured.update_ratio,
            "spectral_norm": max(measured.spectral_norms.values(), default=math.nan),
            "dead": measured.dead_share,
            "saturated": measured.saturated_share,
        }
        values |= {f"term/{term}": value for term, value in measured.terms.items()}
        scalars |= {f"gradients/{name}/{what}": value for what, value in values.items()}
    return scalars


def layer_scalars(measured: NetworkStats) -> dict[str, float]:
    """What is logged of each layer of a network."""
    kinds = {
        "activation": measured.activation_gradients,
        "parameters": measured.parameter_gradients,
        "update_ratio": measured.update_ratios,
        "spectral_norm": measured.spectral_norms,
        "dead": measured.dead,
        "saturated": measured.saturated,
    }
    return {f"{kind}/{layer}": value for kind, values in kinds.items() for layer, value in values.items()}
