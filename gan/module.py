"""The GAN: two networks, and the two steps that train them in turn.

Goodfellow et al. 2014, arXiv:1406.2661.
"""

import math
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Adam

from gan.augment import Augment
from gan.errors import GANError
from gan.games import Lookahead, without_lookahead
from gan.lifecycle import Lifecycle
from gan.losses import Loss, NonSaturating
from gan.networks import classes_of, evaluating, frozen, given, in_own_precision, sources_of
from gan.noise import Noise
from gan.normalize import GradientNormalizer
from gan.optim import OPTIMIZER_ORDER, Resumed, make_optimizers, mean, with_names
from gan.penalties import Penalty, add_penalties, clip_weights_after, due
from gan.spec import class_name, save_hparams, without_parser
from gan.terms import Classification, FeatureMatching, Reconstruction, Terms
from gan.text import noun

Batch = tuple[Tensor, Tensor | None]  # images (N, C, H, W), and what they are of: their condition
Scalars = dict[str, Tensor]  # each ()

SAMPLE_BATCH = 250  # images made at a time where many are asked for


class GAN(Lifecycle):
    """A generator and a discriminator that train against each other, one batch at a time.

    Every training batch is one discriminator step; every `n_critic`-th batch is also one generator step. All
    counters of the project count training batches: `trainer.global_step`, `trainer.max_steps`, the x axis of every
    chart, `{step}` in file names, schedules and penalty intervals.

    Images are float32 (N, C, H, W) in [-1, 1], latents are standard normal (N, latent_dim), logits are (N,), or
    (N, ...) of a discriminator that judges patches: a sample's logit is then their mean, and its loss that of theirs.
    Samples of another kind are (N, ...), in the `sample_shape` that the data module states.

    What an image is to be of is its `condition`: int64 labels (N,), or a source image, (N, C', H', W') in [-1, 1]. A
    network is conditional if its `forward` takes one as a second input: `generator(latents, condition)`,
    `discriminator(images, condition)`. A generator with an attribute `num_classes` is told labels, one with
    `condition_shape` images.

    Args:
        generator: Latents (N, latent_dim) in, images (N, C, H, W) in [-1, 1] out; has an attribute `latent_dim`.
        discriminator: Images in, logits (N, ...) out: positive for real, never a probability.
        loss: The adversarial objective; `NonSaturating` if not given.
        penalties: Regularisers added to the discriminator's loss, or one: R1, R2, ApproximateR1, ApproximateR2,
            GradientPenalty, DRAGAN.
        classification: For class-conditional training by an auxiliary classifier: its term of both losses. For few
            labels, `SemiSupervised`.
        feature_matching: A term of the generator's loss in the place of the adversarial part, or beside it.
        reconstruction: For training on pairs of images: its term of the generator's loss.
        augment: Of all that the discriminator judges in training, real and generated: DiffAugment, AdaptiveAugment.
        normalize_gradient: Whether to divide the gradient that comes to the generated images by a running mean of its
            norm: see `gan.normalize.GradientNormalizer`.
        weight_clip: Clamp every discriminator weight to [-weight_clip, weight_clip] after its step (WGAN).
        freeze_discriminator: The first layers of the discriminator, so many, that stay as they are: for training that
            starts from trained weights (FreezeD). What counts as a layer: see `gan.networks.freezing`.
        n_critic: Discriminator steps per generator step.
        accumulate: Passes that a training batch is worked through in, so that memory is needed for one of them only.
            Our data modules make a batch `accumulate` times as large, so a pass has `data.batch_size` images; a
            loader of your own is asked for a multiple. The weights become those of the large batch in one pass,
            except that batch normalisation sees one pass at a time, and FeatureMatching matches the means of each.
        extragradient: Whether to evaluate each batch twice, where the networks are and a step ahead, and to step by
            what is seen there, at twice the cost of a batch: see `gan.games.Extragradient`.
        lookahead: For both networks to go back part of their way every so many batches.
        generator_optimizer: Any torch optimizer; Adam(lr=2e-4, betas=(0.5, 0.999)) if not given.
        discriminator_optimizer: Likewise, for the discriminator.
        generator_scheduler: A torch learning-rate scheduler that moves once per training batch; none if not given.
        discriminator_scheduler: Likewise, for the discriminator.
        num_fixed_latents: How many latents are kept, in `fixed_latents`, to watch the same images over a run.
        seed: Seeds the latents: those of a batch depend on the seed, the batch's number and the rank alone.

    Raises:
        ValueError: If a setting is out of range, or the networks do not fit each other or the data.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: Loss | None = None,
        penalties: list[Penalty] | Penalty | None = None,
        classification: Classification | None = None,
        feature_matching: FeatureMatching | None = None,
        reconstruction: Reconstruction | None = None,
        augment: Augment | None = None,
        normalize_gradient: bool = False,
        weight_clip: float | None = None,
        freeze_discriminator: int = 0,
        n_critic: int = 1,
        accumulate: int = 1,
        extragradient: bool = False,
        lookahead: Lookahead | None = None,
        generator_optimizer: OptimizerCallable | None = None,
        discriminator_optimizer: OptimizerCallable | None = None,
        generator_scheduler: LRSchedulerCallable | None = None,
        discriminator_scheduler: LRSchedulerCallable | None = None,
        num_fixed_latents: int = 64,
        seed: int = 42,
    ):
        super().__init__()
        if not num_fixed_latents >= 2:
            raise GANError(f"model.num_fixed_latents must be at least 2, got {num_fixed_latents}")
        if not n_critic >= 1:
            raise GANError(f"model.n_critic must be at least 1, got {n_critic}")
        if not accumulate >= 1:
            raise GANError(f"model.accumulate must be at least 1, got {accumulate}")
        if extragradient and n_critic != 1:
            raise GANError(f"model.extragradient moves both networks at once: set model.n_critic to 1, got {n_critic}")
        if weight_clip is not None and not 0 < weight_clip < math.inf:
            raise GANError(f"model.weight_clip must be above 0, got {weight_clip}; leave it out for no clipping")
        if not freeze_discriminator >= 0:
            raise GANError(f"model.freeze_discriminator must be at least 0 layers, got {freeze_discriminator}")
        save_hparams(self, dict(locals()))
        self.automatic_optimization = False

        if not isinstance(getattr(generator, "latent_dim", None), int):
            raise GANError(f"{class_name(generator)} needs an attribute latent_dim, the size of its latents")
        self.generator = generator
        self.discriminator = discriminator
        self.generator_ema = None
        self.num_classes, self.condition_shape = classes_of(generator), sources_of(generator)
        self.loss = loss or NonSaturating()
        self.penalties = [penalties] if isinstance(penalties, Penalty) else penalties or []
        self.terms = Terms(classification, feature_matching, reconstruction)
        self.augment = augment
        self.normalizer = GradientNormalizer() if normalize_gradient else None
        self.weight_clip = weight_clip
        self.freeze_discriminator = freeze_discriminator
        self.n_critic = n_critic
        self.accumulate = accumulate
        self.extragradient = extragradient
        self.lookahead = lookahead
        default = partial(Adam, lr=2e-4, betas=(0.5, 0.999))
        self.make_optimizer = tuple(
            without_parser(make) or default for make in (discriminator_optimizer, generator_optimizer)
        )
        self.make_scheduler = tuple(without_parser(make) for make in (discriminator_scheduler, generator_scheduler))
        self.seed = seed
        self.register_buffer("fixed_latents", self.latents(num_fixed_latents, self.rng("fixed latents")))
        self.scalars = {}
        self.resumed = Resumed()

    # ------------------------------------------------------------------ training

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Trains both networks on one batch."""
        real, condition = batch
        scalars = {}
        for noise in self.evaluations():  # one, but for the extragradient method
            scalars |= self.discriminator_step(real, condition, noise)  # from here on, `global_step` counts this batch
            if self.global_step % self.n_critic == 0:
                scalars |= self.generator_step(real, condition, noise)
        self.report(scalars, len(real))
        self.step_schedulers()

    def discriminator_step(self, real: Tensor, condition: Tensor | None, noise: Noise) -> Scalars:
        """Moves the discriminator: real images (N, C, H, W) up, generated ones down."""
        optimizer = self.optimizer("discriminator")
        penalties = due(self.penalties, self.global_step)

        optimizer.zero_grad()
        passes = []
        for generate, judge, x, z, *u in self.passes(
            noise, condition, real, noise.latents(len(real)), *noise.for_penalties(penalties, real)
        ):
            # Sample: without a graph, so that nothing of this step reaches the generator.
            with torch.no_grad():
                fake = generate(z)  # (N, C, H, W)

            # Objective.
            real_logits = judge(x)
            loss = self.loss.discriminator(real_logits, judge(fake)).mean()
            passes.append({"loss/discriminator": loss, **self.watch(real_logits)})
            loss = add_penalties(loss, penalties, judge, x, fake, u, passes[-1])
            loss = self.terms.discriminator(loss, judge, x, fake, passes[-1])
            self.manual_backward(loss / self.accumulate)

        # Update. These are the steps that `trainer.global_step` counts.
        self.update(optimizer)
        return mean(passes)

    def generator_step(self, real: Tensor, condition: Tensor | None, noise: Noise) -> Scalars:
        """Moves the generator so that the discriminator takes fresh images (N, C, H, W) for real."""
        optimizer = self.optimizer("generator")

        optimizer.zero_grad()
        passes = []
        with frozen(self.discriminator):
            for generate, judge, x, z in self.passes(noise, condition, real, noise.latents(len(real))):
                # Sample, and let the discriminator judge.
                fake = generate(z)  # (N, C, H, W)
                real_logits = judge(x) if self.loss.relativistic else None
                loss = self.loss.generator(judge(fake), real_logits).mean()
                passes.append({"loss/generator": loss})
                loss = self.terms.generator(loss, judge, x, fake, passes[-1])
                self.manual_backward(loss / self.accumulate)

        # Update.
        self.update(optimizer)
        return mean(passes)

    def configure_optimizers(self) -> Any:
        """The optimizers, the discriminator's first, and their schedules, as Lightning has them with a name."""
        networks = {name: self.get_submodule(name) for name in OPTIMIZER_ORDER}
        makers = self.make_optimizer, self.make_scheduler
        frozen = self.frozen_parameters()
        made = make_optimizers(networks, *makers, self.length(), self.resumed, frozen)
        for optimizer in made[0]:
            if self.lookahead is None:
                without_lookahead(optimizer)
            else:
                self.lookahead.watch(optimizer)
        if self.weight_clip is not None:
            clip_weights_after(made[0][0], self.discriminator, self.weight_clip, frozen)
        return with_names(*made)

    # ------------------------------------------------------------------ validation and sampling

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores the discriminator on images it did not train on: far worse there, and it learns by heart."""
        real, condition = batch
        fake = self(self.latents(len(real), self.rng("validation", batch_idx, self.global_rank)), condition)
        (judge,) = given(condition, self.discriminator)
        loss = self.loss.discriminator(judge(real), judge(fake)).mean()
        self.log("validation/discriminator", loss, sync_dist=True, batch_size=len(real))

    test_step = validation_step

    def latents(self, num: int, rng: torch.Generator) -> Tensor:
        """Standard normal latents (num, latent_dim) on the generator's device."""
        dtype = cast(torch.dtype, self.dtype)
        return torch.randn(num, self.latent_dim, generator=rng, device=rng.device, dtype=dtype)

    @torch.no_grad()
    def forward(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] for latents (N, latent_dim), by the averaged generator where there is one.

        In evaluation mode and without a graph, whatever the mode of the module: sampling never changes training.

        Args:
            latents: (N, latent_dim).
            condition: What the images are to be of, for a conditional generator: labels (N,), the classes in turn if
                not given; or source images (N, C', H', W') in [-1, 1].

        Raises:
            GANError: If a generator that is told source images is not given as many.
        """
        network = self.generator if self.generator_ema is None else self.generator_ema
        with evaluating(network):
            return in_own_precision(network, latents, self.condition_of(len(latents), condition))

    def sample(self, num: int, seed: int = 0, condition: Tensor | None = None) -> Tensor:
        """Images (num, C, H, W), float32 in [-1, 1] on the CPU, by the averaged generator where there is one.

        The same as of `python -m gan.cli sample`. Training goes on as if nothing had been drawn.

        Args:
            num: How many, at least 1.
            seed: Of the latents: the same seed gives the same images, and a larger `num` the same ones and more.
            condition: For a conditional generator, labels (num,), the classes in turn if not given; or source images
                (num, C', H', W') in [-1, 1].

        Raises:
            GANError: If there is no such number of images, or the condition is none that the generator is told.
        """
        if not num >= 1:
            raise GANError(f"num must be at least 1 {noun(self.generator)}, got {num}")
        # One latent after the other from one generator: what a batch holds does not depend on the batch size. By 16,
        # because torch draws blocks of 16 numbers, and the last block again where they do not come out even.
        rng = torch.Generator().manual_seed(seed)
        latents = torch.randn(-(-num // 16) * 16, self.latent_dim, generator=rng)[:num]
        parts = latents.to(self.device, cast(torch.dtype, self.dtype)).split(SAMPLE_BATCH)
        told = self.condition_asked(num, condition)
        of_parts = [None] * len(parts) if told is None else told.split(SAMPLE_BATCH)
        return torch.cat([self(part, of_part).float().cpu() for part, of_part in zip(parts, of_parts, strict=True)])
