"""Random failures as users make them: networks and settings of their own, and one to three things wrong.

python -m sick 7        what is wrong in the case of a seed, and its config; `heal` runs them
"""

import copy
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

FLOPS = 2.5e11  # of a run: ten seconds on one core

# What each kind of network calls its settings; None where it has none for it.
NAMES = ("latent", "depth", "width", "act", "end", "norm", "skip", "std")
KINDS = {
    "Painter": ("latent_dim", "layers", "hidden", "act", "out", "bn", "skip", "std"),
    "Sculptor": ("noise", "depth", "width", "nonlin", "end", "norm", "residual", "sigma"),
    "Upscaler": ("latent_dim", "blocks", "channels", "activation", "final", "batchnorm", "shortcut", "init_scale"),
    "Critic": (None, "layers", "hidden", "act", "out", "bn", "skip", "std"),
    "Judge": (None, "depth", "width", "nonlin", "end", "norm", "residual", "sigma"),
    "Watcher": (None, "blocks", "channels", "activation", "final", "batchnorm", "shortcut", "init_scale"),
    **dict.fromkeys(("Draft", "Negative", "Fog"), ("z_dim", "n", "sizes", None, None, None, None, None)),
    **dict.fromkeys(("Oracle", "Mist", "Tower"), (None, "n", "sizes", None, None, None, None, None)),
}
CONVOLUTIONS = ("Upscaler", "Watcher")


@dataclass(frozen=True)
class Case:
    """A run that somebody might have set up.

    Attributes:
        seed: Which case this is.
        config: What stands in its YAML.
        wrong: What has been made wrong, in words.
        sound: The YAML of the same kind of networks in its sound form.
    """

    seed: int
    config: dict[str, Any]
    wrong: tuple[str, ...]
    sound: dict[str, Any]


