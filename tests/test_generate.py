"""Images and exports against the generator of the checkpoint, loaded by hand."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import PROJECTION, TRUSTED, command, fit, load
from conftest import same_weights
from lightning import Callback
from PIL import Image
from torch import Tensor

from gan import GAN
from gan.callbacks import GeneratorEMA
from gan.errors import GANError
from gan.networks import ConditionalDCGANGenerator, DCGANGenerator, MLPDiscriminator, MLPGenerator


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
    of_classes_said = f"class{'es' * (len(classes) > 1)} {', '.join(map(str, classes))} in turn"
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
        (["--num", "0"], "--num must be at least 1 image, got 0"),
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


def test_sample_without_words(refused):
    assert "required: ckpt, out" in refused("sample")


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
