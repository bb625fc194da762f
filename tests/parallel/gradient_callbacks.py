"""What test_parallel_gradients.py looks at: `python gradient_callbacks.py FOLDER [all]` runs one and two processes.

All of the runs that end by an error are made with `all` only; without, one for each place and strategy.
"""

import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from conftest import SmallMNIST
from lightning import Callback, Trainer
from torch import nn
from torch.optim import SGD, Adam

from gan import GAN
from gan.callbacks import GeneratorEMA, GradientClipping, NonFiniteGuard
from gan.gradients.clip import Adaptive, Auto, ByNorm, ByValue
from gan.gradients.norms import local
from gan.losses import NonSaturating
from gan.networks import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator
from gan.parallel import DDP, FSDP2
from parallel import sharded
from parallel.cases import Record

SHAPE = (1, 28, 28)
BATCH = 16  # images over all processes
STEPS = 10
CLIPS: dict[str, Callable[[], GradientClipping]] = {
    "norm": lambda: GradientClipping(ByNorm(0.1), ByNorm(0.5)),
    "value": lambda: GradientClipping(ByValue(0.03), ByValue(0.3)),
    "adaptive": lambda: GradientClipping(Adaptive(0.03), Adaptive(0.1)),
    "auto": lambda: GradientClipping(Auto(30, window=3), Auto(0)),
}
RATES = {"norm": 0.05, "value": 0.001, "adaptive": 0.01, "auto": 0.02}  # clamping enlarges what a last digit differs by
STRATEGIES: dict[str, tuple[Callable[[], Any], str]] = {
    "ddp": (partial(DDP, patience=20), "64-true"),
    "fsdp2": (partial(FSDP2, patience=20), "32-true"),
}
WHERE = ("image", "activation", "loss", "gradient", "weight")
# A bad batch is followed by a good one. The state that a rollback goes back to is kept every two batches.
ALL = {4 * number + 4: (where, number % 2) for number, where in enumerate([place for place in WHERE for _ in range(2)])}
FAILURES: dict[str, list[tuple[str, dict[int, tuple[str, int]]]]] = {
    "skip": [("skip", ALL), ("skip", {4: ("weight", 1)})],
    "rollback": [("rollback", ALL)],
    "raise": [("raise", {4: (where, number % 2)}) for number, where in enumerate(WHERE)],
    "raise too": [("raise", {4: (where, 1 - number % 2)}) for number, where in enumerate(WHERE)],
}
NAN = float("nan")


class Grouped(DCGANGenerator):
    """With a transposed convolution in groups, whose units are neither its rows nor its columns."""

    def __init__(self):
        super().__init__(SHAPE, latent_dim=8, base_channels=4, norm="layer")
        self.up1 = nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1, groups=2)


def make_trainer(devices: int, strategy: Any, callbacks: list[Callback], logger: Record, **settings) -> Trainer:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"log_every_n_steps": 2, "num_sanity_val_steps": 0}
    return Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, callbacks=callbacks, logger=logger, **quiet, **settings
    )


def clipped(devices: int, strategy: Any, precision: str, clip: str) -> dict[str, Any]:
    """The weights and what is logged of a run with clipping."""
    torch.manual_seed(0)
    rule = partial(SGD, lr=RATES[clip], momentum=0.5)
    networks = Grouped(), DCGANDiscriminator(SHAPE, 4, "layer")
    gan = GAN(*networks, generator_optimizer=rule, discriminator_optimizer=rule)
    start = {key: value.clone() for key, value in gan.state_dict().items()}
    record, clipping = Record(), CLIPS[clip]()
    trainer = make_trainer(devices, strategy, [clipping], record, precision=precision, max_steps=STEPS)
    trainer.fit(gan, SmallMNIST(BATCH // devices, validation_size=0))
    weights = {key: whole(value) for key, value in gan.state_dict().items()}
    moved = {key: float((value - start[key]).abs().max()) for key, value in weights.items()}
    return {"weights": weights, "moved": moved, "rows": record.rows, "state": clipping.state_dict()}


def whole(value: torch.Tensor) -> torch.Tensor:
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()


class Spoilt(NonSaturating):
    """A loss of the discriminator that can be infinite while its gradient is not."""

    bad = False

    def discriminator(self, real_logits, fake_logits):
        return super().discriminator(real_logits, fake_logits) + (float("inf") if self.bad else 0.0)


class Inject(Callback):
    """Puts a NaN somewhere, in some batches of one process each."""

    def __init__(self, plan: dict[int, tuple[str, int]]):
        self.plan = plan  # by the batches completed

    def now(self, where: str, trainer: Trainer) -> bool:
        return self.plan.get(self.batch) == (where, trainer.global_rank)

    def on_train_start(self, trainer, pl_module):
        def hook(module, inputs, output):
            if module.training and self.now("activation", trainer):
                output = output.clone()
                output[2, 1] = NAN
            return output

        pl_module.discriminator.hidden2.register_forward_hook(hook)

    @torch.no_grad()
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batch = trainer.global_step
        if self.now("image", trainer):
            batch[0][3, 0, 5, 5] = NAN
        pl_module.loss.bad = self.now("loss", trainer)
        if self.now("weight", trainer):
            local(pl_module.generator.hidden2.weight)[3, 2] = NAN

    def on_after_backward(self, trainer, pl_module):
        of_discriminator = pl_module.discriminator.hidden2.weight.requires_grad
        if self.now("gradient", trainer) and of_discriminator:
            local(pl_module.discriminator.hidden2.weight.grad)[3, 2] = NAN


def failing(strategy: Any, policy: str, plan: dict[int, tuple[str, int]]) -> dict[str, Any]:
    """What a run does in which NaNs turn up."""
    torch.manual_seed(0)
    rule = partial(Adam, lr=1e-3, betas=(0.5, 0.9))
    networks = MLPGenerator(SHAPE, latent_dim=8), MLPDiscriminator(SHAPE)
    gan = GAN(*networks, Spoilt(), generator_optimizer=rule, discriminator_optimizer=rule)
    guard, record = NonFiniteGuard(policy, tries=1, every=2), Record()
    callbacks = [GeneratorEMA(), Inject(plan), guard]
    trainer = make_trainer(2, strategy, callbacks, record, max_steps=max(plan) + 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trainer.fit(gan, SmallMNIST(BATCH // 2, validation_size=0))
            outcome = "done"
        except ValueError as error:
            outcome = str(error)
    return {
        "outcome": outcome,
        "said": [text for text in (str(warned.message) for warned in caught) if "is not finite" in text],
        "counts": guard.counts,
        "steps": trainer.global_step,
        "row": record.rows[-1],
        "finite": all(bool(local(parameter).isfinite().all()) for parameter in gan.parameters()),
        "weights": [local(parameter).clone() for parameter in gan.parameters()] if policy == "rollback" else [],
    }


def gradients(folder: Path) -> None:
    results = {}
    for name, (make, precision) in STRATEGIES.items():
        for clip in CLIPS:
            results[name, clip] = clipped(2, make(), precision, clip)
        for kind, runs in FAILURES.items():
            if kind != "raise too" or "all" in sys.argv:
                results[name, kind] = [failing(make(), *run) for run in runs]
    torch.save(results, folder / f"two-{sharded.RANK}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    if "all" not in sys.argv:
        references = {
            (precision, clip): clipped(1, "auto", precision, clip)
            for _, precision in STRATEGIES.values()
            for clip in CLIPS
        }
        torch.save(references, folder / "one.pt")
    sharded.run(gradients, 2, folder)
