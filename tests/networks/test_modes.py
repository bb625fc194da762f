"""Networks in another state for a while, and back in their own."""

from contextlib import suppress

import pytest
import torch
from torch import nn

from gan.networks import evaluating, frozen, in_own_precision


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)))


def test_each_part_goes_back_to_its_own_mode():
    """A part that its user keeps in evaluation mode stays there; a plain `train()` would wake it."""
    whole = network()
    whole[1][0].eval()
    before = [module.training for module in whole.modules()]
    with suppress(RuntimeError), evaluating(whole):
        assert not any(module.training for module in whole.modules())
        raise RuntimeError("on the way, which must not matter")
    assert [module.training for module in whole.modules()] == before


def test_a_frozen_network_passes_gradients_and_keeps_none():
    whole = network()
    whole[0].bias.requires_grad_(False)  # by its user, and it stays so
    before = [parameter.requires_grad for parameter in whole.parameters()]
    inputs = torch.randn(4, 2, requires_grad=True)
    with suppress(RuntimeError), frozen(whole):
        whole(inputs).square().sum().backward()
        raise RuntimeError("on the way, which must not matter")
    assert inputs.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in whole.parameters())
    assert [parameter.requires_grad for parameter in whole.parameters()] == before


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_network_of_higher_precision_computes_in_it(narrow):
    whole, inputs = network().eval(), torch.randn(4, 2).to(narrow)
    outputs = in_own_precision(whole, inputs)
    assert outputs.dtype == narrow
    assert torch.equal(outputs, whole(inputs.float()).to(narrow))
    assert in_own_precision(whole.double(), inputs.float()).dtype == torch.float32


def test_inputs_are_never_cut_for_a_network():
    """One with weights of fewer bits than its inputs knows what it does with them."""
    seen = []
    whole = nn.Sequential(nn.Identity(), nn.Linear(2, 3, dtype=torch.bfloat16))
    whole[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype) or output.bfloat16())
    in_own_precision(whole, torch.randn(4, 2))
    assert seen == [torch.float32]
