"""A run that begins with trained weights: those of a run, of a checkpoint, or of a folder that somebody has shared."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from gan.checkpoints import check_checkpoint, checkpoint_in, read
from gan.errors import GANError, counted
from gan.lifecycle import Lifecycle
from gan.optim import OPTIMIZER_ORDER
from gan.spec import class_name

MOST = 4  # names of a kind that are said


def trained(path: str | Path) -> Path:
    """The checkpoint that a path stands for: its own or, of a folder, the best one there or, without scores, the last.

    Raises:
        GANError: If it cannot be used.
    """
    found = checkpoint_in(path)
    check_checkpoint(found)
    return found


def start_from(gan: Lifecycle, path: str | Path) -> list[str]:
    """Takes over the trained weights that fit, by name and shape; all others stay as they are.

    The generator takes those of its like in the checkpoint, as they were trained against the discriminator, and not the
    average: the two networks are in balance as they were. An average follows the generator anew from there. Weights
    alone are read, nothing that the file names is imported, and optimizers and counters begin as in any new run. Call
    it before `fit`.

    Args:
        gan: What is to be trained, of any networks.
        path: A checkpoint; or the folder of a run, or of its checkpoints, for the best or, without scores, the last.

    Returns:
        What fits and what does not: a line for each network.

    Raises:
        GANError: If the checkpoint cannot be used, or no weights of it fit but single rows such as biases.
    """
    found = trained(path)
    state, own = read(found)["state_dict"], gan.state_dict()
    taken: dict[str, Tensor] = {}
    lines = []
    for network in reversed(OPTIMIZER_ORDER):
        there, here = (tensors(whole, network) for whole in (state, own))
        fit = {name: there[name] for name in here if name in there and there[name].shape == here[name].shape}
        taken |= {f"{network}.{name}": value for name, value in fit.items()}
        lines.append(
            f"{len(fit)} of {counted(len(here), 'tensor')} of {network} from {found}" + "".join(left(there, here))
        )
    if not any(value.ndim > 1 for value in taken.values()):
        names = " and ".join(class_name(getattr(gan, network)) for network in reversed(OPTIMIZER_ORDER))
        raise GANError(
            f"--init {found}: no weights there fit {names}, by name and shape: give a checkpoint of networks of this "
            "kind, or set model.generator and model.discriminator to those of its run"
        )
    gan.load_state_dict(own | taken)
    if gan.generator_ema is not None:
        gan.add_ema()
    return lines


def tensors(state: Mapping[str, object], network: str) -> dict[str, Tensor]:
    """The tensors of a network, by their names there."""
    found = {name: value for name, value in state.items() if name.startswith(f"{network}.")}
    return {name.partition(".")[2]: value for name, value in found.items() if isinstance(value, Tensor)}


def left(there: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> Iterator[str]:
    """How the line of a network goes on: what stays as it is, and what is not used; nothing where all fits."""
    other = [f"{name} {shape(there[name])} against {shape(here[name])}" for name in here if differs(name, there, here)]
    other += [f"{name} {shape(here[name])} missing there" for name in here if name not in there]
    if other:
        yield f"; left as they start: {some(other)}"
    if unused := [f"{name} {shape(there[name])}" for name in there if name not in here]:
        yield f"; not used: {some(unused)}"


def differs(name: str, there: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is there too, in another shape."""
    return name in there and there[name].shape != here[name].shape


def shape(tensor: Tensor) -> str:
    """The shape of a tensor."""
    return str(tuple(tensor.shape))


def some(texts: list[str]) -> str:
    """The first of a list, and how many more there are."""
    return ", ".join(texts[:MOST]) + (f" and {len(texts) - MOST} more" if len(texts) > MOST else "")
