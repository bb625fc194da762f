"""The schedule against its closed form, and the order of optimizers. A resumed run's schedule is tested in test_cli."""

import math
from copy import deepcopy
from datetime import timedelta
from functools import partial

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import Timer
from torch.optim import SGD, Adam, AdamW, RMSprop, lr_scheduler
from torch.utils.data import DataLoader, IterableDataset

from gan.callbacks import NonFiniteGuard, RunProgress
from gan.errors import GANError
from gan.loggers import MetricsTable
from gan.optim import OPTIMIZER_ORDER, Length, Resumed, WarmupCosine, class_of, make_optimizers, network_of
from gan.spec import described


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
    schedule.end(Length(10**6))  # `total` is given, and stays
    taken = rates(optimizer, schedule, total + 3)
    assert taken == pytest.approx([closed_form(step, warmup, total) for step in range(total + 3)], abs=1e-12)
    assert taken[0] > 0
    assert taken[warmup] == 2.0
    assert taken[total:] == pytest.approx([0, 0, 0], abs=1e-12)
    assert min(taken[:total]) > 0


def test_total_is_the_length_of_the_run_if_not_given():
    optimizer, schedule = make(4, None)
    schedule.end(Length(40))
    assert rates(optimizer, schedule, 41) == pytest.approx([closed_form(step, 4, 40) for step in range(41)], abs=1e-12)


def test_every_group_keeps_its_own_rate():
    optimizer, schedule = make(0, 4, rates=(2.0, 0.5))
    schedule.end(Length(4))
    rates(optimizer, schedule, 2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 0.25])


