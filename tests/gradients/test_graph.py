"""In what a network's output ends, and which activations it has, whether they are modules or functions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gan.gradients.graph import activations, ends

torch.manual_seed(0)
X = torch.randn(4, 3)
HIDDEN, OUT = nn.Linear(3, 8), nn.Linear(8, 1)


def hidden():
    return F.relu(HIDDEN(X))


ENDS = {
    "linear": (lambda: OUT(hidden()), "linear", ("relu",)),
    "one_number": (lambda: OUT(hidden()).squeeze(1), "linear", ("relu",)),
    "sigmoid_function": (lambda: torch.sigmoid(OUT(hidden())).view(-1), "sigmoid", ("relu",)),
    "sigmoid_module": (lambda: nn.Sequential(HIDDEN, nn.ReLU(), OUT, nn.Sigmoid())(X)[:, 0], "sigmoid", ("relu",)),
    "sigmoid_clamped": (lambda: torch.sigmoid(OUT(hidden())).clamp(1e-6, 1 - 1e-6), "sigmoid", ("relu",)),
    "sigmoid_inside": (lambda: OUT(torch.sigmoid(HIDDEN(X))), "linear", ("sigmoid",)),
    "sigmoid_scaled": (lambda: 2 * torch.sigmoid(HIDDEN(X)) - 1, None, ()),
    "softmax": (lambda: F.softmax(HIDDEN(X), 1)[:, 1], "softmax", ()),
    "mean_of_patches": (lambda: torch.sigmoid(HIDDEN(X)).unflatten(1, (2, 4)).mean((1, 2)), "sigmoid", ()),
    "tanh_larger": (lambda: F.interpolate(torch.tanh(HIDDEN(X))[None], scale_factor=2), "tanh", ()),
    "clamp": (lambda: HIDDEN(X).clamp(-1, 1), "clamp", ()),
    "relu": (lambda: hidden().mean(1), "relu", ()),
    "rounded": (lambda: torch.round(127.5 * torch.tanh(HIDDEN(X))) / 127.5, "round", ()),
    "projection": (lambda: OUT(hidden()).squeeze(1) + (hidden() * OUT.weight).sum(1), "linear", ("relu",)),
    "convolution": (lambda: nn.Conv2d(1, 1, 3)(X.view(1, 1, 4, 3)).flatten(1), "linear", ()),
    "batch_norm": (lambda: nn.BatchNorm1d(8)(torch.tanh(HIDDEN(X))), "linear", ("tanh",)),
    "sum_of_two": (lambda: torch.sigmoid(OUT(hidden())) + OUT(hidden()), None, ("relu", "sigmoid")),
    "logarithm": (lambda: torch.log(torch.sigmoid(OUT(hidden()))), None, ("relu", "sigmoid")),
    "detached": (lambda: torch.sigmoid(OUT(hidden())).detach(), None, ()),
    "in_other_bits": (lambda: OUT(hidden()).bfloat16().float(), "linear", ("relu",)),
}


@pytest.mark.parametrize("name", ENDS)
def test_ends_and_activations(name):
    make, end, met = ENDS[name]
    assert (ends(make()), activations(make())) == (end, met)


def test_many_ways_to_one_node_are_gone_once():
    """Of 40 sums of a value and a part of itself there are 2^40 ways back."""
    x = OUT(hidden())
    for _ in range(40):
        x = x + 0.1 * x
    assert ends(x) == "linear"
