"""What one process does not need: two networks on several of them."""

from gan.parallel.ddp import DDP
from gan.parallel.strategies import check_strategy, replace_lightnings

__all__ = ["DDP", "check_strategy", "replace_lightnings"]
