"""A generator and a discriminator, measured beside their training."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gan.gradients.norms import OverProcesses, alone, by_layer, parameter_gradients, parameter_norms
from gan.gradients.probe import SATURATED, Probe, row_norms
from gan.gradients.stats import GradientStats, NetworkStats

BINS = torch.linspace(-12, 4, 65, dtype=torch.float64)  # edges of the histograms, log10


def measure(
    generator: nn.Module,
    discriminator: nn.Module,
    loss: Any,
    real: Tensor,
    latents: Tensor,
    mix: Tensor,
    penalties: Sequence[tuple[Any, Tensor | None]] = (),
    one_pass: bool = False,
    step: int = 0,
    seed: int = 0,
    over_processes: OverProcesses = alone,
) -> GradientStats:
    """Measures two networks, in the mode that they are in, and leaves all as it was.

    Weights, their `.grad`, buffers and random state are the same bits afterwards. Autocast is off: what is measured is
    float32, or what the weights have. Networks in shards (FSDP2) can be measured without penalties. Several processes
    measure their joint batch: all call this together, and all get the same.

    Args:
        generator: Latents (N, latent_dim) in, images (N, C, H, W) out.
        discriminator: Images in, logits (N,) out.
        loss: A `gan.losses.Loss`.
        real: Real images (N, C, H, W).
        latents: Latents (N, latent_dim).
        mix: Numbers from [0, 1], (N, 1, 1, 1): the part of the real image in each point between.
        penalties: `gan.penalties.Penalty`s, each with the noise that it needs.
        one_pass: Whether the discriminator judges real and generated images in one pass, as in training.
        step: Training batches completed, for the record.
        seed: Of what layers draw by themselves, as dropout does.
        over_processes: The mean, sum or maximum of a tensor over all processes.
    """
    num = len(real)
    networks = generator, discriminator
    with untouched(networks, real.device, seed), torch.autocast(real.device.type, enabled=False), torch.enable_grad():
        # The generator's loss.
        with Probe(generator, num) as generator_probe:
            fake = generator(latents)
        at_images = []
        fake.register_hook(lambda gradient: at_images.append(num * row_norms(gradient)))
        real_logits = discriminator(real) if loss.relativistic else None
        objective = loss.generator(discriminator(fake), real_logits).mean()
        terms = {"adversarial": parameter_gradients(objective, generator, networks, over_processes)}
        generator_signals = summary(generator, generator_probe, terms, over_processes)
        fake = fake.detach()

        # The discriminator's.
        with Probe(discriminator, num) as discriminator_probe:
            if one_pass:
                logits = discriminator(torch.cat([real, fake])).chunk(2)
            else:
                logits = discriminator(real), discriminator(fake)
        objectives = {"adversarial": loss.discriminator(*logits).mean()}
        for penalty, noise in penalties:
            value = penalty.weight * penalty(discriminator, real, fake, noise).mean()
            objectives[penalty.name] = objectives.get(penalty.name, 0) + value
        terms = {
            name: parameter_gradients(objective, discriminator, networks, over_processes)
            for name, objective in objectives.items()
        }
        discriminator_signals = summary(discriminator, discriminator_probe, terms, over_processes)

        # Its slope.
        found = [slopes(discriminator, images) for images in (real, fake, mix * real + (1 - mix) * fake)]

    judged = [one.detach().cpu().double() for one in logits]
    pixels = [one.cpu().double() for one in (real, fake)]
    means = [at_images[0].mean(), *(one.mean() for one in found)]
    means += [(judged[0] > 0).double().mean(), (judged[1] < 0).double().mean(), judged[0].mean(), judged[1].mean()]
    means += [(one.abs() > SATURATED).double().mean() for one in pixels]
    image_gradient, real_slope, fake_slope, between, *rest = over_processes(torch.stack(means), "mean").tolist()
    accuracy_real, accuracy_fake, logit_real, logit_fake, extreme_real, extreme_fake = rest
    largest = [torch.cat(found).max(), *(one.max() for one in pixels), *(-one.min() for one in pixels)]
    lipschitz, *ends = over_processes(torch.stack(largest), "max").tolist()
    spread_real, spread_fake = (spread(one, over_processes) for one in pixels)
    return GradientStats(
        step=step,
        generator=generator_signals,
        discriminator=discriminator_signals,
        image_gradient=image_gradient,
        slope_real=real_slope,
        slope_fake=fake_slope,
        slope_between=between,
        lipschitz=lipschitz,
        accuracy_real=accuracy_real,
        accuracy_fake=accuracy_fake,
        logit_real=logit_real,
        logit_fake=logit_fake,
        logit_gap=logit_real - logit_fake,
        range_real=(-ends[2], ends[0]),
        range_fake=(-ends[3], ends[1]),
        extreme_real=extreme_real,
        extreme_fake=extreme_fake,
        spread_real=spread_real,
        spread_fake=spread_fake,
    )


def summary(
    network: nn.Module, probe: "Probe", terms: Mapping[str, list[Tensor]], over_processes: OverProcesses
) -> NetworkStats:
    """What was seen in a network, and its gradients by term: those of its trainable parameters, in order."""
    norms = {name: parameter_norms(gradients, network, over_processes) for name, gradients in terms.items()}
    by_parameter = parameter_norms([sum(parts) for parts in zip(*terms.values(), strict=True)], network, over_processes)

    flowing = [name for name in probe.layers if name in probe.norms]
    rows = [torch.cat(probe.norms[name]) for name in flowing]
    mean_squares = torch.stack([one.square().sum() / probe.num for one in rows]) if rows else torch.zeros(0).double()
    activation = dict(zip(flowing, over_processes(mean_squares, "mean").sqrt().tolist(), strict=True))
    first, last = (activation[flowing[0]], activation[flowing[-1]]) if flowing else (0.0, 0.0)
    counts = torch.stack([histogram(one) for one in rows]) if rows else torch.zeros(0, len(BINS) - 1)
    counts = over_processes(counts, "sum").long().tolist()

    dead: dict[str, list[bool]] = {}
    if probe.largest:
        sizes = [len(one) for one in probe.largest.values()]
        largest = over_processes(torch.cat(list(probe.largest.values())), "max").split(sizes)
        for (name, _), one in zip(probe.largest, largest, strict=True):
            dead.setdefault(name, []).extend((one == 0).tolist())
    units = [one for some in dead.values() for one in some]

    ends = {name: torch.stack(some).sum(0) for name, some in probe.ends.items()}  # beyond, and all
    if ends:
        ends = dict(zip(ends, over_processes(torch.stack(list(ends.values())), "sum"), strict=True))
    beyond, everything = sum(ends.values(), torch.zeros(2).double()).tolist()

    return NetworkStats(
        total=by_parameter.square().sum().sqrt().item(),
        terms={name: one.square().sum().sqrt().item() for name, one in norms.items()},
        parameter_gradients=by_layer(by_parameter.square(), network, probe.layers),
        activation_gradients=activation,
        first_to_last=first / last if last else float("nan"),
        histograms=dict(zip(flowing, counts, strict=True)),
        spectral_norms=probe.spectral_norms,
        dead={name: sum(some) / len(some) for name, some in dead.items()},
        dead_share=sum(units) / len(units) if units else 0.0,
        saturated={name: (one[0] / one[1]).item() for name, one in ends.items()},
        saturated_share=beyond / everything if everything else 0.0,
    )


def slopes(discriminator: nn.Module, images: Tensor) -> Tensor:
    """||dD/dx|| at each of the images (N, C, H, W), D being the logit: float64 (N,), on the CPU."""
    images = images.detach().requires_grad_()
    # Of every second logit the negative: the sum of all is constant behind a batch norm, whatever the images.
    signs = 1 - 2 * (torch.arange(len(images), device=images.device) % 2)
    (gradient,) = torch.autograd.grad((signs * discriminator(images)).sum(), images)
    return row_norms(gradient)


def spread(images: Tensor, over_processes: OverProcesses) -> float:
    """The root mean square distance between two of the images (N, C, H, W) of all processes, which have N each."""
    rows = images.flatten(1)
    num = over_processes(torch.tensor(float(len(rows)), dtype=torch.float64), "sum").item()
    center = over_processes(rows.mean(0), "mean")
    variance = over_processes((rows - center).square().sum(1).mean(), "mean").item()
    return (2 * variance * num / max(1, num - 1)) ** 0.5


def histogram(norms: Tensor) -> Tensor:
    """How many of the norms lie in each bin, (bins,)."""
    logarithms = norms[~norms.isnan()].log10().clamp(BINS[0], BINS[-1])
    bins = torch.bucketize(logarithms, BINS[1:-1], right=True)
    return torch.bincount(bins, minlength=len(BINS) - 1).double()


@contextmanager
def untouched(networks: Iterable[nn.Module], device: torch.device, seed: int) -> Iterator[None]:
    """Puts buffers and the random state back; within, random numbers come from the seed."""
    modules = [module for network in networks for module in network.modules()]
    buffers = [(module, name, one) for module in modules for name, one in module._buffers.items() if one is not None]
    copies = [one.clone() for *_, one in buffers]
    accelerator = None if device.type == "cpu" else torch.get_device_module(device)
    states = torch.get_rng_state(), None if accelerator is None else accelerator.get_rng_state()
    torch.default_generator.manual_seed(seed)
    if accelerator is not None:
        accelerator.manual_seed(seed)
    try:
        yield
    finally:
        with torch.no_grad():
            for (module, name, one), copy in zip(buffers, copies, strict=True):
                module._buffers[name] = one.copy_(copy)
        torch.set_rng_state(states[0])
        if accelerator is not None:
            accelerator.set_rng_state(states[1])
