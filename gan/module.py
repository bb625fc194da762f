"""The GAN: two networks, and the two steps that train them in turn.

Goodfellow et al. 2014, arXiv 1406.2661.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gan.losses import Loss, NonSaturating
from gan.networks import check_pair, evaluating, frozen, judges_each_alone
from gan.optim import make_optimizers
from gan.order import check_order
from gan.parallel import check_manual, check_strategy, is_sharded, shard
from gan.penalties import Penalty, clip_weights, mixes_batch
from gan.spec import save_hparams


class GAN(L.LightningModule):
    """A generator and a discriminator that train against each other, one batch at a time.

    Every training batch is one discriminator step; every `n_critic`-th batch is also one generator step. All
    counters of the project count training batches: `trainer.global_step`, `trainer.max_steps`, the x axis of every
    chart, `{step}` in file names, schedules and penalty intervals.

    Images are float32 (N, C, H, W) in [-1, 1], latents are standard normal (N, latent_dim), logits are (N,).

    Args:
        generator: Latents (N, latent_dim) in, images (N, C, H, W) in [-1, 1] out; has an attribute `latent_dim`.
        discriminator: Images in, logits (N,) out: positive for real, never a probability.
        loss: The adversarial objective; `NonSaturating` if not given.
        penalties: Regularisers added to the discriminator's loss: R1, R2, GradientPenalty, DRAGAN.
        weight_clip: Clamp every discriminator weight to [-weight_clip, weight_clip] after its step (WGAN).
        n_critic: Discriminator steps per generator step.
        accumulate: Passes that a training batch is worked through in, so that memory is needed for one of them only.
            Our data modules make a batch `accumulate` times as large, so a pass has `data.batch_size` images; a
            loader of your own is asked for a multiple. The weights become those of the large batch in one pass,
            except that batch normalisation sees one pass at a time.
        generator_optimizer: Any torch optimizer; Adam(lr=2e-4, betas=(0.5, 0.999)) if not given.
        discriminator_optimizer: Likewise, for the discriminator.
        generator_scheduler: A torch learning-rate scheduler that moves once per training batch; none if not given.
        discriminator_scheduler: Likewise, for the discriminator.
        num_fixed_latents: How many latents are kept, in `fixed_latents`, to watch the same images over a run.
        seed: Seeds the latents: those of a batch depend on the seed, the batch's number and the rank alone.

    Raises:
        ValueError: if a setting is out of range, or the networks do not fit each other or the data.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: Loss | None = None,
        penalties: list[Penalty] | None = None,
        weight_clip: float | None = None,
        n_critic: int = 1,
        accumulate: int = 1,
        generator_optimizer: OptimizerCallable | None = None,
        discriminator_optimizer: OptimizerCallable | None = None,
        generator_scheduler: LRSchedulerCallable | None = None,
        discriminator_scheduler: LRSchedulerCallable | None = None,
        num_fixed_latents: int = 64,
        seed: int = 42,
    ):
        super().__init__()
        if num_fixed_latents < 2:
            raise ValueError(f"model.num_fixed_latents must be at least 2, and is {num_fixed_latents}")
        if n_critic < 1:
            raise ValueError(f"model.n_critic must be at least 1, and is {n_critic}")
        if accumulate < 1:
            raise ValueError(f"model.accumulate must be at least 1, and is {accumulate}")
        if weight_clip is not None and weight_clip <= 0:
            raise ValueError(f"model.weight_clip must be above 0, and is {weight_clip}; leave it out for no clipping")
        save_hparams(self, dict(locals()))
        self.automatic_optimization = False

        if not isinstance(getattr(generator, "latent_dim", None), int):
            raise ValueError(f"{type(generator).__name__} needs an attribute latent_dim, the size of its latents")
        self.generator = generator
        self.discriminator = discriminator
        self.generator_ema: nn.Module | None = None  # set by the GeneratorEMA callback, or from a checkpoint
        self.loss = loss or NonSaturating()
        self.penalties = penalties or []
        self.weight_clip = weight_clip
        self.n_critic = n_critic
        self.accumulate = accumulate
        self.make_optimizer = (
            discriminator_optimizer or partial(Adam, lr=2e-4, betas=(0.5, 0.999)),
            generator_optimizer or partial(Adam, lr=2e-4, betas=(0.5, 0.999)),
        )
        self.make_scheduler = (discriminator_scheduler, generator_scheduler)
        self.seed = seed
        self.register_buffer("fixed_latents", self.latents(num_fixed_latents, self.rng("fixed latents")))
        self._scalars: dict[str, Tensor] = {}  # the latest value of each, between two log entries

    # ------------------------------------------------------------------ training

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Trains both networks on one batch of images (N, C, H, W) and labels (N,)."""
        real, _ = batch
        step = self.global_step
        rng = self.rng("batch", step)
        self.seed_layers(step)

        self._scalars |= self.discriminator_step(real, step, rng)
        if (step + 1) % self.n_critic == 0:
            self._scalars |= self.generator_step(real, rng)
        for config in self.trainer.lr_scheduler_configs:
            config.scheduler.step()

        if (step + 1) % self.trainer.log_every_n_steps == 0:
            self.log_scalars(self.over_processes(self._scalars))

    def discriminator_step(self, real: Tensor, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Moves the discriminator: real images (N, C, H, W) up, generated ones down."""
        optimizer = self.optimizers()[0]
        due = [penalty for penalty in self.penalties if penalty.is_due(step)]
        latents = self.noise(torch.randn, rng, len(real), self.generator.latent_dim)
        noises = [self.penalty_noise(penalty, rng, real) for penalty in due]

        optimizer.zero_grad()
        passes = []
        for real_part, latents_part, *noise_parts in self.in_passes(real, latents, *noises):
            # Sample: without a graph, so that nothing of this step reaches the generator.
            with torch.no_grad():
                fake = self.generator(latents_part)  # (N, C, H, W)

            # Objective.
            loss = self.loss.discriminator(*self.judge(real_part, fake)).mean()
            scalars = {"loss/discriminator": loss.detach()}
            for penalty, noise in zip(due, noise_parts, strict=True):
                values = penalty(self.discriminator, real_part, fake, noise)  # (N,)
                scalars[f"loss/{penalty.name}"] = values.detach().mean()
                loss = loss + penalty.contribution(values)
            self.manual_backward(loss / self.accumulate)
            passes.append(scalars)

        # Update. This optimizer is the one that `trainer.global_step` counts.
        optimizer.step()
        if self.weight_clip is not None:
            clip_weights(self.discriminator, self.weight_clip)
        return mean(passes)

    def generator_step(self, real: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Moves the generator so that the discriminator takes fresh images (N, C, H, W) for real."""
        optimizer = self.optimizers(use_pl_optimizer=False)[1]
        latents = self.noise(torch.randn, rng, len(real), self.generator.latent_dim)

        optimizer.zero_grad()
        passes = []
        with frozen(self.discriminator):
            for real_part, latents_part in self.in_passes(real, latents):
                # Sample, and let the discriminator judge.
                fake = self.generator(latents_part)  # (N, C, H, W)
                real_logits = self.discriminator(real_part) if self.loss.relativistic else None
                loss = self.loss.generator(self.discriminator(fake), real_logits).mean()
                self.manual_backward(loss / self.accumulate)
                passes.append({"loss/generator": loss.detach()})

        # Update, through the strategy: a step that all hooks see and `trainer.global_step` does not count.
        self.trainer.strategy.optimizer_step(optimizer, closure=lambda: None)
        return mean(passes)

    def judge(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The logits (N,) of real and of generated images: in one pass, which is faster, unless that mixes them."""
        if self.one_pass:
            return self.discriminator(torch.cat([real, fake])).chunk(2)
        return self.discriminator(real), self.discriminator(fake)

    def in_passes(self, *tensors: Tensor | None) -> Iterator[tuple[Tensor | None, ...]]:
        """A batch in `accumulate` parts of equal size; None stays None.

        Raises:
            ValueError: if the batch does not come out even.
        """
        if self.accumulate == 1:
            return iter([tensors])
        if len(tensors[0]) % self.accumulate:
            raise ValueError(
                f"model.accumulate={self.accumulate} cannot divide a batch of {len(tensors[0])} images into equal "
                "parts: let the data loader give a multiple of it"
            )
        nothing = [None] * self.accumulate
        return zip(*(nothing if one is None else one.chunk(self.accumulate) for one in tensors), strict=True)

    def log_scalars(self, scalars: dict[str, Tensor | float]) -> None:
        """Logs scalars of the present batch; callbacks log theirs by it too.

        Lightning would number this batch from 0, and so put scalars beside the pictures and checkpoints of the same
        batch: the loggers get the number of batches completed instead.
        """
        self.log_dict(scalars, prog_bar=True, logger=False)
        values = {name: float(value) for name, value in scalars.items()}
        for logger in self.loggers:
            logger.log_metrics(values, step=self.global_step)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Scores the discriminator on images it did not train on: far worse there, and it learns by heart."""
        real, _ = batch
        fake = self(self.latents(len(real), self.rng("validation", batch_idx, self.global_rank)))
        loss = self.loss.discriminator(self.discriminator(real), self.discriminator(fake)).mean()
        in_fit = self.trainer.state.fn == "fit"
        self.log("validation/discriminator", loss, logger=not in_fit, sync_dist=True, batch_size=len(real))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Logs the score by the batches completed; Lightning would put it beside the batch before."""
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            score = {"validation/discriminator": float(self.trainer.callback_metrics["validation/discriminator"])}
            for logger in self.loggers:
                logger.log_metrics(score, step=self.global_step)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's hook behind `manual_backward`."""
        # Forward has left its types in the graph. What autocast would still reach is the second derivative of a
        # penalty, and that must stay float32.
        with torch.autocast(self.device.type, enabled=False):
            loss.backward(*args, **kwargs)

    # ------------------------------------------------------------------ sampling

    def rng(self, *key: str | int) -> torch.Generator:
        """A random generator keyed by the seed and `key` alone: a resumed run draws what it would have drawn."""
        digest = hashlib.blake2b(repr((self.seed, *key)).encode(), digest_size=8).digest()
        return torch.Generator(self.device).manual_seed(int.from_bytes(digest) >> 1)

    def seed_layers(self, step: int) -> None:
        """Keys what layers draw by themselves, as dropout does, by the seed, the batch and the process."""
        seed = self.rng("layers", step, self.global_rank).initial_seed()
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def noise(self, draw: Callable[..., Tensor], rng: torch.Generator, num: int, *shape: int) -> Tensor:
        """This process's part (num, *shape) of a training batch's noise, `draw` being torch.randn or torch.rand.

        Every process draws the noise of all and takes its own rows, which belong to the rows of images that the
        loader gives it: however many share a batch, they train on the same one.
        """
        whole = draw(self.trainer.world_size * num, *shape, generator=rng, device=rng.device, dtype=self.dtype)
        return whole[self.global_rank * num : (self.global_rank + 1) * num]

    def penalty_noise(self, penalty: Penalty, rng: torch.Generator, images: Tensor) -> Tensor | None:
        """What `penalty` needs for images (N, C, H, W)."""
        shape = penalty.noise_shape(images.shape[1:])
        return None if shape is None else self.noise(torch.rand, rng, len(images), *shape)

    def over_processes(self, scalars: dict[str, Tensor]) -> dict[str, Tensor]:
        """The means of scalars over all processes, which each must call."""
        if not scalars:
            return {}
        values = self.trainer.strategy.reduce(torch.stack(list(scalars.values())), reduce_op="mean")
        return dict(zip(scalars, values, strict=True))

    def latents(self, num: int, rng: torch.Generator) -> Tensor:
        """Standard normal latents (num, latent_dim) on the generator's device."""
        return torch.randn(num, self.generator.latent_dim, generator=rng, device=rng.device, dtype=self.dtype)

    @torch.no_grad()
    def forward(self, latents: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] for latents (N, latent_dim), by the averaged generator where there is one.

        In evaluation mode and without a graph, whatever the mode of the module: sampling never changes training.
        """
        network = self.generator if self.generator_ema is None else self.generator_ema
        with evaluating(network):
            return network(latents)

    # ------------------------------------------------------------------ Lightning's hooks

    def configure_callbacks(self) -> list[L.Callback]:
        """Adds none. It is the last hook before Lightning refuses settings without telling the way out."""
        check_manual(self.trainer)
        check_order(self.trainer.callbacks)
        return []

    def setup(self, stage: str) -> None:
        """Checks, before anything is trained, that networks and data fit."""
        check_strategy(self.trainer, self.penalties)
        if is_sharded(self.generator):  # a second `fit`, or scores after it: neither network is new
            return
        image_shape = getattr(self.trainer.datamodule, "image_shape", None)
        images = check_pair(self.generator, self.discriminator, image_shape)
        mixes = mixes_batch(self.discriminator)
        self.one_pass = not mixes and judges_each_alone(self.discriminator, images)
        if self.penalties and self.trainer.precision in ("16-true", "bf16-true"):
            raise ValueError(
                f"trainer.precision={self.trainer.precision} leaves no float32 weights to compute a penalty with: "
                f"set it to {self.trainer.precision.replace('true', 'mixed')}, or model.penalties to []"
            )
        if mixes:
            for penalty in self.penalties:
                rank_zero_warn(
                    f"{type(penalty).__name__} is about each image's own gradient, and batch normalisation in the "
                    "discriminator mixes the images of a batch; set its norm to layer, group, spectral or none"
                )

    def configure_model(self) -> None:
        """Shards each network on its own, under FSDP2. Called anew for each `fit` and each `validate`."""
        if self.device_mesh is None or is_sharded(self.generator):
            return
        if self.trainer.state.fn != "fit" and self.generator_ema is None:
            self.add_ema()  # a checkpoint may have one, and what is sharded cannot be copied
        networks = (self.generator, self.discriminator, self.generator_ema)
        present = [network for network in networks if network is not None]
        shard(present, self.device_mesh, self.trainer.strategy.root_device)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        networks = {"discriminator": self.discriminator, "generator": self.generator}
        return make_optimizers(networks, self.make_optimizer, self.make_scheduler, self.trainer.max_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what a run that goes on needs to log as before, and to know whether it is the same bit for bit."""
        checkpoint["world_size"] = self.trainer.world_size
        self._scalars = checkpoint["scalars"] = self.over_processes(self._scalars)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Brings the averaged generator of the checkpoint and that of this run together."""
        names = {"loss/discriminator", "loss/generator", *(f"loss/{penalty.name}" for penalty in self.penalties)}
        scalars = checkpoint.get("scalars", {}).items()
        self._scalars = {name: value.to(self.device) for name, value in scalars if name in names}
        state = checkpoint["state_dict"]
        average = {key for key in state if key.startswith("generator_ema.")}
        training = self._trainer is not None and self.trainer.state.fn == "fit"
        if average and self.generator_ema is None and training:
            rank_zero_warn("the checkpoint's averaged generator is dropped: this run has no GeneratorEMA")
            for key in average:
                del state[key]
        if not average and self.generator_ema is not None:
            own = [key for key in state if key.startswith("generator.")]
            state |= {key.replace("generator.", "generator_ema.", 1): state[key].clone() for key in own}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Loads weights, those of an averaged generator too."""
        if self.generator_ema is None and any(key.startswith("generator_ema.") for key in state_dict):
            self.add_ema()
        return super().load_state_dict(state_dict, *args, **kwargs)

    def add_ema(self) -> None:
        """Adds `generator_ema`, a copy of the generator that no gradient reaches."""
        self.generator_ema = deepcopy(self.generator).requires_grad_(False)


def mean(passes: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each scalar over the passes of a batch."""
    if len(passes) == 1:
        return passes[0]
    return {name: torch.stack([scalars[name] for scalars in passes]).mean() for name in passes[0]}
