"""What one process does not need: two networks on several of them."""

from gan.parallel.checks import check_manual, check_settings, check_strategy, replace_lightnings
from gan.parallel.ddp import DDP
from gan.parallel.fsdp2 import FSDP2, is_sharded, shard
from gan.parallel.launcher import is_broken_off

__all__ = [
    "DDP",
    "FSDP2",
    "check_manual",
    "check_settings",
    "check_strategy",
    "is_broken_off",
    "is_sharded",
    "replace_lightnings",
    "shard",
]
