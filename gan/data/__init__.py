"""Images: MNIST, embedded, four data sets by name, folders, shards, pairs, your own tensors; and text."""

from gan.data.folder import ImageFolder
from gan.data.memory import InMemoryDataModule, InMemoryLoader
from gan.data.mnist import MNISTDataModule
from gan.data.paired_folders import PairedFolders
from gan.data.pairs import Degradation, DegradedDataModule, Downsample, Grey, Mask
from gan.data.rescaled import Rescaled
from gan.data.stream import StreamDataModule
from gan.data.text import TextDataModule
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
    "TextDataModule",
    "TorchvisionDataModule",
]
