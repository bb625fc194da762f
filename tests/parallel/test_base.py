"""What both strategies share: how long they wait, and how they read and write checkpoints."""

import pytest
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from gan.checkpoints import AtomicCheckpointIO
from gan.parallel import DDP, FSDP2


def test_patience_ends_within_a_minute():
    assert DDP().patience + 10 < 60  # the wait, and the grace for those that are left


@pytest.mark.parametrize("strategy", [DDP, FSDP2])
def test_checkpoints_are_ours_unless_the_trainer_was_given_another(strategy, tmp_path):
    """Lightning's own reads no folder of parts."""
    ours = strategy()
    for rank in range(2):
        torch.save({"global_step": 1}, tmp_path / f"{rank}-of-2.ckpt")
    assert type(ours.checkpoint_io) is AtomicCheckpointIO
    assert ours.checkpoint_io.load_checkpoint(tmp_path) == {"global_step": 1}
    ours.checkpoint_io = theirs = TorchCheckpointIO()
    assert ours.checkpoint_io is theirs
