"""What is absurd is put right, and what is common is left alone."""

import pytest

from gan.gradients.misfits import misfits
from gan.gradients.patient import PENALTIES, TWICE, Part
from gan.gradients.rules import Record
from gradients.patients import adam, loss, patient, penalty
from gradients.records import changed, good

SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}
RMSPROP = {"class_path": "torch.optim.RMSprop", "init_args": {"lr": 5e-5, "momentum": 0.0}}
BY_NORM = {"class_path": "gan.gradients.clip.ByNorm", "init_args": {"max_norm": 1e-4}}
NO_PENALTY = frozenset({PENALTIES})
WGAN = {"loss": loss("Wasserstein"), "penalties": []}


def settings(record=None, **changes) -> dict:
    """All that is put right in a run."""
    found = misfits(record or good(), patient(**changes))
    assert all(change.text for change in found)
    return {name: value for change in found for name, value in change.settings.items()}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"discriminator_optimizer": adam(3.0)}, {"model.discriminator_optimizer.lr": 0.002}),
        ({"generator_optimizer": adam(1e-5)}, {"model.generator_optimizer.lr": 0.002}),
        ({"generator_optimizer": adam(1e-6), "batches": 100_000}, {"model.generator_optimizer.lr": 0.001}),
        ({"generator_optimizer": adam(betas=(0.95, 0.999))}, {"model.generator_optimizer.betas": [0.0, 0.9]}),
        ({"penalties": [penalty("R1", 1e6)]}, {"model.penalties": [penalty("R1", 1)]}),
        (
            {"penalties": [penalty("R1", 1, 16), penalty("GradientPenalty", 5000)]},
            {"model.penalties": [penalty("R1", 1, 16), penalty("GradientPenalty", 10)]},
        ),
        ({"weight_clip": 0.01}, {"model.weight_clip": None}),
        ({**WGAN}, {"model.penalties": [penalty("GradientPenalty", 10)]}),
        (
            {**WGAN, "weight_clip": 1e-4},
            {"model.weight_clip": None, "model.penalties": [penalty("GradientPenalty", 10)]},
        ),
        (
            {**WGAN, "weight_clip": 0.02, "generator_optimizer": adam(betas=(0.9, 0.999))},
            {"model.generator_optimizer.betas": [0.0, 0.9]},
        ),
        ({"n_critic": 20}, {"model.n_critic": 1}),
        ({"n_critic": 8}, {"model.n_critic": 1}),  # 37 steps
        ({"batch_size": 4}, {"data.batch_size": 64}),
        ({**WGAN, "refuses": NO_PENALTY}, {"model.weight_clip": 0.01}),
        ({**WGAN, "refuses": frozenset({TWICE})}, {"model.weight_clip": 0.01}),
        ({**WGAN, "weight_clip": 1e-4, "refuses": NO_PENALTY}, {"model.weight_clip": 0.01}),
        ({"loss": loss("Saturating")}, {"model.loss": "gan.losses.NonSaturating"}),
    ],
)
def test_what_is_absurd_is_put_right(wrong, right):
    assert settings(**wrong) == right


@pytest.mark.parametrize(
    "common",
    [
        {},
        {"generator_optimizer": None},
        {"generator_optimizer": adam(2e-4, (0.5, 0.999)), "discriminator_optimizer": adam(2e-4, (0.5, 0.999))},
        {"generator_optimizer": adam(2e-5), "batches": 100_000},
        {**WGAN, "weight_clip": 0.01, "generator_optimizer": RMSPROP, "n_critic": 5, "batches": 10_000},
        {**WGAN, "penalties": [penalty("GradientPenalty", 10)], "n_critic": 5},
        {"penalties": [penalty("R1", 10, 16), penalty("R2", 10)]},
        {"n_critic": 5},
        {"batch_size": 16},
        {"batch_size": 8, "data": Part({"class_path": "D", "init_args": {"batch_size": 64}})},  # of 8 images
        {"clip": {"generator": None, "discriminator": {**BY_NORM, "init_args": {"max_norm": 1}}}},
    ],
)
def test_what_is_common_is_left_alone(common):
    assert settings(**common) == {}


def test_sgd_gives_way_to_adam():
    assert settings(discriminator_optimizer=SGD) == {"model.discriminator_optimizer": adam(0.002)}


def test_gradients_clipped_to_nothing_are_not_and_the_other_network_s_stay_as_they_are():
    other = {"class_path": "gan.gradients.clip.Auto"}
    ((name, value),) = settings(clip={"generator": other, "discriminator": BY_NORM}).items()
    assert name == "trainer.callbacks+"
    assert value[0]["init_args"]["generator"] == other
    assert value[0]["init_args"]["discriminator"]["init_args"] == {"max_norm": 10.0}


def test_ends_that_a_network_must_not_have():
    wrapped = {"network": {"class_path": "mine.D", "init_args": {"width": 8}}}
    of_discriminator = settings(changed(good(), discriminator__ends="sigmoid"))
    assert of_discriminator == {
        "model.discriminator": {"class_path": "gan.networks.repair.Logit", "init_args": wrapped}
    }
    for end in ("linear", "sigmoid", "relu"):
        ((name, value),) = settings(changed(good(), generator__ends=end)).items()
        assert (name, value["class_path"]) == ("model.generator", "gan.networks.repair.Tanh")
    for end in ("tanh", "clamp", None):
        assert settings(changed(good(), generator__ends=end)) == {}
    assert settings(changed(good(), discriminator__ends="linear")) == {}


def test_before_any_measurement_settings_can_be_judged():
    assert settings(Record([]), discriminator_optimizer=adam(3.0)) == {"model.discriminator_optimizer.lr": 0.002}


def test_says_where_a_network_stands():
    (change,) = misfits(changed(good(), generator__ends="linear"), patient())
    assert "G (mine.py, line 3)" in change.text
    assert "torch.tanh(x)" in change.text


def test_units_that_are_dead_are_no_matter_of_depth():
    """No gradient comes through them, however few the layers: what killed them is to be put right alone."""
    layers = {f"layer{number}": 10.0**-number for number in range(4)}
    through = {"discriminator__activation_gradients": layers, "discriminator__first_to_last": 0.0}
    assert "model.discriminator" in settings(changed(good(), **through))
    assert settings(changed(good(), discriminator__dead_share=0.9, **through)) == {}


def test_a_schedule_counts_by_its_larger_end():
    falling, rising = {"start": 500, "end": 1, "kind": "cosine"}, {"start": 0.9, "end": 0.99, "kind": "cosine"}
    assert settings(penalties=[penalty("R1", falling)]) == {"model.penalties": [penalty("R1", 1)]}
    assert settings(generator_optimizer=adam(betas=(rising, 0.9))) == {"model.generator_optimizer.betas": [0.0, 0.9]}
    assert (
        settings(penalties=[penalty("R1", falling | {"start": 5})], generator_optimizer=adam(betas=(0, rising))) == {}
    )
