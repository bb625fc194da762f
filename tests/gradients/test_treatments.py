"""What changes are made of: each says what it does, and does nothing that is done already."""

from dataclasses import replace

import pytest

from gan.gradients.patient import PENALTIES, TWICE, Part
from gan.gradients.treatments import (
    catching_up,
    in_its_place,
    its_base,
    kind_of,
    no_momentum,
    normalized,
    r1,
    rate,
    rounded,
    settings_of,
    slower,
    unmixed,
)
from gradients.patients import OWN, adam, loss, patient, penalty

SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01, "momentum": 0.5}}
DEEP = Part({"class_path": "D", "init_args": {"norm": "none", "width": 8}}, {"norm": ("layer", "none"), "width": ()})
MIXING = Part({"class_path": "mine.D"}, layers=frozenset({"BatchNorm1d"}))


def settings(changes) -> dict:
    (change,) = changes
    assert change.text
    return dict(change.settings)


@pytest.mark.parametrize(("factor", "rate"), [(2, 0.0007), (10, 0.0002), (1e9, 2e-5)])
def test_a_lower_rate_by_how_far_the_signal_is_beyond(factor, rate):
    run = patient(generator_optimizer=adam(0.002))
    assert settings(slower(run, "generator", factor, "text")) == {"model.generator_optimizer.lr": rate}
    assert list(slower(patient(generator_optimizer=adam(0.0)), "generator", factor, "text")) == []


def test_a_default_optimizer_is_given_as_a_whole():
    (value,) = settings(slower(patient(generator_optimizer=None), "generator", 10, "text")).values()
    assert value == adam(2e-5)


def test_one_figure():
    assert [rounded(value) for value in (0.00123, 4.6e-5, 20480)] == [0.001, 5e-5, 20000]


def test_the_slower_network_at_the_other_s_rate():
    run = patient(generator_optimizer=adam(0.004), discriminator_optimizer=adam(0.0002))
    assert settings(catching_up(run, "generator", "discriminator")) == {"model.discriminator_optimizer.lr": 0.004}
    assert list(catching_up(run, "discriminator", "generator")) == []
    assert list(catching_up(patient(discriminator_optimizer=SGD), "generator", "discriminator")) == []


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ({"penalties": []}, [penalty("R1", 1)]),
        ({"penalties": [penalty("R1", 0.1, 16)]}, [penalty("R1", 1)]),
        ({"penalties": [penalty("R1", 0, 16)]}, [penalty("R1", 1)]),  # ten times nothing is nothing
        ({"penalties": [penalty("R2", 3), penalty("R1", 5)]}, [penalty("R2", 3), penalty("R1", 10)]),
    ],
)
def test_r1_or_more_of_it(model, wanted):
    assert settings(r1(patient(**model), "text")) == {"model.penalties": wanted}


def test_r1_is_enough_at_10_and_a_critic_s_penalty_is_another():
    assert list(r1(patient(penalties=[penalty("R1", 10)]), "text")) == []
    critic = settings(r1(patient(loss=loss("Wasserstein"), penalties=[], weight_clip=0.02), "text"))
    assert critic == {"model.penalties": [penalty("GradientPenalty", 10)], "model.weight_clip": None}
    assert list(r1(patient(loss=loss("Wasserstein"), penalties=[penalty("GradientPenalty", 10)]), "text")) == []


def test_no_momentum_where_there_is_some():
    run = patient(generator_optimizer=adam(betas=(0.5, 0.9)), discriminator_optimizer=SGD)
    wanted = {"model.generator_optimizer.betas": [0.0, 0.9], "model.discriminator_optimizer.momentum": 0}
    assert settings(no_momentum(run, "text")) == wanted
    assert list(no_momentum(patient(), "text")) == []


def test_settings_that_a_class_lists_and_no_others():
    run = patient(parts={**OWN, "discriminator": DEEP})
    assert settings(settings_of(run, "discriminator", "text", norm="layer", width=3)) == {
        "model.discriminator.norm": "layer"
    }
    assert list(settings_of(run, "discriminator", "text", norm="none", activation="relu")) == []
    assert list(settings_of(run, "generator", "text", norm="layer")) == []


def test_a_normalisation_by_a_setting_or_around():
    run = patient(parts={**OWN, "discriminator": DEEP})
    assert settings(normalized(run, "discriminator", "text")) == {"model.discriminator.norm": "layer"}
    (value,) = settings(normalized(run, "generator", "text")).values()
    assert value["class_path"] == "gan.networks.repair.Normalized"
    assert value["init_args"]["network"] == OWN["generator"].spec


def test_many_layers_bear_a_rate_that_is_not_high():
    run = patient(generator_optimizer=adam(0.004))
    assert "model.generator_optimizer.lr" not in settings(normalized(run, "generator", "text", layers=7))
    assert settings(normalized(run, "generator", "text", layers=8))["model.generator_optimizer.lr"] == 0.001
    run = patient(generator_optimizer=adam(0.0005))
    assert "model.generator_optimizer.lr" not in settings(normalized(run, "generator", "text", layers=30))


def test_batch_norm_gives_way():
    run = patient(parts={**OWN, "discriminator": MIXING}, penalties=[])
    (value,) = settings(unmixed(run, "text")).values()
    assert value["class_path"] == "gan.networks.repair.Unmixed"
    assert [len(change.settings) for change in r1(run, "text")] == [1, 1]  # and then the penalty


