"""Scores of texts: right, at the right batches, with their floor, and without effect on training."""

import pytest
import torch
import yaml
from commands import command, load
from conftest import TableLogger, same_weights
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from texts import TEXT, make_data, make_gan, small_text

from gan.callbacks import FIDTracker, GeneratorEMA, ImageLogger, NgramTracker, RunCheckpoint
from gan.cli import main
from gan.data import TextDataModule
from gan.metrics import NgramDistance

NAMES = [f"ngram/{n}" for n in (1, 2, 3, 4)]


def scores_of(table) -> dict[int, dict[str, float]]:
    return {step: row for step, row in table.rows if "ngram/1" in row}


def test_training_is_bit_identical_with_and_without(make_trainer, tmp_path):
    data = make_data(tmp_path)
    one, two = make_gan(data), make_gan(data)
    make_trainer(callbacks=[NgramTracker(every=2, num_samples=50, final_samples=50)]).fit(one, data)
    make_trainer().fit(two, data)
    assert same_weights(one, two)


def test_scores_are_those_of_the_average_against_what_is_held_out(make_trainer, tmp_path):
    data, table = make_data(tmp_path), TableLogger()
    gan = make_gan(data)
    tracker = NgramTracker(every=4, num_samples=700, final_samples=30)
    make_trainer(max_steps=6, logger=table, callbacks=[GeneratorEMA(), tracker]).fit(gan, data)
    scores = scores_of(table)
    assert [*scores] == [0, 4, 6]
    chunks = [gan(gan.latents(500, gan.rng("score", "curve", chunk))) for chunk in (0, 1)]
    texts = torch.cat(chunks)[:700]
    for n in (1, 2, 3, 4):
        metric = NgramDistance(n, 12)
        metric.update(data.sequences("held_out"), real=True)
        metric.update(texts, real=False)
        assert scores[6][f"ngram/{n}"] == metric.compute().item()
    floors = {row[f"ngram_floor/{n}"] for row in scores.values() for n in (1,)}
    assert len(floors) == 1
    assert 0 < floors.pop() < scores[0]["ngram/1"]


@pytest.mark.parametrize(
    "ends",
    [
        {"max_epochs": 1, "limit_train_batches": 5},
        {"max_epochs": -1, "max_time": {"seconds": 1}},
        {"callbacks": [EarlyStopping("ngram/1", patience=1, divergence_threshold=0.0)]},
    ],
    ids=["epochs", "time", "score"],
)
def test_the_end_is_scored_whatever_it_is(make_trainer, tmp_path, ends):
    """And by as many other texts as the report says, under names of their own."""
    data, table, gan = make_data(tmp_path), TableLogger(), None
    tracker = NgramTracker(every=3, num_samples=30, final_samples=40)
    callbacks = [tracker, *ends.get("callbacks", [])]
    trainer = make_trainer(**{"max_steps": -1, **ends, "logger": table, "callbacks": callbacks})
    gan = make_gan(data)
    trainer.fit(gan, data)
    assert max(scores_of(table)) == trainer.global_step
    of_end = {name: value for _, row in table.rows for name, value in row.items() if "_of_end/" in name}
    scores, floors = tracker.report(gan)
    assert [*of_end] == [name.replace("/", "_of_end/") for name in (*scores, *(f"ngram_floor/{n}" for n in "1234"))]
    assert [*of_end.values()] == [*scores.values(), *floors.values()]


def test_a_run_that_was_over_does_its_end(make_trainer, tmp_path):
    data, table = make_data(tmp_path), TableLogger()
    folder = {"default_root_dir": tmp_path / "run", "max_steps": 2}
    make_trainer(callbacks=[RunCheckpoint()], **folder).fit(make_gan(data), data)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint = load(path)
    del checkpoint["ended"]
    torch.save(checkpoint, path)
    tracker = NgramTracker(num_samples=30, final_samples=30)
    trainer = make_trainer(callbacks=[RunCheckpoint(), tracker], logger=table, **folder)
    trainer.fit(make_gan(data), data, ckpt_path=path, weights_only=True)
    assert "ngram_of_end/1" in table.rows[-1][1]


