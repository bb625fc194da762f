"""Runs to prescribe for: that of the default config, and changes to it."""

import copy

import yaml
from conftest import ROOT

from gan.gradients.patient import Part, Patient

DEFAULT = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text(encoding="utf-8"))
OWN = {
    name: Part({"class_path": f"mine.{kind}", "init_args": {"width": 8}}, {"width": ()}, f"{kind} (mine.py, line 3)")
    for name, kind in (("generator", "G"), ("discriminator", "D"))
}


def patient(
    batches=300, batch_size=64, parts=OWN, data=None, image_shape=(1, 28, 28), clip=None, refuses=frozenset(), **model
) -> Patient:
    """The default with settings of its model changed, of networks of somebody's own; `clip` is GradientClipping's."""
    config = copy.deepcopy({**DEFAULT, "model": {**DEFAULT["model"], **model}})
    if clip is not None:
        config["trainer"]["callbacks"].append({"class_path": "gan.callbacks.GradientClipping", "init_args": clip})
    mnist = Part(
        {"class_path": "gan.data.MNISTDataModule", "init_args": {"batch_size": batch_size}}, {"batch_size": ()}
    )
    return Patient(config, {**parts, "data": data or mnist}, batches, batch_size, image_shape, 16, refuses)


def adam(lr: float = 0.002, betas=(0.0, 0.9)) -> dict:
    return {"class_path": "torch.optim.Adam", "init_args": {"lr": lr, "betas": list(betas)}}


def penalty(name: str, weight: float, every: int = 1) -> dict:
    return {"class_path": f"gan.penalties.{name}", "init_args": {"weight": weight, "every": every}}


def loss(name: str) -> dict:
    return {"class_path": f"gan.losses.{name}"}
