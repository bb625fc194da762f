"""The first layers of a network, kept as they are: FreezeD, Mo et al. 2020 (arXiv:2002.10964).

What a discriminator's first layers have learnt to see, edges and strokes, serves other images too. Kept from moving,
they do not learn a few new images by heart.
"""

from collections.abc import Callable, Iterator
from functools import partial

from torch import nn

from gan.errors import GANError, counted
from gan.networks.modes import evaluating
from gan.networks.network import Wrapper
from gan.spec import class_name, uncompiled


def layers_of(network: nn.Module, run: Callable[[], object]) -> dict[str, list[nn.Module]]:
    """The layers of a network by name, in the order in which they run, each with its modules.

    A layer is a part of the network, or of a list or a sequence in it, with a weight of two dimensions or more: a
    convolution, a residual block, attention. A part with smaller ones alone, as a normalisation, belongs to the layer
    that ran before it. What `run` does not come through is none.

    Args:
        network: The network, which `torch.compile` may have wrapped.
        run: Runs the same network, not compiled, for once.
    """
    ran: dict[str, nn.Module] = {}

    def note(module: nn.Module, inputs: object, name: str) -> None:
        ran.setdefault(name, module)

    hooks = [part.register_forward_pre_hook(partial(note, name=name)) for name, part in parts_of(uncompiled(network))]
    try:
        with evaluating(network):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    layers: dict[str, list[nn.Module]] = {}
    for name, part in ran.items():
        if any(parameter.ndim > 1 for parameter in part.parameters()):
            layers[name] = [part]
        elif layers:
            layers[list(layers)[-1]].append(part)
    return layers


def parts_of(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The children of a network, and of lists and sequences among them the items, with their names."""
    if isinstance(network, Wrapper):
        yield from parts_of(network.network, f"{prefix}network.")
        return
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            yield from parts_of(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def first_layers(network: nn.Module, num: int, run: Callable[[], object]) -> dict[str, list[nn.Module]]:
    """The first `num` of the `layers_of` a network, which are not all.

    Raises:
        ValueError: If no other would be left to train.
    """
    layers = layers_of(network, run)
    if num >= len(layers):
        most = f"{len(layers) - 1} at most" if len(layers) > 1 else "none"
        raise GANError(
            f"model.freeze_discriminator={num} would leave nothing to train: {class_name(network)} has "
            f"{counted(len(layers), 'layer')} ({', '.join(layers)}); freeze {most}"
        )
    return dict(list(layers.items())[:num])
