"""The state that a run can go back to: all that training changes, however often it is put back."""

from functools import partial

import pytest
import torch
from commands import equal
from lightning import Callback
from torch.optim import SGD, Adam

from gan.optim import WarmupCosine
from gan.rollback import State


class Back(Callback):
    """Keeps the state after a batch, and goes back to it after others."""

    def __init__(self, keep: int, *back: int):
        self.keep, self.back, self.seen = keep, back, []

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step == self.keep:
            self.state = State(trainer, pl_module)
            self.then = everything(trainer, pl_module)
        if trainer.global_step in self.back:
            moved = not equal(everything(trainer, pl_module), self.then)
            self.state.restore()
            self.seen.append((moved, equal(everything(trainer, pl_module), self.then)))


def everything(trainer, gan) -> list:
    """A copy of what there is to go back to."""
    schedules = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
    return torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, [gan.state_dict(), optimizers, schedules])


@pytest.mark.parametrize("optimizer", [partial(Adam, lr=0.01), partial(SGD, lr=0.01, momentum=0.9)])
def test_all_that_training_changes_is_put_back_each_time(make_gan, make_trainer, data, optimizer):
    back = Back(2, 4, 7)
    schedule = partial(WarmupCosine, warmup=0)
    gan = make_gan(
        **{f"{name}_optimizer": optimizer for name in ("generator", "discriminator")},
        **{f"{name}_scheduler": schedule for name in ("generator", "discriminator")},
    )
    make_trainer(max_steps=8, callbacks=[back]).fit(gan, data)
    assert back.state.step == 2
    assert back.seen == [(True, True)] * 2
