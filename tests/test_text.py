"""Texts as tensors, and back."""

import pytest
import torch

from gan.text import LONGEST, alphabet, briefly, decoded, encoded, in_lines, noun, plain_text, said_of, shown


def test_there_and_back():
    text = "Ein Käse,\n  zwei\tKäse. "
    plain = plain_text(text)
    assert plain == "Ein Käse, zwei Käse."
    characters = alphabet(plain)
    assert characters == " ,.EKeinswzä"
    codes = encoded(plain, characters, "it")
    assert codes.dtype == torch.uint8
    samples = torch.nn.functional.one_hot(codes.long(), len(characters)).T[None].float()
    assert decoded(samples, characters) == [plain]
    assert decoded(torch.cat([samples, samples.softmax(1)]), characters) == [plain, plain]
    assert in_lines(["a", "b"]) == "a\nb\n"


class Owner:
    def __init__(self, **stated):
        vars(self).update(stated)


def test_what_people_call_a_sample():
    assert noun(Owner(characters="ab", sample_shape=(2, 3))) == "text"
    assert noun(Owner(characters=None, sample_shape=(2, 3))) == "sample"
    assert noun(Owner(image_shape=(1, 8, 8))) == noun(Owner()) == noun(None) == "image"


def test_words_about_images_are_words_about_others():
    words = "An image of images, `2 * images`, an Image: data.images in my/images.py of the image-net. Images."
    assert said_of("image", words) == words
    of_texts = "A text of texts, `2 * images`, a Text: data.images in my/images.py of the image-net. Texts."
    assert said_of("text", words) == of_texts


def test_more_characters_than_a_byte_has():
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    codes = encoded(characters, characters, "it")
    assert codes.tolist() == list(range(300))


def test_characters_that_are_not_known_are_listed_the_most_frequent_first():
    with pytest.raises(ValueError, match=r"^it has 2 characters that the model never saw, 'z', 'é': .*characters$"):
        encoded("azéaz", "a", "it")
    with pytest.raises(ValueError, match="has 1 character that the model never saw, 'b': "):
        encoded("ab", "a", "it")
    with pytest.raises(ValueError, match=r"has 16 characters .*, 'k' and 6 more: "):
        encoded("abcdefghijklmnopq", "a", "it")


def test_what_is_shown_does_not_steer_a_terminal():
    assert shown("a\x1b[31m\x00\x9b\u202eb") == r"a\x1b[31m\x00\x9b\u202eb"
    family = "\N{MAN}\N{ZERO WIDTH JOINER}\N{GIRL} e\u0301 \u0647"  # what writing is made of stays
    assert shown(family) == family


def test_a_long_setting_is_shortened_in_a_line():
    assert briefly("x" * LONGEST) == "x" * LONGEST
    assert briefly("x" * 5000) == "x" * LONGEST + "... (5,000 characters)"
    assert briefly("\x07") == r"\x07"
