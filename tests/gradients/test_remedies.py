"""Each condition has a remedy, which is for the run at hand."""

import pytest

from gan.gradients.diagnose import RULES
from gan.gradients.patient import PENALTIES, TWICE, Part
from gan.gradients.remedies import REMEDIES, has, sound
from gan.gradients.rules import Finding
from gradients.patients import OWN, adam, loss, patient, penalty
from gradients.records import CAUSES_SHOWN, SYMPTOMS_SHOWN, changed, good

DEEP_SIGMOID = Part(
    {"class_path": "gan.networks.DeepMLPDiscriminator", "init_args": {"activation": "sigmoid", "init": "default"}},
    {"activation": ("sigmoid", "leaky_relu"), "init": ("default", "he"), "residual": ("plain", "scaled")},
    ours=True,
)
RESIDUAL = Part(DEEP_SIGMOID.spec | {"init_args": {"residual": "plain"}}, DEEP_SIGMOID.takes, ours=True)


def remedies(name: str, network: str | None = None, beyond: float = 1.0, record=None, **run) -> list:
    finding = Finding(name, "why", "reference", network=network, beyond=beyond)
    return list(REMEDIES[name](finding, record or good(), patient(**run)))


def first(name: str, *args, **kwargs) -> dict:
    return dict(remedies(name, *args, **kwargs)[0].settings)


@pytest.mark.parametrize("network", ["generator", "discriminator", None])
@pytest.mark.parametrize("name", [*REMEDIES])
def test_each_condition_has_a_remedy_in_words(name, network):
    changes = remedies(name, network)
    assert changes
    assert all(change.text for change in changes)


def test_there_is_a_remedy_for_all_that_is_told():
    assert REMEDIES.keys() >= {*CAUSES_SHOWN, *SYMPTOMS_SHOWN}
    assert len(REMEDIES) >= len(RULES)


def test_settings_of_the_network_at_hand_come_before_a_wrapper():
    run = {"parts": {**OWN, "discriminator": DEEP_SIGMOID}}
    wanted = {"model.discriminator.activation": "leaky_relu", "model.discriminator.init": "he"}
    assert first("gradient vanishes through depth", "discriminator", **run) == wanted
    assert "Normalized" in str(first("gradient vanishes through depth", "generator", **run))
    run = {"parts": {**OWN, "discriminator": RESIDUAL}}
    assert first("gradient explodes through depth", "discriminator", **run) == {
        "model.discriminator.residual": "scaled"
    }


@pytest.mark.parametrize(
    ("extremes", "limits"),
    [((0.0, 1.0), (0, 1)), ((0.0, 255.0), (0, 255)), ((-2.5, 2.5), (-2.5, 2.5)), ((0.02, 0.98), (0, 1))],
)
def test_the_range_that_images_have(extremes, limits):
    (value,) = first("wrong range", None, record=changed(good(), range_real=extremes)).values()
    assert value["class_path"] == "gan.data.Rescaled"
    assert (value["init_args"]["low"], value["init_args"]["high"]) == limits
    assert value["init_args"]["data"]["class_path"] == "gan.data.MNISTDataModule"


def test_a_rate_that_follows_the_signal():
    run = {"discriminator_optimizer": adam(0.008), "penalties": [penalty("R1", 10)]}
    rates = [
        first("exploding gradients", "discriminator", beyond, **run)["model.discriminator_optimizer.lr"]
        for beyond in (1, 20, 1e6)
    ]
    assert rates == [0.003, 0.0004, 8e-5]


def test_a_critic_gets_the_penalty_of_one():
    assert first("exploding gradients", "discriminator", loss=loss("Wasserstein"), penalties=[]) == {
        "model.penalties": [penalty("GradientPenalty", 10)],
    }


def test_weights_that_do_not_move_for_their_rate_or_because_they_are_frozen():
    wanted = {"model.generator_optimizer.lr": 0.001}
    assert first("weights that do not move", "generator", generator_optimizer=adam(0)) == wanted
    wanted = {"model.freeze_discriminator": 0}
    assert first("weights that do not move", "discriminator", freeze_discriminator=9) == wanted


def test_weights_that_hardly_move_have_a_rate_by_how_little_they_do():
    (change, words) = remedies("weights that do not move", "generator", 5.0, generator_optimizer=adam(2e-6))
    assert change.settings == {"model.generator_optimizer.lr": 0.0003}
    assert change.text.endswith("0.0003 for 2e-06")
    assert "G (mine.py, line 3)" in words.text
    (change, _) = remedies("weights that do not move", "generator", 1e4, generator_optimizer=adam(2e-6))
    assert change.settings == {"model.generator_optimizer.lr": 0.001}
    (words,) = remedies("weights that do not move", "generator", 5.0, generator_optimizer=adam(2e-3))
    assert words.settings == {}


def test_a_generator_that_gets_nowhere_has_higher_rates():
    run = {"generator_optimizer": adam(5e-5), "discriminator_optimizer": adam(2e-4)}
    settings = [dict(change.settings) for change in remedies("no progress", "generator", **run)]
    assert settings[:2] == [{"model.generator_optimizer.lr": 0.0005}, {"model.discriminator_optimizer.lr": 0.001}]


def test_an_average_of_ones_own_gives_way_where_it_stands():
    run = patient(batches=1000)
    own = {"class_path": "mine.PlainAverage", "init_args": {"decay": 0.9999}}
    callbacks = [own if "EMA" in each["class_path"] else each for each in run.config["trainer"]["callbacks"]]
    run.config["trainer"]["callbacks"] = callbacks
    finding = Finding("average that lags", "why", "reference")
    (change,) = REMEDIES["average that lags"](finding, good(), run)
    new = change.settings["trainer.callbacks"]
    assert new[0] == {"class_path": "gan.callbacks.GeneratorEMA", "init_args": {"half_life": 3000}}
    assert new[1:] == callbacks[1:]


def test_what_trains_most_networks_leaves_alone_what_is_so():
    run = patient(generator_optimizer=adam(0.002), discriminator_optimizer=adam(0.5), penalties=[penalty("R1", 1, 4)])
    change, *repairs = sound(good(), run)
    assert dict(change.settings) == {"model.discriminator_optimizer": adam(0.002)}
    assert len(repairs) == 2  # networks of one's own
    assert has({"a": 1, "b": {"c": 2}}, {"b": {"c": 2}})
    assert not has({"a": 1}, {"a": 2})
    assert not has(None, {"a": 2})


def test_what_a_run_would_refuse_when_it_starts_is_not_prescribed():
    run = patient(penalties=[], refuses=frozenset({PENALTIES, "AdaptiveAugment"}))
    changes = [*REMEDIES["training images learnt by heart"](Finding("", "", ""), good(), run), *sound(good(), run)]
    settings = [name for change in changes for name in change.settings]
    assert "model.penalties" not in settings
    assert [change.settings["model.augment"] for change in changes if "model.augment" in change.settings] == [
        "gan.augment.DiffAugment"
    ]
    run = patient(penalties=[], refuses=frozenset({TWICE}))
    (usual,) = [change for change in sound(good(), run) if "model.penalties" in change.settings]
    assert usual.settings["model.penalties"] == [penalty("ApproximateR1", 1, every=4)]
