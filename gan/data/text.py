"""Text: "Pride and Prejudice", embedded, or a file of your own, as sequences of characters."""

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gan.data.epochs import EpochDataModule
from gan.data.memory import InMemoryLoader
from gan.errors import GANError
from gan.paths import local_path
from gan.text import alphabet, encoded, plain_text

EMBEDDED = Path(__file__).parent / "files" / "pride_and_prejudice.txt.gz"
SHA256 = "dfc684d4f857fa938268f9ab9c5567b64bd0691251eca959644adeabe6287a4d"  # of the unpacked file


class TextLoader(InMemoryLoader):
    """Batches of sequences of a text that is held as a byte a character, one-hot on the device where the text is.

    Iterating yields `(sequences, labels)`: float32 `(B, V, L)`, 1 in the channel of the character at each position and
    0 in all others, and zeros `(B,)`. What batch b holds depends on the seed and b alone, see `InMemoryLoader`.

    Args:
        sequences: Characters as numbers, (N, L); they may share their memory.
        num_characters: How many there are, V.
        *args: As of `InMemoryLoader`, from `batch_size` on.
        **kwargs: Likewise.
    """

    kind = "text"

    def __init__(self, sequences: Tensor, num_characters: int, *args: Any, **kwargs: Any) -> None:
        labels = torch.zeros(1, dtype=torch.int64, device=sequences.device).expand(len(sequences))
        super().__init__(sequences, labels, *args, **kwargs)
        self.num_characters = num_characters

    def _some(self, images: Tensor, index: Tensor, flipped: Tensor | None) -> Tensor:
        return one_hot(self._gather(images, index), self.num_characters)


def one_hot(codes: Tensor, num_characters: int) -> Tensor:
    """Characters as numbers (N, L) as samples (N, V, L), float32."""
    return F.one_hot(codes.long(), num_characters).transpose(1, 2).float().contiguous()


class TextDataModule(EpochDataModule):
    """Sequences of characters of a text, "Pride and Prejudice" by Jane Austen (1813) if not given.

    The novel is part of the package and in the public domain, see `gan/data/files/LICENSE.text`. Line breaks and other
    white space are one space each; letters are as they stand. The end of the text is held out, for validation and for
    scores; training takes sequences from anywhere in what comes before. They begin at each position once in an epoch,
    in an order that depends on the seed and the epoch alone. Held-out ones stand one after the other.

    A sample is float32 (V, L): V characters, of which one has a 1 at each of L positions, and the others a 0.

    Attributes:
        characters: The V characters, each once.
        sample_shape: (V, L).

    Args:
        file: Your own text, in UTF-8; the novel if not given.
        length: Characters of a sequence, L.
        held_out: Share of the text, at its end, that is not trained on, above 0 and below 1.
        characters: What texts are made of, each character once; those of the text if not given. A run keeps what it
            was trained with.
        batch_size: Training sequences per process and pass.
        seed: Seed of the order of the training sequences.

    Raises:
        ValueError: If a setting is out of range, or the text cannot be read, is empty, shorter than a sequence, or has
            characters that are not among `characters`.
    """

    def __init__(
        self,
        file: str | None = None,
        length: int = 32,
        held_out: float = 0.2,
        characters: str | None = None,
        batch_size: int = 64,
        seed: int = 42,
    ) -> None:
        if not length >= 1:
            raise GANError(f"data.length must be at least 1 character, got {length}")
        if not 0 < held_out < 1:
            raise GANError(f"data.held_out is a share of the text, above 0 and below 1, got {held_out}")
        if characters is not None and (not characters or len(set(characters)) < len(characters)):
            raise GANError("data.characters must be a text in which each character stands once")
        self.file = file
        self.length = length
        self.held_out = held_out
        whose = "the embedded novel" if file is None else f"the text {file}"
        text = plain_text(embedded() if file is None else read(local_path(file, "--data.file")))
        if not text:
            raise GANError(f"{whose} is empty: there is nothing to learn")
        self.characters = alphabet(text) if characters is None else characters
        self.sample_shape = len(self.characters), length
        codes = encoded(text, self.characters, whose)
        kept = round(len(codes) * (1 - held_out))
        self._codes = {"train": codes[:kept], "held_out": codes[kept:]}
        held = len(codes) - kept
        if min(kept, held) < length:
            raise GANError(
                f"sequences of {length:,} characters are longer than the text: {whose} has {len(codes):,}, {kept:,} to "
                f"train on and {held:,} held out; lower data.length, change data.held_out, or take a longer text"
            )
        super().__init__(batch_size, validation_size=held // length, seed=seed)

    def sequences(self, subset: str) -> Tensor:
        """All sequences of the text that is trained on, "train", or those of the held-out one: numbers (N, L)."""
        codes = self._codes["train" if subset == "train" else "held_out"].to(self.device)
        return codes.unfold(0, self.length, 1 if subset == "train" else self.length)  # a view

    def _loader(self, subset: str, batch_size: int, **options: Any) -> TextLoader:
        sequences = self.sequences(subset)
        return TextLoader(sequences, len(self.characters), batch_size, **options, **self._share())


def read(path: Path) -> str:
    """The text of a file of the user's.

    Raises:
        GANError: If it cannot be read, or is in another encoding than UTF-8.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GANError(f"data.file {path} is not a text in UTF-8 (byte {error.start:,}): save it as one") from error
    except OSError as error:
        raise GANError(f"data.file {path} cannot be read: {error.strerror}") from error


def embedded() -> str:
    """The novel.

    Raises:
        GANError: If its file is missing or altered.
    """
    try:
        content = gzip.decompress(EMBEDDED.read_bytes())
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise OSError("its content is another one, the SHA-256 differs")
    except (OSError, EOFError, zlib.error) as error:
        raise GANError(
            f"the embedded text {EMBEDDED} cannot be used: {error}. Reinstall the package, or in a clone run "
            "`git checkout -- gan/data/files`"
        ) from error
    return content.decode("utf-8")
