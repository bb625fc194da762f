"""How near the n-grams of generated texts are to those of real ones: short strings, and how often each stands."""

from typing import Any

import torch
from torch import Tensor

from gan.errors import GANError
from gan.metrics.base import Float64Metric


def jensen_shannon(first: Tensor, second: Tensor) -> float:
    """The Jensen-Shannon divergence of two distributions, in bits: 0 of one and the same, 1 where nothing is shared.

    It is KL(p || m) / 2 + KL(q || m) / 2 for m = (p + q) / 2 (Lin 1991). Its root is a metric.

    Args:
        first: How often each of K things was seen, (K,).
        second: Likewise.
    """
    p, q = first.double() / first.sum(), second.double() / second.sum()
    entropies = [torch.special.entr(each).sum() for each in ((p + q) / 2, p, q)]  # in nats
    bits = (entropies[0] - (entropies[1] + entropies[2]) / 2) / torch.log(torch.tensor(2.0, dtype=torch.float64))
    return min(max(bits.item(), 0.0), 1.0)  # round-off, of two that are alike


class NgramDistance(Float64Metric):
    """The Jensen-Shannon divergence of character n-grams between generated and real texts, in bits, from 0 to 1.

    Gulrajani et al. 2017, arXiv:1704.00028, judge language models by it. Real texts against others of their kind have
    one too, the larger the fewer there are and the longer the n-gram: the floor below which nothing is learnt.

    In a `MetricCollection`, those of all n share one copy of the texts. What processes have seen is put together, and
    counts are whole numbers: the same to the last bit however texts are divided among processes.

    Args:
        n: Characters of an n-gram, at least 1.
        length: Characters of a text, at least n.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: If there is no such n-gram.
    """

    higher_is_better = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, n: int, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 1 <= n <= length:
            raise GANError(f"n must be at least 1 and at most the {length} characters of a text, got {n}")
        self.n, self.length = n, length
        self.add_rows("real_texts", length, dtype=torch.int32)
        self.add_rows("fake_texts", length, dtype=torch.int32)

    def update(self, texts: Tensor, real: bool) -> None:
        """Adds texts.

        Args:
            texts: (N, L) of any integer type, the number of the character at each position; or (N, V, L), a channel for
                each of V characters, of which the largest counts. N may be 0.
            real: Whether they are real.

        Raises:
            ValueError: If they have another shape.
        """
        codes = texts.argmax(1) if texts.ndim == 3 else texts
        if codes.ndim != 2 or codes.shape[1] != self.length or codes.is_floating_point():
            raise GANError(
                f"texts must be integers (N, {self.length}) or samples (N, V, {self.length}), got {texts.dtype} of "
                f"shape {tuple(texts.shape)}"
            )
        self.append("real_texts" if real else "fake_texts", codes)

    def compute(self) -> Tensor:
        """The divergence, float64 (), from 0 to 1.

        Raises:
            ValueError: If texts of either kind are missing.
        """
        real, fake = self.rows("real_texts"), self.rows("fake_texts")
        for kind, rows in (("real", real), ("generated", fake)):
            if len(rows) == 0:
                raise GANError(f"at least 1 {kind} text is needed, got 0")
        codes = torch.cat([real, fake]).long()
        width, base = self.length - self.n + 1, int(codes.max()) + 1
        grams = codes[:, :width]
        for place in range(1, self.n):  # numbered anew at each character, or the number of a long one would overflow
            grams = (grams * base + codes[:, place : place + width]).unique(return_inverse=True)[1]
        kinds = int(grams.max()) + 1
        counts = [part.flatten().bincount(minlength=kinds) for part in (grams[: len(real)], grams[len(real) :])]
        return self.score(jensen_shannon(*counts))
