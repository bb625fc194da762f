"""The worked example of a network of others that sees images, as `docs/scores.md` has it: torchvision's ResNet-18."""

import re
import sys
from types import ModuleType

import pytest
import torch
from commands import command, fit
from conftest import ROOT, SmallMNIST
from torch.nn.functional import interpolate
from torchvision.models import resnet18
from torchvision.transforms.functional import normalize

from gan.metrics import fingerprint

PAGE = (ROOT / "docs" / "scores.md").read_text("utf-8")
EXAMPLE, CONFIG = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.S)[1] for kind in ("python", "yaml"))
FILE = "resnet18-f37072fd.pth"


class FewDigits(SmallMNIST):
    """70 real digits."""

    def load(self, train):
        images, labels = super().load(train)
        part = slice(0, 70) if train else slice(70, 140)
        return images[part], labels[part]


@pytest.fixture
def my_features(tmp_path, monkeypatch):
    """The page's module, as a file of the user's, and random weights beside it."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("my_features")
    monkeypatch.setitem(sys.modules, "my_features", module)
    exec(compile(EXAMPLE, "my_features.py", "exec"), module.__dict__)
    module.ResNetFeatures.__module__ = "my_features"
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), FILE)
    return module


@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_to_the_network_as_it_was_trained(my_features, channels):
    """Of 224 pixels, by the means and deviations of ImageNet; and the features are what its last layer takes."""
    features = my_features.ResNetFeatures(FILE).eval()
    network = resnet18()
    network.load_state_dict(torch.load(FILE, weights_only=True))
    seen = []
    network.eval().fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.rand(2, channels, 32, 32) * 2 - 1
    levels = interpolate(images, (224, 224), mode="bicubic", antialias=True).clamp(-1, 1) / 2 + 0.5
    network(normalize(levels.expand(-1, 3, -1, -1), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert seen[0].shape == (2, 512)
    torch.testing.assert_close(features(images), seen[0], rtol=1e-4, atol=1e-5)


def test_other_weights_have_another_fingerprint(my_features):
    features = my_features.ResNetFeatures(FILE)
    before = fingerprint(features)
    assert before == fingerprint(my_features.ResNetFeatures(FILE))
    features.network.conv1.weight.data[0, 0, 0, 0] += 1
    assert fingerprint(features) != before
    features = my_features.ResNetFeatures(FILE)
    features.std *= 2  # a setting that is kept as a buffer counts too
    assert fingerprint(features) != before


def test_a_run_is_scored_by_it(my_features, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(my_features, "interpolate", lambda images, *_, **__: images)  # 224 pixels would take minutes
    (tmp_path / "scores.yaml").write_text(CONFIG, "utf-8")
    few = ["--trainer.callbacks+=gan.callbacks.FIDTracker", "--trainer.callbacks.num_samples=20"]
    few += [
        "--trainer.callbacks.final_samples=20",
        "--trainer.callbacks.extractor.class_path=my_features.ResNetFeatures",
    ]
    few += [f"--trainer.callbacks.extractor.init_args.weights={FILE}"]
    words = ["--data", "test_own_features.FewDigits", "--data.validation_size", "0", "--config", "scores.yaml"]
    fit("run", *words, *few, "--trainer.max_steps", "1")
    output = capsys.readouterr().out
    digits = fingerprint(my_features.ResNetFeatures(FILE))
    assert f"by res_net_features {digits}; floor" in output
    assert "fid/res_net_features" in (tmp_path / "run" / "metrics.csv").read_text("utf-8")
    command("test", "--ckpt_path", "run", "--trust", "test_own_features", "--trust", "my_features")
    assert f"Scores of 20 images against 70 test images, by res_net_features {digits}" in capsys.readouterr().out
