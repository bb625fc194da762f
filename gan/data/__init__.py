"""Images in memory: the embedded MNIST, four data sets by name, pairs, and the base class for your own tensors."""

from gan.data.memory import InMemoryDataModule, InMemoryLoader
from gan.data.mnist import MNISTDataModule
from gan.data.paired_folders import PairedFolders
from gan.data.pairs import Degradation, DegradedDataModule, Downsample, Grey, Mask
from gan.data.torchvision import TorchvisionDataModule

__all__ = [
    "Degradation",
    "DegradedDataModule",
    "Downsample",
    "Grey",
    "InMemoryDataModule",
    "InMemoryLoader",
    "MNISTDataModule",
    "Mask",
    "PairedFolders",
    "TorchvisionDataModule",
]
