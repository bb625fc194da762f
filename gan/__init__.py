"""A PyTorch Lightning template for GANs, whose subject is the gradient."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan.module import GAN

__all__ = ["GAN"]


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import: only who asks for GAN pays.
    if name == "GAN":
        from gan.module import GAN

        return GAN
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
