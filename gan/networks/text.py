"""Networks of text: residual one-dimensional convolutions, as in section 5.3 of Gulrajani et al. 2017.

The paper (arXiv:1704.00028) trains a character-level language model without any trick to pass a gradient through what
is discrete: the generator ends in a softmax over the characters at each position, the real texts are one-hot, and the
critic is given either as it is. Kept from the paper are the residual blocks, relu - convolution - relu - convolution,
whose sum with their input has 0.3 of them as in the authors' code, and that nothing is normalised.

Otherwise than in the paper, no layer knows of the place in the text: where the paper has a fully connected layer at the
start of the generator and at the end of the critic, each position here has latents of its own, and the critic's logit
is the sum of what it makes of each position. Sequences begin anywhere in a text, so what there is to learn is the same
at each position, and is learnt from all of them at once: on two CPU cores that is minutes in place of a day.

A softmax kills rare characters: one that it gives next to nothing gets next to no gradient, however much better it
would do, and never comes back. So the gradient of ours leaks, upwards alone (`leak`); what it makes is the softmax's.

Initialisation: He et al. 2015 (arXiv:1502.01852), weights of variance 2/fan_in before a ReLU; biases 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan.errors import GANError
from gan.networks.network import Network

RESIDUAL = 0.3  # of each block's branch, in the sum


class TextBlock(nn.Module):
    """`x + 0.3 * residual(x)`: relu, convolution, relu, convolution; (N, channels, L) to the same.

    Args:
        channels: Channels of input and output.
        kernel: Positions that a convolution looks at, an odd number.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, channels, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv1d(channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(F.relu(x))  # (N, channels, L)
        residual = self.conv2(F.relu(residual))  # (N, channels, L)
        return x + RESIDUAL * residual


class TextGenerator(Network):
    """Latents (N, latent_dim) to the probabilities of each character at each position, (N, V, L): a softmax over V.

    Attributes:
        latent_dim: Size of a latent vector: `latents` times L.

    Args:
        sample_shape: V characters, L positions.
        characters: The V characters, in the order of the channels.
        latents: Latents of each position, at least 1.
        channels: Channels of all layers.
        blocks: Residual blocks.
        kernel: Positions that a convolution looks at, an odd number.
        leak: Probability that a character has at least in the gradient of its own logit, where more of it would do
            better, 0 to 0.001; 0 for the softmax's own gradient.

    Raises:
        ValueError: If a setting is out of range, or the data has no texts.
    """

    def __init__(
        self,
        sample_shape: tuple[int, int],
        characters: str,
        latents: int = 8,
        channels: int = 64,
        blocks: int = 3,
        kernel: int = 3,
        leak: float = 1e-6,
    ) -> None:
        super().__init__()
        self.sample_shape = checked(self, sample_shape, channels, blocks, kernel)
        if len(characters) != self.sample_shape[0]:
            raise GANError(
                f"TextGenerator has {len(characters)} characters, and sample_shape={self.sample_shape} says "
                f"{self.sample_shape[0]}: give both as the data module has them"
            )
        if not latents >= 1:
            raise GANError(f"TextGenerator's latents must be at least 1 for each position, got {latents}")
        if not 0 <= leak <= 0.001:
            raise GANError(f"TextGenerator's leak is a small probability, from 0 to 0.001, got {leak}")
        self.characters = characters
        self.latents = latents
        self.leak = leak
        self.latent_dim = latents * self.sample_shape[1]
        self.input = nn.Conv1d(latents, channels, kernel, padding=kernel // 2)
        self.blocks = nn.Sequential(*(TextBlock(channels, kernel) for _ in range(blocks)))
        self.output = nn.Conv1d(channels, self.sample_shape[0], 1)
        initialize(self)

    def forward(self, z: Tensor) -> Tensor:
        x = z.unflatten(1, (self.latents, self.sample_shape[1]))  # (N, latents, L)
        x = self.blocks(self.input(x))  # (N, channels, L)
        return leaky_softmax(self.output(x), self.leak)  # (N, V, L)


class TextDiscriminator(Network):
    """Texts (N, V, L), one-hot or probabilities, to logits (N,).

    Args:
        sample_shape: V characters, L positions.
        channels: Channels of all layers but the last.
        blocks: Residual blocks.
        kernel: Positions that a convolution looks at, an odd number.

    Raises:
        ValueError: If a setting is out of range, or the data has no texts.
    """

    def __init__(self, sample_shape: tuple[int, int], channels: int = 64, blocks: int = 3, kernel: int = 3) -> None:
        super().__init__()
        self.sample_shape = checked(self, sample_shape, channels, blocks, kernel)
        self.input = nn.Conv1d(self.sample_shape[0], channels, 1)
        self.blocks = nn.Sequential(*(TextBlock(channels, kernel) for _ in range(blocks)))
        self.output = nn.Conv1d(channels, 1, 1)
        initialize(self)

    def forward(self, texts: Tensor) -> Tensor:
        x = self.blocks(self.input(texts))  # (N, channels, L)
        x = self.output(F.relu(x)).squeeze(1)  # (N, L)
        return x.sum(1) / x.shape[1] ** 0.5  # (N,), of the size of one position's


def leaky_softmax(logits: Tensor, leak: float) -> Tensor:
    """The softmax over dimension 1, whose gradient reaches characters that are all but never made.

    The gradient of a logit is its probability times how much better (below 0) or worse its character does than the
    mean of all. Where it does better, that probability counts as `leak` at least.
    """
    probabilities = logits.softmax(1)
    if leak and logits.requires_grad:
        factor = (leak / probabilities.detach().clamp_min(1e-30)).clamp_min(1)  # 1 from a probability of `leak` on
        # In its own type: where autocast makes a softmax in float32, `factor` is wider than it.
        logits.register_hook(lambda gradient: torch.where(gradient < 0, gradient * factor, gradient).to(gradient.dtype))
    return probabilities


def checked(
    network: nn.Module, sample_shape: tuple[int, int], channels: int, blocks: int, kernel: int
) -> tuple[int, int]:
    """The shape of a text, if it is one and the network can be built.

    Raises:
        ValueError: If not.
    """
    name = type(network).__name__
    if sample_shape is None or len(sample_shape) != 2:
        got = "states none" if sample_shape is None else f"has {tuple(sample_shape)}"
        raise GANError(
            f"{name} is for texts, sample_shape=(characters, positions), and the data {got}: take TextDataModule, or "
            "another network"
        )
    for what, number in (("channels", channels), ("blocks", blocks)):
        if not number >= 1:
            raise GANError(f"{name}'s {what} must be at least 1, got {number}")
    if not (kernel >= 1 and kernel % 2):
        raise GANError(f"{name}'s kernel must be an odd number of positions, got {kernel}")
    return sample_shape[0], sample_shape[1]


def initialize(network: nn.Module) -> None:
    """He et al. 2015, arXiv:1502.01852."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d):
            nn.init.kaiming_normal_(layer.weight)
            assert layer.bias is not None  # as all here have
            nn.init.zeros_(layer.bias)
