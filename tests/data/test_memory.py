"""The in-memory loader and data module: values, orders, ranks, resume."""

import contextlib
import itertools
import warnings
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import Tensor

from gan.data import InMemoryDataModule, InMemoryLoader


def loader(n: int = 50, batch_size: int = 8, **options) -> InMemoryLoader:
    """Training batches of n images, of which image i is black but for its label and every pixel i."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 2, 2).contiguous()
    return InMemoryLoader(images, torch.arange(n), batch_size, **{"shuffle": True, "drop_last": True} | options)


def labels(batches) -> list[list[int]]:
    return [y.tolist() for _, y in batches]


def flat(batches) -> list[int]:
    return list(itertools.chain(*labels(batches)))


class Numbers(InMemoryDataModule):
    """52 training images and 7 test images, each labelled with its own index."""

    image_shape = (1, 1, 1)
    num_classes = 52
    loads = 0

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        self.loads += 1
        n = 52 if train else 7
        return torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1), torch.arange(n)


# The loader


def test_values_are_exact_at_both_ends_and_never_leave_the_range():
    images = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    [(x, _)] = InMemoryLoader(images, torch.zeros(256, dtype=torch.int64), 256)
    expected = torch.arange(256, dtype=torch.float64) * 2 / 255 - 1
    assert x.dtype == torch.float32
    assert x.min() == -1
    assert 1 - 1e-6 < x.max() <= 1
    torch.testing.assert_close(x.flatten().double(), expected, atol=1e-6, rtol=0)


def test_each_image_keeps_its_label():
    for x, y in loader():
        assert x.shape == (8, 3, 2, 2)
        assert y.dtype == torch.int64
        assert ((x + 1) * 127.5).round().eq(y.view(-1, 1, 1, 1)).all()


def test_order_depends_on_seed_and_epoch_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    orders = {}
    for seed, epoch in itertools.product(range(3), range(3)):
        one, other = loader(seed=seed), loader(seed=seed)
        list(other)
        torch.rand(3)
        one.set_epoch(epoch)
        other.set_epoch(epoch)
        torch.set_rng_state(state)
        orders[seed, epoch] = labels(one)
        assert torch.equal(torch.get_rng_state(), state), "the order drew from the global generator"
        assert labels(other) == orders[seed, epoch]
    assert len({str(order) for order in orders.values()}) == 9, "two (seed, epoch) share an order"


def test_processes_share_the_batches_that_one_process_would_see():
    one = labels(loader(batch_size=8))
    ranks = [labels(loader(batch_size=2, rank=rank, world_size=4)) for rank in range(4)]
    assert one == [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]


@pytest.mark.parametrize("n", [3, 7, 11, 31, 40, 41, 50])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_image_once_over_all_ranks(n, world_size):
    seen, lengths = [], set()
    for rank in range(world_size):
        mine = loader(n, 5, shuffle=False, drop_last=False, rank=rank, world_size=world_size)
        batches = labels(mine)
        assert len(mine) == len(batches)
        assert batches == labels(mine), "evaluation changed from one epoch to the next"
        assert all(1 <= len(batch) <= 5 for batch in batches)
        lengths.add(len(batches))  # where a network is in shards, each batch is work for all ranks
        seen += itertools.chain(*batches)
    assert sorted(seen) == list(range(n))
    assert len(lengths) == 1


def test_evaluation_of_fewer_images_than_ranks_is_refused():
    with pytest.raises(ValueError, match="1 images are too few for 2 processes"):
        loader(1, 5, drop_last=False, world_size=2)


def test_epochs_follow_each_other_and_a_broken_one_starts_again():
    raw = loader()
    first, second = labels(raw), labels(raw)
    assert len(first) == len(raw) == 6
    assert first != second
    next(iter(raw))
    third = labels(raw)
    named = loader()
    named.set_epoch(1)
    assert labels(named) == second
    assert labels(named) == third
    named.set_epoch(0)
    assert labels(named) == first


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("drawn", range(14))
def test_state_resumes_at_the_very_next_batch(drawn, drop_last):
    original = loader(drop_last=drop_last)
    endless = itertools.chain.from_iterable(iter(lambda: original, None))
    labels(itertools.islice(endless, drawn))
    state = original.state_dict()
    resumed = loader(drop_last=drop_last)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert len(resumed) == len(original), "Lightning needs the length of a whole epoch"
    rest, following = labels(resumed), labels(resumed)
    assert rest, "an epoch without a batch"
    assert rest + following == labels(itertools.islice(endless, len(rest + following)))


def test_position_is_in_images_so_another_batch_size_goes_on_with_what_is_left():
    original = loader(batch_size=4, rank=1, world_size=2)
    labels(itertools.islice(original, 2))
    state = original.state_dict()
    assert state == {"epoch": 0, "position": 16}
    order = flat(loader(batch_size=1))
    seen, rest = order[:16], order[16:]
    resumed = []
    for rank in range(2):
        part = loader(batch_size=3, rank=rank, world_size=2)
        part.load_state_dict(state)
        resumed += flat(itertools.islice(part, 5))
    assert sorted(resumed) == sorted(rest[:30])
    assert not set(seen) & set(resumed)


def test_batches_larger_than_the_data_are_refused():
    with pytest.raises(ValueError, match=r"batch_size=8 on 7 process.*56 images.*only 50.*lower batch_size"):
        loader(world_size=7)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        loader(batch_size=0)


# The data module


def test_validation_split_is_the_same_for_every_seed_and_loses_nothing():
    one, other = Numbers(8, 12, seed=1), Numbers(8, 12, seed=2)
    validation = flat(one.val_dataloader())
    assert validation == flat(other.val_dataloader())
    assert validation != sorted(validation), "not a random choice"
    training = flat(one.train_dataloader())
    assert training != flat(other.train_dataloader())
    assert sorted(training + validation) == list(range(52))


def test_data_is_loaded_once_and_only_when_needed():
    data = Numbers(8, 4)
    data.setup("fit")
    data.setup("validate")
    data.train_dataloader()
    assert data.loads == 1
    data.setup("test")
    assert flat(data.test_dataloader()) == list(range(7))
    assert data.loads == 2


def test_device_rank_and_passes_are_the_trainers():
    data = Numbers(8, 4)
    data.trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("meta")),
        global_rank=1,
        world_size=3,
        overfit_batches=0,
        lightning_module=SimpleNamespace(accumulate=2),
    )
    data.setup("fit")
    train, validation = data.train_dataloader(), data.val_dataloader()
    assert train.images.is_meta
    assert train.labels.is_meta
    assert (train.rank, train.world_size, validation.rank, validation.world_size) == (1, 3, 1, 3)
    assert train.batch_size == 2 * data.batch_size


def made(images, labels):
    class Made(InMemoryDataModule):
        image_shape = (1, 4, 4)
        num_classes = 3

        def load(self, train):
            return images, labels

    return Made(2, 2)


GOOD = torch.zeros(6, 1, 4, 4, dtype=torch.uint8)
ZEROS = torch.zeros(6, dtype=torch.int64)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (GOOD.float(), ZEROS, "images as a tensor of torch.uint8, got torch.float32"),
        (GOOD.numpy(), ZEROS, "images as a tensor of torch.uint8, got ndarray"),
        (GOOD, ZEROS.int(), "labels as a tensor of torch.int64, got torch.int32"),
        (GOOD.squeeze(1), ZEROS, r"image_shape=\(1, 4, 4\), got \(6, 4, 4\)"),
        (GOOD[..., :3], ZEROS, r"image_shape=\(1, 4, 4\), got \(6, 1, 4, 3\)"),
        (GOOD, ZEROS[:5], r"one label per image, got labels of shape \(5,\) for 6 images"),
        (GOOD[:0], ZEROS[:0], "no images"),
        (GOOD, ZEROS + 3, "below num_classes=3, got 3 to 3"),
        (GOOD, ZEROS - 1, "of at least 0 .* got -1 to -1"),
        (
            GOOD[:2],
            ZEROS[:2],
            "validation_size=2 leaves nothing of the 2 training images: lower it to at most 1",
        ),
    ],
)
def test_what_load_gets_wrong_is_said(images, labels, message):
    with pytest.raises(ValueError, match=message):
        made(images, labels).setup("fit")


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"validation_size": -1}])
def test_settings_out_of_range_are_refused_by_name(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Numbers(**setting)


# Under Lightning


class Recorder(L.LightningModule):
    """Keeps the labels of the batches that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []
        self.validated = 0

    def training_step(self, batch, batch_idx):
        images, labels = batch
        self.seen.append(labels.tolist())
        return self.weight * images.mean()

    def validation_step(self, batch, batch_idx):
        self.validated += len(batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Killed(Exception):
    pass


class KillAt(L.Callback):
    """Saves a checkpoint at a hook after so many batches, and ends the run there and then."""

    def __init__(self, hook: str, step: int, path) -> None:
        self.path = path

        def save(trainer, *args):
            if trainer.global_step == step:
                trainer.save_checkpoint(path)
                raise Killed

        setattr(self, hook, save)


def fit(limit: dict[str, int], callbacks=(), ckpt_path=None, validation_size=4, **options) -> Recorder:
    trainer = L.Trainer(
        **limit,
        **options,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Recorder()
    with contextlib.suppress(Killed):
        trainer.fit(model, datamodule=Numbers(8, validation_size), ckpt_path=ckpt_path)
    return model


EPOCH_BATCHES = 6  # (52 - 4) / 8


@pytest.mark.parametrize("limit", [{"max_epochs": 4}, {"max_steps": 24}], ids=["max_epochs", "max_steps"])
@pytest.mark.parametrize(
    "kills",
    [
        [("on_train_batch_end", 8)],
        [("on_train_batch_end", 12)],  # the last batch of an epoch
        [("on_validation_end", 9)],
        [("on_train_epoch_end", 6)],
        [
            ("on_train_epoch_end", 6),
            ("on_train_batch_end", 8),
            ("on_train_epoch_end", 12),
            ("on_train_batch_end", 23),
        ],
    ],
    ids=lambda kills: "+".join(f"{hook}@{step}" for hook, step in kills),
)
def test_lightning_resumes_with_exactly_the_batches_that_were_left(limit, kills, tmp_path):
    straight = fit(limit, val_check_interval=3).seen
    assert len(straight) == 4 * EPOCH_BATCHES
    assert len({str(straight[i : i + EPOCH_BATCHES]) for i in range(0, 24, EPOCH_BATCHES)}) == 4
    seen, path = [], None
    for i, (hook, step) in enumerate(kills):
        kill = KillAt(hook, step, tmp_path / f"{i}.ckpt")
        seen += fit(limit, [kill], path, val_check_interval=3).seen
        path = kill.path
    seen += fit(limit, ckpt_path=path, val_check_interval=3).seen
    assert seen == straight


def test_no_validation_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*LeafSpec")  # Lightning 2.6 under torch 2.14
        assert fit({"max_epochs": 2}, validation_size=0).validated == 0
        assert fit({"max_epochs": 2}, num_sanity_val_steps=0).validated == 8


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfit_batches_shows_the_same_batches_every_epoch():
    seen = fit({"max_epochs": 3}, overfit_batches=2).seen
    assert len(seen) == 6
    assert seen[:2] == seen[2:4] == seen[4:]
