"""What cannot be right in a run, whatever it suffers from: absurd settings, and networks that end as they must not.

Each is a `Change` that puts it right. The ranges are wide: they hold all that is common in published GANs.
"""

from collections.abc import Iterator
from typing import Any

from gan.gradients.change import Change, class_of
from gan.gradients.patient import PENALTIES, TWICE, Patient, most
from gan.gradients.rules import Record
from gan.gradients.treatments import (
    CLIPPING,
    DEEP,
    NETWORKS,
    RATES,
    SHORT,
    adam,
    first_beta,
    gradient_penalty,
    kind_of,
    normalized,
    rate,
    unmixed,
    with_rate,
    wrapped,
)

WEIGHTS = {  # highest, and a good one
    **dict.fromkeys(("R1", "R2", "ApproximateR1", "ApproximateR2"), (100, 1)),
    **dict.fromkeys(("GradientPenalty", "DRAGAN"), (100, 10)),
}
CLIP_NORM, CLIP_VALUE, CLIP_RATIO = (0.01, 10.0), (1e-4, 0.1), (1e-4, 0.01)  # least, and a good one
WEIGHT_CLIP, GOOD_CLIP = (0.005, 0.2), 0.01
MOST_STEPS = 10  # of the discriminator, for each of the generator
FEW = 16  # images in a batch
VANISHED, EXPLODED = 1e-3, 1e3  # gradient at the first layer over that at the last
LATE = "answers what the other network was many batches ago"
ENDS = {"linear": "a linear layer", "elu": "an elu"}


def misfits(record: Record, patient: Patient) -> list[Change]:
    """What is wrong with a run's settings and networks, the worst first."""
    of_networks = [*ends(record, patient), *mixing(patient), *depths(record, patient)]
    of_training = [*rates(patient), *momenta(patient), *weights(patient), *bounds(patient), *clips(patient)]
    return [*of_networks, *of_training, *paces(patient), *objectives(patient)]


# ---------------------------------------------------------------------- networks


def ends(record: Record, patient: Patient) -> Iterator[Change]:
    """What a network's output goes through last."""
    if not record.stats:
        return
    of_discriminator, of_generator = (patient.parts[name] for name in NETWORKS)
    now = record.latest
    if now.discriminator.ends == "sigmoid":
        yield wrapped(
            "discriminator",
            of_discriminator,
            "Logit",
            f"{of_discriminator.place} ends in a sigmoid, and losses here take logits: return what goes into it",
        )
    if (end := now.generator.ends) in ("linear", "relu", "sigmoid", "softplus", "elu"):
        where = "in [0, 1]" if end == "sigmoid" else "anywhere"
        text = f"{of_generator.place} ends in {ENDS.get(end, f'a {end}')}, so that its images lie {where}"
        yield wrapped("generator", of_generator, "Tanh", f"{text}: end it in `torch.tanh(x)`")


def mixing(patient: Patient) -> Iterator[Change]:
    """Batch norm where each image's own gradient is penalised."""
    part, penalties = patient.parts["discriminator"], patient.model.get("penalties") or []
    if penalties and part.mixes:
        kind = penalties[0]["class_path"].rpartition(".")[2]
        text = f"{kind} is about each image's own gradient, and batch norm in {part.place} mixes them"
        yield from unmixed(patient, text)


def depths(record: Record, patient: Patient) -> Iterator[Change]:
    """Networks of one's own in which the gradient fades or grows on its way back, or that are deep, as they stand."""
    for name in NETWORKS if record.stats else ():
        part, measured = patient.parts[name], record.latest.networks[name]
        ratio, layers = measured.first_to_last, len(measured.activation_gradients)
        if part.ours or part.normalizes or layers < 3:
            continue
        # Through units that are dead comes no gradient, however few the layers.
        lost = measured.dead_share <= 0.5 and (ratio < VANISHED or ratio > EXPLODED)
        if layers >= DEEP or lost:
            yield from normalized(
                patient, name, f"{layers} layers without a normalisation do not keep the gradient's size"
            )


# ---------------------------------------------------------------------- optimizers


def rates(patient: Patient) -> Iterator[Change]:
    """A rate that is far too high for its optimizer, or too low for as many batches; SGD, which has no right one."""
    for name in NETWORKS:
        now, kind, given = rate(patient, name), kind_of(patient, name), patient.named(f"{name}_optimizer") or "Adam"
        if kind == "SGD":
            text = f"{given} steps by the size of the {name}'s gradient, which a GAN changes by powers of ten: Adam"
            yield Change({f"model.{name}_optimizer": adam(patient)}, text, needed=True)
        elif isinstance(now, float | int):
            low, high, good = RATES.get(kind, RATES["Adam"])
            faster = patient.batches < SHORT
            if now > high or now < low * (20 if faster else 1):
                much = "high" if now > high else "low"
                text = f"the {name}'s rate, {now:g}, is far too {much} for {given}"
                yield Change(with_rate(patient, name, good * (2 if faster else 1)), text, needed=True)


