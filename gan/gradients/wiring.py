"""What is wrong with how networks are put together and trained, before any game: ends, latents, weights, averages."""

from gan.gradients.rules import WINDOW, Finding, Record, Rule, Thresholds

PROBABILITIES, DETACHED, DEAF = "probabilities for logits", "detached generator", "deaf generator"
FROZEN = "weights that do not move"
LAGGING, NEVER_UPDATED = "average that lags", "average that was never updated"

AT_END = 0.01  # logits this near to 0 or 1 lie at the end of [0, 1]


def probabilities(record: Record, limits: Thresholds) -> Finding | None:
    """A discriminator that ends in a sigmoid or softmax, or makes numbers that only such a one makes."""
    now = record.latest
    ends = now.discriminator.ends
    certain = ends in ("sigmoid", "softmax")
    if not certain and (ends is not None or not in_unit_interval(record)):
        return None
    low, high = now.range_logit or (0.0, 1.0)
    what = f"the discriminator ends in a {ends}" if certain else "the discriminator seems to end in a sigmoid"
    return Finding(
        PROBABILITIES,
        f"{what}: its outputs lie in [{low:.2g}, {high:.2g}], never beyond 0 and 1, and the loss takes them for "
        "logits, which run from far below 0 to far above; it has a sigmoid of its own",
        "Goodfellow et al. 2014, arXiv:1406.2661",
        certain=certain,
        network="discriminator",
    )


def in_unit_interval(record: Record) -> bool:
    """Whether all logits have been in [0, 1], and have come to both of its ends: no chance keeps them there."""
    ranges = [stats.range_logit for stats in record.stats if stats.range_logit is not None]
    if len(ranges) < WINDOW:
        return False
    lows, highs = zip(*ranges, strict=True)
    return min(lows) >= 0 and max(highs) <= 1 and min(lows) < AT_END and max(highs) > 1 - AT_END


def detached(record: Record, limits: Thresholds) -> Finding | None:
    """A generator that no gradient reaches, though one comes to its images."""
    now = record.latest
    generator = now.generator
    if generator.trainable is None or generator.trainable == 0:
        return None  # not known, or frozen
    silent = generator.total == 0 and not any(generator.activation_gradients.values())
    # At the ends of a tanh or a ReLU, the slope is 0 too.
    at_ends = now.extreme_fake == 1 or (generator.ends == "relu" and now.range_fake[1] == 0)
    if not (silent and now.image_gradient > 0) or at_ends:
        return None
    end = ", which ends in rounding" if generator.ends == "round" else ""
    return Finding(
        DETACHED,
        f"a gradient of {now.image_gradient:.2g} per image comes to the generated images, and exactly 0 to the weights "
        f"of the generator{end}: between the two something has no slope, as rounding and argmax, or the images are not "
        "of these weights, as after detach()",
        "Bengio et al. 2013, arXiv:1308.3432",
        certain=True,
        network="generator",
    )


def deaf(record: Record, limits: Thresholds) -> Finding | None:
    """A generator whose images hardly depend on its latents, by the way it is made rather than by the game."""
    now = record.latest
    if now.response is None or not now.spread_real or len(record.stats) < 3:
        return None
    heard = now.response / now.spread_real
    by_others = heard < limits.deaf and now.response < limits.deaf_part * now.spread_fake
    never = all(
        stats.response is not None and stats.response < limits.unheard * stats.spread_real for stats in record.stats
    )
    if not (by_others or (never and now.extreme_fake < 1)):
        return None
    others = f", while images of whatever kind are {now.spread:.2g} times as far apart" if by_others else ""
    return Finding(
        DEAF,
        f"images of two latents, all else alike, are {heard:.1g} times as far apart as two real images{others}: the "
        "generator does not hear its latents",
        "Isola et al. 2017, arXiv:1611.07004, section 3; Yang et al. 2019, arXiv:1901.09024",
        network="generator",
        beyond=min(limits.deaf / heard, 1e6) if heard > 0 else 1e6,
    )


def frozen(record: Record, limits: Thresholds) -> Finding | None:
    """A network whose weights no step changes, though there is a gradient, or hardly any step."""
    for name, network in record.latest.networks.items():
        if network.trainable == 0:
            return Finding(
                FROZEN,
                f"the {name} has no weight that learns: none requires a gradient",
                "Goodfellow et al. 2014, arXiv:1406.2661",
                certain=True,
                network=name,
            )
        seen = [getattr(stats, name) for stats in record.stats]
        still = [each for each in seen if each.update_ratio == 0 and each.total > 0]
        if len(still) < 2 or any(each.update_ratio for each in seen):
            continue
        return Finding(
            FROZEN,
            f"in {len(still)} measurements no step has changed any weight of the {name}, though its gradient is "
            f"{network.total:.2g}: its rate is 0, its weights are not those that its optimizer has, or the loss of its "
            "steps is of other images than it makes",
            "Goodfellow et al. 2014, arXiv:1406.2661",
            network=name,
        )
    return slow(record, limits)


def slow(record: Record, limits: Thresholds) -> Finding | None:
    """A network that all its steps together have hardly changed."""
    shares = {name: share for name in record.latest.networks if (share := changed(record, name)) is not None}
    still = {name: share for name, share in shares.items() if share < limits.still}
    if not still or len(record.stats) < 3 or record.latest.step < limits.still_batches:
        return None
    name = min(still, key=still.__getitem__)
    others = "".join(f", and those of the {other} by {share:.1g}" for other, share in still.items() if other != name)
    return Finding(
        FROZEN,
        f"in {record.latest.step:,} batches the weights of the {name} have changed by {still[name]:.1g} of their size"
        f"{others}, if each batch goes on where the one before has gone: at this rate the networks stay what they were "
        "at the start",
        "Goodfellow et al. 2016, Deep Learning, section 8.3.1",
        network=name,
        beyond=limits.still / max(still[name], 1e-6),
    )


def changed(record: Record, name: str) -> float | None:
    """By how much of their size a network's weights have changed so far, at most; None where no step is known."""
    ratios = [ratio for stats in record.stats if (ratio := stats.networks[name].update_ratio)]
    return record.latest.step * sum(ratios) / len(ratios) if ratios else None


def stale_average(record: Record, limits: Thresholds) -> Finding | None:
    """An averaged generator that stays behind the one that trains."""
    window = [
        (stats.moved, stats.moved_average, stats.spread_real)
        for stats in record.stats
        if stats.moved is not None and stats.moved_average is not None
    ]
    if len(window) < WINDOW // 2 or not all(moved > limits.moved * real > 0 for moved, _, real in window[-2:]):
        return None
    moved, average, _ = window[-1]
    share = average / moved
    never = all(each <= limits.never_updated * own for own, each, _ in window)
    if not never and (len(window) < WINDOW or not share < limits.lagging):
        return None
    return Finding(
        NEVER_UPDATED if never else LAGGING,
        f"since the first measurement images of the same latents have moved by {moved:.3g}, and those of the averaged "
        f"generator by {average:.2g}, {share:.0%} of it: samples and scores, which are made with the average, are "
        + ("of the weights that the run began with" if never else "of weights long gone"),
        "Yazici et al. 2019, arXiv:1806.04498; Karras et al. 2022, arXiv:2206.00364",
        certain=never,
        network="generator",
        beyond=min((limits.never_updated if never else limits.lagging) / share, 1e6) if share > 0 else 1e6,
    )


OF_WIRING: tuple[Rule, ...] = (probabilities, detached, frozen, deaf, stale_average)