def test_a_checkpoint_can_monitor_a_score(make_trainer, tmp_path):
    data = make_data(tmp_path)
    best = ModelCheckpoint(tmp_path / "best", monitor="ngram/2", filename="{step}")
    callbacks = [NgramTracker(every=2, num_samples=30, final_samples=30), best]
    make_trainer(callbacks=callbacks, enable_checkpointing=True).fit(make_gan(data), data)
    assert best.best_model_score is not None
    assert len(list((tmp_path / "best").iterdir())) == 1


def test_validate_prints_scores_beside_their_floor(make_trainer, tmp_path, capsys):
    data = make_data(tmp_path)
    gan = make_gan(data)
    (scores,) = make_trainer(callbacks=[NgramTracker(final_samples=40)]).validate(gan, data)
    assert {*NAMES, "ngram_floor/3", "validation/discriminator"} <= scores.keys()
    said = capsys.readouterr().out
    assert "Jensen-Shannon divergence of n-grams, in bits: 40 texts of 12 against 252 characters held out" in said
    assert f"│ {scores['ngram/3']:.4f}    │ {scores['ngram_floor/3']:.4f} │" in said
    make_trainer(callbacks=[NgramTracker(final_samples=40)]).validate(gan, data, verbose=False)
    assert capsys.readouterr().out == ""


def test_short_sequences_have_short_ngrams(make_trainer, tmp_path):
    data, table = make_data(tmp_path, length=2), TableLogger()
    tracker = NgramTracker(num_samples=30, final_samples=30)
    make_trainer(max_steps=1, logger=table, callbacks=[tracker]).fit(make_gan(data), data)
    assert {name for name in scores_of(table)[1] if name.startswith("ngram/")} == {"ngram/1", "ngram/2"}


@pytest.mark.parametrize("name", ["every", "num_samples", "final_samples"])
def test_bad_settings_are_one_line(name):
    with pytest.raises(ValueError, match=f"NgramTracker's {name} must be at least 1"):
        NgramTracker(**{name: 0})


def test_what_makes_no_sense_is_refused_with_the_way_out(make_trainer, make_gan_of_images, data, tmp_path):
    with pytest.raises(ValueError, match=r"^NgramTracker is for texts, and MLPGenerator makes none: use FIDTracker$"):
        make_trainer(callbacks=[NgramTracker()]).fit(make_gan_of_images(), data)
    texts = make_data(tmp_path)
    for callback, instead in ((FIDTracker(), "NgramTracker"), (ImageLogger(), "TextLogger")):
        error = f"^{type(callback).__name__} .*images, and TextGenerator makes none: leave it out .* take {instead}$"
        with pytest.raises(ValueError, match=error):
            make_trainer(callbacks=[callback]).fit(make_gan(texts), texts)
    with pytest.raises(ValueError, match=r"^NgramTracker needs text that is held out: give the trainer the gen"):
        make_trainer(callbacks=[NgramTracker()]).fit(make_gan(texts), texts.train_dataloader())


@pytest.fixture
def make_gan_of_images(request):
    return request.getfixturevalue("make_gan")


def test_a_checkpoint_brings_its_characters_to_another_text(tmp_path, monkeypatch, capsys):
    """So that no letter is taken for another one, and one that the model never saw is a line."""
    monkeypatch.chdir(tmp_path)
    small_text(tmp_path)
    command("fit", *TEXT, "--trainer.max_steps", "2", "--run_dir", "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert config["data"]["init_args"]["characters"] == TextDataModule("small.txt").characters
    (tmp_path / "other.txt").write_text("the dog and the fox. " * 20, encoding="utf-8")
    ckpt = ["--ckpt_path", "run/checkpoints/last.ckpt", "--data.file"]
    command("validate", *ckpt, "other.txt")
    assert "70 texts of 12 against 84 characters held out" in capsys.readouterr().out
    (tmp_path / "strange.txt").write_text("the dog ate £5. " * 20, encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["validate", *ckpt, "strange.txt"])
    error = capsys.readouterr().err
    assert error.startswith(
        "error: the text strange.txt has 2 characters that the model never saw, '£', '5': take them"
    )
    assert error.count("\n") == 1
