"""What the doctor prescribes heals random failures of a user's own networks; healthy ones are left alone."""

import json
import math
from pathlib import Path

import heal
import pytest
import yaml
from heal import Judged, Result, Tried, failures, heals, prescriptions, totals, train
from healthy import RUNS
from sick import draw

from gan.errors import GANError

FAILED = 30  # of the cases from seed 0 on


def result(fid: float, present: dict[str, list] | None = None, ended: str = "", refused: str = "") -> Result:
    """What came of a run that ended in conditions, each with its prescriptions."""
    findings = [
        {"name": name, "since": 25, "until": None, "why": "", "symptoms": [], "prescriptions": told}
        for name, told in (present or {}).items()
    ]
    return Result(Path(), refused, ended, {"300": fid} if math.isfinite(fid) else {}, findings, 1.0)


# ---------------------------------------------------------------------- the cases


def test_a_seed_is_one_case():
    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


def test_cases_are_of_many_kinds():
    """Each kind of network and each thing that can go wrong is among the first thousand."""
    cases = [draw(seed) for seed in range(1000)]
    for network in ("generator", "discriminator"):
        kinds = {case.config["model"][network]["class_path"] for case in cases}
        assert len(kinds) == 6
    words = " ".join(what for case in cases for what in case.wrong)
    for each in ("layers of sigmoid", "unscaled sums", "ends in none", "ends in sigmoid", "weights of zero", "rate"):
        assert each in words
    for each in ("SGD", "RMSprop", "momentum", "Saturating", "R1", "DRAGAN", "weight_clip", "clipped", "n_critic"):
        assert each in words
    assert {len(case.wrong) for case in cases} == {1, 2, 3}


def test_a_sound_form_has_nothing_wrong():
    for seed in range(200):
        sound = draw(seed).sound["model"]
        assert sound["loss"] == {"class_path": "gan.losses.NonSaturating"}
        assert not {"weight_clip", "n_critic", "generator_scheduler"} & sound.keys()
        for network in ("generator", "discriminator"):
            assert sound[f"{network}_optimizer"]["init_args"] == {"lr": 2e-3, "betas": [0.0, 0.9]}
            assert not {"skip", "residual", "shortcut"} & {
                name for name, value in sound[network]["init_args"].items() if value is True
            }


# ---------------------------------------------------------------------- what counts


def test_the_first_prescriptions_that_are_settings_count():
    told = [{"settings": ["--a", "1"], "text": ""}, {"settings": [], "text": "add a tanh"}]
    more = [
        {"settings": ["--a", "1"], "text": ""},
        {"settings": ["--b"], "text": ""},
        {"settings": ["--c"], "text": ""},
    ]
    failure = result(50, {"one": told, "two": [*more, {"settings": ["--d"], "text": ""}]})
    assert prescriptions(failure) == [("one", ["--a", "1"]), ("two", ["--b"]), ("two", ["--c"])]
    failure.findings[0]["until"] = 100  # over
    assert prescriptions(failure) == [("two", ["--a", "1"]), ("two", ["--b"]), ("two", ["--c"])]


@pytest.mark.parametrize(
    ("new", "healed"),
    [
        (result(25), True),  # half of what it was
        (result(26), False),
        (result(25, {"it": []}), False),  # the condition stays
        (result(25, {"another": []}), True),
        (result(25, ended="NaN"), False),
        (result(math.inf, refused="not accepted"), False),
    ],
    ids=["half", "more", "stays", "another", "ended", "refused"],
)
def test_what_heals(new, healed):
    assert heals("it", new, result(50, {"it": []}), result(10)) == healed


def test_twice_the_sound_score_heals_and_a_score_of_infinity_is_that_of_noise():
    assert heals("it", result(20), result(30, {"it": []}), result(10))
    assert heals("it", result(28), result(math.inf, {"it": []}), result(10))
    assert not heals("it", result(29), result(math.inf, {"it": []}), result(10))


