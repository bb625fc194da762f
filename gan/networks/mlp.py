"""The article's pair: two small fully connected networks, with the article's faults corrected.

Kept from the article: the layer sizes (generator 100-128-256-pixels, discriminator pixels-256-128-1) and ReLU
in every hidden layer. Its training settings, Adam(2e-4, beta1=0.5) and binary cross-entropy, are in
`configs/article.yaml`. Corrected, because the printed code contradicts the article's text or cannot train:

- The generator's output is tanh, not ReLU. The text asks for images in [-1, 1]; ReLU cannot be negative, has
  no upper bound, and passes no gradient to a pixel that it holds at 0.
- The pixels are scaled to [-1, 1] (by the data module), not divided by 255. With real images in [0, 1] and
  generated ones in [-1, 1] the sign alone would tell them apart.
- The discriminator returns logits, not probabilities. Once a float32 sigmoid rounds to 0 or 1 its gradient is
  0 and the logarithm of 0 infinite; the objectives in `gan/losses.py` are finite for every logit.
- Every training step sees the next batch. The printed loop trains on its first batch for ever.
- The generator's step trains the generator (`gan/module.py`): the gradient reaches it through the
  discriminator. In the printed code that step changes no weight.

Initialisation: PyTorch's default, weights and biases uniform in +-1/sqrt(fan_in). Each ReLU layer then passes
on about 1/6 of the signal's mean square. Three layers survive that, twenty do not: see `gan/lab`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan.networks.network import Discriminator, Generator


class MLPGenerator(Generator):
    """Latents `(N, latent_dim)` to images `(N, C, H, W)` in [-1, 1], fully connected.

    Args:
        image_shape: Channels, height and width of an image; any size.
        latent_dim: Size of a latent vector, at least 1.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int = 100) -> None:
        super().__init__(image_shape, latent_dim)
        self.hidden1 = nn.Linear(latent_dim, 128)
        self.hidden2 = nn.Linear(128, 256)
        self.output = nn.Linear(256, math.prod(self.image_shape))

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.hidden1(z))  # (N, 128)
        x = F.relu(self.hidden2(x))  # (N, 256)
        x = torch.tanh(self.output(x))  # (N, C*H*W)
        return x.unflatten(1, self.image_shape)  # (N, C, H, W)


class MLPDiscriminator(Discriminator):
    """Images `(N, C, H, W)` in [-1, 1] to logits `(N,)`, fully connected.

    Args:
        image_shape: Channels, height and width of an image; any size.
    """

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__(image_shape)
        self.hidden1 = nn.Linear(math.prod(self.image_shape), 256)
        self.hidden2 = nn.Linear(256, 128)
        self.output = nn.Linear(128, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)  # (N, C*H*W)
        x = F.relu(self.hidden1(x))  # (N, 256)
        x = F.relu(self.hidden2(x))  # (N, 128)
        return self.output(x).squeeze(1)  # (N,)
