"""A generator and a discriminator, measured beside their training."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from gan.batch import of_samples
from gan.gradients.graph import activations, ends
from gan.gradients.norms import (
    OverProcesses,
    by_layer,
    local,
    one_process,
    parameter_gradients,
    parameter_norms,
    trainable,
)
from gan.gradients.places import Places
from gan.gradients.probe import SATURATED, Probe, row_norms
from gan.gradients.stats import GradientStats, NetworkStats

Network = Callable[[Tensor], Tensor]

BINS = torch.linspace(-12, 4, 65, dtype=torch.float64)  # edges of the histograms, log10


def measure(
    generator: nn.Module,
    discriminator: nn.Module,
    loss: Any,
    real: Tensor,
    latents: Tensor,
    mix: Tensor,
    penalties: Sequence[tuple[Any, Tensor | None]] = (),
    step: int = 0,
    seed: int = 0,
    over_processes: OverProcesses = one_process,
    generate: Network | None = None,
    judge: Network | None = None,
    held_out: Tensor | None = None,
    judge_held_out: Network | None = None,
    told: bool = False,
    respond: bool = True,
) -> GradientStats:
    """Measures two networks, in the mode that they are in, and leaves all as it was.

    Weights, their `.grad`, buffers and random state are the same bits afterwards. Autocast is off: what is measured is
    float32, or what the weights have. Networks in shards (FSDP2) can be measured without penalties. Several processes
    measure their joint batch: all call this together, and all get the same.

    Args:
        generator: Latents (N, latent_dim) in, images (N, C, H, W) out.
        discriminator: Images in, logits (N, ...) out.
        loss: A `gan.losses.Loss`.
        real: Real images (N, C, H, W).
        latents: Latents (N, latent_dim).
        mix: Numbers from [0, 1], (N, 1, 1, 1): the part of the real image in each point between.
        penalties: `gan.penalties.Penalty`s, each with the noise that it needs.
        step: Training batches completed, for the record.
        seed: Of what layers draw by themselves, as dropout does.
        over_processes: The mean, sum or maximum of a tensor over all processes.
        generate: Calls the generator with its latents, where it takes more than these.
        judge: Calls the discriminator with its images, likewise.
        held_out: Real images (M, C, H, W) that are not trained on, as many on each process; None for none.
        judge_held_out: Calls the discriminator with these.
        told: Whether `generate` tells each image more than its latents, as a class.
        respond: Whether images should depend on latents, so that it is measured how far they do.
    """
    networks = generator, discriminator
    generate, judge = generate or generator, judge or discriminator
    autocast_off = torch.autocast(real.device.type, enabled=False)
    with state_restored(networks, real.device, seed), autocast_off, torch.enable_grad():
        of_generator, fake, at_images, draws = measure_generator(
            *networks, generate, judge, loss, real, latents, over_processes
        )
        of_discriminator, logits = measure_discriminator(*networks, judge, loss, real, fake, penalties, over_processes)
        between = mix * real + (1 - mix) * fake
        steepness = [slopes(judge, images) for images in (real, fake, between)]
        of_images = measure_images(real, fake, logits, loss.border or 0.0, at_images, steepness, over_processes)
        if held_out is not None:
            of_images |= measure_held_out(judge_held_out or judge, held_out, over_processes)
    if respond:
        # Each image with the latents of another, and all else as it was: one that is there, where nothing else is.
        partners = neighbours(len(fake))
        other = fake[partners]
        if told or draws:
            with state_restored([generator], real.device, seed), autocast_off, torch.no_grad():
                other = generate(latents[partners])
        of_images["response"] = distance(fake, other, over_processes)
    return GradientStats(step=step, generator=of_generator, discriminator=of_discriminator, **of_images)


def measure_generator(
    generator: nn.Module,
    discriminator: nn.Module,
    generate: Network,
    judge: Network,
    loss: Any,
    real: Tensor,
    latents: Tensor,
    over_processes: OverProcesses,
) -> tuple[NetworkStats, Tensor, Tensor, bool]:
    """The generator's loss: what flows back, the images (N, C, H, W), and N norms ||dl/dx|| of what comes to them.

    Last, whether the generator draws random numbers itself.
    """
    before = random_states(real.device)
    with Probe(generator, len(real)) as probe:
        fake = generate(latents)
    draws = not all(map(torch.equal, before, random_states(real.device)))
    attached = fake.requires_grad
    images = fake if attached else fake.detach().requires_grad_()
    at_images = torch.zeros(len(real)).double()  # where the discriminator does not look at images

    def on_gradient(gradient: Tensor) -> None:
        at_images.copy_(len(real) * row_norms(gradient))

    images.register_hook(on_gradient)
    real_logits = judge(real) if loss.relativistic else None
    objective = loss.generator(judge(images), real_logits).mean()
    if attached:
        gradients = parameter_gradients(objective, generator, (generator, discriminator), over_processes)
    else:
        torch.autograd.grad(objective, images, allow_unused=True)  # for the hook
        gradients = [torch.zeros_like(local(parameter.detach())) for parameter in trainable(generator).values()]
    stats = network_stats(generator, probe, {"adversarial": gradients}, over_processes)
    return replace(stats, ends=ends(fake), activations=activations(fake)), fake.detach(), at_images, draws


def measure_discriminator(
    generator: nn.Module,
    discriminator: nn.Module,
    judge: Network,
    loss: Any,
    real: Tensor,
    fake: Tensor,
    penalties: Sequence[tuple[Any, Tensor | None]],
    over_processes: OverProcesses,
) -> tuple[NetworkStats, tuple[Tensor, Tensor]]:
    """The discriminator's loss, term by term: what flows back, and the logits (N, ...) of real and generated images."""
    with Probe(discriminator, len(real)) as probe:
        logits = judge(real), judge(fake)
    objectives = {"adversarial": loss.discriminator(*logits).mean()}
    for penalty, noise in penalties:
        value = float(penalty.weight) * penalty(judge, real, fake, noise).mean()
        objectives[penalty.name] = objectives.get(penalty.name, 0) + value
    gradients = {
        name: parameter_gradients(objective, discriminator, (generator, discriminator), over_processes)
        for name, objective in objectives.items()
    }
    stats = network_stats(discriminator, probe, gradients, over_processes)
    return replace(stats, ends=ends(logits[0]), activations=activations(logits[0])), logits


