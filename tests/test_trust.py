"""What a file brings never runs: every door, every setting, every way to name code."""

import json
import sys
from pathlib import Path

import pytest
import torch
from commands import SMALL, command, fit, load

from gan import GAN
from gan.trust import can_import, check_hyper_parameters, check_names, imports_of, named_in, packages

CODE = "import os\nos.system('touch {mark}')\nfrom torch.nn import Module\ndef forward(self): pass\n"
SETTINGS = [
    "generator",
    "discriminator",
    "loss",
    "penalties",
    "augment",
    *(f"{n}_{k}" for n in ("generator", "discriminator") for k in ("optimizer", "scheduler")),
]
DOORS = ["sample", "translate", "export", "validate", "test", "resume", "python"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return fit(tmp_path_factory.mktemp("trust") / "run")


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """The file that appears when code has run. `evil` is a module that makes it when it is imported."""
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w')\nfrom torch import nn\nclass Net(nn.Module): pass\n"
    (tmp_path / "evil.py").write_text(code, encoding="utf-8")
    (tmp_path / "évil.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "hidden.txt").write_text("class_path: evil.Net\n", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "first").write_text("x: second\n", encoding="utf-8")
    (tmp_path / "sub" / "second").write_text("class_path: evil.Net\n", encoding="utf-8")
    yield mark
    sys.modules.pop("evil", None)


def function(mark) -> dict:
    body = {"_code": CODE.format(mark=mark)}
    return {"class_path": "torch.fx.graph_module.reduce_graph_module", "init_args": {"body": body, "import_block": ""}}


WAYS = {  # a spec, and what the line says
    "function": (function, "--trust torch"),
    "function as text": (lambda mark: json.dumps(function(mark)), "path of a class|--trust torch"),
    "function within": (
        lambda mark: {"class_path": "torch.nn.TransformerEncoder", "init_args": {"encoder_layer": function(mark)}},
        "--trust torch",
    ),
    "function within, as text": (
        lambda mark: {
            "class_path": "torch.nn.TransformerEncoder",
            "init_args": {"encoder_layer": json.dumps(function(mark))},
        },
        "--trust torch",
    ),
    "beside the settings": (
        lambda mark: {"class_path": "gan.networks.MLPGenerator", "dict_kwargs": {"more": function(mark)}},
        "--trust torch",
    ),
    "import": (lambda mark: {"class_path": "evil.Net"}, "holds evil.Net; give --trust evil to import it"),
    "import of a short form": (lambda mark: "evil.Net", "holds evil.Net; give --trust evil to import it"),
    "import by a setting": (
        lambda mark: {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": "evil.Net"}},
        "holds evil.Net; give --trust evil to import it",
    ),
    "through a module of ours": (lambda mark: {"class_path": "gan.cli.os.system"}, "is not its own|not a class"),
    "through a module of torch's": (
        lambda mark: {"class_path": "torch.nn.init.torch.fx.GraphModule"},
        "belongs to torch.fx",
    ),
    "a name that begins like ours": (lambda mark: {"class_path": "ganevil.Net"}, "--trust ganevil"),
    "a name of one part": (lambda mark: {"class_path": "GraphModule"}, "path of a class"),
    "no name": (lambda mark: {"class_path": ["evil.Net"]}, "path of a class"),
    "spaces": (lambda mark: {"class_path": " evil.Net"}, "path of a class"),
    "a name with dots": (
        lambda mark: {"class_path": "torch.nn.Identity", "init_args": {"x.class_path": "evil.Net"}},
        "is not as a run writes it",
    ),
    "a list with a plus": (
        lambda mark: {"class_path": "torch.nn.Identity", "x+": "evil.Net"},
        "not as a run writes it",
    ),
    "a set": (lambda mark: {"class_path": "torch.nn.Identity", "init_args": {"x": {"evil.Net"}}}, "is a set"),
    "JSON that YAML refuses": (
        lambda mark: {"class_path": "torch.nn.Identity", "init_args": {"x": '{"class_path":\t"evil.Net"}'}},
        "--trust evil",
    ),
    "text that nobody reads": (
        lambda mark: {"class_path": "torch.nn.Identity", "init_args": {"x": '{"class_path": evil.Net'}},
        "cannot be read",
    ),
    "a file at home": (
        lambda mark: {"class_path": "torch.nn.Identity", "init_args": {"x": "~/hidden.txt"}},
        "--trust evil",
    ),
    "a file that names another": (
        lambda mark: {"class_path": "torch.nn.Identity", "init_args": {"x": str(mark.parent / "sub" / "first")}},
        "--trust evil",
    ),
    "letters beyond ASCII": (lambda mark: {"class_path": "torch.nn.Identity", "x": "évil.Net"}, "--trust évil"),
    "nothing there": (lambda mark: {"class_path": "gan.losses.Nothing"}, "no such class"),
    "a function of ours": (lambda mark: {"class_path": "gan.checkpoints.remove"}, "not a class"),
}


def forged(checkpoint: Path, path: Path, config: dict | None = None, **hyper_parameters) -> Path:
    """A copy of the checkpoint, in a folder of its own, with other settings."""
    content = load(checkpoint)
    content["hyper_parameters"] |= hyper_parameters
    content["config"] = content["config"] if config is None else config
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    return path


def go_through(door: str, path: Path, out: Path, trust: tuple[str, ...] = ()) -> None:
    words = [word for package in trust for word in ("--trust", package)]
    match door:
        case "sample":
            command("sample", "--ckpt", path, "--out", out / "x.png", *words)
        case "translate":
            command("translate", "--ckpt", path, "--images", out / "x", "--out", out / "y", *words)
        case "export":
            command("export", "--ckpt", path, "--out", out / "x.pt2", *words)
        case "validate" | "test":
            command(door, "--ckpt_path", path, *SMALL, *words)
        case "resume":
            command("fit", "--run_dir", out / "new", "--resume", path, "--trainer.max_steps", "4", *words)
        case "auto":
            command("fit", "--run_dir", path, "--resume", "auto", *words)
        case "python":
            GAN.load_from_checkpoint(path, weights_only=True, map_location="cpu", trust=list(trust))


@pytest.mark.parametrize("way", WAYS)
def test_every_way(way, checkpoint, mark):
    make, says = WAYS[way]
    for key in SETTINGS:
        spec = make(mark)
        brought = load(checkpoint)
        brought["hyper_parameters"][key] = [spec] if key == "penalties" else spec
        with pytest.raises(ValueError, match=says):
            check_hyper_parameters(brought, source="x.ckpt")
    assert not mark.exists()


@pytest.mark.parametrize("way", ["function within", "import", "import by a setting", "a name with dots", "a set"])
def test_second_wall(way, checkpoint, mark, tmp_path, monkeypatch):
    """Where a way to write a name is found that nobody thought of, the import itself is refused."""
    make, _ = WAYS[way]
    for path in ("gan.lifecycle.check_hyper_parameters", "gan.trust.check_names"):
        monkeypatch.setattr(path, lambda *args, **kwargs: None)
    path = forged(checkpoint, tmp_path / "x" / "x.ckpt", generator_scheduler=make(mark))
    with pytest.raises(Exception, match="generator_scheduler"):
        go_through("python", path, tmp_path)
    assert not mark.exists()


def test_second_wall_is_taken_down_again():
    from jsonargparse._common import parsing_settings

    before = dict(parsing_settings)
    with imports_of("one"):
        assert parsing_settings["import_path_verdicts"]["*"] is False
    assert parsing_settings == before


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("way", ["function", "function as text", "import", "import by a setting"])
def test_every_door(door, way, checkpoint, mark, tmp_path, capfd):
    make, says = WAYS[way]
    key = "generator_scheduler" if way == "import by a setting" else "generator"
    path = forged(checkpoint, tmp_path / "elsewhere" / "checkpoints" / "x.ckpt", **{key: make(mark)})
    if door == "python":
        with pytest.raises(ValueError, match=says):
            go_through(door, path, tmp_path)
    else:
        with pytest.raises(SystemExit) as ended:
            go_through(door, path, tmp_path)
        assert ended.value.code == 2
        error = capfd.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert any(part in error for part in says.split("|"))
    assert not mark.exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "spec", [{"class_path": "torch.nn.Linear", "init_args": {}}, {"class_path": "gan.losses.Hinge"}]
)
def test_wrong_base(spec, checkpoint):
    """A listed class in the place of another: a layer for a loss, a loss for everything else."""
    for key in SETTINGS:
        brought = load(checkpoint)
        brought["hyper_parameters"][key] = [spec] if key == "penalties" else spec
        right = {"torch.nn.Linear": ("generator", "discriminator"), "gan.losses.Hinge": ("loss",)}[spec["class_path"]]
        if key in right:
            check_hyper_parameters(brought)
        else:
            with pytest.raises(ValueError, match="which is not a"):
                check_hyper_parameters(brought)


@pytest.mark.parametrize(
    "change", [{"hparams": {"generator": 1}}, {"module_arguments": {}}, {"hparams_name": "generator"}]
)
def test_settings_by_another_door(change, checkpoint):
    """Lightning takes settings from these too."""
    with pytest.raises(ValueError, match=next(iter(change))):
        check_hyper_parameters({**load(checkpoint), **change})
    brought = load(checkpoint)
    brought["hyper_parameters"]["_instantiator"] = "os.system"
    with pytest.raises(ValueError, match="hyper_parameters"):
        check_hyper_parameters(brought)


def test_settings_beside_the_checkpoint(checkpoint, tmp_path):
    (tmp_path / "hparams.yaml").write_text("generator: {class_path: evil.Net}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="hparams_file"):
        GAN.load_from_checkpoint(checkpoint, hparams_file=tmp_path / "hparams.yaml")


@pytest.mark.slow
def test_without_end():
    endless: list = []
    endless.append(endless)
    many: list = ["a.b"]
    for _ in range(40):
        many = [many, many]
    for settings in ({"data": {"x": endless}}, {"data": {"x": many}}):
        with pytest.raises(ValueError, match="without end"):
            check_names(settings)


@pytest.mark.parametrize("section", ["model", "data", "trainer"])
def test_section_in_another_file(section):
    with pytest.raises(ValueError, match=section):
        check_names({section: "evil.yaml"})


@pytest.mark.parametrize("door", ["validate", "test", "resume", "auto"])
@pytest.mark.parametrize(
    "settings",
    [
        {"data": {"class_path": "evil.Data"}},
        {"trainer": {"callbacks": [{"class_path": "evil.Callback"}]}},
        {
            "trainer": {
                "callbacks": [
                    {
                        "class_path": "lightning.pytorch.callbacks.LambdaCallback",
                        "init_args": {"on_fit_start": "evil.Net"},
                    }
                ]
            }
        },
        {"model": {"generator": "other.txt"}},
        {
            "trainer": {
                "callbacks": [{"class_path": "gan.callbacks.FIDTracker", "init_args": {"extractor": "other.txt"}}]
            }
        },
    ],
)
def test_config_in_the_checkpoint(door, settings, checkpoint, mark, tmp_path, capfd, monkeypatch):
    """It is read by all doors that need more than networks; a text in it may be the path of another config."""
    run = tmp_path / "run"
    path = forged(checkpoint, run / "checkpoints" / "last.ckpt", settings)
    (tmp_path / "other.txt").write_text("class_path: evil.Net\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        go_through(door, run if door == "auto" else path, tmp_path)
    assert ended.value.code == 2
    assert not mark.exists()
    error = capfd.readouterr().err
    assert "last.ckpt holds" in error
    assert "--trust evil" in error or "--trust other" in error


@pytest.mark.parametrize("config", ["evil.Net", ["evil.Net"], "~/hidden.txt"])
@pytest.mark.parametrize("door", ["validate", "resume", "auto"])
def test_config_that_is_no_config(door, config, checkpoint, mark, tmp_path, capfd):
    run = tmp_path / "run"
    path = forged(checkpoint, run / "checkpoints" / "last.ckpt", config)
    with pytest.raises(SystemExit):
        go_through(door, run if door == "auto" else path, tmp_path)
    assert "last.ckpt is not as this project writes it: its config is a " in capfd.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize("door", ["sample", "validate", "test", "resume", "auto"])
def test_config_beside_the_checkpoint_is_not_read(door, checkpoint, mark, tmp_path):
    """It may be of another run, and anybody's."""
    run = tmp_path / "run"
    path = forged(checkpoint, run / "checkpoints" / "last.ckpt")
    (run / "config.yaml").write_text("data: {class_path: evil.Data}\nmodel: {n_critic: 7}\n", encoding="utf-8")
    go_through(door, run if door == "auto" else path, tmp_path, trust=("conftest",))
    assert not mark.exists()


OWN = """
from conftest import SmallMNIST
from gan.networks import MLPGenerator

class Own(MLPGenerator):
    pass

class Data(SmallMNIST):
    pass

class Unlike:
    pass

def make(image_shape):
    return Own(image_shape)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A run with a network and data of its user's own."""
    (tmp_path / "own_package.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--model.generator", "own_package.Own", "--data", "own_package.Data"]
    yield fit(tmp_path / "run", *words), words
    sys.modules.pop("own_package", None)


@pytest.mark.parametrize("door", [door for door in DOORS if door != "translate"])  # which this generator does not
def test_trusted_package(door, own, tmp_path, capfd):
    """What is one's own is refused in a line that says how to let it pass, and passes so."""
    path, _ = own
    sys.modules.pop("own_package")
    if door == "python":
        with pytest.raises(ValueError, match="give --trust own_package"):
            go_through(door, path, tmp_path)
    else:
        with pytest.raises(SystemExit):
            go_through(door, path, tmp_path)
        assert "own_package" in capfd.readouterr().err
    assert "own_package" not in sys.modules
    go_through(door, path, tmp_path, trust=("own_package",))


def test_own_run_goes_on(own, tmp_path, capfd):
    """In its own folder without a word; not where the folder is somebody else's."""
    path, words = own
    again = ["fit", "--run_dir", tmp_path / "run", "--resume", "auto", "--trainer.max_steps"]
    command(*again, "4")
    assert load(path)["global_step"] == 4
    content = load(path)
    content["config"]["model"]["n_critic"] = 2  # of somebody else
    torch.save(content, path)
    with pytest.raises(SystemExit):
        command(*again, "5")
    assert "give --trust own_package" in capfd.readouterr().err
    command(
        "fit", "--run_dir", tmp_path / "run", "--resume", "auto", "--trainer.max_steps", "5", *words
    )  # it names them
    assert load(path)["global_step"] == 5


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_package.Unlike", "not a Module"),
        ("own_package.make", "not a class"),
        ("own_package.SmallMNIST", "belongs to conftest"),
    ],
)
def test_trust_is_for_classes_of_the_package(name, says, own):
    with pytest.raises(ValueError, match=says):
        check_names({"model": {"generator": {"class_path": name}}}, trust="own_package")


@pytest.mark.parametrize("name", ["evil.Net", "evil.sub.Net"])
def test_a_class_in_the_place_of_its_package(name):
    """The line says which package it is; following it, the same class passes."""
    settings, package = {"model": {"generator": {"class_path": name}}}, name.rpartition(".")[0]
    with pytest.raises(ValueError, match=f"--trust takes packages, and {name} is a class: give --trust {package}$"):
        check_names(settings, trust=["conftest", name])


def test_python_gives_what_the_file_names(own):
    """An argument in the place of what the file says: nothing of that is looked at."""
    from gan.networks import MLPGenerator

    path, _ = own
    sys.modules.pop("own_package")
    gan = GAN.load_from_checkpoint(path, generator=MLPGenerator((1, 28, 28), latent_dim=8), map_location="cpu")
    assert type(gan.generator) is MLPGenerator
    assert "own_package" not in sys.modules


def test_open_file(checkpoint):
    with checkpoint.open("rb") as file:
        assert GAN.load_from_checkpoint(file, weights_only=True, map_location="cpu").generator.latent_dim == 8


def test_text_that_is_no_code(tmp_path, monkeypatch):
    """A file's name looks like a module's, and a folder beside it is one to Python: nothing in it would run."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "flowers").mkdir()
    assert not can_import("flowers.safetensors")
    assert not can_import("nowhere.safetensors")
    (tmp_path / "flowers" / "safetensors.py").write_text("raise SystemExit\n", encoding="utf-8")
    assert can_import("flowers.safetensors")
    assert can_import("os.path")


def test_names_of_packages():
    assert packages("one, two.three") == ("one", "two.three")
    assert packages(["one"]) == ("one",)
    for wrong in ("one two", "", "a-b", ["../x"]):
        with pytest.raises(ValueError, match="--trust must be the name of a package, such as my_package, got '"):
            packages(wrong)
    assert named_in(["--data", "conftest.SmallMNIST", "gan.losses.Hinge", "runs/x.ckpt", "0.5"]) == {"conftest"}
    assert named_in(["torch.distributions.Normal", "os.path.join"]) == {
        "torch.distributions",
        "os.path",
    }  # not all of it
