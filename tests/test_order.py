"""Callbacks that read of each other, in any order."""

from itertools import permutations

import pytest
from lightning import Callback
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.profilers import Profiler

from gan import callbacks as package
from gan.callbacks import (
    FIDTracker,
    GeneratorEMA,
    GradientClipping,
    GradientDoctor,
    GradientMonitor,
    ImageLogger,
    NgramTracker,
    RunCheckpoint,
    TextLogger,
)
from gan.errors import GANError
from gan.gradients.clip import ByNorm
from gan.order import HOOKS_OF_A_BATCH, READS, callbacks_of, check_order


class OwnMonitor(GradientMonitor):
    """As somebody derives one."""


def test_a_reader_comes_after_those_that_it_reads():
    ema, image, tracker = GeneratorEMA(), ImageLogger(), FIDTracker()
    monitor, doctor = OwnMonitor(), GradientDoctor()
    refused = 0
    for order in permutations([ema, image, tracker, monitor, doctor]):
        place = {type(callback): number for number, callback in enumerate(order)}
        right = place[GeneratorEMA] < min(place[ImageLogger], place[FIDTracker])
        if right and place[OwnMonitor] < place[GradientDoctor]:
            check_order([*order, Callback()])
        else:
            refused += 1
            with pytest.raises(ValueError, match=r"put a (GeneratorEMA|GradientMonitor) before it"):
                check_order([*order, Callback()])
    assert refused == 100


@pytest.mark.parametrize("reader", [TextLogger, NgramTracker])
def test_texts_come_of_the_average_too(reader):
    check_order([GeneratorEMA(), reader()])
    with pytest.raises(ValueError, match=f"{reader.__name__} reads the average of GeneratorEMA in the same batch"):
        check_order([reader(), GeneratorEMA()])


def test_names_are_those_of_callbacks():
    for reader, sources in READS.items():
        assert issubclass(getattr(package, reader), Callback)
        assert all(issubclass(getattr(package, source), Callback) for source in sources)


def test_it_is_checked_when_a_run_begins(make_gan, make_trainer, data):
    message = "ImageLogger reads the average of GeneratorEMA in the same batch: put a GeneratorEMA before it"
    with pytest.raises(ValueError, match=message):
        make_trainer(callbacks=[ImageLogger(), GeneratorEMA()]).fit(make_gan(), data)


def test_checkpoints_come_last(make_trainer):
    """As Lightning sorts them."""
    trainer = make_trainer(callbacks=[RunCheckpoint(), GeneratorEMA(), FIDTracker()])
    check_order(trainer.callbacks)
    assert isinstance(trainer.callbacks[-1], RunCheckpoint)


def test_callbacks_of_a_kind(make_trainer):
    kept = [GradientClipping(ByNorm(1.0)), OwnMonitor()]
    trainer = make_trainer(callbacks=kept)
    assert callbacks_of(trainer, GradientMonitor) == [kept[1]]
    assert callbacks_of(trainer, GradientDoctor) == []


class Calls(Profiler):
    """Notes the hooks that Lightning calls."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def start(self, action_name):
        self.seen.append(action_name)

    def stop(self, action_name):
        pass


def test_hooks_that_do_nothing_are_not_called(make_gan, make_trainer, data):
    """Those that do something are, be they of the class, of one above it, or of the object alone."""

    class Steps(Callback):
        def __init__(self):
            self.count = 0

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.count += 1

    class Derived(Steps):
        pass

    steps, derived, of_object = Steps(), Derived(), []
    alone = LambdaCallback(on_train_batch_end=lambda *args: of_object.append(1))
    calls = Calls()
    trainer = make_trainer(max_steps=3, profiler=calls, callbacks=[steps, derived, alone])
    trainer.fit(make_gan(), data)
    assert (steps.count, derived.count, len(of_object)) == (6, 6, 3)
    seen = {tuple(name.rsplit(".", 2)[-2:]) for name in calls.seen if name.startswith("[Callback]")}
    step, batch_end = HOOKS_OF_A_BATCH[-2:]
    expected = {("Steps", step), ("Derived", step), ("[Callback]LambdaCallback", batch_end)}
    assert {(name, hook) for name, hook in seen if hook in HOOKS_OF_A_BATCH} == expected
    make_trainer(max_steps=2, callbacks=[steps, alone]).fit(make_gan(), data)  # in another trainer they go on
    assert (steps.count, len(of_object)) == (10, 5)


@pytest.mark.parametrize("place", ["s3://bucket/run", "gs://bucket/run"])
@pytest.mark.parametrize("callback", [ImageLogger, RunCheckpoint, GradientMonitor, TextLogger])
def test_no_folder_of_that_name_is_made(make_gan, make_trainer, data, tmp_path, monkeypatch, place, callback):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GANError, match=f"the trainer's default_root_dir {place} is a URL"):
        make_trainer(callbacks=[callback()], default_root_dir=place).fit(make_gan(), data)
    assert not list(tmp_path.iterdir())