@torch.no_grad()
def measure_images(
    real: Tensor,
    fake: Tensor,
    logits: tuple[Tensor, Tensor],
    border: float,
    at_images: Tensor,
    steepness: Sequence[Tensor],
    over_processes: OverProcesses,
) -> dict[str, Any]:
    """What `GradientStats` says of the images.

    Args:
        real: Real images (N, C, H, W).
        fake: Generated ones.
        logits: The logits (N, ...) of both.
        border: The logit that says neither.
        at_images: ||dl_G/dx|| at each generated image, (N,).
        steepness: ||dD/dx|| at each real image, each generated one, and each point between, 3 of (N,).
        over_processes: The mean, sum or maximum of a tensor over all processes.
    """
    real_logits, fake_logits = (of_samples(of_images).cpu().double() for of_images in logits)
    lowest, highest = zip(*(torch.aminmax(of_images.cpu().double()) for of_images in logits), strict=True)
    real, fake = real.cpu().double(), fake.cpu().double()
    means = {
        "image_gradient": at_images,
        "slope_real": steepness[0],
        "slope_fake": steepness[1],
        "slope_between": steepness[2],
        "accuracy_real": (real_logits > border).double(),
        "accuracy_fake": (fake_logits < border).double(),
        "logit_real": real_logits,
        "logit_fake": fake_logits,
        "extreme_real": (real.abs() > SATURATED).double(),
        "extreme_fake": (fake.abs() > SATURATED).double(),
    }
    values = over_processes(torch.stack([values.mean() for values in means.values()]), "mean").tolist()
    means = dict(zip(means, values, strict=True))
    extremes = [real.max(), fake.max(), (-real).max(), (-fake).max(), max(highest), -min(lowest)]
    maxima = torch.stack([torch.cat(list(steepness)).max(), *extremes])
    lipschitz, high_real, high_fake, low_real, low_fake, high, low = over_processes(maxima, "max").tolist()
    return means | {
        "lipschitz": lipschitz,
        "logit_gap": means["logit_real"] - means["logit_fake"],
        "range_real": (-low_real, high_real),
        "range_fake": (-low_fake, high_fake),
        "range_logit": (-low, high),
        "spread_real": spread(real, over_processes),
        "spread_fake": spread(fake, over_processes),
    }


