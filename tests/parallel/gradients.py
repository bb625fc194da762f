"""One process of two whose gradients are averaged: `torchrun --nproc_per_node 2 gradients.py FOLDER`."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from gan.parallel import DDP

dist.init_process_group("gloo")
rank = dist.get_rank()
convolution = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
half = nn.Linear(2, 2).bfloat16()
unused, lonely = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(2, 3))
frozen = nn.Parameter(torch.ones(1), requires_grad=False)
parameters = [*convolution.parameters(), *half.parameters(), unused, lonely, frozen]
optimizer = torch.optim.SGD(parameters, lr=1.0)

strategy = DDP()
type(strategy).world_size = property(lambda self: 2)
for step in range(3):  # the flat tensors are used again and again
    for parameter in (*convolution.parameters(), *half.parameters()):
        index = torch.arange(parameter.numel()).reshape(parameter.shape).to(parameter.dtype)
        parameter.grad = torch.empty_like(parameter).copy_(index * (rank + 1) + step)
    optimizer.param_groups[0]["params"][-2].grad = torch.full((2, 3), 4.0 + step) if rank == 1 else None
    strategy.average_gradients(optimizer)
    for parameter in (*convolution.parameters(), *half.parameters()):
        index = torch.arange(parameter.numel()).reshape(parameter.shape).to(parameter.dtype)
        assert torch.equal(parameter.grad, index * 1.5 + step)
        assert parameter.grad.dtype == parameter.dtype
        assert parameter.grad.stride() == parameter.stride()
    assert unused.grad is None
    assert frozen.grad is None
    assert torch.equal(lonely.grad, torch.full((2, 3), 2.0 + step / 2))
    optimizer.zero_grad()

Path(sys.argv[1], os.environ["RANK"]).touch()
dist.destroy_process_group()
