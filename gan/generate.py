"""What a trained generator is for: images, and a form of it that runs without this project."""

import io
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from gan.checkpoints import check_checkpoint, checkpoint_in, read
from gan.errors import GANError, counted
from gan.images import image_grid, to_pil, to_uint8
from gan.module import GAN
from gan.paths import local_path


def sample(
    ckpt: str,
    out: str,
    num: int = 64,
    seed: int = 0,
    classes: int | str | list[int] | None = None,
    trust: str | list[str] | None = None,
) -> None:
    """Writes images that the generator of a checkpoint makes.

    Args:
        ckpt: A checkpoint of a run, such as runs/default/TIME/checkpoints/last.ckpt; or the folder of the run, or that
            of its checkpoints, for the best or, where nothing was scored, the last.
        out: FILE.png for one grid, FILE.npy for a uint8 array (N, H, W) or (N, H, W, C), a folder for one PNG each. Of
            classes, the grid has a column for each, FILE.labels.npy has the int64 labels (N,), and names end in them.
        num: How many images.
        seed: Seeds the latents: the same seed gives the same images, and a larger num the same ones and more.
        classes: What a conditional generator draws, in turn: a class, or several as 0,1,2; all if not given.
        trust: Packages whose classes the checkpoint may import, besides this one and torch's: my_package, or a list.

    Raises:
        ValueError: If the checkpoint cannot be used, or the images cannot be written.
    """
    if not num >= 1:
        raise GANError(f"--num must be at least 1 image, got {num}")
    path = local_path(out, "--out")
    if path.suffix not in (".png", ".npy", ""):
        raise GANError(f"--out {out}: give a file that ends in .png or .npy, or a folder")
    ckpt = str(checkpoint_in(ckpt))
    gan = load(ckpt, trust)
    wanted = wanted_classes(classes, gan)
    labels = torch.tensor(wanted)[torch.arange(num) % len(wanted)] if wanted else None
    images = gan.sample(num, seed, labels)
    try:
        if path.suffix == ".png":
            path.parent.mkdir(parents=True, exist_ok=True)
            columns = len(wanted) if len(wanted) > 1 else None
            to_pil(image_grid(images, columns)).save(path)
        elif path.suffix == ".npy":
            path.parent.mkdir(parents=True, exist_ok=True)
            save_array(images, path)
            if labels is not None:
                save_labels(labels, path.with_suffix(".labels.npy"))
        else:
            path.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(to_uint8(images)):
                of_class = "" if labels is None else f"_{labels[number]}"
                to_pil(image).save(path / f"{number:06d}{of_class}.png")
    except OSError as error:
        raise GANError(f"cannot write --out {out}: {error}") from error
    of_classes = f", class{'es' * (len(wanted) > 1)} {', '.join(map(str, wanted))} in turn" if wanted else ""
    print(f"{counted(num, 'image')} of {ckpt} (seed {seed}{of_classes}): {path}")


def wanted_classes(classes: int | str | list[int] | None, gan: GAN) -> list[int]:
    """The classes to draw, those of `--classes`, or all; none of a generator that knows none.

    Raises:
        ValueError: If the generator does not know them.
    """
    if gan.num_classes is None:
        if classes is not None:
            raise GANError(f"--classes {classes}: the generator of this checkpoint is not conditional; leave it out")
        return []
    if classes is None:
        return list(range(gan.num_classes))
    words = classes if isinstance(classes, list) else str(classes).split(",")
    try:
        wanted = [int(word) for word in words]
    except ValueError:
        raise GANError(f"--classes {classes}: give numbers, such as 3 or 0,1,2") from None
    beyond = [label for label in wanted if not 0 <= label < gan.num_classes]
    if beyond or not wanted:
        raise GANError(f"--classes {classes}: this generator has the classes 0 to {gan.num_classes - 1}")
    return wanted


