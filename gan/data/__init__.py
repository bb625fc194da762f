"""Images: the embedded MNIST, four data sets by name, a folder of files, and the base class for your own tensors."""

from gan.data.folder import ImageFolder
from gan.data.memory import InMemoryDataModule, InMemoryLoader
from gan.data.mnist import MNISTDataModule
from gan.data.torchvision import TorchvisionDataModule

__all__ = ["ImageFolder", "InMemoryDataModule", "InMemoryLoader", "MNISTDataModule", "TorchvisionDataModule"]
