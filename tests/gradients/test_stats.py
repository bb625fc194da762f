"""Plain numbers, there and back."""

import json
from dataclasses import asdict

from gan.gradients import GradientStats
from gradients.records import good


def test_there_and_back():
    stats = good().latest
    assert isinstance(stats.range_real, tuple)
    assert GradientStats.from_dict(json.loads(json.dumps(asdict(stats)))) == stats
    assert stats.networks == {"generator": stats.generator, "discriminator": stats.discriminator}