class Draft:
    """A case in the making: the settings of both networks under common names, those of training, and what is wrong."""

    def __init__(self, seed: int):
        self.rng = rng = random.Random(seed)
        self.wrong: dict[str, str] = {}  # by what it touches
        kinds = rng.choice(("Painter", "Sculptor", "Upscaler", "Upscaler")), rng.choice(("Critic", "Judge"))
        if kinds[0] in CONVOLUTIONS and rng.random() < 0.6:
            kinds = kinds[0], "Watcher"
        self.g, self.d = (
            {"kind": kind, "std": None, "skip": False, "latent": rng.choice((8, 16, 32))} for kind in kinds
        )
        for network, act, end in ((self.g, "relu", "tanh"), (self.d, "leaky_relu", "none")):
            is_convolution = network["kind"] in CONVOLUTIONS
            network["depth"] = rng.randint(0, 1) if is_convolution else rng.randint(1, 3)
            network["width"] = rng.choice((12, 16)) if is_convolution else rng.choice((128, 256, 512))
            network["act"] = rng.choice((act, act, "relu", "leaky_relu", "elu"))
            network["end"], network["norm"] = end, network is self.g
        adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 2e-3, "betas": [0.0, 0.9]}}
        self.optimizers = {"g": copy.deepcopy(adam), "d": copy.deepcopy(adam)}
        for optimizer in self.optimizers.values():
            optimizer["init_args"]["lr"] = self.logarithmic(1e-3, 3e-3)
        self.loss = rng.choice(("NonSaturating",) * 3 + ("Hinge", "LeastSquares", "RelativisticPaired", "Wasserstein"))
        self.penalty: tuple[str, float, int] | None = ("R1", 1.0, 4)
        if self.loss == "Wasserstein":
            self.penalty = ("GradientPenalty", 10.0, 1)
        self.batch_size = rng.choice((32, 64, 64, 128))
        self.scheduled = rng.random() < 0.5
        self.weight_clip: float | None = None
        self.clipping: dict[str, float] = {}
        self.n_critic = 1

    def logarithmic(self, low: float, high: float, but: tuple[float, float] = (math.inf, math.inf)) -> float:
        """A number of three digits from a range, all orders of magnitude alike, outside of another range."""
        while True:
            value = float(f"{math.exp(self.rng.uniform(math.log(low), math.log(high))):.2e}")
            if not but[0] <= value <= but[1]:
                return value

    @property
    def batches(self) -> int:
        """Perceptrons need more of them before they draw digits."""
        return 300 if self.g["kind"] in CONVOLUTIONS else 600

    def flops(self) -> float:
        """Of the run, about."""
        g, d = macs(self.g), macs(self.d)
        penalty = 5 * d / self.penalty[2] if self.penalty else 0
        return 2 * self.batch_size * self.batches * (6 * d + g + 3 * (g + d) / self.n_critic + penalty)

    def fit_budget(self) -> None:
        """Makes widths, then the batch, smaller until the run is short."""
        while self.flops() > FLOPS:
            wider = max((self.g, self.d), key=macs)
            if wider["width"] > (8 if wider["kind"] in CONVOLUTIONS else 64):
                wider["width"] //= 2
            else:
                self.batch_size //= 2

    def config(self) -> dict[str, Any]:
        """The YAML of the case."""
        optimizers = {f"{name}_optimizer": self.optimizers[name[0]] for name in ("generator", "discriminator")}
        model = {
            "generator": network(self.g),
            "discriminator": network(self.d),
            "loss": {"class_path": f"gan.losses.{self.loss}"},
            "penalties": [],
            **copy.deepcopy(optimizers),
        }
        if self.penalty:
            name, weight, every = self.penalty
            model["penalties"] = [
                {"class_path": f"gan.penalties.{name}", "init_args": {"weight": weight, "every": every}}
            ]
        if not self.scheduled:
            model |= {"generator_scheduler": None, "discriminator_scheduler": None}
        if self.weight_clip is not None:
            model["weight_clip"] = self.weight_clip
        if self.n_critic > 1:
            model["n_critic"] = self.n_critic
        every = {"every": self.batches // 3, "num_samples": 500, "final_samples": 1000}
        callbacks: list[dict[str, Any]] = [
            {"class_path": "gan.callbacks.FIDTracker", "init_args": every},
            {"class_path": "gan.callbacks.GradientMonitor", "init_args": {"every": 25}},
        ]
        if self.clipping:
            by_norm = {
                name: {"class_path": "gan.gradients.clip.ByNorm", "init_args": {"max_norm": value}}
                for name, value in self.clipping.items()
            }
            callbacks.append({"class_path": "gan.callbacks.GradientClipping", "init_args": by_norm})
        trainer = {"max_steps": self.batches, "enable_progress_bar": False, "callbacks+": callbacks}
        return {"data": {"init_args": {"batch_size": self.batch_size}}, "model": model, "trainer": trainer}

    def made_sound(self) -> "Draft":
        """The same kinds of networks, in a size that does well, and training that suits them: few forms for all."""
        sound = copy.deepcopy(self)
        forms = (sound.g, "Painter", 3, 256, "relu", "tanh"), (sound.d, "Critic", 3, 128, "leaky_relu", "none")
        for network, kind, depth, width, act, end in forms:
            if written(network):
                network["kind"] = kind
            if network["kind"] in CONVOLUTIONS:
                depth, width = 1, 16
            network |= {"depth": depth, "width": width, "latent": 16, "act": act, "end": end}
            network |= {"std": None, "skip": False, "norm": network is sound.g}
        for optimizer in ("g", "d"):
            init_args = {"lr": 2e-3, "betas": [0.0, 0.9]}
            sound.optimizers[optimizer] = {"class_path": "torch.optim.Adam", "init_args": init_args}
        sound.loss, sound.penalty, sound.batch_size, sound.n_critic = "NonSaturating", ("R1", 1.0, 4), 64, 1
        sound.scheduled, sound.weight_clip, sound.clipping = True, None, {}
        return sound


def macs(network: dict[str, Any]) -> float:
    """Multiply-adds of an image, about."""
    width, depth = network["width"], network["depth"]
    if network["kind"] in CONVOLUTIONS:
        largest = 784 * 9 * width + 196 * 9 * width * width if network["kind"] == "Upscaler" else 196 * 9 * width
        return 4 * (largest + 49 * 9 * width * width * (depth + 1))  # they are slower than their sums
    return 784 * width + width * width * (depth - 1)


def network(settings: dict[str, Any]) -> dict[str, Any]:
    """The YAML of a network."""
    names = zip(NAMES, KINDS[settings["kind"]], strict=True)
    init_args = {own: settings[name] for name, own in names if own is not None and settings[name] is not None}
    return {"class_path": f"strangers.{settings['kind']}", "init_args": init_args}


# ---------------------------------------------------------------------- what goes wrong: each says what it is


def layers(draft: Draft, which: str) -> str:
    network, rng = getattr(draft, which), draft.rng
    network["depth"] = rng.randint(4, 10) if network["kind"] in CONVOLUTIONS else rng.randint(6, 24)
    network["act"] = rng.choice(("sigmoid", "sigmoid", "tanh", "softplus", "none"))
    network["norm"] = False
    if network["act"] == "sigmoid" and network["kind"] not in CONVOLUTIONS and rng.random() < 0.7:
        network["kind"] = {"g": "Fog", "d": "Mist"}[which]
    return f"{network['depth']} layers of {network['act']}"


def sums(draft: Draft, which: str) -> str:
    network, rng = getattr(draft, which), draft.rng
    network["depth"] = rng.randint(8, 12) if network["kind"] in CONVOLUTIONS else rng.randint(12, 24)
    network |= {"skip": True, "norm": False, "act": rng.choice(("relu", "leaky_relu"))}
    if which == "d" and network["kind"] not in CONVOLUTIONS and rng.random() < 0.7:
        network["kind"] = "Tower"
    elif rng.random() < 0.5:
        network["std"] = draft.logarithmic(0.05, 0.3)
    return f"{network['depth']} unscaled sums" + (f", weights N(0, {network['std']:g})" if network["std"] else "")


def end(draft: Draft, which: str) -> str:
    network, rng = getattr(draft, which), draft.rng
    network["end"] = (
        "sigmoid" if which == "d" else rng.choice(("none", "none", "sigmoid", "sigmoid", "hardtanh", "clamp"))
    )
    as_written = {("d", "sigmoid"): "Oracle", ("g", "none"): "Draft", ("g", "sigmoid"): "Negative"}
    if (which, network["end"]) in as_written and network["kind"] not in CONVOLUTIONS and rng.random() < 0.7:
        network["kind"] = as_written[which, network["end"]]
    return f"ends in {network['end']}"


def weights(draft: Draft, which: str) -> str:
    network, rng = getattr(draft, which), draft.rng
    network["std"] = 0.0 if rng.random() < 0.2 else draft.logarithmic(1e-5, 3, but=(0.01, 0.2))
    return f"weights N(0, {network['std']:g})" if network["std"] else "weights of zero"


def batch_norm(draft: Draft, which: str) -> str:
    draft.d["norm"] = True
    return "batch norm"


def rate(draft: Draft, which: str) -> str:
    value = draft.logarithmic(1e-6, 3, but=(1e-4, 1e-2))
    for each in which:
        draft.optimizers[each]["init_args"]["lr"] = value
    return f"rate {value:g}"


def other_optimizer(draft: Draft, which: str) -> str:
    name, value = draft.rng.choice(("SGD", "RMSprop")), draft.logarithmic(1e-5, 3)
    momentum = round(draft.rng.choice((0, 0.5, 0.9, draft.rng.uniform(0, 0.99))), 2)
    for each in which:
        init_args = {"lr": value, "momentum": momentum}
        draft.optimizers[each] = {"class_path": f"torch.optim.{name}", "init_args": init_args}
    return f"{name} {value:g}, momentum {momentum:g}"


def momentum(draft: Draft, which: str) -> str:
    value = round(draft.rng.uniform(0.8, 0.99), 2)
    for each in which:
        arguments = draft.optimizers[each]["init_args"]
        arguments |= {"betas": [value, 0.999]} if "betas" in arguments else {"momentum": value}
    return f"momentum {value:g}"


def loss(draft: Draft, which: str) -> str:
    draft.loss = draft.rng.choice(("Saturating", "MaximumLikelihood", "Wasserstein", "LeastSquares"))
    if draft.loss != "LeastSquares" or draft.rng.random() < 0.5:
        draft.penalty = None
    if draft.rng.random() < 0.5:
        draft.n_critic = draft.rng.randint(2, 8)
    critic = f", n_critic {draft.n_critic}" if draft.n_critic > 1 else ""
    return f"{draft.loss}{'' if draft.penalty else ' without a penalty'}{critic}"


def penalty(draft: Draft, which: str) -> str:
    if draft.rng.random() < 0.15:
        draft.penalty = None
        return "no penalty"
    name = draft.rng.choice(("R1", "R2", "GradientPenalty", "DRAGAN"))
    weight, every = draft.logarithmic(1e-3, 1e6, but=(0.1, 300)), draft.rng.choice((1, 1, 4, 16))
    draft.penalty = (name, weight, every)
    return f"{name} of weight {weight:g} every {every}"


def weight_clip(draft: Draft, which: str) -> str:
    draft.weight_clip, draft.penalty = draft.logarithmic(1e-5, 1, but=(2e-3, 0.03)), None
    draft.loss = draft.rng.choice((draft.loss, "Wasserstein"))
    return f"weight_clip {draft.weight_clip:g} with {draft.loss}"


def clipping(draft: Draft, which: str) -> str:
    value = draft.logarithmic(1e-5, 0.01)
    draft.clipping = {{"g": "generator", "d": "discriminator"}[each]: value for each in which}
    for each in which:  # Adam would hardly notice
        draft.optimizers[each] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.02, "momentum": 0.9}}
    return f"gradients clipped to {value:g} under SGD"


