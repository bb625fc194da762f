"""What changes are made of: rates, penalties, repairs of networks, and others in their place."""

from collections.abc import Iterator
from typing import Any

from gan.gradients.change import REPAIR, Change, class_of
from gan.gradients.patient import PENALTIES as ANY_PENALTY
from gan.gradients.patient import TWICE, Part, Patient, most

NETWORKS = ("discriminator", "generator")
ADAM = "torch.optim.Adam"
RATES = {"Adam": (1e-5, 1e-2, 1e-3), "RMSprop": (1e-5, 5e-3, 5e-4)}  # least, most, good
DEEP, BORNE = 8, 1e-3  # layers from which on a network needs a normalisation, and the rate that it bears then
SHORT = 2000  # batches in which rates must be higher, to get anywhere
PENALTIES = "gan.penalties."
CLIPPING = "gan.callbacks.GradientClipping"


# ---------------------------------------------------------------------- optimizers


def kind_of(patient: Patient, name: str) -> str:
    """Of which kind an optimizer is: Adam, RMSprop, SGD, or "" for another one, or one that nothing is known of."""
    if f"{name}_optimizer" not in patient.model:
        return ""  # made in Python, by a function
    given = patient.named(f"{name}_optimizer") or "Adam"
    return next((kind for kind in (*RATES, "SGD") if kind in given), "")


def rate(patient: Patient, name: str) -> float | None:
    """The rate of a network's optimizer, if its settings say it."""
    if f"{name}_optimizer" not in patient.model:
        return None
    optimizer = patient.model.get(f"{name}_optimizer")
    return (optimizer.get("init_args") or {}).get("lr") if optimizer else 2e-4


def with_rate(patient: Patient, name: str, value: float) -> dict[str, Any]:
    """The settings that give a network's optimizer a rate."""
    if patient.model.get(f"{name}_optimizer") is None:
        return {f"model.{name}_optimizer": class_of(ADAM, lr=value, betas=[0.0, 0.9])}
    return {f"model.{name}_optimizer.lr": value}


def first_beta(patient: Patient, name: str) -> float:
    """The momentum that an Adam has: torch's if its settings, given in Python, do not say; 0 of another optimizer."""
    optimizer = patient.model.get(f"{name}_optimizer")
    if kind_of(patient, name) != "Adam" or optimizer is None:
        return 0.0
    return most((optimizer.get("init_args") or {}).get("betas", (0.9, 0.999))[0])


def adam(patient: Patient) -> dict[str, Any]:
    """Adam, as it trains most networks in as many batches."""
    return class_of(ADAM, lr=RATES["Adam"][2] * (2 if patient.batches < SHORT else 1), betas=[0.0, 0.9])


def catching_up(patient: Patient, fast: str, slow: str) -> Iterator[Change]:
    """The slower network at the other's rate, where both optimizers are of a kind, and it is lower."""
    of_fast, of_slow = rate(patient, fast), rate(patient, slow)
    if kind_of(patient, fast) == kind_of(patient, slow) and of_fast and of_slow and of_fast > of_slow:
        yield Change(
            with_rate(patient, slow, of_fast), f"a {slow} that keeps up: {of_fast:g}, as the {fast}, for {of_slow:g}"
        )


def slower(patient: Patient, name: str, factor: float, text: str) -> Iterator[Change]:
    """A rate so many times lower, not below the thousandth of what it is."""
    now = rate(patient, name)
    if isinstance(now, float | int) and now > 0:
        factor = min(max(factor, 3.0), 100.0)
        yield Change(with_rate(patient, name, rounded(now / factor)), text)


def rounded(value: float) -> float:
    """A number with one figure."""
    return float(f"{value:.0e}")


def r1(patient: Patient, text: str) -> Iterator[Change]:
    """R1, or a larger weight of it, in the form that the run can have; a gradient penalty for a Wasserstein critic."""
    if ANY_PENALTY in patient.refuses or (patient.named("loss") == "Wasserstein" and TWICE in patient.refuses):
        return
    kind = kind_of_r1(patient)
    penalties = list(patient.model.get("penalties") or [])
    if patient.parts["discriminator"].mixes:
        yield from unmixed(patient, f"{text}, which it takes to see them one by one")
    if patient.named("loss") == "Wasserstein":
        if not penalties:
            clip = {"model.weight_clip": None} if patient.model.get("weight_clip") is not None else {}
            yield Change({"model.penalties": [gradient_penalty()], **clip}, text)
        return
    present = {penalty["class_path"].rpartition(".")[2]: penalty for penalty in penalties}
    if kind in present:
        weight = most((present[kind].get("init_args") or {}).get("weight", 1))
        raised = class_of(PENALTIES + kind, weight=rounded(min(max(10 * weight, 1), 10)), every=1)
        rest = [penalty for penalty in penalties if penalty is not present[kind]]
        if weight < 10:
            yield Change({"model.penalties": [*rest, raised]}, text)
    else:
        yield Change({"model.penalties": [*penalties, class_of(PENALTIES + kind, weight=1, every=1)]}, text)


def kind_of_r1(patient: Patient) -> str:
    """The class of R1 that a run can have."""
    return "ApproximateR1" if TWICE in patient.refuses else "R1"


