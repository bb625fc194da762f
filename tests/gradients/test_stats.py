"""Plain numbers, there and back."""

from dataclasses import asdict

from gan.gradients import GradientStats
from gradients.records import good


def test_there_and_back():
    stats = good().latest
    assert GradientStats.from_dict(asdict(stats)) == stats
    assert list(stats.networks.values()) == [stats.generator, stats.discriminator]