def n_critic(draft: Draft, which: str) -> str:
    draft.n_critic = draft.rng.randint(8, 20)
    return f"n_critic {draft.n_critic}"


def batch_size(draft: Draft, which: str) -> str:
    draft.batch_size = draft.rng.choice((4, 4, 8))
    return f"batches of {draft.batch_size}"


Wrong = Callable[[Draft, str], str]

# What can go wrong, and with which networks; and what it touches, so that no two of a case touch the same.
WRONG: list[tuple[Wrong, Sequence[str], str]] = [
    (layers, "gd", "form"),
    (sums, "gd", "form"),
    (end, "gd", "end"),
    (weights, "gd", "weights"),
    (batch_norm, "d", "form"),
    (rate, ("g", "d", "gd"), "rate"),
    (rate, ("g", "d", "gd"), "rate"),
    (other_optimizer, ("g", "d", "gd"), "rate"),
    (momentum, ("gd", "g"), "momentum"),
    (loss, ("",), "loss"),
    (penalty, ("",), "penalty"),
    (penalty, ("",), "penalty"),
    (weight_clip, ("",), "penalty"),
    (clipping, ("g", "d", "gd"), "rate"),
    (n_critic, ("",), "n_critic"),
    (batch_size, ("",), "batch_size"),
]


