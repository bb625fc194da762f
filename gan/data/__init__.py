"""Images: MNIST, embedded, four data sets by name, folders, shards, pairs, and the base class for your own tensors."""

from gan.data.folder import ImageFolder
from gan.data.memory import InMemoryDataModule, InMemoryLoader
from gan.data.mnist import MNISTDataModule
from gan.data.paired_folders import PairedFolders
from gan.data.pairs import Degradation, DegradedDataModule, Downsample, Grey, Mask
from gan.data.rescaled import Rescaled
from gan.data.stream import StreamDataModule
from gan.data.torchvision import TorchvisionDataModule

__all__ = [
    "Degradation",
    "DegradedDataModule",
    "Downsample",
    "Grey",
    "ImageFolder",
    "InMemoryDataModule",
    "InMemoryLoader",
    "MNISTDataModule",
    "Mask",
    "PairedFolders",
    "Rescaled",
    "StreamDataModule",
    "TorchvisionDataModule",
]
