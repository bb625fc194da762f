"""Texts as tensors: a channel a character, and back; beside `images`, what samples are to people."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gan.errors import GANError, counted

OF_IMAGES = re.compile(r"(?<![\w./-])(?:([Aa])n )?([Ii])mage(s?)\b(?!\.\w|[/-])")
SHOWN = 10  # characters that an error lists
LONGEST = 200  # characters of a setting that a line has


def noun(owner: Any) -> str:
    """What people call one sample of a generator, or of a data module: text, image, or of another kind sample."""
    if getattr(owner, "characters", None) is not None:
        return "text"
    if getattr(owner, "image_shape", None) is None and getattr(owner, "sample_shape", None) is not None:
        return "sample"
    return "image"


def said_of(kind: str, words: str) -> str:
    """Words about images as words about samples of another kind; code in backticks, dotted names and paths stay."""

    def renamed(found: re.Match[str]) -> str:
        article, first, many = found.groups()
        start = f"{article} " if article else ""
        return start + (kind.capitalize() if first == "I" else kind) + many

    if kind == "image":
        return words
    parts = words.split("`")
    parts[::2] = [OF_IMAGES.sub(renamed, part) for part in parts[::2]]
    return "`".join(parts)


def plain_text(text: str) -> str:
    """A text whose line breaks, tabs and runs of spaces are one space each, so that each sample is a line."""
    return re.sub(r"\s+", " ", text).strip()


def shown(text: str) -> str:
    """A text as a terminal may have it: those that steer it (control, direction) by their codes."""
    steering = r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
    return re.sub(steering, lambda found: found[0].encode("unicode_escape").decode(), text)


def briefly(text: str) -> str:
    """A text as a line may have it: nothing that steers a terminal, and the start of what is very long."""
    start = f"{text[:LONGEST]}... ({len(text):,} characters)" if len(text) > LONGEST else text
    return shown(start)


def alphabet(text: str) -> str:
    """The characters of a text, each once, in the order of their code points."""
    return "".join(sorted(set(text)))


def encoded(text: str, characters: str, whose: str) -> Tensor:
    """A text as the places of its characters among `characters`: (T,), uint8, or int32 of more than 256.

    Args:
        text: Of T characters.
        characters: Those that there are, each once.
        whose: What the text is called, as in "the text my.txt".

    Raises:
        GANError: If it has others.
    """
    known = set(characters)
    strange = Counter(character for character in text if character not in known)
    if strange:
        most = [f"{character!r}" for character, _ in strange.most_common(SHOWN)]
        more = f" and {len(strange) - SHOWN} more" if len(strange) > SHOWN else ""
        raise GANError(
            f"{whose} has {counted(len(strange), 'character')} that the model never saw, {', '.join(most)}{more}: take "
            "them out, or train a run of its own on that text, without data.characters"
        )
    place = {character: number for number, character in enumerate(characters)}
    dtype = torch.uint8 if len(characters) <= 256 else torch.int32
    return torch.tensor([place[character] for character in text], dtype=dtype)


def decoded(samples: Tensor, characters: str) -> list[str]:
    """The texts that samples stand for, the likeliest character at each position.

    Args:
        samples: (N, V, L), a channel for each of the V characters.
        characters: These V.
    """
    return of_codes(samples.argmax(1), characters)


def of_codes(codes: Tensor, characters: str) -> list[str]:
    """The texts of places (N, L) among `characters`."""
    return ["".join(characters[place] for place in row) for row in codes.tolist()]


def in_lines(texts: Iterable[str]) -> str:
    """Texts, one a line."""
    return "".join(f"{text}\n" for text in texts)