def network_stats(
    network: nn.Module, probe: Probe, terms: Mapping[str, list[Tensor]], over_processes: OverProcesses
) -> NetworkStats:
    """What was seen in a network, and its gradients by term: those of its trainable parameters, in order."""
    norms = {term: parameter_norms(gradients, network, over_processes) for term, gradients in terms.items()}
    whole = [reduce(torch.add, of_terms) for of_terms in zip(*terms.values(), strict=True)]
    by_parameter = parameter_norms(whole, network, over_processes)
    dead, dead_share = dead_units(probe, over_processes)
    saturated, saturated_share = saturated_values(probe, over_processes)
    return NetworkStats(
        total=by_parameter.square().sum().sqrt().item(),
        terms={term: of_term.square().sum().sqrt().item() for term, of_term in norms.items()},
        parameter_gradients=by_layer(by_parameter.square(), network, probe.layers),
        **activation_gradients(probe, over_processes),
        spectral_norms=probe.spectral_norms,
        dead=dead,
        dead_share=dead_share,
        saturated=saturated,
        saturated_share=saturated_share,
        trainable=sum(parameter.numel() for parameter in trainable(network).values()),
    )


def activation_gradients(probe: Probe, over_processes: OverProcesses) -> dict[str, Any]:
    """What flowed back through the layers: `activation_gradients`, `first_to_last` and `histograms`."""
    layers = [layer for layer in probe.layers if layer in probe.norms]
    norms = [torch.cat(probe.norms[layer]) for layer in layers]
    mean_squares = [of_layer.square().sum() / probe.num for of_layer in norms]
    mean_squares = torch.stack(mean_squares) if layers else torch.zeros(0).double()
    means = over_processes(mean_squares, "mean").sqrt().tolist()
    counts = torch.stack([histogram(of_layer) for of_layer in norms]) if layers else torch.zeros(0, len(BINS) - 1)
    counts = over_processes(counts, "sum").long().tolist()
    return {
        "activation_gradients": dict(zip(layers, means, strict=True)),
        "first_to_last": means[0] / means[-1] if layers and means[-1] else float("nan"),
        "histograms": dict(zip(layers, counts, strict=True)),
    }


def dead_units(probe: Probe, over_processes: OverProcesses) -> tuple[dict[str, float], float]:
    """The share of units that are zero on all images, by layer and of all."""
    dead: dict[str, list[bool]] = {}
    if probe.relu_maxima:
        sizes = [len(maxima) for maxima in probe.relu_maxima.values()]
        everywhere = over_processes(torch.cat(list(probe.relu_maxima.values())), "max").split(sizes)
        for (layer, _), maxima in zip(probe.relu_maxima, everywhere, strict=True):
            dead.setdefault(layer, []).extend((maxima == 0).tolist())
    units = [unit for of_layer in dead.values() for unit in of_layer]
    shares = {layer: sum(of_layer) / len(of_layer) for layer, of_layer in dead.items()}
    return shares, sum(units) / len(units) if units else 0.0


