"""What heals each condition: changes computed from the run's own settings, the likeliest first."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from gan.gradients.causes import (
    DEAD,
    EXPLODING,
    EXPLODING_DEPTH,
    NON_FINITE,
    SATURATED,
    SATURATED_OUTPUT,
    VANISHING_DEPTH,
    WRONG_RANGE,
)
from gan.gradients.change import Change, class_of, word
from gan.gradients.data import CONSTANT, ONE_CLASS, REPEATED, UNSHUFFLED
from gan.gradients.patient import PENALTIES as ANY_PENALTY
from gan.gradients.patient import Patient
from gan.gradients.rules import Finding, Record
from gan.gradients.symptoms import BY_HEART, COLLAPSE, IMBALANCE, NO_PROGRESS, OSCILLATION
from gan.gradients.treatments import (
    NETWORKS,
    PENALTIES,
    RATES,
    adam,
    bounded,
    catching_up,
    in_its_place,
    its_base,
    kind_of,
    named,
    no_momentum,
    normalized,
    r1,
    rate,
    rounded,
    settings_of,
    slower,
    unmixed,
    with_rate,
    wrapped,
)
from gan.gradients.wiring import DEAF, DETACHED, FROZEN, LAGGING, NEVER_UPDATED, PROBABILITIES

LEARNS = 30  # times what counts as weights that do not move, a network that learns changes its own

Remedies = Callable[[Finding, Record, Patient], Iterator[Change]]


# ---------------------------------------------------------------------- by condition


def of_wrong_range(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """Images brought to [-1, 1]."""
    low, high = record.latest.range_real
    if finding.network == "generator":
        part = patient.parts["generator"]
        text = f"the images of {part.place} reach beyond [-1, 1]: let its `forward` return `torch.tanh(x)`"
        yield wrapped("generator", part, "Tanh", text)
        return
    if (data := patient.parts.get("data")) is None:
        yield Change({}, "scale the images of your loader to [-1, 1]: `images = 2 * images - 1` of pixels in [0, 1]")
        return
    low, high = (0, 1) if low >= -0.01 and high <= 1.01 else (0, 255) if low >= -0.5 and high <= 255.5 else (low, high)
    text = f"the images of {data.place} lie in [{low:g}, {high:g}]: scale them there by "
    text += f"`images = 2 * (images {'-' if low >= 0 else '+'} {abs(low):g}) / {high - low:g} - 1`"
    inner = class_of(data.spec["class_path"], **data.given)
    settings = class_of("gan.data.Rescaled", data=inner, low=float(f"{low:g}"), high=float(f"{high:g}"))
    brief = f"Rescaled around {named(data)}"
    if not data.unknown:
        yield Change({"data": settings}, f"{text}, or leave that to Rescaled", needed=True, brief=brief)
    yield from its_base(patient, "")
    yield Change({}, text)


def of_non_finite(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """Steps that are smaller; or other data, where that is what is not finite."""
    if record.stats and not all(map(math.isfinite, record.latest.range_real)):
        yield from of_data(finding, record, patient)
        return
    both: dict[str, Any] = {}
    for name in NETWORKS:
        for change in slower(patient, name, 10, ""):
            both |= change.settings
    yield Change(both, "rates ten times lower")
    yield from bounded(patient, "gradients longer than 10 are shortened")
    yield from r1(patient, "a discriminator that is held flat around the images")


def of_exploding_depth(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """Layers that do not add up."""
    name = finding.network or "discriminator"
    yield from (
        settings_of(patient, name, "residual branches divided by the root of their number", residual="scaled")
        if patient.parts[name].arguments.get("residual") == "plain"
        else ()
    )
    layers = len(record.latest.networks[name].activation_gradients)
    yield from normalized(patient, name, "normalised layers hold the gradient at its size", layers)


def of_vanishing_depth(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """Layers that pass the gradient on."""
    name = finding.network or "discriminator"
    text = "leaky ReLUs pass the gradient on, and He's initialisation keeps its size"
    yield from settings_of(patient, name, text, activation="leaky_relu", init="he")
    layers = len(record.latest.networks[name].activation_gradients)
    yield from normalized(patient, name, "normalised layers hold the gradient at its size", layers)


def of_exploding(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """A bound on the slope."""
    yield from r1(patient, "a penalty on the discriminator's slope")
    yield from slower(patient, "discriminator", finding.beyond, "a lower rate of the discriminator, by how steep it is")
    yield from normalized(patient, "discriminator", "normalised layers bound the slope")


def of_dead(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """Units that come alive."""
    yield from slower(patient, "discriminator", 10, "a rate that its units survive")
    text = "units that cannot die"
    yield from settings_of(patient, "discriminator", text, activation="leaky_relu")
    yield from normalized(patient, "discriminator", "normalised layers keep the units alive")


def of_saturated(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """A discriminator that is less sure."""
    yield from r1(patient, "a discriminator that is held flat around the images is not so sure")
    yield from slower(patient, "discriminator", 4, "a discriminator that learns more slowly")
    if (steps := patient.model.get("n_critic") or 1) > 1:
        yield Change({"model.n_critic": 1}, f"one step of the discriminator, not {steps}, for each of the generator's")


def of_saturated_output(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """A tanh off its ends."""
    yield from slower(patient, "generator", 4, "a rate at which the generator's tanh stays off its ends")
    yield from normalized(patient, "generator", "normalised layers keep its tanh off its ends")
    yield from r1(patient, "a discriminator that pushes less hard")


def of_by_heart(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """Images that cannot be learnt by heart."""
    if patient.model.get("augment") is None:
        for name in sorted({"DiffAugment", "AdaptiveAugment"} - patient.refuses, reverse=True):
            yield Change({"model.augment": f"gan.augment.{name}"}, "images that look otherwise each time")
    yield from r1(patient, "a discriminator that is held flat around the images")
    yield from slower(patient, "discriminator", 4, "a discriminator that learns more slowly")
    yield Change({}, "more images to train on")


def of_collapse(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """A game that does not run away."""
    yield from no_momentum(patient, "no momentum: each step answers what the other network is now")
    yield from r1(patient, "a discriminator that is held flat around the images")
    yield from slower(patient, "generator", 4, "a generator that the discriminator can follow")


def of_oscillation(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """A discriminator that keeps up."""
    yield from catching_up(patient, "generator", "discriminator")
    yield from no_momentum(patient, "no momentum: each step answers what the other network is now")
    yield from r1(patient, "a discriminator that is held flat around the images")
    yield from slower(patient, "generator", 4, "a generator that the discriminator can follow")


def of_no_progress(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """A generator that gets somewhere."""
    for name in reversed(NETWORKS):
        now, good = rate(patient, name), RATES.get(kind_of(patient, name), RATES["Adam"])[2]
        if now and now < good:
            wanted = rounded(min(10 * now, good))
            yield Change(
                with_rate(patient, name, wanted), f"a rate of the {name} at which it learns: {wanted:g} for {now:g}"
            )
    yield from of_collapse(finding, record, patient)


def of_imbalance(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """Two networks at one pace."""
    fast = finding.network or "generator"
    slow = next(name for name in NETWORKS if name != fast)
    yield from catching_up(patient, fast, slow)
    yield from slower(patient, fast, finding.beyond**0.5 * 3, f"a {fast} that the {slow} can follow")
    yield from normalized(patient, slow, f"layers through which the {slow} learns")


def of_probabilities(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """Logits."""
    part = patient.parts["discriminator"]
    if record.latest.discriminator.ends == "softmax":  # which of one number is 1, whatever it is
        text = f"a softmax has no place at the end of {part.place}: return the one number that goes into it"
        yield from in_its_place(patient, "discriminator", f"{text}; in the meantime another discriminator")
        yield Change({}, text)
        return
    text = f"{part.place} must return logits, and not probabilities: return what goes into its sigmoid"
    yield wrapped("discriminator", part, "Logit", text)


def of_detached(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """Images that a gradient flows through."""
    part = patient.parts["generator"]
    text = (
        f"no gradient passes through the `forward` of {part.place}: no `round`, `detach`, `argmax` or comparison there"
    )
    yield from in_its_place(patient, "generator", f"{text}; in the meantime another generator")
    yield Change({}, text)


def of_deaf(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """A generator that hears its latents."""
    text = f"see where the latents are lost in the `forward` of {patient.parts['generator'].place}"
    elsewhere = in_its_place(patient, "generator", f"{text}; in the meantime another generator")
    if not record.latest.response:  # not by their size: they are not used
        yield from elsewhere
    yield from normalized(patient, "generator", "normalised layers, through which latents reach the images")
    yield from slower(patient, "generator", 10, "a rate at which its units do not die")
    yield from elsewhere
    yield Change({}, text)


def of_frozen(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """Weights that move."""
    name = finding.network or "generator"
    part, now = patient.parts[name], rate(patient, name)
    if name == "discriminator" and patient.model.get("freeze_discriminator"):
        yield Change({"model.freeze_discriminator": 0}, "no layers of the discriminator that stay as they are")
    if finding.beyond > 1:  # they do move, but hardly
        good, wanted = RATES.get(kind_of(patient, name), RATES["Adam"])[2], LEARNS * finding.beyond * (now or 0)
        if now and now < good:
            wanted = rounded(min(wanted, good))
            yield Change(
                with_rate(patient, name, wanted), f"a rate of the {name} at which it learns: {wanted:g} for {now:g}"
            )
        yield Change({}, f"see what holds the steps of {part.place} back: a rate, a schedule, clipping, huge weights")
        return
    if not now:
        yield Change(with_rate(patient, name, 1e-3), f"a rate of the {name} at which it learns")
    if patient.model.get(f"{name}_scheduler") is not None:
        yield Change({f"model.{name}_scheduler": None}, f"no schedule that ends what the {name} learns")
    text = f"see that the weights of {part.place} are parameters that require a gradient"
    yield from in_its_place(patient, name, f"{text}; in the meantime")
    yield Change({}, text)


def of_lagging(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """An average that follows, in the place of the one that does not."""
    half_life = rounded(max(patient.batches * max(patient.batch_size, 1) / 20, 500))
    average = class_of("gan.callbacks.GeneratorEMA", half_life=half_life)
    text = f"an average half of which is of the last {half_life:g} images"
    callbacks = patient.config["trainer"].get("callbacks") or []
    names = [callback["class_path"].rpartition(".")[2] for callback in callbacks]
    own = [name for name in names if name != "GeneratorEMA" and ("Average" in name or "EMA" in name)]
    if own:
        new = [average if name in own else callback for name, callback in zip(names, callbacks, strict=True)]
        yield Change({"trainer.callbacks": new}, f"{text}, in the place of {' and '.join(own)}")
    else:
        yield Change({"trainer.callbacks+": [average]}, text)


def of_data(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """Images that differ."""
    place = patient.parts["data"].place if "data" in patient.parts else "your loader"
    text = f"look at what {place} loads, and at samples/real.png in the run's folder"
    yield from its_base(patient, text)
    yield Change({}, text)


def of_order(finding: Finding, record: Record, patient: Patient) -> Iterator[Change]:
    """Batches of other images each time."""
    for name in ("overfit_batches", "limit_train_batches"):
        if patient.config["trainer"].get(name):
            value = 0.0 if name == "overfit_batches" else None
            yield Change({f"trainer.{name}": value}, "all the batches that there are", needed=True)
    if (data := patient.parts.get("data")) is None:
        yield Change({}, "give `fit` a `DataLoader(..., shuffle=True)`")
        return
    if "shuffle" in data.takes and not data.arguments.get("shuffle"):
        yield Change({"data.shuffle": True}, "images in a new order each epoch", needed=True)
    text = f"let `train_dataloader` of {data.place} return a `DataLoader(..., shuffle=True)`"
    yield from its_base(patient, text)
    yield Change({}, text)


def sound(record: Record, patient: Patient) -> Iterator[Change]:
    """What trains most networks, whatever they were trained with."""
    wanted: dict[str, Any] = {
        "loss": class_of("gan.losses.NonSaturating"),
        "penalties": [class_of(PENALTIES + "R1", weight=1, every=4)],
        **{f"{name}_optimizer": adam(patient) for name in NETWORKS},
        "weight_clip": None,
        "n_critic": 1,
    }
    the = "the loss, the penalty and the optimizers"
    if ANY_PENALTY in patient.refuses:
        the = "the loss and the optimizers"
        del wanted["penalties"]
    new = {name: value for name, value in wanted.items() if not has(patient.model.get(name), value)}
    if new:
        kinds = {"loss": "NonSaturating", "penalties": "R1", **{f"{name}_optimizer": "Adam" for name in NETWORKS}}
        briefs = [kinds.get(name, f"{name} {word(value)}") for name, value in new.items()]
        settings = {f"model.{name}": value for name, value in new.items()}
        yield Change(settings, f"{the} that train most networks", brief=", ".join(dict.fromkeys(briefs)))
    if patient.parts["discriminator"].mixes:
        yield from unmixed(patient, "a discriminator that sees images one by one")
    for name in NETWORKS:
        if not patient.parts[name].ours and not patient.parts[name].normalizes:
            yield from normalized(patient, name, "normalised layers")


def has(now: Any, wanted: Any) -> bool:
    """Whether a setting is as wanted, or has that among others."""
    if isinstance(wanted, dict) and isinstance(now, dict):
        return all(has(now.get(name), value) for name, value in wanted.items())
    return now == wanted


REMEDIES: dict[str, Remedies] = {
    WRONG_RANGE: of_wrong_range,
    NON_FINITE: of_non_finite,
    EXPLODING_DEPTH: of_exploding_depth,
    VANISHING_DEPTH: of_vanishing_depth,
    EXPLODING: of_exploding,
    DEAD: of_dead,
    SATURATED: of_saturated,
    SATURATED_OUTPUT: of_saturated_output,
    BY_HEART: of_by_heart,
    COLLAPSE: of_collapse,
    OSCILLATION: of_oscillation,
    IMBALANCE: of_imbalance,
    NO_PROGRESS: of_no_progress,
    PROBABILITIES: of_probabilities,
    DETACHED: of_detached,
    DEAF: of_deaf,
    FROZEN: of_frozen,
    LAGGING: of_lagging,
    NEVER_UPDATED: of_lagging,
    CONSTANT: of_data,
    ONE_CLASS: of_data,
    REPEATED: of_order,
    UNSHUFFLED: of_order,
}