def momenta(patient: Patient) -> Iterator[Change]:
    """Momentum where two networks chase each other: more than any GAN has, or with a critic that is clipped."""
    clipped = patient.model.get("weight_clip") is not None
    for name in NETWORKS:
        arguments = (patient.model.get(f"{name}_optimizer") or {}).get("init_args") or {}
        first = first_beta(patient, name)
        if first > 0.9 or (first >= 0.9 and clipped):
            yield Change({f"model.{name}_optimizer.betas": [0.0, 0.9]}, f"the {name}'s momentum, {first:g}, {LATE}")
        if (momentum := arguments.get("momentum") or 0) >= 0.8:
            yield Change({f"model.{name}_optimizer.momentum": 0}, f"the {name}'s momentum, {momentum:g}, {LATE}")


# ---------------------------------------------------------------------- penalties, clips, pace


def weights(patient: Patient) -> Iterator[Change]:
    """Penalties that outweigh all else."""
    penalties = patient.model.get("penalties") or []
    wrong = {}
    for number, penalty in enumerate(penalties):
        kind = penalty["class_path"].rpartition(".")[2]
        highest, good = WEIGHTS.get(kind, (float("inf"), 0))
        weight = most((penalty.get("init_args") or {}).get("weight", good))
        if weight > highest:
            wrong[number] = weight, kind, good
    if not wrong:
        return
    new = [
        {**penalty, "init_args": {**penalty["init_args"], "weight": wrong[number][2]}} if number in wrong else penalty
        for number, penalty in enumerate(penalties)
    ]
    said = ", ".join(f"{kind} at a weight of {weight:g}" for weight, kind, _ in wrong.values())
    yield Change({"model.penalties": new}, f"{said} leaves the discriminator nothing but to be flat", needed=True)


def bounds(patient: Patient) -> Iterator[Change]:
    """A bound on the discriminator's weights without need, or so tight or so wide that it is none."""
    clip, wasserstein = patient.model.get("weight_clip"), patient.named("loss") == "Wasserstein"
    held = bool(patient.model.get("penalties")) or patient.parts["discriminator"].arguments.get("norm") == "spectral"
    if clip is not None and not wasserstein:
        yield Change(
            {"model.weight_clip": None}, f"weights clipped to {clip:g} are for a Wasserstein critic", needed=True
        )
    elif clip is not None and not WEIGHT_CLIP[0] <= clip <= WEIGHT_CLIP[1]:
        settings, how = bounded_slope(patient)
        much = "pass on no gradient" if clip < 1e-2 else "are hardly bounded"
        yield Change(settings, f"weights clipped to {clip:g} {much}, and {how}", needed=True)
    elif clip is None and wasserstein and not held:
        settings, how = bounded_slope(patient)
        yield Change(settings, f"nothing bounds the slope of this Wasserstein critic: {how}", needed=True)


def bounded_slope(patient: Patient) -> tuple[dict[str, Any], str]:
    """What bounds the slope of a critic: a gradient penalty or, where there can be none, its weights clipped."""
    if {PENALTIES, TWICE} & patient.refuses:
        return {"model.weight_clip": GOOD_CLIP}, f"{GOOD_CLIP:g}, as it was published, bounds it"
    clip = {} if patient.model.get("weight_clip") is None else {"model.weight_clip": None}
    return {**clip, "model.penalties": [gradient_penalty()]}, "a gradient penalty draws it to 1"


def clips(patient: Patient) -> Iterator[Change]:
    """Gradients clipped to next to nothing."""
    for callback in patient.config["trainer"].get("callbacks") or []:
        if callback["class_path"].rpartition(".")[2] != "GradientClipping":
            continue
        arguments = callback.get("init_args") or {}
        new, said = {}, []
        for name, clip in arguments.items():
            limits = {"max_norm": CLIP_NORM, "max_value": CLIP_VALUE, "ratio": CLIP_RATIO}
            values = (clip or {}).get("init_args") or {}
            small = {key: values[key] for key in limits.keys() & values.keys() if values[key] < limits[key][0]}
            new[name] = clip
            for key, value in small.items():
                new[name] = {**clip, "init_args": {**values, key: limits[key][1]}}
                said.append(f"the {name}'s gradients are clipped to {value:g}, which is next to nothing")
        if said:
            yield Change({"trainer.callbacks+": [class_of(CLIPPING, **new)]}, ", ".join(said))


def paces(patient: Patient) -> Iterator[Change]:
    """Steps too few for a network, or batches too small."""
    steps = patient.model.get("n_critic") or 1
    if steps > MOST_STEPS or (steps > 1 and patient.batches / steps < 50):
        yield Change(
            {"model.n_critic": 1},
            f"by n_critic {steps} the generator trains in {patient.batches // steps} of {patient.batches} batches only",
        )
    data = patient.parts.get("data")
    # One that is set to more has no more images.
    if 0 < patient.batch_size < FEW and data and (data.arguments.get("batch_size") or FEW) < FEW:
        yield Change(
            {"data.batch_size": 64}, f"{patient.batch_size} images a batch say little of what all have in common"
        )


def objectives(patient: Patient) -> Iterator[Change]:
    """Losses that are flat where the generator starts."""
    loss = patient.named("loss")
    if loss in ("Saturating", "MaximumLikelihood"):
        yield Change(
            {"model.loss": "gan.losses.NonSaturating"},
            f"{loss} is flat where the discriminator is sure, and NonSaturating is steep there",
        )