def saturated_values(probe: Probe, over_processes: OverProcesses) -> tuple[dict[str, float], float]:
    """The share of values at the ends of a tanh or sigmoid, by layer and of all."""
    if not probe.saturated_counts:
        return {}, 0.0
    counts = torch.stack([torch.stack(of_layer).sum(0) for of_layer in probe.saturated_counts.values()])
    counts = over_processes(counts, "sum")  # (layers, 2): saturated, and all
    shares = (counts[:, 0] / counts[:, 1]).tolist()
    saturated, values = counts.sum(0).tolist()
    return dict(zip(probe.saturated_counts, shares, strict=True)), saturated / values


@torch.no_grad()
def measure_held_out(judge: Network, images: Tensor, over_processes: OverProcesses) -> dict[str, float]:
    """The mean logit of images (N, C, H, W) of all processes, which have N each, and its standard error."""
    logits = of_samples(judge(images)).cpu().double()
    mean = over_processes(logits.mean(), "mean")
    variance = over_processes((logits - mean).square().mean(), "mean").item()
    num = over_processes(torch.tensor(float(len(logits)), dtype=torch.float64), "sum").item()
    return {"logit_held_out": mean.item(), "held_out_error": (variance / max(1, num - 1)) ** 0.5}


def slopes(judge: Network, images: Tensor) -> Tensor:
    """||dD/dx|| at each of the images (N, C, H, W), D being the logit: float64 (N,), on the CPU."""
    images = images.detach().requires_grad_()
    # Of every second logit the negative: the sum of all is constant behind a batch norm, whatever the images.
    signs = 1 - 2 * (torch.arange(len(images), device=images.device) % 2)
    (gradient,) = torch.autograd.grad((signs * of_samples(judge(images))).sum(), images)
    return row_norms(gradient)


def spread(images: Tensor, over_processes: OverProcesses) -> float:
    """The root mean square distance between two of the images (N, C, H, W) of all processes, which have N each."""
    rows = images.flatten(1)
    num = over_processes(torch.tensor(float(len(rows)), dtype=torch.float64), "sum").item()
    center = over_processes(rows.mean(0), "mean")
    variance = over_processes((rows - center).square().sum(1).mean(), "mean").item()
    return (2 * variance * num / max(1, num - 1)) ** 0.5


@torch.no_grad()
def distance(images: Tensor, others: Tensor, over_processes: OverProcesses) -> float:
    """The root mean square distance between images (N, C, H, W) and others, one by one, of all processes."""
    squares = row_norms(images - others).square().mean()
    return over_processes(squares, "mean").sqrt().item()


def neighbours(num: int) -> list[int]:
    """Another one of `num` for each, by twos: the same pairs however many processes share them, two at least each."""
    return [number ^ 1 if number ^ 1 < num else max(number - 1, 0) for number in range(num)]


def histogram(norms: Tensor) -> Tensor:
    """How many of the norms lie in each bin, (bins,)."""
    logarithms = norms[~norms.isnan()].log10().clamp(BINS[0], BINS[-1])
    bins = torch.bucketize(logarithms, BINS[1:-1], right=True)
    return torch.bincount(bins, minlength=len(BINS) - 1).double()


@contextmanager
def state_restored(networks: Iterable[nn.Module], device: torch.device, seed: int) -> Iterator[None]:
    """Puts buffers and the random state back; within, random numbers come from the seed."""
    buffers = Places(networks, parameters=False).keep()
    accelerator = None if device.type == "cpu" else torch.get_device_module(device)
    states = random_states(device)
    torch.default_generator.manual_seed(seed)
    if accelerator is not None:
        accelerator.manual_seed(seed)
    try:
        yield
    finally:
        buffers.restore()
        torch.set_rng_state(states[0])
        if accelerator is not None:
            accelerator.set_rng_state(states[1])


def random_states(device: torch.device) -> list[Tensor]:
    """The random state of the CPU and of the device, where that is another."""
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.get_device_module(device).get_rng_state()]
