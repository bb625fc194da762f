"""Images and exports against the generator of the checkpoint, loaded by hand."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import PAIRS, PROJECTION, TRANSLATION, TRUSTED, command, fit, load
from conftest import mnist, same_weights
from lightning import Callback, Trainer
from PIL import Image
from texts import make_data
from texts import make_gan as make_gan_of_texts
from torch import Tensor

from gan import GAN
from gan.callbacks import GeneratorEMA
from gan.data import Downsample, Mask
from gan.data.reading import Unreadable
from gan.errors import GANError
from gan.generate import load as load_gan
from gan.generate import reader_of
from gan.networks import ConditionalDCGANGenerator, DCGANGenerator, MLPDiscriminator, MLPGenerator, UNetGenerator
from gan.noise import keyed
from gan.text import decoded


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def grey(tmp_path_factory) -> Path:
    """A checkpoint with batch norm, whose averaged generator is far from the present one."""
    words = ["--model.generator", "DCGANGenerator", "--model.generator.base_channels", "4", "--trainer.max_steps", "12"]
    return fit(tmp_path_factory.mktemp("grey") / "run", *words)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory) -> Path:
    return fit(tmp_path_factory.mktemp("coloured") / "run", "--data", "commands.Colour")


@pytest.fixture(scope="module")
def without_average(tmp_path_factory) -> Path:
    words = ["--trainer.callbacks", "[gan.callbacks.RunCheckpoint]"]
    return fit(tmp_path_factory.mktemp("plain") / "run", *words)


def by_hand(checkpoint: Path, num: int, seed: int, prefix: str = "generator_ema.") -> Tensor:
    """Images (N, C, H, W) in [-1, 1] by nothing of `gan.generate`, `GAN` or Lightning."""
    state = load(checkpoint)["state_dict"]
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if "project.weight" in weights:
        network = DCGANGenerator((1, 28, 28), 8, base_channels=4)
    else:
        shape = {784: (1, 28, 28), 3072: (3, 32, 32)}[len(weights["output.bias"])]
        network = MLPGenerator(shape, 8)
    network.load_state_dict(weights)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return network.eval()(torch.randn(80, 8, generator=rng)[:num])


def in_bytes(images: Tensor) -> np.ndarray:
    """(N, H, W, C), 0 to 255; in float32, where a value between two levels falls on the same side."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def sample(checkpoint, out, *words) -> np.ndarray | None:
    command("sample", "--ckpt", checkpoint, "--out", out, *words)
    return np.load(out) if str(out).endswith(".npy") else None


# ---------------------------------------------------------------------- sample


def test_array_of_grey_images(grey):
    array = sample(grey, "out.npy", "--num", "5", "--seed", "3")
    assert (array.dtype, array.shape) == (np.uint8, (5, 28, 28))
    assert np.array_equal(array, in_bytes(by_hand(grey, 5, seed=3))[..., 0])


def test_array_of_coloured_images(coloured):
    array = sample(coloured, "out.npy", "--num", "5", "--seed", "3")
    assert (array.dtype, array.shape) == (np.uint8, (5, 32, 32, 3))
    assert np.array_equal(array, in_bytes(by_hand(coloured, 5, seed=3)))


def test_the_averaged_generator_is_taken_where_there_is_one(grey, without_average):
    present = in_bytes(by_hand(grey, 5, seed=3, prefix="generator."))[..., 0]
    assert not np.array_equal(sample(grey, "out.npy", "--num", "5", "--seed", "3"), present)
    present = in_bytes(by_hand(without_average, 5, seed=3, prefix="generator."))[..., 0]
    assert np.array_equal(sample(without_average, "out.npy", "--num", "5", "--seed", "3"), present)


@pytest.mark.parametrize("fixture", ["grey", "coloured"])
def test_grid(request, fixture):
    """Five images: three columns, two rows, two pixels of white around each, and black where there is none."""
    checkpoint = request.getfixturevalue(fixture)
    sample(checkpoint, "folder/of/its/own/out.png", "--num", "5", "--seed", "3")
    images = in_bytes(by_hand(checkpoint, 5, seed=3))
    size = images.shape[1]
    grid = np.array(Image.open("folder/of/its/own/out.png").convert("RGB"))
    assert grid.shape == (2 * (size + 2) + 2, 3 * (size + 2) + 2, 3)
    for number, image in enumerate(images):
        row, column = divmod(number, 3)
        top, left = 2 + row * (size + 2), 2 + column * (size + 2)
        assert np.array_equal(grid[top : top + size, left : left + size], np.broadcast_to(image, (size, size, 3)))
    assert (grid[:2] == 255).all()
    assert (grid[:, :2] == 255).all()


