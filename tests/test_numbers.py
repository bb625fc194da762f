"""Settings that are no number: NaN is neither above nor below a bound, and must not slip past one."""

import ast
import math
from functools import partial

import pytest
import torch
from commands import fit
from conftest import Halves
from test_house import MODULES
from torch.optim import SGD, Optimizer

from gan import GAN, augment, callbacks, networks, penalties
from gan.games import Lookahead, OptimisticAdam, PastExtraAdam
from gan.generate import sample
from gan.gradients import clip
from gan.gradients.rules import Thresholds
from gan.metrics import CAS, FID, KID, PRDC, CNNFeatures, InceptionScore
from gan.muon import Muon
from gan.networks import MLPDiscriminator, MLPGenerator
from gan.optim import WarmupCosine
from gan.parallel import DDP, FSDP2

SHAPE = (1, 28, 28)


def gan(**settings) -> GAN:
    return GAN(MLPGenerator(SHAPE, 8), MLPDiscriminator(SHAPE), **settings)


def schedule(**settings) -> WarmupCosine:
    return WarmupCosine(SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), **settings)


def of_a_weight(cls: type[Optimizer], **settings) -> Optimizer:
    return cls([torch.nn.Parameter(torch.zeros(1))], **settings)


optimistic, past, muon = (partial(of_a_weight, cls) for cls in (OptimisticAdam, PastExtraAdam, Muon))

NAMES = {
    gan: ["num_fixed_latents", "n_critic", "accumulate", "weight_clip"],
    schedule: ["warmup", "total"],
    Lookahead: ["every", "alpha"],
    optimistic: ["lr", "eps"],
    past: ["lr", "eps"],
    muon: ["lr", "momentum", "eps"],
    callbacks.FIDTracker: ["every", "num_samples", "final_samples"],
    callbacks.GeneratorEMA: ["half_life"],
    callbacks.GradientDoctor: ["patience"],
    callbacks.GradientMonitor: ["every", "images"],
    callbacks.ImageLogger: ["every"],
    callbacks.NonFiniteGuard: ["tries", "every"],
    callbacks.RunCheckpoint: ["every", "minutes", "keep"],
    callbacks.RunProgress: ["refresh"],
    penalties.R1: ["weight", "every"],
    penalties.R2: ["weight", "every"],
    penalties.ApproximateR1: ["weight", "every", "sigma"],
    penalties.ApproximateR2: ["weight", "every", "sigma"],
    penalties.GradientPenalty: ["weight", "every"],
    penalties.DRAGAN: ["weight", "every"],
    augment.DiffAugment: ["color", "translation", "cutout"],
    augment.AdaptiveAugment: ["target", "ramp", "max_probability"],
    augment.InstanceNoise: ["level"],
    augment.ScheduledAugment: ["probability"],
    clip.ByNorm: ["max_norm"],
    clip.ByValue: ["max_value"],
    clip.Adaptive: ["ratio", "eps"],
    clip.Auto: ["percentile", "window"],
    Thresholds: list(vars(Thresholds())),
    partial(networks.MLPGenerator, SHAPE): ["latent_dim"],
    partial(networks.DeepMLPGenerator, SHAPE): ["latent_dim", "width", "depth"],
    partial(networks.DeepMLPDiscriminator, SHAPE): ["width", "depth"],
    Halves: ["batch_size", "validation_size"],
    partial(sample, "a.ckpt", "a.png"): ["num"],
    DDP: ["patience"],
    FSDP2: ["patience"],
    FID: ["dim"],
    partial(KID, 8): ["subsets", "subset_size"],
    partial(PRDC, 8): ["manifold_k", "density_k"],
    InceptionScore: ["num_classes"],
    partial(CAS, SHAPE): ["steps"],
    CNNFeatures: ["num_classes", "dim"],
}


@pytest.mark.parametrize(
    ("make", "name"),
    [(make, name) for make, names in NAMES.items() for name in names],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", None) or value.func.__name__,
)
def test_nan_is_refused_by_its_name(make, name):
    no_default = (penalties.R1, penalties.R2, penalties.ApproximateR1, penalties.ApproximateR2)
    others = {"weight": 1.0} if make in no_default else {}
    with pytest.raises(ValueError, match=f"{name}.* nan"):
        make(**others | {name: math.nan})


@pytest.mark.parametrize(
    ("make", "name"),
    [(gan, "weight_clip"), (callbacks.RunCheckpoint, "minutes"), (penalties.GradientPenalty, "weight")]
    + [(strategy, "patience") for strategy in (DDP, FSDP2)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_infinity_is_refused_where_it_would_do_nothing(make, name):
    with pytest.raises(ValueError, match=f"{name}.* inf"):
        make(**{name: math.inf})


def test_the_command_line_refuses_it(tmp_path, capsys):
    config = tmp_path / "nan.yaml"
    config.write_text("trainer: {callbacks+: [{class_path: GeneratorEMA, init_args: {half_life: .nan}}]}", "utf-8")
    with pytest.raises(SystemExit, match="2"):
        fit(tmp_path / "run", "--config", config)
    assert "GeneratorEMA's half_life must be a number of images above 0, got nan" in capsys.readouterr().err


@pytest.mark.parametrize("module", MODULES)
def test_no_bound_lets_it_through(module):
    """An argument is compared so that NaN fails: `not x >= 1`, where `x < 1` would be false of it."""
    for function in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef):
            continue
        arguments = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
        for node in ast.walk(function):
            if isinstance(node, ast.If) and any(isinstance(step, ast.Raise) for step in node.body):
                denied = [compare for part in ast.walk(node.test) if is_not(part) for compare in ast.walk(part)]
                for compare in set(ast.walk(node.test)) - set(denied):
                    assert not bounds(compare, arguments), f"line {node.lineno}: {ast.unparse(compare)}"


def is_not(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def bounds(node: ast.AST, arguments: set[str]) -> bool:
    """Whether it compares an argument of a function with a number, by size."""
    if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE):
        return False
    sides = [node.left, *node.comparators]
    names = {side.id for side in sides if isinstance(side, ast.Name)}
    return bool(names & arguments) and any(isinstance(side, ast.Constant) for side in sides)
