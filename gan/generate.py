"""What a trained generator is for: images, and a form of it that runs without this project."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from gan.checkpoints import check_checkpoint, checkpoint_in, read
from gan.data.paired_folders import named_images, of_each, read_source
from gan.data.reading import Mode, Unreadable, read_image, read_mode, read_size
from gan.errors import GANError, counted
from gan.images import image_grid, to_float, to_pil, to_uint8
from gan.module import GAN, SAMPLE_BATCH
from gan.noise import keyed
from gan.paths import local_path
from gan.text import decoded, in_lines, noun


def sample(
    ckpt: str,
    out: str,
    num: int = 64,
    seed: int = 0,
    classes: int | str | list[int] | None = None,
    trust: str | list[str] | None = None,
) -> None:
    """Writes images, or texts, that the generator of a checkpoint makes.

    Args:
        ckpt: A checkpoint of a run, such as runs/default/TIME/checkpoints/last.ckpt; or the folder of the run, or that
            of its checkpoints, for the best or, where nothing was scored, the last.
        out: FILE.png for one grid, FILE.npy for a uint8 array (N, H, W) or (N, H, W, C), a folder for one PNG each, or
            FILE.txt for texts, one a line. Of classes, the grid has a column for each, FILE.labels.npy has the int64
            labels (N,), and names end in them.
        num: How many images, or texts.
        seed: Seeds the latents: the same seed gives the same images, and a larger num the same ones and more.
        classes: What a conditional generator draws, in turn: a class, or several as 0,1,2; all if not given.
        trust: Packages whose classes the checkpoint may import, besides this one and torch's: my_package, or a list.

    Raises:
        ValueError: If the checkpoint cannot be used, or the images cannot be written.
    """
    if not num >= 1:
        raise GANError(f"--num must be at least 1, got {num}")
    path = local_path(out, "--out")
    if path.suffix not in (".png", ".npy", ".txt", ""):
        raise GANError(
            f"--out {out}: give a file that ends in .png or .npy, or a folder; of texts, one that ends in .txt"
        )
    ckpt = str(checkpoint_in(ckpt))
    gan = load(ckpt, trust)
    if gan.condition_shape is not None:
        raise GANError(
            f"the generator of {ckpt} makes images of others, which `sample` has none of: use `translate --ckpt {ckpt} "
            "--images FOLDER --out FOLDER`"
        )
    characters = getattr(gan.generator, "characters", None)
    if (path.suffix == ".txt") != (characters is not None):
        makes, ends = ("images", ".png or .npy, or a folder") if characters is None else ("texts", ".txt")
        raise GANError(f"--out {out}: the generator of {ckpt} makes {makes}: give a file that ends in {ends}")
    wanted = wanted_classes(classes, gan)
    labels = torch.tensor(wanted)[torch.arange(num) % len(wanted)] if wanted else None
    images = gan.sample(num, seed, labels)
    try:
        if characters is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(in_lines(decoded(images, characters)), "utf-8")
        elif path.suffix == ".png":
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
    many = len(wanted) > 1
    of_classes = f", class{'es' * many} {', '.join(map(str, wanted))}{' in turn' * many}" if wanted else ""
    print(f"{counted(num, noun(gan.generator))} of {ckpt} (seed {seed}{of_classes}): {path}")


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


def translate(ckpt: str, images: str, out: str, seed: int = 0, trust: str | list[str] | None = None) -> None:
    """Writes what the generator of a checkpoint makes of images: of each one, a PNG of the same name.

    Args:
        ckpt: A checkpoint of a run, such as runs/superres/TIME/checkpoints/last.ckpt; or the folder of the run, or that
            of its checkpoints, for the best or, where nothing was scored, the last.
        images: Folder of image files of the size that the generator is told; folders in it are not looked at. Of a
            generator that fills holes, these are where a file is transparent.
        out: Folder for the images that are made.
        seed: Seeds the latents: those of an image depend on the seed and on its name alone.
        trust: Packages whose classes the checkpoint may import, besides this one and torch's: my_package, or a list.

    Raises:
        ValueError: If the checkpoint or an image cannot be used, or the images cannot be written.
    """
    given, path = local_path(images, "--images"), local_path(out, "--out")
    if given.exists() and path.exists() and path.samefile(given):
        raise GANError(f"--out {out} is the folder of --images, which would be written over: give another one")
    ckpt = str(checkpoint_in(ckpt))
    gan = load(ckpt, trust)
    if gan.condition_shape is None:
        told = f"nothing, and makes {noun(gan.generator)}s of noise" if gan.num_classes is None else "a class"
        raise GANError(
            f"the generator of {ckpt} is told {told}: `translate` is for one that is told images; use `sample`"
        )
    files = named_images(given, "--images")
    linked = next((file for file in files.values() if file.resolve().parent == path.resolve()), None)
    if linked is not None:
        raise GANError(
            f"--out {out} is where {linked} leads to, which would be written over: give a folder without sources"
        )
    read, takes = reader_of(gan.condition_shape)
    of_each(lambda path: read(path).shape, [*files.values()], "--images", takes)  # all, before anything is written
    names = list(files)
    try:
        path.mkdir(parents=True, exist_ok=True)
        for first in range(0, len(names), SAMPLE_BATCH):
            part = names[first : first + SAMPLE_BATCH]
            sources = torch.stack(of_each(read, [files[name] for name in part], "--images", takes))
            latents = [torch.randn(gan.latent_dim, generator=keyed(seed, "translate", name)) for name in part]
            made = to_uint8(gan(torch.stack(latents), to_float(sources)))
            for name, image in zip(part, made, strict=True):
                to_pil(image).save(path / f"{files[name].stem}.png")
    except OSError as error:
        raise GANError(f"cannot write --out {out}: {error}") from error
    print(f"{counted(len(names), 'image')} of {images} by {ckpt} (seed {seed}): {path}")


MODES: dict[int, tuple[Mode, str]] = {
    1: ("L", "grey"),
    2: ("LA", "grey with alpha"),
    3: ("RGB", "colour"),
    4: ("RGBA", "colour with alpha"),
}


def reader_of(shape: tuple[int, int, int]) -> tuple[Callable[[Path], Tensor], str]:
    """What reads the file of a source of a shape (channels, height, width) as uint8, and what it takes, in words.

    Raises:
        ValueError: If no image file has so many channels.
    """
    channels, height, width = shape
    if channels not in MODES:
        raise GANError(f"this generator is told images of {channels} channels, and image files have 1 to 4: use Python")
    mode, kind = MODES[channels]

    def read(path: Path) -> Tensor:
        size = read_size(path)  # before any pixel: a small file can have millions
        if sorted(size) != sorted((height, width)):
            raise Unreadable(f"{size[0]} x {size[1]} pixels")
        whole = read_image(path, mode="RGBA")
        colours, seen = whole[:3], whole[3:] > 0
        if whole.shape[1:] != (height, width):
            raise Unreadable(f"{whole.shape[1]} x {whole.shape[2]} pixels")
        if channels in (1, 2) and ((colours != colours[:1]) & seen).any():
            raise Unreadable("in colour")
        if channels in (1, 3) and (whole[3] < 255).any():
            raise Unreadable("transparent in places")
        if channels in (2, 4) and not read_mode(path).endswith("A"):
            raise Unreadable("without alpha")
        return read_source(path, mode)

    return read, f"This generator takes {height} x {width} pixels, {kind}"


def export(ckpt: str, out: str, trust: str | list[str] | None = None) -> None:
    """Writes the generator of a checkpoint for use without this project: latents (N, latent_dim) in, images out.

    One that is told the class takes int64 labels (N,) too, and one that is told images takes those.

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
    condition = gan.trial_condition(2)
    inputs = (latents,) if condition is None else (latents, condition)
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, inputs, dynamic_shapes=[{0: batch} for _ in inputs])
    shape = ", ".join(map(str, gan(latents, condition).shape[1:]))
    about = {"latents": f"float32 (batch, latent) with latent = {gan.latent_dim}, independent and standard normal"}
    if gan.num_classes is not None:
        about["labels"] = f"int64 (batch,), the class of each image, 0 to {gan.num_classes - 1}"
    if gan.condition_shape is not None:
        of_source = ", ".join(map(str, gan.condition_shape))
        about["sources"] = f"float32 (batch, {of_source}), what to make the images of, from -1 (black) to 1 (white)"
    about["images"] = f"float32 (batch, {shape}), from -1 (black) to 1 (white)"
    if (characters := getattr(gan.generator, "characters", None)) is not None:
        del about["images"]
        about["texts"] = f"float32 (batch, {shape}), the probability at each place of each character of {characters!r}"
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
        input_names=[*about][:-1],
        output_names=[*about][-1:],
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
