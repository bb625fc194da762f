"""Images in memory: the embedded MNIST, four data sets by name, and the base class for your own tensors."""

from gan.data.memory import InMemoryDataModule, InMemoryLoader
from gan.data.mnist import MNISTDataModule
from gan.data.torchvision import TorchvisionDataModule

__all__ = ["InMemoryDataModule", "InMemoryLoader", "MNISTDataModule", "TorchvisionDataModule"]
