"""What a network's graph says of it: in what its output ends, and which activations it has.

Functions and modules are the same there, and no network has to say anything. Names are those of autograd's nodes.
"""

import re

from torch import Tensor
from torch.autograd.graph import Node

SHAPES = {  # which leave each value as it is, or take the mean of some
    *("view", "unsafeview", "reshapealias", "squeeze", "unsqueeze", "transpose", "permute", "expand", "clone", "alias"),
    *("tocopy", "select", "slice", "index", "split", "unbind", "asstrided", "t", "flatten", "unflatten", "cat", "flip"),
    *("mean", "adaptiveavgpool2d", "avgpool2d", "maxpool2d", "pixelshuffle", "roll"),
    *(f"upsample{how}" for how in ("nearest1d", "nearest2d", "nearest3d", "bilinear2d", "bicubic2d")),
}
LINEAR = {
    *("addmm", "mm", "bmm", "mv", "dot", "addmv", "baddbmm", "linear", "convolution", "sum", "embedding", "bilinear"),
    *("nativebatchnorm", "cudnnbatchnorm", "miopenbatchnorm", "nativelayernorm", "nativegroupnorm"),
}
ARITHMETIC = {"add", "sub", "mul", "div", "neg", "rsub", "nativedropout"}
ACTIVATIONS = {
    **{name: name for name in ("sigmoid", "tanh", "relu", "softmax", "clamp", "elu", "gelu", "silu", "softplus")},
    "hardtanh": "clamp",
    "clampmin": "clamp",
    "clampmax": "clamp",
    "hardsigmoid": "sigmoid",
    "leakyrelu": "leaky_relu",
    "logsigmoid": "log_sigmoid",
    "logsoftmax": "log_softmax",
    "prelukernel": "prelu",
    "round": "round",
    "floor": "round",
    "ceil": "round",
    "trunc": "round",
    "sign": "round",
}
BOUNDED = ("sigmoid", "tanh", "softmax")


def kind(node: Node) -> str:
    """What a node of the graph does: `AddmmBackward0` is an addmm."""
    return re.sub(r"Backward\d*$", "", node.name()).rpartition("::")[2].lower()


def inputs(node: Node) -> list[Node]:
    """The nodes whose results a node works on, without parameters."""
    return [before for before, _ in node.next_functions if before is not None and kind(before) != "accumulategrad"]


def ends(output: Tensor) -> str | None:
    """In what the computation of a tensor ends, after what only shapes it: an activation, or "linear".

    A value that is clamped after a sigmoid, tanh or softmax ends in that. None where it cannot be told: of a sigmoid
    times two, of what was compiled, of a tensor that no gradient comes back from.
    """
    return None if output.grad_fn is None else end_of(output.grad_fn, {})


def end_of(node: Node, known: dict[Node, str | None]) -> str | None:
    """As `ends`, of a node; `known` are those of the nodes before it, each of which many ways may lead to."""
    if node not in known:
        known[node] = end_anew(node, known)
    return known[node]


def end_anew(node: Node, known: dict[Node, str | None]) -> str | None:
    """As `end_of`, of a node that is not known."""
    what, before = kind(node), inputs(node)
    while what in SHAPES and before:
        node = before[0]
        what, before = kind(node), inputs(node)
    if what in ACTIVATIONS:
        name, inner = ACTIVATIONS[what], end_of(before[0], known) if before else None
        return inner if name == "clamp" and inner in BOUNDED else name
    if what in LINEAR:
        return "linear"
    if what in ARITHMETIC and before:
        found = {end_of(each, known) for each in before}
        return found.pop() if found in ({"linear"}, {"round"}) else None
    return None


def activations(output: Tensor) -> tuple[str, ...]:
    """The kinds of activations in the computation of a tensor, without the one that it ends in; in alphabetical order.

    Those of weights, as a parametrization has them, count too.
    """
    if output.grad_fn is None:
        return ()
    seen, waiting, found = {output.grad_fn}, [output.grad_fn], set()
    at_end = True
    while waiting:
        node = waiting.pop()
        what, before = kind(node), inputs(node)
        if what in ACTIVATIONS and not at_end:
            found.add(ACTIVATIONS[what])
        # What is clamped, rounded or scaled still is the end.
        passes = what in SHAPES | ARITHMETIC or ACTIVATIONS.get(what) in ("clamp", "round")
        at_end = at_end and passes and len(before) == 1
        new = [each for each in before if each not in seen]
        seen.update(new)
        waiting += new
    return tuple(sorted(found))
