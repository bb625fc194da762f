"""Images against the one that each is to be: PSNR, SSIM (Wang et al. 2004), LPIPS (Zhang et al. 2018)."""

import math
import textwrap

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.functional.image.lpips import _NoTrainLpips  # private: the public class downloads its weights

from gan.errors import GANError
from gan.images import to_float
from gan.metrics.checks import read_weights
from gan.paths import local_path

WINDOW = 11  # pixels of a side that SSIM looks at together
PATCH = 64  # pixels of a side that LPIPS was made for

FILE = (
    "It must be the state dict of torchvision's alexnet (alexnet-owt-7be5be79.pth, trained on ImageNet), which LPIPS "
    "is defined by. Nothing here downloads or replaces it"
)


class PairedScores:
    """What tells images from their targets: a row of numbers for each image, and scores of all rows.

    Rows can be made by any process, in any order; they are float64, so that scores do not depend on it.

    - `psnr`: 10 log10(range^2 / mean squared error) in decibels, the error over all pixels of all images, as
      `torchmetrics.image.PeakSignalNoiseRatio` has it. It has a value wherever one image differs from its target; a
      mean over images has none where a single one is right in each pixel.
    - `ssim`: the mean structural similarity (Wang et al. 2004), by torchmetrics: Gaussian windows of 11 x 11 pixels.
      Of images with a side below 11 there is none.
    - `lpips`: the mean perceptual distance (Zhang et al. 2018, arXiv:1801.03924), where its weights are given.

    Args:
        image_shape: Channels, height and width of an image.
        lpips: What measures it; not measured if not given.

    Raises:
        ValueError: If LPIPS does not take such images.
    """

    def __init__(self, image_shape: tuple[int, ...], lpips: "LPIPS | None" = None) -> None:
        if lpips is not None and image_shape[0] not in (1, 3):
            raise GANError(f"LPIPS takes images of 1 or 3 channels, not {image_shape[0]}: leave FIDTracker's lpips out")
        self.lpips = lpips
        self.has_ssim = min(image_shape[1:]) >= WINDOW
        self.names = ["psnr"] + ["ssim"] * self.has_ssim + ["lpips"] * (lpips is not None)

    @torch.no_grad()
    def rows(self, images: Tensor, targets: Tensor) -> Tensor:
        """A row for each image, float64 (N, numbers).

        Args:
            images: uint8 (N, C, H, W).
            targets: uint8 (N, C, H, W), on the same device.
        """
        lights = images / 255, targets / 255  # in [0, 1]: SSIM is of intensities, which are not negative
        with torch.autocast(images.device.type, enabled=False):
            columns = [(lights[0] - lights[1]).square().mean((1, 2, 3))]
            if self.has_ssim:
                similar = structural_similarity_index_measure(*lights, data_range=1.0, reduction="none")
                columns.append(similar.view(len(images)))  # pyright: ignore[reportAttributeAccessIssue] # no tuple
            if self.lpips is not None:
                columns.append(self.lpips(to_float(images), to_float(targets)))
        rows = torch.stack(columns, 1)
        return (rows.cpu() if rows.device.type == "mps" else rows).double()  # Apple's GPU has no float64

    def scores(self, rows: Tensor) -> dict[str, float]:
        """The scores of all rows (N, numbers); PSNR is infinite where every image is its target."""
        error, *others = rows.mean(0).tolist()
        psnr = 10 * math.log10(1 / error) if error > 0 else math.inf
        return dict(zip(self.names, (psnr, *others), strict=True))


class LPIPS(nn.Module):
    """The perceptual distance of images by AlexNet's features (Zhang et al. 2018, arXiv:1801.03924).

    The weights of its heads come with torchmetrics; those of AlexNet are the user's file. It is frozen and stays in
    evaluation mode. Grey images become three equal channels. Images with a side below 64 pixels, the size of the
    patches that it was made for, are resized to 64 x 64: AlexNet takes none below 31.

    Args:
        weights: Path of a state dict of torchvision's alexnet, such as alexnet-owt-7be5be79.pth.

    Raises:
        ValueError: If there is no such file, or it is damaged or holds something else.
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        state = read_weights(local_path(weights, "lpips"), "AlexNet's weights, which FIDTracker's lpips names", FILE)
        with torch.random.fork_rng(devices=[]):  # AlexNet draws the weights that it starts with
            self.net = _NoTrainLpips(net="alex", pnet_rand=True)
        own = self.net.net.state_dict()  # by slices, and the layers' own numbers: slice2.3.weight
        layers = {name: f"features.{name.partition('.')[2]}" for name in own}
        try:
            self.net.net.load_state_dict({name: state[layer] for name, layer in layers.items()})
        except Exception as error:  # no dictionary, other keys, other shapes, no tensors
            reason = textwrap.shorten(str(error), 300)
            raise GANError(f"{weights} holds something else than AlexNet's weights: {reason}. {FILE}") from error
        self.requires_grad_(False)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Distances (N,), 0 for equal images.

        Args:
            images: (N, C, H, W) in [-1, 1], of one channel or three.
            targets: Likewise.
        """
        return self.net(self.prepared(images), self.prepared(targets)).flatten()

    def prepared(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) as the network takes them."""
        images = images.expand(-1, 3, -1, -1)
        if min(images.shape[2:]) < PATCH:
            images = interpolate(images, [PATCH, PATCH], mode="bilinear", antialias=True)
        return images


def done_nothing(sources: Tensor, image_shape: tuple[int, ...]) -> Tensor | None:
    """Sources (N, C', H', W') in [-1, 1] as images (N, C, H, W), resized bicubically: what has done nothing else.

    None where they have other channels than the images; one more, as of a masked image, tells what is hidden.
    """
    channels, *size = image_shape
    if sources.shape[1] not in (channels, channels + 1):
        return None
    sources = sources[:, :channels].float()
    if list(sources.shape[2:]) == size:
        return sources
    return interpolate(sources, size, mode="bicubic", antialias=True).clamp(-1, 1)  # antialias: Pillow's kernel