@pytest.mark.parametrize(
    ("told", "shape", "kind"),
    [
        ("", (1, 28, 28), "DCGANGenerator"),
        ("classes", (3, 64, 64), "ConditionalDCGANGenerator"),
        ("images", (1, 28, 28), None),
        ("", (1, 30, 30), None),
        ("", (1, 8, 8), None),
    ],
)
def test_a_shipped_network_where_it_can_stand(told, shape, kind):
    part = Part({"class_path": "mine.G"}, told=told)
    run = patient(parts={**OWN, "generator": part}, image_shape=shape)
    changes = list(in_its_place(run, "generator", "text"))
    assert [change.settings["model.generator"]["class_path"] for change in changes] == (
        [f"gan.networks.{kind}"] if kind else []
    )


def test_the_data_module_that_one_s_own_derives_from():
    run = patient(data=Part({"class_path": "mine.Digits", "init_args": {"seed": 1}}, base="gan.data.MNISTDataModule"))
    assert settings(its_base(run, "text")) == {
        "data": {"class_path": "gan.data.MNISTDataModule", "init_args": {"seed": 1}}
    }
    assert list(its_base(patient(), "text")) == []


def test_no_penalty_where_the_run_would_refuse_it():
    run = patient(penalties=[], refuses=frozenset({PENALTIES}), parts={**OWN, "discriminator": MIXING})
    assert list(r1(run, "text")) == []


def test_r1_without_second_derivatives_where_the_run_has_none():
    run = patient(penalties=[], refuses=frozenset({TWICE}))
    assert settings(r1(run, "text")) == {"model.penalties": [penalty("ApproximateR1", 1)]}
    run = patient(penalties=[penalty("ApproximateR1", 0.5)], refuses=frozenset({TWICE}))
    assert settings(r1(run, "text")) == {"model.penalties": [penalty("ApproximateR1", 5)]}
    critic = patient(penalties=[], loss=loss("Wasserstein"), refuses=frozenset({TWICE}))
    assert list(r1(critic, "text")) == []  # whose penalty has no such form


def test_no_repair_where_there_is_nothing_to_repair():
    parts = {name: replace(part, repairs=frozenset()) for name, part in OWN.items()}
    run = patient(parts={**parts, "discriminator": replace(MIXING, repairs=frozenset())})
    assert [*normalized(run, "generator", "text"), *unmixed(run, "text")] == []


def test_sums_are_scaled_within_what_normalises_them():
    adds = {name: replace(part, repairs=frozenset({"Normalized", "ScaledResiduals"})) for name, part in OWN.items()}
    (change,) = normalized(patient(parts=adds), "discriminator", "deep")
    network = change.settings["model.discriminator"]
    assert network["class_path"] == "gan.networks.repair.Normalized"
    inner = network["init_args"]["network"]
    assert inner["class_path"] == "gan.networks.repair.ScaledResiduals"
    assert inner["init_args"] == {"network": {"class_path": "mine.D", "init_args": {"width": 8}}}
    assert "root of their number" in change.text
    assert change.needed
    (plain,) = normalized(patient(), "discriminator", "deep")
    assert "ScaledResiduals" not in str(plain.settings)


def test_a_discriminator_that_tells_classes_gives_way_to_one_that_does():
    parts = {**OWN, "discriminator": replace(OWN["discriminator"], told="classifies")}
    (change,) = in_its_place(patient(parts=parts), "discriminator", "text")
    assert change.settings["model.discriminator"]["class_path"] == "gan.networks.AuxiliaryDCGANDiscriminator"


def test_an_optimizer_that_nothing_is_known_of():
    """From Python it may be any function: it is not taken for the default."""
    run = patient()
    model = {key: value for key, value in run.model.items() if key != "generator_optimizer"}
    run = replace(run, config={**run.config, "model": model})
    assert (rate(run, "generator"), kind_of(run, "generator")) == (None, "")
    assert list(slower(run, "generator", 10, "text")) == []
    assert settings(no_momentum(patient(generator_optimizer=adam(betas=(0.5, 0.9))), "text"))


def test_an_adam_of_python_has_torch_s_momentum():
    python = {"class_path": "torch.optim.adam.Adam", "init_args": {"lr": 0.001}}
    assert settings(no_momentum(patient(generator_optimizer=python), "text")) == {
        "model.generator_optimizer.betas": [0.0, 0.9]
    }


def test_what_is_not_known_is_not_made_again():
    """A network made in Python is put within a repair there: words would give it its defaults."""
    run = patient(parts={**OWN, "discriminator": replace(OWN["discriminator"], unknown=True)})
    (change,) = normalized(run, "discriminator", "the reason")
    assert change.settings == {}
    assert change.text.endswith("or put it within gan.networks.repair.Normalized")
    data = replace(MIXING, base="gan.data.MNISTDataModule")
    run = replace(run, parts={**run.parts, "data": data})
    assert len(list(its_base(run, ""))) == 1
    assert list(its_base(replace(run, parts={**run.parts, "data": replace(data, unknown=True)}), "")) == []


def test_numbers_that_follow_a_schedule():
    """R1 is raised from the larger of its ends; a momentum that falls is one, and goes."""
    falling = {"start": 0.3, "end": 0.1, "kind": "cosine"}
    assert settings(r1(patient(penalties=[penalty("R1", falling)]), "text")) == {"model.penalties": [penalty("R1", 3)]}
    run = patient(generator_optimizer=adam(betas=(falling, 0.9)))
    assert settings(no_momentum(run, "text")) == {"model.generator_optimizer.betas": [0.0, 0.9]}
