"""The average of the generator's weights over its recent past."""

from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor, nn

from gan.errors import GANError
from gan.gradients.norms import local
from gan.gradients.places import Places
from gan.module import GAN
from gan.schedule import Number, ends
from gan.spec import uncompiled


class GeneratorEMA(Callback):
    """Keeps `generator_ema`, an exponential moving average of the generator, for samples and metrics.

    A generator moves to and fro around its best weights; their average is nearer to it than any single step
    (Yazici et al. 2019, arXiv:1806.04498). Lightning's own averaging covers the whole module, the discriminator
    included, decays by the step whatever the size of a batch, and does not know shards.

    Args:
        half_life: Images after which a weight counts half, or the schedule of that, which may start or end at 0. Early
            in a run it is shortened to a twentieth of the images seen so far, so that the random start is soon
            forgotten (Karras et al. 2022, arXiv:2206.00364).

    Raises:
        GANError: If `half_life` is not above 0, or a schedule's is below.
    """

    def __init__(self, half_life: Number = 5000):
        if not (min(ends(half_life)) >= 0 and max(ends(half_life)) > 0):
            raise GANError(f"GeneratorEMA's half_life must be a number of images above 0, got {half_life}")
        self.half_life = half_life

    def setup(self, trainer: Trainer, pl_module: GAN, stage: str) -> None:
        if stage == "fit" and pl_module.generator_ema is None:
            pl_module.add_ema()

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        assert pl_module.generator_ema is not None  # since `setup`
        self.networks = pl_module.generator_ema, uncompiled(pl_module.generator)
        self.places = Places(self.networks)
        self.processes = trainer.world_size

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.places.changed():
            adopt_buffers(*self.networks)
            self.average, self.current = map(tensors, self.networks)
        batch_images = len(batch[0]) * self.processes
        half_life = min(float(self.half_life), batch_images * trainer.global_step / 20)
        average(self.average, self.current, decay=0.5 ** (batch_images / half_life) if half_life else 0.0)


def tensors(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters and the buffers of a network; of parameters in shards, those of this process."""
    return [local(parameter.detach()) for parameter in network.parameters()], list(network.buffers())


@torch.no_grad()
def adopt_buffers(mean: nn.Module, current: nn.Module) -> None:
    """Gives `mean` the buffers that `current` has made since it was copied, or in another shape."""
    for its, now in zip(mean.modules(), current.modules(), strict=True):
        for name, buffer in now._buffers.items():  # private
            had = its._buffers.get(name)  # private
            if buffer is not None and (had is None or had.shape != buffer.shape):
                its._buffers[name] = buffer.clone()  # private


@torch.no_grad()
def average(mean: tuple[list[Tensor], list[Tensor]], current: tuple[list[Tensor], list[Tensor]], decay: float) -> None:
    """Moves the parameters of `mean` to `decay * mean + (1 - decay) * current`, and copies the buffers."""
    parameters = current[0]
    if any(now.dtype != was.dtype for was, now in zip(mean[0], parameters, strict=True)):  # of 16 bits
        parameters = [now.to(was.dtype) for was, now in zip(mean[0], parameters, strict=True)]
    torch._foreach_lerp_(mean[0], parameters, 1 - decay)  # pyright: ignore[reportPrivateImportUsage] # no public name
    if mean[1]:
        torch._foreach_copy_(mean[1], current[1])  # pyright: ignore[reportPrivateImportUsage] # no public name