def test_state_is_the_position_alone():
    """So that a run that is resumed with another end, warm-up or rate follows that, at once."""
    optimizer, schedule = make(2, None)
    schedule.end(Length(20))
    rates(optimizer, schedule, 4)
    state = schedule.state_dict()
    assert set(state) == {"last_epoch", "_step_count"}

    optimizer, schedule = make(3, None, rates=(1.0,))
    schedule.end(Length(30))
    schedule.load_state_dict(state)
    assert schedule.total == 30
    expected = [0.5 * closed_form(step, 3, 30) for step in range(4, 10)]
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
    trainer = make_trainer(max_steps=22)
    with pytest.warns(UserWarning, match="before `optimizer.step"):  # torch expects a step in each
        trainer.fit(gan, data)
    (config,) = trainer.lr_scheduler_configs
    assert config.scheduler.last_epoch == 22
    assert trainer.optimizers[1].param_groups[0]["lr"] == pytest.approx(closed_form(22, 2, 22), abs=1e-12)


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (9, 0), (39, 3), (40, 4), (400, 4)])
def test_warm_up_takes_at_most_a_tenth_of_a_run(total, warmup, recwarn):
    optimizer, schedule = make(4, None)
    schedule.end(Length(total))
    taken = rates(optimizer, schedule, total + 1)
    expected = [closed_form(step, warmup, total) for step in range(total + 1)]
    assert taken == pytest.approx(expected, abs=1e-12)
    said = [f"WarmupCosine: warmup is shortened from 4 to {warmup}, a tenth of this run"] if warmup < 4 else []
    assert [str(warning.message) for warning in recwarn if "WarmupCosine" in str(warning.message)] == said


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_steps": 13}, 13),
        ({"max_epochs": 2, "max_steps": -1}, 64),  # of 512 images by 16
        ({"max_epochs": 2, "max_steps": -1, "limit_train_batches": 5}, 10),
        ({"max_epochs": 3, "max_steps": 40}, 40),
        ({"max_epochs": 1, "max_steps": 40}, 32),
        ({"fast_dev_run": True}, 1),
        ({"fast_dev_run": 3}, 3),
    ],
)
def test_the_rate_is_zero_where_the_run_ends(make_gan, make_trainer, data, settings, expected):
    gan = make_gan(generator_optimizer=partial(SGD, lr=2.0), generator_scheduler=WarmupCosine)
    trainer = make_trainer(**settings)
    with pytest.warns(UserWarning, match="warmup is shortened from 100 to"):
        trainer.fit(gan, data)
    assert trainer.global_step == expected
    assert trainer.optimizers[1].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_a_run_that_its_time_ends_follows_the_clock(make_gan, make_trainer, data, tmp_path):
    """From the checkpoint on too: the time before it counts."""
    rates = {}

    class Rates(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            timer = next(callback for callback in trainer.callbacks if isinstance(callback, Timer))
            rates[timer.time_elapsed()] = trainer.optimizers[1].param_groups[0]["lr"]

    def train(seconds, **settings):
        gan = make_gan(generator_optimizer=partial(SGD, lr=2.0), generator_scheduler=partial(WarmupCosine, warmup=3))
        trainer = make_trainer(max_steps=-1, callbacks=[Rates(), Timer(timedelta(seconds=seconds), interval="step")])
        with pytest.warns(UserWarning, match="follows the clock, and a run that goes on .* not the same bit for bit"):
            trainer.fit(gan, data, **settings)
        return trainer

    trainer = train(1.5)
    early = [rate for at, rate in rates.items() if 0.2 < at < 0.5]
    late = [rate for at, rate in rates.items() if at > 1.4]
    assert min(early) > 1
    assert max(late) < 0.1
    path = tmp_path / "clock.ckpt"
    trainer.save_checkpoint(path)
    rates.clear()
    train(3, ckpt_path=path, weights_only=True)
    assert min(rates) >= 1.5
    assert max(rates.values()) < 1.2  # half the time was over


class Stream(IterableDataset):
    def __iter__(self):
        for number in range(40):
            yield torch.full((1, 28, 28), number / 40), 0


@pytest.mark.parametrize("settings", [{"max_steps": -1, "max_epochs": 9}, {"max_steps": -1, "max_epochs": -1}])
def test_a_run_of_unknown_length_keeps_its_rate(make_gan, make_trainer, settings):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step >= 20

    gan = make_gan(generator_optimizer=partial(SGD, lr=2.0), generator_scheduler=partial(WarmupCosine, warmup=3))
    trainer = make_trainer(callbacks=[Stop(), RunProgress()], enable_progress_bar=True, **settings)
    with pytest.warns(UserWarning, match="nothing tells how long this run is, .* set trainer.max_steps, or total"):
        trainer.fit(gan, DataLoader(Stream(), batch_size=4))
    assert trainer.global_step == 20
    assert trainer.optimizers[1].param_groups[0]["lr"] == 2.0


@pytest.mark.parametrize("every", [0, 1, 2])
def test_nothing_is_logged_every_0_batches(make_gan, make_trainer, data, every, tmp_path):
    table = MetricsTable(tmp_path)
    trainer = make_trainer(
        max_steps=4,
        log_every_n_steps=every,
        logger=table,
        callbacks=[RunProgress(), NonFiniteGuard()],
        enable_progress_bar=True,
    )
    trainer.fit(make_gan(), data)
    rows = (tmp_path / "metrics.csv").read_text("utf-8").splitlines()[1:] if every else []
    assert len(rows) == (4 // every if every else 0)
    assert (tmp_path / "metrics.csv").exists() == bool(every)


def test_bad_warmup():
    with pytest.raises(ValueError, match="warmup must be at least 0"):
        make(-1, 5)
    with pytest.raises(ValueError, match="total must be above warmup=5, got 5"):
        make(5, 5)


def test_the_optimizer_of_a_network_moves_that_network(make_gan):
    gan = make_gan()
    gan.trainer = type("Trainer", (), {"estimated_stepping_batches": 10})()
    optimizers, _ = gan.configure_optimizers()
    names = [network_of(optimizer, optimizers) for optimizer in optimizers]
    assert tuple(names) == OPTIMIZER_ORDER
    for name, optimizer in zip(names, optimizers, strict=True):
        assert optimizer.param_groups[0]["params"] == list(getattr(gan, name).parameters())


SCHEDULES = {
    "StepLR": ({"step_size": 2, "gamma": 0.5}, {"step_size": 3, "gamma": 0.1}),
    "ExponentialLR": ({"gamma": 0.9}, {"gamma": 0.5}),
    "CosineAnnealingLR": ({"T_max": 20}, {"T_max": 40, "eta_min": 0.001}),
    "OneCycleLR": ({"max_lr": 0.1, "total_steps": 20}, {"max_lr": 0.3, "total_steps": 30}),  # moves betas too
    "CyclicLR": ({"base_lr": 0.01, "max_lr": 0.1, "cycle_momentum": False}, {"base_lr": 0.02, "max_lr": 0.3}),
    "WarmupCosine": ({"warmup": 3, "total": 20}, {"warmup": 6, "total": 40}),
}
SCHEDULES["CyclicLR"][1]["cycle_momentum"] = False


def scheduler(name: str, settings: dict):
    return partial(WarmupCosine if name == "WarmupCosine" else getattr(lr_scheduler, name), **settings)


class Trained:
    """The optimizers and schedules of two networks after some steps, and what a checkpoint holds of them."""

    def __init__(self, make_optimizer, make_scheduler, steps: int = 0, before: "Trained | None" = None, known=True):
        torch.manual_seed(0)
        self.networks = {name: torch.nn.Linear(2, 2) for name in OPTIMIZER_ORDER}
        resumed = Resumed()
        self.optimizers, self.schedulers = make_optimizers(
            self.networks, (make_optimizer,) * 2, make_scheduler, Length(100), resumed
        )
        settings = {}
        for name, schedule in zip(OPTIMIZER_ORDER, make_scheduler, strict=True):
            settings |= {f"{name}_optimizer": described(make_optimizer), f"{name}_scheduler": described(schedule)}
        self.settings = settings if known else {}
        if before is not None:
            for network, other in zip(self.networks.values(), before.networks.values(), strict=True):
                network.load_state_dict(other.state_dict())
            checkpoint = before.checkpoint()
            resumed.read(checkpoint, self.settings)
            assert checkpoint["lr_schedulers"] == []
            for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
                optimizer.load_state_dict(state)
        self.rates = [self.step() for _ in range(steps)]
        self.steps = steps + (before.steps if before else 0)

    def step(self) -> list[dict]:
        for network, optimizer in zip(self.networks.values(), self.optimizers, strict=True):
            for parameter in network.parameters():
                parameter.grad = parameter.detach().clone()
            optimizer.step()
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        taken = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        for schedule in self.schedulers:
            schedule.step()
        return taken

    def checkpoint(self) -> dict:
        by_network = {schedule.optimizer: schedule for schedule in self.schedulers}
        return deepcopy(
            {
                "hyper_parameters": self.settings,
                "global_step": self.steps,
                "optimizer_states": [optimizer.state_dict() for optimizer in self.optimizers],
                "lr_schedulers": [schedule.state_dict() for schedule in self.schedulers],
                "optimizer_classes": {
                    name: [class_of(optimizer), class_of(by_network.get(optimizer))]
                    for name, optimizer in zip(OPTIMIZER_ORDER, self.optimizers, strict=True)
                },
            }
        )

    @property
    def weights(self) -> list[torch.Tensor]:
        return [parameter for network in self.networks.values() for parameter in network.parameters()]


@pytest.mark.parametrize("known", [True, False], ids=["from a config", "from Python, without a plain form"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_unchanged_settings_go_on_bit_for_bit(name, known):
    makers = partial(Adam, lr=0.01), (scheduler(name, SCHEDULES[name][0]),) * 2
    whole = Trained(*makers, steps=12, known=known)
    half = Trained(*makers, steps=7, known=known)
    rest = Trained(*makers, steps=5, before=half, known=known)
    assert rest.rates == whole.rates[7:]
    assert all(map(torch.equal, rest.weights, whole.weights))


@pytest.mark.parametrize("name", SCHEDULES)
def test_other_settings_of_a_schedule_and_its_optimizer_are_followed(name):
    """As if the run had had them from its start, at the batch that it goes on from."""
    old, new = (scheduler(name, settings) for settings in SCHEDULES[name])
    half = Trained(partial(Adam, lr=0.01), (old, old), steps=7)
    make = partial(Adam, lr=0.002, betas=(0.3, 0.7))
    rest = Trained(make, (new, new), steps=5, before=half)
    assert rest.rates == Trained(make, (new, new), steps=12).rates[7:]
    assert all(state["step"] == 12 for optimizer in rest.optimizers for state in optimizer.state.values())


@pytest.mark.parametrize(
    ("before", "after"), [(("StepLR", None), (None, "StepLR")), ((None, "StepLR"), ("ExponentialLR", "StepLR"))]
)
def test_schedule_of_one_network_is_not_given_to_the_other(before, after):
    def makers(names):
        return tuple(name and scheduler(name, SCHEDULES[name][0]) for name in names)

    half = Trained(partial(Adam, lr=0.01), makers(before), steps=7)
    with pytest.warns(UserWarning, match="StepLR in place of None|ExponentialLR in place of None"):
        rest = Trained(partial(Adam, lr=0.01), makers(after), steps=5, before=half)
    assert rest.rates == Trained(partial(Adam, lr=0.01), makers(after), steps=12).rates[7:]


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (partial(Adam, lr=0.01), partial(SGD, lr=0.01, momentum=0.9), "SGD in place of torch.optim.adam.Adam"),
        (partial(Adam, lr=0.01), partial(AdamW, lr=0.01), "AdamW in place of torch.optim.adam.Adam"),
        (partial(SGD, lr=0.01), partial(Adam, lr=0.01), "Adam in place of torch.optim.sgd.SGD"),
        (partial(Adam, lr=0.01), partial(Adam, lr=0.01, amsgrad=True), "has no max_exp_avg_sq"),
        (partial(RMSprop, lr=0.01), partial(RMSprop, lr=0.01, centered=True), "has no grad_avg"),
    ],
)
def test_state_of_another_optimizer_starts_anew(before, after, reason):
    half = Trained(before, (None, None), steps=7)
    with pytest.warns(UserWarning, match=f"{reason}; its state starts anew"):
        rest = Trained(after, (None, None), steps=1, before=half)
    fresh = Trained(after, (None, None))
    for network, other in zip(fresh.networks.values(), half.networks.values(), strict=True):
        network.load_state_dict(other.state_dict())
    fresh.step()
    assert all(map(torch.equal, rest.weights, fresh.weights))


class Counting(SGD):
    """Counts its steps in its groups, as some optimizers do."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.defaults["count"] = 0
        for group in self.param_groups:
            group["count"] = 0

    def step(self):
        super().step()
        for group in self.param_groups:
            group["count"] += 1


def test_counters_that_an_optimizer_keeps_in_its_groups_go_on():
    half = Trained(partial(Counting, lr=0.01), (None, None), steps=7)
    rest = Trained(partial(Counting, lr=0.5), (None, None), steps=2, before=half)
    assert [(group["lr"], group["count"]) for group in rest.rates[-1]] == [(0.5, 9)] * 2


def test_muon_of_torch_leads_to_the_one_that_takes_kernels():
    networks = {"generator": torch.nn.Linear(2, 2), "discriminator": torch.nn.Linear(2, 1)}
    with pytest.raises(GANError, match=r"model.generator_optimizer: Muon only supports 2D .*: take gan.muon.Muon"):
        make_optimizers(networks, [torch.optim.Muon, torch.optim.Muon], [None, None], Length(), Resumed())