def no_momentum(patient: Patient, text: str) -> Iterator[Change]:
    """Neither network with a momentum, where one has some."""
    settings = {}
    for name in NETWORKS:
        arguments = (patient.model.get(f"{name}_optimizer") or {}).get("init_args") or {}
        if first_beta(patient, name) > 0:
            settings[f"model.{name}_optimizer.betas"] = [0.0, 0.9]
        if arguments.get("momentum"):
            settings[f"model.{name}_optimizer.momentum"] = 0
    if settings:
        yield Change(settings, text)


def settings_of(patient: Patient, name: str, text: str, **values: Any) -> Iterator[Change]:
    """Settings of a network, as far as its class lists such values."""
    part = patient.parts[name]
    taken = {key: value for key, value in values.items() if part.can_be(key, value)}
    if taken:
        brief = f"the {name}'s {' and '.join(f'{key} {value}' for key, value in taken.items())}"
        yield Change({f"model.{name}.{key}": value for key, value in taken.items()}, text, needed=True, brief=brief)


def normalized(patient: Patient, name: str, text: str, layers: int = 0) -> Iterator[Change]:
    """Normalisation between the layers: by a setting of the network, or around it; of many, a rate that they bear."""
    norm = "batch" if name == "generator" else "layer"
    if changes := list(settings_of(patient, name, text, norm=norm)):
        yield from changes
        return
    part, now = patient.parts[name], rate(patient, name)
    if "Normalized" not in part.repairs:
        return
    change = wrapped(name, part, "Normalized", f"{text}: put some into {part.place}")
    if "ScaledResiduals" in part.repairs:
        text = f"{part.place} adds up its blocks whole: divide what each adds by the root of their number"
        change = wrapped(name, part, "ScaledResiduals", text) & change
    if layers >= DEEP and kind_of(patient, name) in RATES and isinstance(now, float | int) and now > BORNE:
        change = change & Change(with_rate(patient, name, BORNE), f"a rate that {layers} layers bear", needed=True)
    yield change


def unmixed(patient: Patient, text: str) -> Iterator[Change]:
    """A discriminator that judges each image by itself: layer norm for batch norm, by a setting or around it."""
    part = patient.parts["discriminator"]
    changes = list(settings_of(patient, "discriminator", text, norm="layer"))
    yield from changes
    if not changes and "Unmixed" in part.repairs:
        yield wrapped("discriminator", part, "Unmixed", f"{text}: layer norm instead")


def bounded(patient: Patient, text: str) -> Iterator[Change]:
    """Gradients of both networks clipped by their norm."""
    clip = class_of("gan.gradients.clip.ByNorm", max_norm=10)
    yield Change({"trainer.callbacks+": [class_of(CLIPPING, generator=clip, discriminator=clip)]}, text)


def gradient_penalty() -> dict[str, Any]:
    """The penalty of a Wasserstein critic, as it was published."""
    return class_of(PENALTIES + "GradientPenalty", weight=10, every=1)


# ---------------------------------------------------------------------- networks


def wrapped(name: str, part: Part, wrapper: str, text: str, **arguments: Any) -> Change:
    """A network within one of `gan.networks.repair`, which makes it right as it stands."""
    if part.unknown:
        by_hand = f"{text}, or put it within {REPAIR}{wrapper}"
        brief = f"by hand {wrapper} around {named(part)}"
        return Change({}, by_hand, needed=True, brief=brief, wrappers=frozenset({f"{name} {wrapper}"}))
    spec = {"class_path": part.spec["class_path"], "init_args": part.arguments}
    settings = {f"model.{name}": class_of(REPAIR + wrapper, network=spec, **arguments)}
    brief = f"{wrapper} around {named(part)}"
    return Change(settings, f"{text}, or leave that to {wrapper}", needed=True, brief=brief, by_hand=text)


def named(part: Part) -> str:
    """The name of a class."""
    return part.spec["class_path"].rpartition(".")[2]


def in_its_place(patient: Patient, name: str, text: str) -> Iterator[Change]:
    """A shipped network instead, where images are of a size that it takes, and it can be told what the other was."""
    part, shape = patient.parts[name], patient.image_shape
    by_class = "ConditionalDCGAN" if name == "generator" else "ProjectionDCGAN"
    told = {"": "DCGAN", "classes": by_class, "classifies": "AuxiliaryDCGAN"}.get(part.told)
    if told is None or shape is None or any(side % 4 or side < 16 for side in shape[1:]):
        return
    arguments = {"latent_dim": patient.latent_dim, "norm": "batch"} if name == "generator" else {"norm": "none"}
    kind = f"{told}{name.capitalize()}"
    settings = {f"model.{name}": class_of(f"gan.networks.{kind}", **arguments)}
    yield Change(settings, f"{text}: {kind}", needed=True, brief=f"{kind} in the place of {named(part)}")


def its_base(patient: Patient, text: str) -> Iterator[Change]:
    """The data module of this package that the run's own derives from."""
    if (data := patient.parts.get("data")) is not None and data.base and not data.unknown:
        settings = class_of(data.base, **data.given)
        meantime = f"in the meantime {data.base.rpartition('.')[2]}, which {named(data)} derives from"
        yield Change({"data": settings}, f"{text}; {meantime}" if text else meantime)
