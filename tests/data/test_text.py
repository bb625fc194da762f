"""Text: what a sequence is, which are held out, and what a file must be."""

import gzip
from types import SimpleNamespace

import pytest
import torch

from gan.data import TextDataModule, text
from gan.errors import GANError
from gan.text import decoded


def lines(loader, characters):
    return [line for samples, _ in loader for line in decoded(samples, characters)]


def test_it_is_the_novel():
    data = TextDataModule()
    novel = text.plain_text(text.embedded())
    assert novel.startswith("PRIDE AND PREJUDICE By Jane Austen Chapter 1 It is a truth universally acknowledged, that")
    assert novel.endswith("had been the means of uniting them.")
    assert data.sample_shape == (len(data.characters), 32) == (74, 32)
    samples, labels = next(iter(data.train_dataloader()))
    assert samples.shape == (64, 74, 32)
    assert samples.dtype == torch.float32
    assert samples.unique().tolist() == [0, 1]
    assert torch.equal(samples.sum(1), torch.ones(64, 32))
    assert labels.tolist() == [0] * 64
    assert all(line in novel for line in decoded(samples, data.characters))


def test_each_position_begins_one_training_sequence_and_none_reaches_into_what_is_held_out(tmp_path):
    content = "abcdefghijklmnopqrstuvwxyz0123456789"
    (tmp_path / "a.txt").write_text(content, encoding="utf-8")
    data = TextDataModule(str(tmp_path / "a.txt"), length=5, held_out=0.5, batch_size=7)
    loader = data.train_dataloader()
    assert sorted(lines(loader, data.characters)) == sorted(content[i : i + 5] for i in range(14))
    held_out = [content[18 + i : 23 + i] for i in (0, 5, 10)]  # one after the other; 3 characters are left over
    assert lines(data.val_dataloader(), data.characters) == held_out
    assert lines(data.test_dataloader(), data.characters) == held_out


def test_batches_depend_on_the_seed_and_their_number_alone():
    def loader(seed, done):
        data = TextDataModule(batch_size=4, seed=seed)
        subset = data.train_dataloader()
        subset.counter = lambda: (done, len(subset))
        return iter(subset)

    run = loader(1, 0)
    first, second = next(run)[0], next(run)[0]
    assert torch.equal(next(loader(1, 1))[0], second)
    assert not torch.equal(first, second)
    assert not torch.equal(next(loader(2, 0))[0], first)


def test_processes_share_a_batch():
    whole = next(iter(TextDataModule(batch_size=8).train_dataloader()))[0]
    parts = []
    for rank in range(2):
        data = TextDataModule(batch_size=4)
        data.trainer = SimpleNamespace(
            global_rank=rank,
            world_size=2,
            overfit_batches=0,
            training=False,
            lightning_module=None,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )
        parts.append(next(iter(data.train_dataloader()))[0])
    assert torch.equal(torch.cat(parts), whole)


def test_characters_can_be_given(tmp_path):
    (tmp_path / "a.txt").write_text("abba " * 20, encoding="utf-8")
    data = TextDataModule(str(tmp_path / "a.txt"), length=4, characters="cba ")
    assert data.sample_shape == (4, 4)
    assert set("".join(lines(data.val_dataloader(), "cba "))) == set("ab ")


@pytest.mark.parametrize(
    ("content", "settings", "error"),
    [
        (b"", {}, r"^the text .*a.txt is empty: there is nothing to learn$"),
        (b" \n\t\n", {}, r"^the text .*a.txt is empty"),
        (b"abcabcabc", {}, r"^sequences of 32 characters are longer than the text: .*a.txt has 9, 7 to train on and 2"),
        (b"abc" * 30, {}, r"^sequences of 32 .* has 90, 72 to train on and 18 held out; lower data.length"),
        ("naïve".encode("latin-1") * 99, {}, r"a.txt is not a text in UTF-8 \(byte 2\): save it as one$"),
        ("añb".encode() * 99, {"characters": "ab"}, r"a.txt has 1 character that the model never saw, 'ñ': take"),
        (b"abc" * 99, {"characters": "abca"}, r"^data.characters must be a text in which each character stands once$"),
        (b"abc" * 99, {"length": 0}, r"^data.length must be at least 1 character, got 0$"),
        (b"abc" * 99, {"held_out": 0}, r"^data.held_out is a share of the text, above 0 and below 1, got 0$"),
        (b"abc" * 99, {"held_out": float("nan")}, r"^data.held_out is a share"),
        (None, {}, r"^data.file .*a.txt cannot be read: No such file or directory$"),
    ],
)
def test_bad_texts_and_settings_are_one_line(tmp_path, content, settings, error):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=error):
        TextDataModule(str(tmp_path / "a.txt"), **settings)


def test_a_mark_at_the_start_of_utf_8_is_no_character(tmp_path):
    (tmp_path / "a.txt").write_text("abc" * 99, encoding="utf-8-sig")
    assert TextDataModule(str(tmp_path / "a.txt")).characters == "abc"


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_a_damaged_novel_is_named_with_the_way_out(damage, tmp_path, monkeypatch):
    path, content = tmp_path / "novel.gz", text.EMBEDDED.read_bytes()
    if damage != "missing":
        path.write_bytes(content[:-100] if damage == "truncated" else gzip.compress(b"no novel"))
    monkeypatch.setattr(text, "EMBEDDED", path)
    with pytest.raises(ValueError, match=r"^the embedded text .*novel.gz cannot be used.*Reinstall.*git checkout"):
        TextDataModule()


def test_a_batch_larger_than_the_text_is_of_texts(tmp_path):
    (tmp_path / "a.txt").write_text("abcd" * 10, encoding="utf-8")
    data = TextDataModule(str(tmp_path / "a.txt"), length=5, held_out=0.5, batch_size=100)
    with pytest.raises(GANError, match="batch_size=100 on 1 process takes 100 texts a batch, but there are only 16"):
        data.train_dataloader()
