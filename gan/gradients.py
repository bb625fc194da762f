"""What flows back through two networks, measured beside their training: networks and images in, numbers out.

Gradients of parameters miss the textbook effect: where activations are large a vanished signal still makes an ordinary
weight gradient (Glorot & Bengio 2010). Hence the gradients at each layer's output, and at the images, where the
generator gets all that it learns from.

Per image: a loss is the mean over a batch of N, so what it sends back to one image is N times smaller than the gradient
of that image's own term. The norms at layers and images below are of the latter, whatever the size of the batch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OverProcesses = Callable[[Tensor, Literal["mean", "sum", "max"]], Tensor]

SATURATED = 0.99  # of the way to either end of a tanh or sigmoid: the slope left is 2 % of a tanh's, 4 % of a sigmoid's
BINS = torch.linspace(-12, 4, 65, dtype=torch.float64)  # edges of the histograms, log10
RELU = {torch.ops.aten.relu.default, torch.ops.aten.relu_.default}
LOWER_BOUND = {  # ReLUs where the bound is 0
    torch.ops.aten.clamp.default,
    torch.ops.aten.clamp_.default,
    torch.ops.aten.clamp_min.default,
    torch.ops.aten.clamp_min_.default,
    torch.ops.aten.hardtanh.default,
    torch.ops.aten.hardtanh_.default,
}
TANH = {torch.ops.aten.tanh.default, torch.ops.aten.tanh_.default}
SIGMOID = {torch.ops.aten.sigmoid.default, torch.ops.aten.sigmoid_.default}


@dataclass(frozen=True)
class NetworkSignals:
    """One network's gradients.

    Dicts with a value per layer have the layers in order of execution, under their dotted names. A layer is a module
    with parameters of its own; "self" is the network itself.

    Attributes:
        total: Norm of the loss's gradient with respect to all parameters, before any clipping. The discriminator's loss
            includes each penalty times its `weight`: its share of the loss over time, whatever its `every`.
        terms: Norms of the gradients of the loss's terms alone: "adversarial", and each penalty by its name.
        parameter_gradients: `total` by layer.
        activation_gradients: Root mean square over the images of ||dl/dh||, with l the adversarial loss of one image
            (for the discriminator, of a real and a generated one), and h what the layer makes of it. Absent where
            nothing flows back. If a layer runs several times, its calls are summed up as one vector.
        first_to_last: That of the first layer over that of the last: far below 1 where the gradient vanishes on its way
            back, far above 1 where it explodes; NaN where the last layer has none.
        histograms: By layer, how many images (for the discriminator, real and generated) have a log10 ||dl/dh|| in
            each of the bins between the `BINS`; what lies beyond them is in the outermost ones.
        spectral_norms: By layer, the largest singular value of its weight, as a matrix (out, in * kernel area).
        dead: By layer, the share of units that are zero after the ReLU that follows, on all images of the batch (the
            discriminator's on real and generated ones). A unit is a channel (dim 1).
        dead_share: The same over all units; 0 if there is no ReLU.
        saturated: By layer, the share of values that the tanh or sigmoid that follows puts within 1 % of an end.
        saturated_share: The same over all values; 0 if there is no tanh or sigmoid.
        update_ratio: Norm of what the batch's step changed, over that of the weights before; None before that step.
        update_ratios: The same by layer; without layers whose weights were all zero.
    """

    total: float
    terms: dict[str, float]
    parameter_gradients: dict[str, float]
    activation_gradients: dict[str, float]
    first_to_last: float
    histograms: dict[str, list[int]]
    spectral_norms: dict[str, float]
    dead: dict[str, float]
    dead_share: float
    saturated: dict[str, float]
    saturated_share: float
    update_ratio: float | None = None
    update_ratios: dict[str, float] | None = None


@dataclass(frozen=True)
class Signals:
    """Both networks' gradients, and what the discriminator passes on, in one batch.

    Attributes:
        step: Training batches completed.
        generator: The generator's gradients.
        discriminator: The discriminator's.
        image_gradient: Mean over generated images x of ||dl_G/dx||: what the discriminator tells the generator.
        slope_real: Mean over real images of ||dD/dx||, D being the logit.
        slope_fake: The same at generated images.
        slope_between: The same at random points between a real and a generated image.
        lipschitz: The largest ||dD/dx|| of all these: a lower bound of D's Lipschitz constant.
        accuracy_real: Share of real images with a logit above 0. Means nothing where 0 is no border (Wasserstein).
        accuracy_fake: Share of generated images with a logit below 0.
        logit_real: Mean logit of real images.
        logit_fake: Mean logit of generated images.
        logit_gap: `logit_real - logit_fake`.
        range_real: Lowest and highest value in the real images.
        range_fake: Lowest and highest value in the generated images.
        extreme_real: Share of values beyond +-.99 in the real images: what is normal for the generated ones.
        extreme_fake: Share of values beyond +-.99 in the generated images.
        spread_real: Root mean square distance between two of the real images.
        spread_fake: The same between two generated images: 0 if all are one.
        movement: Root mean square distance that the images of the same latents have moved since the measurement
            before; None in the first.
    """

    step: int
    generator: NetworkSignals
    discriminator: NetworkSignals
    image_gradient: float
    slope_real: float
    slope_fake: float
    slope_between: float
    lipschitz: float
    accuracy_real: float
    accuracy_fake: float
    logit_real: float
    logit_fake: float
    logit_gap: float
    range_real: tuple[float, float]
    range_fake: tuple[float, float]
    extreme_real: float
    extreme_fake: float
    spread_real: float
    spread_fake: float
    movement: float | None = None


def alone(tensor: Tensor, how: str) -> Tensor:
    """What one process has over all processes."""
    return tensor


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
) -> Signals:
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
        with Watch(generator, num) as generator_watch:
            fake = generator(latents)
        at_images = []
        fake.register_hook(lambda gradient: at_images.append(num * row_norms(gradient)))
        real_logits = discriminator(real) if loss.relativistic else None
        objective = loss.generator(discriminator(fake), real_logits).mean()
        terms = {"adversarial": parameter_gradients(objective, generator, networks, over_processes)}
        generator_signals = summary(generator, generator_watch, terms, over_processes)
        fake = fake.detach()

        # The discriminator's.
        with Watch(discriminator, num) as discriminator_watch:
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
        discriminator_signals = summary(discriminator, discriminator_watch, terms, over_processes)

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
    return Signals(
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
    network: nn.Module, watch: "Watch", terms: Mapping[str, list[Tensor]], over_processes: OverProcesses
) -> NetworkSignals:
    """What was seen in a network, and its gradients by term: those of its trainable parameters, in order."""
    norms = {name: parameter_norms(gradients, network, over_processes) for name, gradients in terms.items()}
    by_parameter = parameter_norms([sum(parts) for parts in zip(*terms.values(), strict=True)], network, over_processes)

    flowing = [name for name in watch.layers if name in watch.norms]
    rows = [torch.cat(watch.norms[name]) for name in flowing]
    mean_squares = torch.stack([one.square().sum() / watch.num for one in rows]) if rows else torch.zeros(0).double()
    activation = dict(zip(flowing, over_processes(mean_squares, "mean").sqrt().tolist(), strict=True))
    first, last = (activation[flowing[0]], activation[flowing[-1]]) if flowing else (0.0, 0.0)
    counts = torch.stack([histogram(one) for one in rows]) if rows else torch.zeros(0, len(BINS) - 1)
    counts = over_processes(counts, "sum").long().tolist()

    dead: dict[str, list[bool]] = {}
    if watch.largest:
        sizes = [len(one) for one in watch.largest.values()]
        largest = over_processes(torch.cat(list(watch.largest.values())), "max").split(sizes)
        for (name, _), one in zip(watch.largest, largest, strict=True):
            dead.setdefault(name, []).extend((one == 0).tolist())
    units = [one for some in dead.values() for one in some]

    ends = {name: torch.stack(some).sum(0) for name, some in watch.ends.items()}  # beyond, and all
    if ends:
        ends = dict(zip(ends, over_processes(torch.stack(list(ends.values())), "sum"), strict=True))
    beyond, everything = sum(ends.values(), torch.zeros(2).double()).tolist()

    return NetworkSignals(
        total=by_parameter.square().sum().sqrt().item(),
        terms={name: one.square().sum().sqrt().item() for name, one in norms.items()},
        parameter_gradients=by_layer(by_parameter.square(), network, watch.layers),
        activation_gradients=activation,
        first_to_last=first / last if last else float("nan"),
        histograms=dict(zip(flowing, counts, strict=True)),
        spectral_norms=watch.spectral_norms,
        dead={name: sum(some) / len(some) for name, some in dead.items()},
        dead_share=sum(units) / len(units) if units else 0.0,
        saturated={name: (one[0] / one[1]).item() for name, one in ends.items()},
        saturated_share=beyond / everything if everything else 0.0,
    )


class Watch(TorchDispatchMode):
    """Looks on while a network computes and, later, while gradients flow back through what it computed.

    Activations are seen as operations, since most networks do not have them as modules. One belongs to the layer that
    ran last before it.

    Args:
        network: The network.
        num: Images in the batch whose mean loss flows back.

    Attributes:
        layers: The modules with parameters of their own, by name, in order of execution.
        norms: By layer, for each of its calls, ||dl/dh|| of each row, times `num`.
        spectral_norms: By layer, the largest singular value of its weight.
        largest: Of each unit after a ReLU, the largest value; by layer and number of the ReLU after it.
        ends: By layer, for each tanh or sigmoid after it, how many values lie at the ends, and how many there are.
    """

    def __init__(self, network: nn.Module, num: int) -> None:
        super().__init__()
        self.network = network
        self.num = num
        self.layers: dict[str, nn.Module] = {}
        self.norms: dict[str, list[Tensor]] = {}
        self.spectral_norms: dict[str, float] = {}
        self.largest: dict[tuple[str, int], Tensor] = {}
        self.ends: dict[str, list[Tensor]] = {}
        self.looking = False  # not before the network runs

    def __enter__(self) -> "Watch":
        self.hooks = [self.network.register_forward_pre_hook(self.begin)]
        for name, module in self.network.named_modules():
            if "parametrizations" not in name.split(".") and is_layer(module):
                self.hooks.append(module.register_forward_hook(partial(self.ran, name or "self")))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self.hooks:
            hook.remove()

    def begin(self, network: nn.Module, inputs: Any) -> None:
        self.current, self.seen, self.looking = "input", {}, True

    def ran(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self.current = name
        if name not in self.layers:
            self.layers[name] = module
            # Here and now, since weights in shards are whole only while their network computes.
            self.looking = False
            if (largest := largest_singular_value(module)) is not None:
                self.spectral_norms[name] = largest
            self.looking = True
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(partial(self.flowed, name))  # unmoved by what is done in place later

    def flowed(self, name: str, gradient: Tensor) -> None:
        self.norms.setdefault(name, []).append(self.num * row_norms(gradient))

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        if not self.looking:
            return result
        if operation in RELU or (operation in LOWER_BOUND and args[1:2] == (0,)):
            number = self.seen[self.current] = self.seen.get(self.current, -1) + 1
            others = [dim for dim in range(result.ndim) if dim != 1]
            largest = result.detach().amax(others).reshape(-1).cpu().double()
            before = self.largest.get((self.current, number), largest)
            self.largest[self.current, number] = torch.maximum(before, largest)
        elif operation in TANH or operation in SIGMOID:
            values = result.detach() if operation in TANH else 2 * result.detach() - 1
            beyond = (values.abs() > SATURATED).sum().cpu().double()
            self.ends.setdefault(self.current, []).append(torch.stack([beyond, beyond.new_tensor(values.numel())]))
        return result


def is_layer(module: nn.Module) -> bool:
    """Whether it has parameters of its own, parametrized ones too."""
    return is_parametrized(module) or any(True for _ in module.parameters(recurse=False))


@torch.no_grad()
def largest_singular_value(layer: nn.Module) -> float | None:
    """The largest singular value of a layer's weights, None for one that has no matrix."""
    names = [name for name, _ in layer.named_parameters(recurse=False)]
    names += list(layer.parametrizations) if is_parametrized(layer) else []
    matrices = [weight for name in names if (weight := getattr(layer, name)).ndim > 1]
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        matrices = [weight.transpose(0, 1) for weight in matrices]
    return max(map(spectral_norm, matrices), default=None)


def spectral_norm(weight: Tensor) -> float:
    """The largest singular value of a weight (out, ...), as a matrix (out, ...). NaN if it is not finite."""
    matrix = weight.detach().flatten(1)
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    scale = matrix.abs().amax()
    if not 0 < scale < float("inf"):
        return 0.0 if scale == 0 else float("nan")
    matrix = matrix / scale
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix  # the smaller one: far faster
    return (scale * torch.linalg.eigvalsh(gram)[-1].clamp(min=0).sqrt()).item()


def slopes(discriminator: nn.Module, images: Tensor) -> Tensor:
    """||dD/dx|| at each of the images (N, C, H, W), D being the logit: float64 (N,), on the CPU."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images)
    return row_norms(gradient)


def row_norms(tensor: Tensor) -> Tensor:
    """The norm of each row of a tensor (N, ...): float64 (N,), on the CPU."""
    # In float32, squares of what has vanished would be 0, and of what explodes infinite.
    rows = tensor.detach().reshape(len(tensor) if tensor.ndim else 1, -1)
    rows = rows.cpu() if rows.device.type == "mps" else rows  # which has no float64
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).cpu()


def spread(images: Tensor, over_processes: OverProcesses) -> float:
    """The root mean square distance between two of the images (N, C, H, W) of all processes, which have N each."""
    rows = images.flatten(1)
    num = over_processes(torch.tensor(float(len(rows)), dtype=torch.float64), "sum").item()
    center = over_processes(rows.mean(0), "mean")
    variance = over_processes((rows - center).square().sum(1).mean(), "mean").item()
    return (2 * variance * num / (num - 1)) ** 0.5


def histogram(norms: Tensor) -> Tensor:
    """How many of the norms lie in each bin, (bins,)."""
    logarithms = norms[~norms.isnan()].log10().clamp(BINS[0], BINS[-1])
    bins = torch.bucketize(logarithms, BINS[1:-1], right=True)
    return torch.bincount(bins, minlength=len(BINS) - 1).double()


# ---------------------------------------------------------------------- parameters


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: one for name, one in network.named_parameters() if one.requires_grad}


def parameter_gradients(
    objective: Tensor, network: nn.Module, networks: Iterable[nn.Module], over_processes: OverProcesses
) -> list[Tensor]:
    """The gradient with respect to each trainable parameter, or this process's shard of it: means over all processes.

    Args:
        objective: A scalar.
        network: Whose parameters.
        networks: All networks that the gradient would flow to.
        over_processes: The mean of a tensor over all processes.
    """
    parameters = list(trainable(network).values())
    if any(isinstance(one, DTensor) for one in parameters):
        # Autograd knows only the whole weights, which exist in between; sharding puts its part in `.grad`.
        with set_aside(networks):
            objective.backward()
            return [torch.zeros_like(local(one)) if one.grad is None else local(one.grad) for one in parameters]
    gradients = torch.autograd.grad(objective, parameters, allow_unused=True, materialize_grads=True)
    flat = torch.cat([one.flatten().to(torch.promote_types(one.dtype, torch.float32)) for one in gradients])
    return list(over_processes(flat, "mean").split([one.numel() for one in gradients]))


def parameter_norms(tensors: Sequence[Tensor], network: nn.Module, over_processes: OverProcesses) -> Tensor:
    """The norms of tensors that belong to the trainable parameters, over all shards: float64 (parameters,)."""
    norms = [row_norms(one.reshape(1, -1)) if one.numel() else torch.zeros(1).double() for one in tensors]
    norms = torch.cat(norms)
    if any(isinstance(one, DTensor) for one in network.parameters()):
        norms = over_processes(norms.square(), "sum").sqrt()
    return norms


def by_layer(squares: Tensor, network: nn.Module, layers: Iterable[str]) -> dict[str, float]:
    """Norms by layer from squared norms by trainable parameter.

    A parameter belongs to the innermost layer around it. That of a module which never ran by itself thus counts for
    the one that used it; if there is none, for no layer.
    """
    sums = dict.fromkeys(layers, 0.0)
    for name, square in zip(trainable(network), squares.tolist(), strict=True):
        place = name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]
        while place and place not in sums:
            place = place.rpartition(".")[0]
        if (place or "self") in sums:
            sums[place or "self"] += square
    return {name: one**0.5 for name, one in sums.items()}


def weights(network: nn.Module) -> list[Tensor]:
    """A copy of the trainable parameters, or of this process's shards of them."""
    return [local(one).clone() for one in trainable(network).values()]


def updates(
    network: nn.Module, before: Sequence[Tensor], layers: Iterable[str], over_processes: OverProcesses = alone
) -> tuple[float, dict[str, float]]:
    """How much the trainable parameters have changed: ||change|| / ||before||, of the network and by layer.

    Args:
        network: The network, as it is now.
        before: Its `weights` before.
        layers: Names of its layers.
        over_processes: The sum of a tensor over all processes.

    Returns:
        The ratio of all parameters, NaN if they were all 0; and the ratios by layer, without those that were all 0.
    """
    changes = [now - then for now, then in zip(weights(network), before, strict=True)]
    changed = parameter_norms(changes, network, over_processes).square()
    were = parameter_norms(before, network, over_processes).square()
    total = (changed.sum() / were.sum()).sqrt().item()
    changed, were = by_layer(changed, network, layers), by_layer(were, network, layers)
    return total, {name: changed[name] / were[name] for name in changed if were[name] > 0}


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor."""
    return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor.detach()


# ---------------------------------------------------------------------- nothing happened


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


@contextmanager
def set_aside(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Takes away the `.grad` of all parameters, and puts it back."""
    kept = [(one, one.grad) for network in networks for one in network.parameters()]
    for one, _ in kept:
        one.grad = None
    try:
        yield
    finally:
        for one, gradient in kept:
            one.grad = gradient