@pytest.mark.parametrize(("fixture", "mode"), [("grey", "L"), ("coloured", "RGB")])
def test_folder(request, fixture, mode):
    checkpoint = request.getfixturevalue(fixture)
    sample(checkpoint, "pictures", "--num", "3", "--seed", "3")
    paths = sorted(Path("pictures").iterdir())
    assert [path.name for path in paths] == ["000000.png", "000001.png", "000002.png"]
    for path, image in zip(paths, in_bytes(by_hand(checkpoint, 3, seed=3)), strict=True):
        with Image.open(path) as picture:
            assert picture.mode == mode
            assert np.array_equal(np.array(picture).reshape(image.shape), image)


def test_same_seed_same_images_and_more_of_them(grey):
    torch.manual_seed(1)  # the state of the process must not matter
    few = sample(grey, "few.npy", "--num", "3", "--seed", "3")
    torch.manual_seed(2)
    many = sample(grey, "many.npy", "--num", "70", "--seed", "3")
    other = sample(grey, "other.npy", "--num", "3", "--seed", "4")
    assert np.array_equal(few, many[:3])
    assert not np.array_equal(few, other)
    assert len(np.unique(many.reshape(70, -1), axis=0)) == 70


def test_default_is_64_images_of_seed_0(grey):
    assert np.array_equal(sample(grey, "out.npy"), in_bytes(by_hand(grey, 64, seed=0))[..., 0])