def test_what_fails():
    case, sound = draw(0), result(10)
    assert Judged(case, sound, result(21, {"it": []}), []).failed
    assert not Judged(case, sound, result(20, {"it": []}), []).failed  # it is well
    assert not Judged(case, sound, result(21), []).failed  # nothing was told
    assert Judged(case, sound, result(21), []).bad
    assert Judged(case, sound, result(math.inf, ended="NaN"), []).failed
    tried = [Tried("it", ["--a"], result(30), False), Tried("it", ["--b"], result(9), True)]
    judged = Judged(case, sound, result(50, {"it": []}), tried)
    assert (judged.by_first, judged.by_one) == (False, True)
    assert "healed by the first 0%, by one of 3 100%" in totals([judged])


# ---------------------------------------------------------------------- one run


def short(seed: int) -> dict:
    """A case of four batches, without a score."""
    config = json.loads(json.dumps(draw(seed).config))
    config["trainer"] |= {"max_steps": 4, "callbacks": []}
    config["trainer"]["callbacks+"] = [
        {"class_path": f"gan.callbacks.{name}", "init_args": {"every": 2}} for name in ("GradientMonitor",)
    ] + [{"class_path": "gan.callbacks.GradientDoctor"}]
    return config


def test_a_run_is_kept(tmp_path):
    first = train(tmp_path / "run", short(0))
    assert (first.refused, first.ended) == ("", "")
    assert yaml.safe_load((tmp_path / "run" / "case.yaml").read_text("utf-8"))["trainer"]["max_steps"] == 4
    written = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    assert train(tmp_path / "run", short(0)) == first
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == written
    other = short(1)  # what a seed draws has been changed
    train(tmp_path / "run", other)
    assert yaml.safe_load((tmp_path / "run" / "case.yaml").read_text("utf-8")) == other
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns > written


def test_words_are_appended_and_those_that_are_no_setting_are_refused(tmp_path):
    train(tmp_path / "run", short(0), ["--model.generator_optimizer.lr", "0.123"])
    config = yaml.safe_load((tmp_path / "run" / "run" / "config.yaml").read_text("utf-8"))
    assert config["model"]["generator_optimizer"]["init_args"]["lr"] == 0.123
    refused = train(tmp_path / "refused", short(0), ["--model.discriminator.slope", "0.2"])
    assert "slope" in refused.refused
    assert refused.ended == ""
    assert not heals("it", refused, result(50), result(10))


def test_a_run_that_ends_early_says_so(tmp_path, monkeypatch):
    def end(*args):
        raise GANError("batch 3: the gradient of the generator is not finite")

    monkeypatch.setattr("gan.callbacks.GradientMonitor.on_train_batch_end", end)
    ended = train(tmp_path / "run", short(0))
    assert ended.ended == "batch 3: the gradient of the generator is not finite"
    assert ended.fid == math.inf


# ---------------------------------------------------------------------- the figures


@pytest.mark.slow
def test_prescriptions_heal_random_failures(tmp_path, capsys):
    cases = list(failures(FAILED, 0, tmp_path, command=True))
    failed = [judged for judged in cases if judged.failed]
    table = "\n".join([heal.HEAD, *map(heal.row, failed), totals(cases)])
    with capsys.disabled():
        print(f"\n{table}")
    assert [each.result.refused for judged in failed for each in judged.tried if each.result.refused] == [], table
    assert sum(judged.by_first for judged in failed) >= 0.7 * FAILED, table
    assert sum(judged.by_one for judged in failed) >= 0.9 * FAILED, table
    assert sum(bool(judged.cured) for judged in failed) >= 0.9 * FAILED, table


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_healthy_runs_are_left_alone(name, tmp_path):
    healthy = train(tmp_path, RUNS[name])
    assert (healthy.refused, healthy.ended) == ("", "")
    assert [(finding["name"], finding["why"]) for finding in healthy.findings] == []
