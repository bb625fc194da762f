"""The schedule against its closed form, and the order of optimizers. A resumed run's schedule is tested in test_cli."""

import math
from functools import partial

import pytest
import torch
from torch.optim import SGD

from gan.optim import OPTIMIZER_ORDER, WarmupCosine, network_of


def make(warmup: int, total: int | None, rates=(2.0,)) -> tuple[SGD, WarmupCosine]:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    optimizer = SGD(groups, lr=0.0)
    return optimizer, WarmupCosine(optimizer, warmup=warmup, total=total)


def rates(optimizer: SGD, schedule: WarmupCosine, steps: int) -> list[float]:
    """The rate that each of the next steps is taken with."""
    taken = []
    for _ in range(steps):
        taken.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return taken


def closed_form(step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return 2.0 * (step + 1) / (warmup + 1)
    return 2.0 * 0.5 * (1 + math.cos(math.pi * min(1, (step - warmup) / (total - warmup))))


@pytest.mark.parametrize(("warmup", "total"), [(4, 12), (0, 5), (1, 2)])
def test_closed_form(warmup, total):
    """No step at rate zero, the first included; the full rate right after the warm-up; zero at the end and after."""
    optimizer, schedule = make(warmup, total)
    schedule.end(max_steps=10**6)  # `total` is given, and stays
    taken = rates(optimizer, schedule, total + 3)
    assert taken == pytest.approx([closed_form(step, warmup, total) for step in range(total + 3)], abs=1e-12)
    assert taken[0] > 0
    assert taken[warmup] == 2.0
    assert taken[total:] == pytest.approx([0, 0, 0], abs=1e-12)
    assert min(taken[:total]) > 0


def test_total_is_max_steps_if_not_given():
    optimizer, schedule = make(4, None)
    schedule.end(max_steps=12)
    assert rates(optimizer, schedule, 13) == pytest.approx([closed_form(step, 4, 12) for step in range(13)], abs=1e-12)


def test_every_group_keeps_its_own_rate():
    optimizer, schedule = make(0, 4, rates=(2.0, 0.5))
    schedule.end(max_steps=4)
    rates(optimizer, schedule, 2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 0.25])


def test_state_is_the_position_alone():
    """So that a run that is resumed with another end, warm-up or rate follows that, at once."""
    optimizer, schedule = make(2, None)
    schedule.end(max_steps=6)
    rates(optimizer, schedule, 4)
    state = schedule.state_dict()
    assert set(state) == {"last_epoch", "_step_count"}

    optimizer, schedule = make(3, None, rates=(1.0,))
    schedule.end(max_steps=9)
    schedule.load_state_dict(state)
    assert schedule.total == 9
    expected = [0.5 * closed_form(step, 3, 9) for step in range(4, 10)]
    assert rates(optimizer, schedule, 6) == pytest.approx(expected, abs=1e-12)
    assert schedule.get_last_lr() == [optimizer.param_groups[0]["lr"]]


def test_goes_on_bit_for_bit():
    optimizer, schedule = make(3, 9)
    whole = rates(optimizer, schedule, 9)
    optimizer, schedule = make(3, 9)
    rates(optimizer, schedule, 4)
    state = schedule.state_dict()
    optimizer, schedule = make(3, 9)
    schedule.load_state_dict(state)
    assert rates(optimizer, schedule, 5) == whole[4:]


def test_in_a_run(make_gan, make_trainer, data):
    """All steps are training batches, of the generator too, which here steps in every third."""
    gan = make_gan(
        generator_optimizer=partial(SGD, lr=2.0), generator_scheduler=partial(WarmupCosine, warmup=2), n_critic=3
    )
    trainer = make_trainer(max_steps=7)
    with pytest.warns(UserWarning, match="before `optimizer.step"):  # torch expects a step in each
        trainer.fit(gan, data)
    (config,) = trainer.lr_scheduler_configs
    assert config.scheduler.last_epoch == 7
    assert trainer.optimizers[1].param_groups[0]["lr"] == pytest.approx(closed_form(7, 2, 7), abs=1e-12)


@pytest.mark.parametrize("max_steps", [-1, 4, 3])
def test_no_step_left(max_steps):
    """-1 is Lightning's word for a run without an end."""
    _, schedule = make(4, None)
    with pytest.raises(ValueError, match=rf"trainer.max_steps above its warmup=4, got {max_steps}"):
        schedule.end(max_steps)


def test_bad_warmup():
    with pytest.raises(ValueError, match="warmup must be at least 0"):
        make(-1, 5)


def test_the_optimizer_of_a_network_moves_that_network(make_gan):
    gan = make_gan()
    gan.trainer = type("Trainer", (), {"max_steps": 10})()
    optimizers, _ = gan.configure_optimizers()
    names = [network_of(optimizer, optimizers) for optimizer in optimizers]
    assert tuple(names) == OPTIMIZER_ORDER
    for name, optimizer in zip(names, optimizers, strict=True):
        assert optimizer.param_groups[0]["params"] == list(getattr(gan, name).parameters())