def draw(seed: int) -> Case:
    """The case of a seed."""
    draft = Draft(seed)
    number = draft.rng.choice((1, 1, 2, 2, 3))
    while len(draft.wrong) < number:
        function, networks, touched = draft.rng.choice(WRONG)
        which = draft.rng.choice(networks)
        keys = {f"{touched} {each}" for each in which or "-"}
        if (function is weights or function is sums) and any(
            f"{name} {which}" in draft.wrong for name in ("form", "weights")
        ):
            continue
        if function is loss and any(key.startswith(("penalty", "n_critic")) for key in draft.wrong):
            continue
        if keys & draft.wrong.keys() or (touched in ("form", "end", "weights") and written(getattr(draft, which))):
            continue
        what = function(draft, which)
        whose = {"g": "generator: ", "d": "discriminator: ", "gd": "both: ", "": ""}[which]
        draft.wrong |= dict.fromkeys(keys, "")
        draft.wrong[min(keys)] = f"{whose}{what}"
        number += len(keys) - 1
    draft.fit_budget()
    sound = draft.made_sound()
    sound.fit_budget()
    return Case(seed, draft.config(), tuple(what for what in draft.wrong.values() if what), sound.config())


def written(network: dict[str, Any]) -> bool:
    """Whether a network is one that is written as it is, whose form no argument changes."""
    return KINDS[network["kind"]][3] is None


if __name__ == "__main__":
    case = draw(int(sys.argv[1]))
    print(*(f"# {what}" for what in case.wrong), yaml.safe_dump(case.config, sort_keys=False), sep="\n")
