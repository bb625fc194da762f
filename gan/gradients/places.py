"""Where networks keep their tensors: a network may put another one into the place of one."""

from collections.abc import Iterable
from operator import is_
from typing import Any

import torch
from torch import nn

from gan.gradients.norms import local


class Places:
    """The places of the parameters and of the buffers of networks.

    `self.level = 0.9 * self.level + ...` puts a new buffer into its place, in each forward pass. A list of tensors that
    was taken before no longer is the network's; but to walk through the modules in every batch takes twice as long as
    to average their tensors. To look whether they lie in their places still takes a microsecond or two.

    Args:
        networks: The networks.
        parameters: Whether parameters count.
        buffers: Whether buffers count.
    """

    def __init__(self, networks: Iterable[nn.Module], parameters: bool = True, buffers: bool = True):
        modules = [module for network in networks for module in network.modules()]
        owners: list[dict[str, Any]] = [module._parameters for module in modules if parameters]  # private
        owners += [module._buffers for module in modules if buffers]  # private
        self.places = [(owner, name) for owner in owners for name in owner]  # of a tensor that is yet to come too
        self.seen: list[Any] = [self] * len(self.places)

    def changed(self) -> bool:
        """Whether there is another tensor somewhere than when this was asked the last time; yes at first."""
        now = [owner.get(name) for owner, name in self.places]
        changed = not all(map(is_, now, self.seen))
        self.seen = now
        return changed

    def keep(self) -> "Kept":
        """What there is now, to be put back."""
        return Kept(self)


class Kept:
    """The tensors that were in their places, with the values that they had; of those in shards, this process's."""

    @torch.no_grad()
    def __init__(self, places: Places):
        there = [(owner, name, owner[name]) for owner, name in places.places]
        self.kept = [(*place, local(place[2]).clone()) for place in there if place[2] is not None]

    @torch.no_grad()
    def restore(self, only_bad: bool = False) -> None:
        """Puts the tensors back into their places, and their values into them; the copies stay.

        Args:
            only_bad: Leave alone what is finite now: it has moved on rightly.
        """
        for owner, name, tensor, copy in self.kept:
            if only_bad and (now := owner.get(name)) is not None and now.isfinite().all():
                continue
            local(tensor).copy_(copy)
            owner[name] = tensor