def export(ckpt: str, out: str, trust: str | list[str] | None = None) -> None:
    """Writes the generator of a checkpoint for use without this project: latents (N, latent_dim) in, images out.

    One that is told the class takes int64 labels (N,) too.

    Args:
        ckpt: A checkpoint of a run, such as runs/default/TIME/checkpoints/last.ckpt; or the folder of the run, or that
            of its checkpoints, for the best or, where nothing was scored, the last.
        out: FILE.pt2 for torch.export, or FILE.onnx (needs `pip install "gan[onnx]"`).
        trust: Packages whose classes the checkpoint may import, besides this one and torch's: my_package, or a list.

    Raises:
        ValueError: If the checkpoint cannot be used, or the file cannot be written.
    """
    path = local_path(out, "--out")
    if path.suffix not in (".pt2", ".onnx"):
        raise GANError(f"--out {out}: give a file that ends in .pt2 (torch.export) or .onnx")
    ckpt = str(checkpoint_in(ckpt))
    gan = load(ckpt, trust)
    network = (gan.generator if gan.generator_ema is None else gan.generator_ema).eval()
    network.to(memory_format=torch.contiguous_format)  # the formats have no channels_last
    latents = torch.zeros(2, gan.latent_dim)  # 2, since torch.export takes a dimension of 1 for a constant
    labels = gan.classes_in_turn(2)
    inputs = (latents,) if labels is None else (latents, labels)
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, inputs, dynamic_shapes=[{0: batch} for _ in inputs])
    shape = ", ".join(map(str, gan(latents).shape[1:]))
    about = {"latents": f"float32 (batch, latent) with latent = {gan.latent_dim}, independent and standard normal"}
    if gan.num_classes is not None:
        about["labels"] = f"int64 (batch,), the class of each image, 0 to {gan.num_classes - 1}"
    about["images"] = f"float32 (batch, {shape}), from -1 (black) to 1 (white)"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".pt2":
            content = io.BytesIO()
            torch.export.save(program, content, extra_files={"about.json": json.dumps(about)})
            path.write_bytes(content.getbuffer())  # torch reports a file that it cannot write as RuntimeError
        else:
            to_onnx(program, path, about)
    except OSError as error:
        raise GANError(f"cannot write --out {out}: {error}") from error
    print(f"generator of {ckpt}: {path}")
    for name, what in about.items():
        print(f"  {name:8} {what}")


def load(ckpt: str, trust: str | list[str] | None = None) -> GAN:
    """The GAN of a checkpoint, on the CPU and in evaluation mode.

    Raises:
        ValueError: If the file is missing, damaged, or not a checkpoint of this project, or names other classes.
    """
    known = check_checkpoint(ckpt)["hyper_parameters"]
    given = {} if "discriminator" in known else {"discriminator": nn.Identity()}  # images come without one
    for network in given.values():
        network.register_load_state_dict_pre_hook(lambda module, weights, *_: weights.clear())
    file = ckpt
    if Path(ckpt).is_dir():
        file = io.BytesIO()  # Lightning takes one file
        torch.save(read(ckpt), file)
        file.seek(0)
    return GAN.load_from_checkpoint(file, map_location="cpu", weights_only=True, trust=trust, **given).eval()


def save_array(images: Tensor, path: Path) -> None:
    """Writes images (N, C, H, W) in [-1, 1] as a uint8 array, channels last."""
    import numpy as np

    array = to_uint8(images).permute(0, 2, 3, 1).numpy()  # (N, H, W, C)
    np.save(path, array[..., 0] if array.shape[3] == 1 else array)


def save_labels(labels: Tensor, path: Path) -> None:
    """Writes int64 labels (N,) as an array."""
    import numpy as np

    np.save(path, labels.numpy())


def to_onnx(program: torch.export.ExportedProgram, path: Path, about: dict[str, str]) -> None:
    """Writes a generator, as torch has exported it, in the form of ONNX.

    Args:
        program: The generator.
        path: The file.
        about: What it takes and gives, which goes into the file too.

    Raises:
        ValueError: If the packages that translate it are missing.
    """
    try:
        import onnxscript  # noqa: F401  torch.onnx imports it too, with a less helpful error
    except ImportError as error:
        raise GANError('ONNX needs two more packages: pip install "gan[onnx]"') from error
    exported = torch.onnx.export(
        program,
        input_names=[name for name in about if name != "images"],
        output_names=["images"],
        external_data=False,
        verbose=False,
    )
    assert exported is not None  # since it was given no file
    model = exported.model_proto
    (symbol,) = {dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim if dim.dim_param}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = dim.dim_param.replace(symbol, "batch")
    model.graph.input[0].type.tensor_type.shape.dim[1].denotation = "latent"
    for name, what in about.items():
        model.metadata_props.add(key=name, value=what)
    path.write_bytes(model.SerializeToString())
