"""Clipping of both networks' gradients, where it is right under every precision and strategy."""

import math
from collections import Counter
from copy import deepcopy
from typing import Any

from lightning import Callback, Trainer
from torch.optim import Optimizer

from gan.errors import GANError
from gan.gradients.clip import Clip, Clipped, Gradients
from gan.gradients.norms import unscale
from gan.module import GAN
from gan.optim import OPTIMIZER_ORDER, network_of


class GradientClipping(Callback):
    """Clips the gradients of either network right before its optimizer steps.

    There they are averaged over the processes and without the loss scale of float16 training, which is not so in
    `training_step`. In shards (FSDP2), norms are those of all shards together.

    Logs, at `trainer.log_every_n_steps`, for each network: `grad_norm/<network>` and `grad_norm_clipped/<network>`,
    before and after clipping in the network's latest step, and `clip_rate/<network>`, the share of its steps since the
    last log in which a value changed. Steps whose gradient is not finite are neither clipped nor counted; what becomes
    of them is for `NonFiniteGuard` to say.

    Args:
        generator: How to clip the generator's gradients: ByNorm, ByValue, Adaptive or Auto (`gan.gradients.clip`);
            not at all if not given, which logs the norms alone.
        discriminator: Likewise, for the discriminator.

    Raises:
        ValueError: If neither is given.
    """

    def __init__(self, generator: Clip | None = None, discriminator: Clip | None = None):
        if generator is None and discriminator is None:
            raise GANError(
                "GradientClipping has nothing to clip: set its generator or its discriminator, "
                "for instance to {class_path: gan.gradients.clip.ByNorm, init_args: {max_norm: 1}}"
            )
        # Copies: one way for both networks must not mix up their norms.
        self.clips = {"discriminator": deepcopy(discriminator), "generator": deepcopy(generator)}
        self.latest: dict[str, Clipped] = {}
        self.steps: Counter[str] = Counter()  # since the last log
        self.clipped: Counter[str] = Counter()

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        self.gradients = {name: Gradients(getattr(pl_module, name)) for name in OPTIMIZER_ORDER}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: GAN, optimizer: Optimizer) -> None:
        network = network_of(optimizer, trainer.optimizers)
        gradients, clip = self.gradients[network], self.clips[network]
        if not gradients.present():
            return  # a step that is skipped
        unscale(optimizer, getattr(trainer.precision_plugin, "scaler", None))
        if clip is not None:
            measured = clip(gradients)
        else:
            norm = gradients.norm()
            measured = Clipped(norm, norm, False)
        self.latest[network] = measured
        if math.isfinite(measured.before):
            self.steps[network] += 1
            self.clipped[network] += measured.clipped

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int) -> None:
        # pyright does not see what Lightning's connectors give a trainer.
        if not pl_module.logs_now:
            return
        scalars = {}
        for network, measured in self.latest.items():
            scalars[f"grad_norm/{network}"] = measured.before
            scalars[f"grad_norm_clipped/{network}"] = measured.after
            if self.steps[network]:
                scalars[f"clip_rate/{network}"] = self.clipped[network] / self.steps[network]
        pl_module.log_scalars(scalars)
        self.steps.clear()
        self.clipped.clear()

    def state_dict(self) -> dict[str, Any]:
        return {
            "clips": {network: clip.state_dict() for network, clip in self.clips.items() if clip is not None},
            "latest": {network: tuple(measured) for network, measured in self.latest.items()},
            "steps": dict(self.steps),
            "clipped": dict(self.clipped),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for network, clip in self.clips.items():
            if clip is not None:
                clip.load_state_dict(state["clips"].get(network, {}))
        self.latest = {network: Clipped(*measured) for network, measured in state["latest"].items()}
        self.steps, self.clipped = Counter(state["steps"]), Counter(state["clipped"])