def test_the_folder_of_a_run_stands_for_its_best_or_its_last(grey, capsys, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(grey.parents[1], run)
    last = run / "checkpoints" / "last.ckpt"
    (run / "checkpoints" / "best.ckpt").unlink(missing_ok=True)
    images = sample(run, "last.npy")
    assert f"images of {last} (seed 0)" in capsys.readouterr().out
    assert np.array_equal(images, sample(last, "same.npy"))
    shutil.copyfile(last, last.with_name("best.ckpt"))
    command("export", "--ckpt", run, "--out", "g.pt2")
    assert "best.ckpt" in capsys.readouterr().out
    command("validate", "--ckpt_path", run, *TRUSTED)
    assert "validation/discriminator" in capsys.readouterr().out


def test_one_place_for_one_path(grey, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    shutil.copytree(grey.parent, tmp_path / "home" / "checkpoints")
    command("sample", "--ckpt=~/checkpoints", "--out=$DISK/x.npy")
    command("export", "--ckpt", "$HOME/checkpoints/last.ckpt", "--out", "~/x.pt2")
    assert (tmp_path / "disk" / "x.npy").is_file()
    assert (tmp_path / "home" / "x.pt2").is_file()
    assert GAN.load_from_checkpoint("~/checkpoints/last.ckpt").latent_dim == 8
    assert {path.name for path in tmp_path.iterdir()} == {"home", "disk"}


@pytest.mark.parametrize("words", [["--ckpt", "hf://owner/name"], ["--out", "s3://bucket/x.png"]])
def test_a_url_is_refused(grey, refused, words):
    for name in ("sample", "export"):
        words = [word.replace("png", "pt2") if name == "export" else word for word in words]
        out = "x.png" if name == "sample" else "x.pt2"
        assert "is a URL, and files are read and written" in refused(name, "--ckpt", grey, "--out", out, *words)
    with pytest.raises(GANError, match="is a URL"):
        GAN.load_from_checkpoint("https://host/x.ckpt")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("which", ["grey", "coloured", "without_average"])
@pytest.mark.parametrize(("num", "seed"), [(1, 0), (20, 7)])
def test_the_same_images_in_python(request, which, num, seed):
    """Of a module in training mode too, which stays in it."""
    checkpoint = request.getfixturevalue(which)
    gan = GAN.load_from_checkpoint(checkpoint, trust="conftest").train()
    images = gan.sample(num, seed)
    assert (images.dtype, images.device.type, images.requires_grad) == (torch.float32, "cpu", False)
    expected = by_hand(checkpoint, num, seed, "generator." if which == "without_average" else "generator_ema.")
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    found = sample(checkpoint, "out.npy", "--num", num, "--seed", seed)
    assert np.array_equal(found.reshape(num, *found.shape[1:3], -1), in_bytes(images))
    assert gan.generator.training


class Sampling(Callback):
    """Draws images amid training."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        pl_module.sample(3, seed=trainer.global_step)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_images_in_python_do_not_change_training(make_trainer, data, precision):
    def trained(*callbacks):
        torch.manual_seed(0)
        networks = DCGANGenerator((1, 28, 28), 8, base_channels=4), MLPDiscriminator((1, 28, 28))
        gan = GAN(*networks)
        make_trainer(max_steps=3, callbacks=[GeneratorEMA(), *callbacks], precision=precision).fit(gan, data)
        return gan, torch.rand(1)

    (one, after_one), (two, after_two) = trained(Sampling()), trained()
    assert same_weights(one, two)
    assert torch.equal(after_one, after_two)
    assert one.sample(2).dtype == torch.float32


def test_no_number_of_images():
    gan = GAN(MLPGenerator((1, 28, 28), 8), MLPDiscriminator((1, 28, 28)))
    for num in (0, -1):
        with pytest.raises(GANError, match="num must be at least 1 image"):
            gan.sample(num)


@pytest.mark.parametrize("batch", [1, 7, 20])
def test_batch_size_does_not_matter(grey, monkeypatch, batch):
    """Latents drawn batch by batch, or batch norm in training mode, would show."""
    whole = sample(grey, "whole.npy", "--num", "20").astype(int)
    monkeypatch.setattr("gan.module.SAMPLE_BATCH", batch)
    parts = sample(grey, "parts.npy", "--num", "20").astype(int)
    assert np.abs(whole - parts).max() <= 1  # sums of another batch size are taken in another order
    assert (whole != parts).mean() < 1e-3


def test_sample_says_what_it_wrote_and_leaves_the_run_alone(grey, capsys):
    before = {path: path.read_bytes() for path in grey.parents[1].rglob("*") if path.is_file()}
    sample(grey, "out.png", "--num", "2", "--seed", "9")
    assert capsys.readouterr() == (f"2 images of {grey} (seed 9): out.png\n", "")
    assert {path: path.read_bytes() for path in grey.parents[1].rglob("*") if path.is_file()} == before
    assert [path.name for path in Path().iterdir()] == ["out.png"]


# ---------------------------------------------------------------------- export


@pytest.mark.parametrize("fixture", ["grey", "coloured", "without_average"])
def test_pt2(request, fixture, capsys):
    """Loaded without this project's help, for the batch size of the example, fewer and more."""
    checkpoint = request.getfixturevalue(fixture)
    capsys.readouterr()
    command("export", "--ckpt", checkpoint, "--out", "folder/generator.pt2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"generator of {checkpoint}: folder/generator.pt2"
    files = {"about.json": ""}
    network = torch.export.load("folder/generator.pt2", extra_files=files).module()
    about = json.loads(files["about.json"])
    assert lines[1:] == [f"  latents  {about['latents']}", f"  images   {about['images']}"]
    assert about["latents"] == "float32 (batch, latent) with latent = 8, independent and standard normal"
    shape = "3, 32, 32" if fixture == "coloured" else "1, 28, 28"
    assert about["images"] == f"float32 (batch, {shape}), from -1 (black) to 1 (white)"
    prefix = "generator." if fixture == "without_average" else "generator_ema."
    for num in (1, 2, 5, 64):
        latents = torch.randn(80, 8, generator=torch.Generator().manual_seed(5))[:num]
        torch.testing.assert_close(network(latents), by_hand(checkpoint, num, seed=5, prefix=prefix))


@pytest.mark.parametrize("fixture", ["grey", pytest.param("coloured", marks=pytest.mark.slow)])
def test_onnx(request, fixture, capfd):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    checkpoint = request.getfixturevalue(fixture)
    capfd.readouterr()
    command("export", "--ckpt", checkpoint, "--out", "generator.onnx")
    output, errors = capfd.readouterr()
    assert (output.splitlines()[0], errors) == (f"generator of {checkpoint}: generator.onnx", "")  # and none of torch's
    assert len(output.splitlines()) == 3
    assert [path.name for path in Path().iterdir()] == ["generator.onnx"]  # the weights are in it
    session = onnxruntime.InferenceSession("generator.onnx", providers=["CPUExecutionProvider"])
    assert [tensor.name for tensor in session.get_inputs()] == ["latents"]
    assert [tensor.name for tensor in session.get_outputs()] == ["images"]
    (latents,), (images,) = session.get_inputs(), session.get_outputs()
    assert latents.shape == ["batch", 8]
    assert images.shape[0] == "batch"
    about = session.get_modelmeta().custom_metadata_map
    assert "latent = 8, independent and standard normal" in about["latents"]
    assert "from -1 (black) to 1 (white)" in about["images"]
    import onnx

    onnx.checker.check_model("generator.onnx", full_check=True)
    assert onnx.load("generator.onnx").graph.input[0].type.tensor_type.shape.dim[1].denotation == "latent"
    for num in (1, 2, 5, 64):
        latents = torch.randn(80, 8, generator=torch.Generator().manual_seed(5))[:num]
        (images,) = session.run(["images"], {"latents": latents.numpy()})
        torch.testing.assert_close(torch.from_numpy(images), by_hand(checkpoint, num, seed=5), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pt2", "onnx"])
@pytest.mark.parametrize("network", ["DCGANGenerator", "ResNetGenerator"])
def test_export_of_a_deeper_network_with_attention(tmp_path, network, form):
    """64x64, halved four times, with attention at 16x16 that has begun to see something."""
    words = ["--model.generator", f"gan.networks.{network}", "--model.generator.base_channels", "4"]
    words += ["--model.generator.attention_resolution", "16", "--data", "commands.Large", "--trainer.max_steps", "4"]
    checkpoint = fit(tmp_path / "run", *words)
    command("export", "--ckpt", checkpoint, "--out", f"generator.{form}", *TRUSTED)
    gan = GAN.load_from_checkpoint(checkpoint, weights_only=True)
    assert gan.generator_ema.attention.gamma.abs() > 1e-4
    for num in (1, 2, 5):
        latents = torch.randn(num, 8, generator=torch.Generator().manual_seed(5))
        if form == "pt2":
            images = torch.export.load("generator.pt2").module()(latents)
        else:
            onnxruntime = pytest.importorskip("onnxruntime")
            session = onnxruntime.InferenceSession("generator.onnx", providers=["CPUExecutionProvider"])
            images = torch.from_numpy(session.run(["images"], {"latents": latents.numpy()})[0])
        torch.testing.assert_close(images, gan(latents), rtol=0, atol=5e-5)


# ---------------------------------------------------------------------- classes


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Path:
    return fit(tmp_path_factory.mktemp("told") / "run", *PROJECTION, "--trainer.max_steps", "12")


def of_classes(checkpoint: Path, num: int, labels: Tensor, seed: int = 0) -> Tensor:
    state = load(checkpoint)["state_dict"]
    network = ConditionalDCGANGenerator((1, 28, 28), 10, 8, base_channels=4)
    prefix = "generator_ema."
    network.load_state_dict({key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})
    latents = torch.randn(80, 8, generator=torch.Generator().manual_seed(seed))[:num]
    with torch.no_grad():
        return network.eval()(latents, labels)


@pytest.mark.parametrize(
    ("words", "classes"), [([], range(10)), (["--classes", "3"], [3]), (["--classes", "7,0"], [7, 0])]
)
def test_classes_in_turn_with_their_labels_beside(told, words, classes, capsys):
    labels = torch.tensor([*classes])[torch.arange(23) % len(classes)]
    array = sample(told, "out.npy", "--num", "23", "--seed", "4", *words)
    np.testing.assert_array_equal(array, in_bytes(of_classes(told, 23, labels, 4))[..., 0])
    np.testing.assert_array_equal(np.load("out.labels.npy"), labels.numpy())
    assert np.load("out.labels.npy").dtype == np.int64
    many = len(classes) > 1
    of_classes_said = f"class{'es' * many} {', '.join(map(str, classes))}{' in turn' * many}"
    assert f"(seed 4, {of_classes_said}): out.npy" in capsys.readouterr().out


def test_grid_of_classes_has_a_column_for_each_and_files_are_called_by_them(told):
    sample(told, "out.png", "--num", "20")
    assert Image.open("out.png").size == (10 * 30 + 2, 2 * 30 + 2)
    sample(told, "folder", "--num", "3", "--classes", "4,2")
    assert sorted(path.name for path in Path("folder").iterdir()) == ["000000_4.png", "000001_2.png", "000002_4.png"]


def test_python_draws_the_classes_that_it_is_given(told):
    gan = GAN.load_from_checkpoint(told, weights_only=True)
    labels = torch.tensor([5, 5, 1])
    torch.testing.assert_close(gan.sample(3, seed=2, condition=labels), of_classes(told, 3, labels, 2))
    torch.testing.assert_close(gan.sample(3, seed=2), of_classes(told, 3, torch.arange(3), 2))


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_export_takes_labels(told, form, capsys):
    out = f"generator.{form}"
    command("export", "--ckpt", told, "--out", out)
    assert "  labels   int64 (batch,), the class of each image, 0 to 9" in capsys.readouterr().out
    for num in (1, 2, 5, 64):
        latents = torch.randn(80, 8, generator=torch.Generator().manual_seed(0))[:num]
        labels = torch.arange(num) * 3 % 10
        if form == "pt2":
            images = torch.export.load(out).module()(latents, labels)
        else:
            onnxruntime = pytest.importorskip("onnxruntime")
            session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
            assert [(tensor.name, tensor.shape[0]) for tensor in session.get_inputs()] == [
                ("latents", "batch"),
                ("labels", "batch"),
            ]
            inputs = {"latents": latents.numpy(), "labels": labels.numpy()}
            images = torch.from_numpy(session.run(["images"], inputs)[0])
        torch.testing.assert_close(images, of_classes(told, num, labels), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("fixture", "classes", "message"),
    [
        ("told", "12", "--classes 12: this generator has the classes 0 to 9"),
        ("told", "0,-1", "--classes 0,-1: this generator has the classes 0 to 9"),
        ("told", "three", "--classes three: give numbers, such as 3 or 0,1,2"),
        ("grey", "1", "--classes 1: the generator of this checkpoint is not conditional; leave it out"),
    ],
)
def test_classes_that_there_are_not(request, refused, capsys, fixture, classes, message):
    checkpoint = request.getfixturevalue(fixture)
    capsys.readouterr()  # of the run that made it
    assert message in refused("sample", "--ckpt", checkpoint, "--out", "x.png", "--classes", classes)


# ---------------------------------------------------------------------- images


@pytest.fixture(scope="module")
def enlarges(tmp_path_factory) -> Path:
    words = [*PAIRS, "gan.data.Downsample", *TRANSLATION, "--trainer.max_steps", "12"]
    return fit(tmp_path_factory.mktemp("enlarges") / "run", *words)


@pytest.fixture(scope="module")
def fills(tmp_path_factory) -> Path:
    words = [*PAIRS, "gan.data.Mask", *TRANSLATION, "--trainer.max_steps", "12"]
    return fit(tmp_path_factory.mktemp("fills") / "run", *words)


def write_sources(degradation, names, folder="sources") -> Tensor:
    """Writes digits made worse as PNGs, and gives them as uint8 (N, C, H, W)."""
    sources = degradation.degrade(mnist()[0][: len(names)], names)
    Path(folder).mkdir()
    for name, source in zip(names, sources, strict=True):
        Image.fromarray(source.permute(1, 2, 0).numpy().squeeze()).save(Path(folder, name))
    return sources


def of_sources(checkpoint: Path, latents: Tensor, sources: Tensor) -> Tensor:
    """Images (N, C, H, W) by nothing of `gan.generate`, `GAN` or Lightning; of sources in [-1, 1]."""
    state = load(checkpoint)["state_dict"]
    network = UNetGenerator((1, 28, 28), sources.shape[1:], 8, base_channels=4)
    prefix = "generator_ema."
    network.load_state_dict({key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})
    with torch.no_grad():
        return network.eval()(latents, sources)


@pytest.mark.parametrize(("which", "degradation"), [("enlarges", Downsample(4)), ("fills", Mask(12))])
def test_translate(request, capsys, which, degradation):
    """Of each file an image of its name, by its name's latents and its pixels; a transparent hole is a hole."""
    checkpoint = request.getfixturevalue(which)
    names = ["b.png", "a.png", "ü 1.2.png"]
    sources = write_sources(degradation, names)
    capsys.readouterr()
    command("translate", "--ckpt", checkpoint, "--images", "sources", "--out", "new/made", "--seed", "3")
    assert capsys.readouterr().out == f"3 images of sources by {checkpoint} (seed 3): new/made\n"
    assert sorted(path.name for path in Path("new/made").iterdir()) == sorted(names)
    latents = torch.stack([torch.randn(8, generator=keyed(3, "translate", name[:-4])) for name in names])
    expected = in_bytes(of_sources(checkpoint, latents, sources / 127.5 - 1))[..., 0].astype(int)
    for name, image in zip(names, expected, strict=True):
        made = np.asarray(Image.open(Path("new/made", name)))
        assert (made.dtype, made.shape) == (np.uint8, (28, 28))
        assert np.abs(made - image).max() <= 1  # of a batch of another size
        assert (made == image).mean() > 0.99


def test_what_an_image_becomes_depends_on_itself_and_the_seed(enlarges, monkeypatch):
    def made(out, *words):
        command("translate", "--ckpt", enlarges, "--images", "sources", "--out", out, *words)
        return {path.name: np.asarray(Image.open(path)).astype(int) for path in Path(out).iterdir()}

    names = [f"{number}.png" for number in range(7)]
    write_sources(Downsample(4), names)
    seven, again, other = made("one"), made("two"), made("three", "--seed", "1")
    assert list(seven)
    assert all(np.array_equal(seven[name], again[name]) for name in names)
    assert not any(np.array_equal(seven[name], other[name]) for name in names)
    monkeypatch.setattr("gan.generate.SAMPLE_BATCH", 3)
    for name in names[:2]:
        Path("sources", name).unlink()
    five = made("four")
    assert sorted(five) == names[2:]
    assert all(np.abs(five[name] - seven[name]).max() <= 1 for name in five)


def test_what_was_there_is_written_over_and_other_files_are_left(enlarges):
    write_sources(Downsample(4), ["a.png"])
    Path("sources/a.png").rename("sources/a.PNG")
    Path("sources/notes.txt").write_text("precious", encoding="utf-8")
    Path("out").mkdir()
    for name in ("a.png", "b.png"):
        Path("out", name).write_bytes(b"before")
    command("translate", "--ckpt", enlarges, "--images", "sources", "--out", "out")
    assert Image.open("out/a.png").size == (28, 28)
    assert Path("out/b.png").read_bytes() == b"before"


L, LA = Image.new("L", (7, 7), 9), Image.new("LA", (7, 7), (9, 255))


@pytest.mark.parametrize(
    ("channels", "image", "says"),
    [
        (1, L, [9]),
        (1, L.convert("RGB"), [9]),
        (1, Image.new("RGBA", (7, 7), (9, 9, 9, 255)), [9]),
        (1, Image.new("RGB", (7, 7), (9, 9, 8)), "in colour"),
        (1, Image.new("LA", (7, 7), (9, 254)), "transparent in places"),
        (1, Image.new("L", (7, 6), 9), "6 x 7 pixels"),
        (2, LA, [9, 255]),
        (2, Image.new("LA", (7, 7), (9, 0)), [128, 0]),
        (2, Image.new("RGBA", (7, 7), (200, 9, 9, 0)), [128, 0]),  # what nobody sees has no colour
        (2, L, "without alpha"),
        (2, Image.new("RGBA", (7, 7), (200, 9, 9, 255)), "in colour"),
        (3, Image.new("RGB", (7, 7), (1, 2, 3)), [1, 2, 3]),
        (3, L, [9, 9, 9]),
        (3, Image.new("RGBA", (7, 7), (1, 2, 3, 4)), "transparent in places"),
        (4, Image.new("RGBA", (7, 7), (1, 2, 3, 255)), [1, 2, 3, 255]),
        (4, Image.new("RGBA", (7, 7), (1, 2, 3, 0)), [128, 128, 128, 0]),
        (4, LA, [9, 9, 9, 255]),
        (4, Image.new("RGB", (7, 7), (1, 2, 3)), "without alpha"),
    ],
)
def test_a_file_is_taken_if_it_loses_nothing(channels, image, says):
    image.save("x.png")
    read, takes = reader_of((channels, 7, 7))
    assert takes.startswith("This generator takes 7 x 7 pixels, ")
    if isinstance(says, str):
        with pytest.raises(Unreadable, match=says):
            read(Path("x.png"))
    else:
        source = read(Path("x.png"))
        assert (source.dtype, source.shape) == (torch.uint8, (channels, 7, 7))
        assert source[:, 3, 3].tolist() == says


def test_a_file_of_another_size_is_not_read(monkeypatch):
    """It may be small, and of millions of pixels; the head says so. Which way up it is, only the whole file says."""
    Image.new("L", (4000, 3000)).save("large.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("L", (5, 7), 9).save("turned.png", exif=turned)
    read, _ = reader_of((1, 5, 7))
    assert read(Path("turned.png")).shape == (1, 5, 7)
    monkeypatch.setattr("gan.generate.read_image", None)
    with pytest.raises(Unreadable, match="3000 x 4000 pixels"):
        read(Path("large.png"))


def test_sources_are_not_written_over_through_links(enlarges, refused):
    write_sources(Downsample(4), ["a.png", "b.png"])
    Path("some").mkdir()
    Path("some/a.png").symlink_to(Path("sources/a.png").resolve())
    before = Path("sources/a.png").read_bytes()
    line = refused("translate", "--ckpt", enlarges, "--images", "some", "--out", "sources")
    assert "--out sources is where some/a.png leads to, which would be written over" in line
    assert Path("sources/a.png").read_bytes() == before


def test_channels_that_no_file_has():
    with pytest.raises(GANError, match="is told images of 5 channels, and image files have 1 to 4"):
        reader_of((5, 7, 7))


@pytest.mark.parametrize("form", ["pt2", "onnx"])
@pytest.mark.parametrize(("which", "shape"), [("enlarges", (1, 7, 7)), ("fills", (2, 28, 28))])
def test_export_takes_sources(request, which, shape, form, capsys):
    checkpoint = request.getfixturevalue(which)
    out = f"generator.{form}"
    command("export", "--ckpt", checkpoint, "--out", out)
    says = f"float32 (batch, {', '.join(map(str, shape))}), what to make the images of, from -1 (black) to 1 (white)"
    assert f"  sources  {says}" in capsys.readouterr().out
    for num in (1, 2, 5, 64):
        rng = torch.Generator().manual_seed(num)
        latents, sources = torch.randn(num, 8, generator=rng), torch.rand(num, *shape, generator=rng) * 2 - 1
        if form == "pt2":
            files = {"about.json": ""}
            images = torch.export.load(out, extra_files=files).module()(latents, sources)
            assert json.loads(files["about.json"])["sources"] == says
        else:
            onnxruntime = pytest.importorskip("onnxruntime")
            session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
            given = [(tensor.name, tensor.shape) for tensor in session.get_inputs()]
            assert given == [("latents", ["batch", 8]), ("sources", ["batch", *shape])]
            assert session.get_modelmeta().custom_metadata_map["sources"] == says
            inputs = {"latents": latents.numpy(), "sources": sources.numpy()}
            images = torch.from_numpy(session.run(["images"], inputs)[0])
        torch.testing.assert_close(images, of_sources(checkpoint, latents, sources), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("fixture", "message"),
    [
        (
            "grey",
            "is told nothing, and makes images of noise: `translate` is for one that is told images; use `s",
        ),
        ("told", "is told a class: `translate` is for one that is told images; use `sample`"),
    ],
)
def test_translate_by_what_does_not(request, capsys, refused, fixture, message):
    checkpoint = request.getfixturevalue(fixture)
    capsys.readouterr()  # of the run that made it
    assert message in refused("translate", "--ckpt", checkpoint, "--images", "x", "--out", "y")


@pytest.mark.parametrize("words", [[], ["--classes", "3"]])
def test_sample_of_what_translates(enlarges, capsys, refused, words):
    capsys.readouterr()
    line = refused("sample", "--ckpt", enlarges, "--out", "x.png", *words)
    assert f"makes images of others, which `sample` has none of: use `translate --ckpt {enlarges} --images FOLD" in line
    assert list(Path().iterdir()) == []


def test_sources_that_cannot_be_taken(enlarges, capsys, refused):
    """All that is wrong with them in a line, before anything is written."""
    capsys.readouterr()
    words = ["translate", "--ckpt", enlarges, "--images", "sources", "--out", "out"]
    write_sources(Downsample(4), [f"{number}.png" for number in range(5)])
    Image.new("RGB", (7, 7), "red").save("sources/red.png")
    Image.new("L", (28, 28)).save("sources/large.jpg")
    Path("sources/none.png").write_bytes(b"none")
    assert (
        "--images sources has 3 files that cannot be used: large.jpg (28 x 28 pixels), none.png (no image), red.png "
        "(in colour). This generator takes 7 x 7 pixels, grey" in refused(*words)
    )
    assert not Path("out").exists()
    Path("sources/0.jpg").write_bytes(Path("sources/large.jpg").read_bytes())
    assert "--images sources has 0.jpg and 0.png: leave one of that name" in refused(*words)
    shutil.rmtree("sources")
    assert "--images sources cannot be read: No such file or directory" in refused(*words)
    Path("sources").mkdir()
    assert "--images sources has no images, such as files that end in .png or .jpg" in refused(*words)


@pytest.mark.parametrize("out", ["sources", "sources/../sources", "link"])
def test_sources_are_not_written_over(enlarges, capsys, refused, out):
    capsys.readouterr()
    write_sources(Downsample(4), ["a.png"])
    Path("link").symlink_to("sources")
    before = Path("sources/a.png").read_bytes()
    line = refused("translate", "--ckpt", enlarges, "--images", "sources", "--out", out)
    assert f"--out {out} is the folder of --images, which would be written over: give another one" in line
    assert Path("sources/a.png").read_bytes() == before


@pytest.mark.parametrize("out", ["file", "file/x", "folder"])
def test_translation_that_cannot_be_written(enlarges, capsys, refused, out):
    capsys.readouterr()
    write_sources(Downsample(4), ["a.png"])
    Path("file").write_text("precious", encoding="utf-8")
    Path("folder/a.png").mkdir(parents=True)
    line = refused("translate", "--ckpt", enlarges, "--images", "sources", "--out", out)
    assert f"cannot write --out {out}: " in line
    assert Path("file").read_text(encoding="utf-8") == "precious"


# ---------------------------------------------------------------------- refused


@pytest.fixture
def refused(capsys):
    """Runs a command that must be refused, and returns its one line."""

    def refused(*words) -> str:
        with pytest.raises(SystemExit) as stop:
            command(*words)
        output, errors = capsys.readouterr()
        assert stop.value.code == 2
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
        assert output == ""
        return errors

    return refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num", "0"], "--num must be at least 1, got 0"),
        (["--num", "-3"], "--num must be at least 1"),
        (["--num", "many"], '"num"'),
        (["--seed", "x"], '"seed"'),
        (["--out", "out.jpg"], "ends in .png or .npy, or a folder"),
        (["--nope", "1"], "unrecognized arguments: --nope 1"),
    ],
)
def test_bad_sample(grey, refused, words, message):
    assert message in refused("sample", "--ckpt", grey, "--out", "out.png", *words)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("out", ["file/x.png", "file/x.npy", "file/x", "file", "folder.png"])
def test_sample_that_cannot_be_written(grey, refused, out):
    Path("file").write_text("precious", encoding="utf-8")
    Path("folder.png").mkdir()
    assert f"cannot write --out {out}" in refused("sample", "--ckpt", grey, "--out", out, "--num", "2")
    assert Path("file").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("out", ["out.pt", "out", "out.onnx.gz"])
def test_export_of_unknown_form(grey, refused, out):
    assert "ends in .pt2 (torch.export) or .onnx" in refused("export", "--ckpt", grey, "--out", out)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("out", ["file/x.pt2", "file/x.onnx", "folder.pt2", "folder.onnx"])
def test_export_that_cannot_be_written(grey, refused, out):
    Path("file").write_text("precious", encoding="utf-8")
    Path("folder.pt2").mkdir()
    Path("folder.onnx").mkdir()
    assert f"cannot write --out {out}" in refused("export", "--ckpt", grey, "--out", out)


def test_onnx_without_its_packages(grey, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    error = refused("export", "--ckpt", grey, "--out", "generator.onnx")
    assert 'pip install "gan[onnx]"' in error
    assert not Path("generator.onnx").exists()


@pytest.fixture(scope="module")
def novelist(tmp_path_factory) -> Path:
    """A checkpoint of a generator of texts."""
    folder = tmp_path_factory.mktemp("texts")
    data = make_data(folder)
    gan = make_gan_of_texts(data)
    trainer = Trainer(accelerator="cpu", max_steps=1, logger=False, default_root_dir=folder, enable_progress_bar=False)
    trainer.fit(gan, data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def test_texts_are_lines_of_a_file(novelist, capsys):
    command("sample", "--ckpt", novelist, "--num", "3", "--seed", "5", "--out", "texts/lines.txt")
    assert f"3 texts of {novelist} (seed 5): texts/lines.txt" in capsys.readouterr().out
    gan = load_gan(str(novelist))
    lines = Path("texts/lines.txt").read_text(encoding="utf-8").splitlines()
    assert lines == decoded(gan.sample(3, 5), gan.generator.characters)
    assert {len(line) for line in lines} == {12}


@pytest.mark.parametrize("out", ["lines.png", "lines.npy", "folder"])
def test_texts_are_no_images(novelist, refused, out):
    assert "makes texts: give a file that ends in .txt" in refused("sample", "--ckpt", novelist, "--out", out)
    assert list(Path().iterdir()) == []


def test_images_are_no_texts(grey, refused):
    error = refused("sample", "--ckpt", grey, "--out", "lines.txt")
    assert "makes images: give a file that ends in .png or .npy, or a folder" in error


def test_an_exported_generator_of_texts_says_what_its_channels_are(novelist, capsys):
    command("export", "--ckpt", novelist, "--out", "generator.pt2")
    gan = load_gan(str(novelist))
    assert f"of each character of {gan.generator.characters!r}" in capsys.readouterr().out
    latents = torch.randn(3, gan.latent_dim)
    made = torch.export.load("generator.pt2").module()(latents)
    torch.testing.assert_close(made, gan(latents))
