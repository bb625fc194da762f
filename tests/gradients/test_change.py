"""Changes to settings: two as one, and as words that the command line reads."""

import pytest
import yaml

from gan.gradients.change import NO_CHANGE, Change, class_of, covered, word, words


def test_of_two_changes_of_one_setting_the_first_holds():
    first = Change({"model.loss": "A", "model.n_critic": 1}, "one")
    both = first & Change({"model.n_critic": 5, "data.batch_size": 64}, "two", needed=True)
    assert both == Change({"model.loss": "A", "model.n_critic": 1, "data.batch_size": 64}, "one; two", needed=True)


def test_what_adds_nothing_is_not_told():
    first = Change({"model.n_critic": 1}, "one")
    assert first & Change({"model.n_critic": 5}, "two") == first
    assert first & Change(text="by hand") == Change({"model.n_critic": 1}, "one; by hand")
    assert NO_CHANGE & first == first


def repaired(name: str, network: dict) -> Change:
    return Change({"model.generator": class_of(f"gan.networks.repair.{name}", network=network)}, name)


def test_of_two_repairs_of_a_network_the_second_is_around_the_first():
    own = class_of("mine.G", width=8)
    both = repaired("Tanh", own) & repaired("Normalized", own)
    inner = class_of("gan.networks.repair.Tanh", network=own)
    assert both.settings == {"model.generator": class_of("gan.networks.repair.Normalized", network=inner)}
    assert both & repaired("Tanh", own) == both
    assert (repaired("Normalized", own) & repaired("Tanh", own)).settings == both.settings  # which the data tells more
    chain = repaired("Unmixed", own) & both  # a chain keeps all of its links
    assert chain.settings["model.generator"] == class_of(
        "gan.networks.repair.Normalized",
        network=class_of("gan.networks.repair.Tanh", network=class_of("gan.networks.repair.Unmixed", network=own)),
    )
    other = Change({"model.generator": class_of("gan.networks.DCGANGenerator")})
    assert (other & repaired("Tanh", own)).settings == other.settings


@pytest.mark.parametrize(
    ("name", "other", "is_covered"),
    [
        ("model.optimizer.lr", "model.optimizer", True),
        ("model.optimizer", "model.optimizer.lr", True),
        ("model.optimizer.lr", "model.optimizer.betas", False),
        ("model.generator_optimizer", "model.generator", False),
    ],
)
def test_a_setting_covers_its_parts(name, other, is_covered):
    assert covered(name, {other: 1}) == is_covered


def test_what_is_added_to_a_list_adds_up():
    one, two = (Change({"trainer.callbacks+": [class_of(name)]}) for name in ("A", "B"))
    assert (one & two & one).settings == {"trainer.callbacks+": [{"class_path": "A"}, {"class_path": "B"}]}


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        0.0004,
        1e-9,
        2.5e6,
        0.130660476,
        [0.130660476, 123456789.0],
        [0.0, 0.9],
        [],
        class_of("a.B", c=[1, None], d=class_of("e.F")),
        (1, 28, 28),
    ],
)
def test_words_are_read_as_the_value(value):
    text = word(value)
    assert "\n" not in text
    read = yaml.safe_load(text)
    assert (float(read) if isinstance(value, float) else read) == (list(value) if isinstance(value, tuple) else value)


def test_words_of_settings():
    assert list(words({"model.loss": "gan.losses.Hinge", "model.weight_clip": None})) == [
        "--model.loss",
        "gan.losses.Hinge",
        "--model.weight_clip",
        "null",
    ]
