"""Our metrics as torchmetrics' metrics: collections, forward, merging, saving, moving, and two processes."""

import os
import pickle
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from commands import load, process
from conftest import ROOT
from lightning import LightningModule
from torchmetrics import Metric, MetricCollection

from gan.metrics import CAS, FID, KID, PRDC, ClassEntropy, InceptionScore, ModesCovered
from gan.metrics.base import Float64Metric
from gan.metrics.ngram import NgramDistance

DIM, CLASSES = 6, 4
SHAPE = (1, 8, 8)

MAKE = {
    "fid": lambda **settings: FID(DIM, **settings),
    "kid": lambda **settings: KID(DIM, subsets=5, subset_size=20, **settings),
    "prdc": lambda **settings: PRDC(DIM, **settings),
    "inception_score": lambda **settings: InceptionScore(CLASSES, **settings),
    "modes_covered": lambda **settings: ModesCovered(CLASSES, **settings),
    "entropy": lambda **settings: ClassEntropy(CLASSES, **settings),
    "cas": lambda **settings: CAS(SHAPE, steps=8, **settings),
    "ngram": lambda **settings: NgramDistance(2, length=5, **settings),
}
OF_FEATURES = ["fid", "kid", "prdc"]
OF_NUMBERS = [name for name in MAKE if name != "ngram"]  # what has a gradient, and can be NaN
OF_CLASSES = ["inception_score", "modes_covered", "entropy"]


def updates(name: str, num: int = 70, parts: tuple[int, ...] = (20, 0, 50)) -> list[tuple]:
    """The arguments of `update` that give a metric `num` images of each kind, in uneven parts."""
    rng = torch.Generator().manual_seed(0)
    if name in OF_CLASSES:
        logits = torch.randn(num, CLASSES, generator=rng) * torch.tensor([1.0, 2, 3, 0])
        return [(part,) for part in logits.split(parts)]
    calls = []
    for real in (True, False):
        if name == "cas":
            labels = torch.arange(num) % 2
            images = torch.rand(num, *SHAPE, generator=rng) - labels.view(-1, 1, 1, 1) * (0.5 + 0.1 * real)
            pairs = zip(images.split(parts), labels.split(parts), strict=True)
            calls += [(*pair, real) for pair in pairs]
        elif name == "ngram":
            texts = torch.randint(3 + real, (num, 5), generator=rng)
            calls += [(part, real) for part in texts.split(parts)]
        else:
            features = torch.randn(num, DIM, generator=rng) + 0.3 * real
            calls += [(part, real) for part in features.split(parts)]
    return calls


def fed(name: str, calls: list[tuple] | None = None, **settings) -> Metric:
    metric = MAKE[name](**settings)
    for call in updates(name) if calls is None else calls:
        metric.update(*call)
    return metric


def values(result) -> list[float]:
    if isinstance(result, dict):
        return [value.item() for value in result.values()]
    return [value.item() for value in result] if isinstance(result, tuple) else [result.item()]


def of(metric: Metric) -> list[float]:
    return values(metric.compute())


@pytest.fixture(params=list(MAKE))
def name(request) -> str:
    return request.param


def test_parts_give_what_the_whole_gives(name):
    whole = fed(name, updates(name, parts=(70,)))
    assert of(fed(name)) == pytest.approx(of(whole), rel=1e-12)
    assert of(fed(name)) == of(fed(name))


def test_reset_forgets_all(name):
    metric = fed(name)
    expected = of(metric)
    metric.reset()
    with pytest.raises(ValueError, match=r"got 0|with at least one image, got"):
        metric.compute()
    for call in updates(name):
        metric.update(*call)
    assert of(metric) == expected


@pytest.mark.parametrize("name", OF_FEATURES, indirect=True)
def test_reset_can_leave_the_real_features(name):
    metric = fed(name, reset_real_features=False)
    expected = of(metric)
    for _ in range(2):
        metric.reset()
        for features, real in updates(name):
            if not real:
                metric.update(features, real=False)
        assert of(metric) == expected


@pytest.mark.parametrize("name", OF_CLASSES, indirect=True)
def test_forward_gives_the_batch_and_keeps_the_whole(name):
    metric, calls = MAKE[name](), updates(name, parts=(20, 50))
    for call in calls:
        assert values(metric(*call)) == pytest.approx(of(fed(name, [call])), rel=1e-12)
    assert of(metric) == pytest.approx(of(fed(name)), rel=1e-12)


@pytest.mark.parametrize("name", OF_FEATURES, indirect=True)
def test_forward_holds_a_batch_against_all_real_features(name):
    calls = updates(name, parts=(20, 50))
    reals, fakes = calls[:2], calls[2:]
    metric = fed(name, reals, reset_real_features=False)
    for call in fakes:
        assert values(metric(*call)) == pytest.approx(of(fed(name, [*reals, call])), rel=1e-12)
    assert of(metric) == pytest.approx(of(fed(name)), rel=1e-12)  # the real ones are in it once


def test_merged_states_are_those_of_all(name):
    calls = updates(name)
    first, second = fed(name, calls[::2]), fed(name, calls[1::2])
    merged = fed(name, calls[::2] + calls[1::2])
    first.merge_state(second)
    assert of(first) == pytest.approx(of(merged), rel=1e-12)


@pytest.mark.parametrize("name", OF_FEATURES, indirect=True)
def test_merged_where_real_features_are_kept(name):
    """And in one collection with a metric that does not keep them."""
    calls = updates(name)
    first, second = (fed(name, part, reset_real_features=False) for part in (calls[::2], calls[1::2]))
    first.merge_state(second)
    assert of(first) == pytest.approx(of(fed(name, calls[::2] + calls[1::2])), rel=1e-12)
    fakes = [call for call in calls if not call[1]]
    first.reset()
    for call in fakes:
        first.update(*call)
    assert of(first) == pytest.approx(of(fed(name, calls)), rel=1e-12)  # it keeps them as before


def test_a_metric_that_keeps_real_features_does_not_stand_for_one_that_does_not():
    collection = MetricCollection({"keeps": MAKE["fid"](reset_real_features=False), "forgets": MAKE["fid"]()})
    for call in updates("fid"):
        collection.update(*call)
    expected = values(collection.compute())
    assert expected[0] == expected[1]
    collection.reset()
    assert [int(metric.real_num) for metric in (collection["keeps"], collection["forgets"])] == [70, 0]


def test_saved_loaded_pickled_and_copied(name, tmp_path):
    metric = fed(name)
    expected = of(metric)
    assert not metric.state_dict()
    metric.persistent(True)
    torch.save(metric.state_dict(), tmp_path / "state.pt")
    again = MAKE[name]()
    again.persistent(True)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert of(again) == expected
    calls = updates(name)
    for copy in (pickle.loads(pickle.dumps(metric)), deepcopy(metric), metric.clone()):
        assert of(copy) == expected
        copy.update(*calls[0])
        copy.update(*calls[-1])
    assert of(metric) == expected
    metric.update(*calls[0])
    metric.update(*calls[-1])
    assert of(metric) == of(copy)


def test_the_type_of_states_stays(name):
    class Holder(LightningModule):
        def __init__(self):
            super().__init__()
            self.metric = fed(name)

    expected = of(fed(name))
    for cast in (
        lambda holder: holder.metric.set_dtype(torch.float16),
        lambda holder: holder.metric.half(),
        lambda holder: holder.metric.to(torch.bfloat16),
        lambda holder: holder.half(),
        lambda holder: holder.to("cpu", torch.float32),
    ):
        holder = Holder()
        cast(holder)
        holder.metric._computed = None
        assert of(holder.metric) == expected
        holder.metric.reset()
        for call in updates(name):
            holder.metric.update(*call)
        assert of(holder.metric) == expected


def test_a_device_without_float64(name, monkeypatch):
    """As on Apple's GPU: float64 states stay on the CPU, and all else goes there."""
    metric = fed(name)

    def to_gpu(tensor):
        assert tensor.dtype != torch.float64, "MPS has no float64"
        return tensor.to("meta")  # a device that every machine has

    monkeypatch.setattr("gan.metrics.base.NO_FLOAT64", "meta")
    expected = of(metric)
    metric._apply(to_gpu)
    assert metric.device.type == "meta"
    assert metric.home.type == "cpu"
    metric._computed = None
    assert of(metric) == expected
    metric.reset()
    for call in updates(name):
        metric.update(*call)
    assert of(metric) == expected


@pytest.mark.parametrize("name", OF_NUMBERS, indirect=True)
def test_gradients_are_not_kept(name):
    calls = updates(name)
    for call in calls:
        call[0].requires_grad_()
    metric = fed(name, calls)
    for state in metric.metric_state.values():
        assert not any(tensor.requires_grad for tensor in (state if isinstance(state, list) else [state]))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_states_go_in_and_out_of_modes(name, mode):
    metric = MAKE[name]()
    with mode():
        metric.reset()
        for call in updates(name)[:2]:
            metric.update(*call)
    for call in updates(name)[2:]:
        metric.update(*call)
    assert of(metric) == of(fed(name))
    with mode():
        assert of(metric) == of(fed(name))


@pytest.mark.parametrize("name", OF_NUMBERS, indirect=True)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_has_no_score(name, bad):
    for index in (0, -1):  # a real image, and a generated one
        calls = updates(name)
        calls[index][0].view(len(calls[index][0]), -1)[0, 1] = bad
        metric = fed(name, calls)
        with pytest.raises(ValueError, match="NaN or infinite"):
            metric.compute()


def test_wrong_shapes_are_refused(name):
    *_, call = updates(name)
    with pytest.raises(ValueError, match=r"must have the shape|must be integers \(N, 5\)"):
        MAKE[name]().update(call[0][:, :-1] if name != "cas" else call[0][..., :-1], *call[1:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KID(0), "dim must be at least 1, got 0"),
        (lambda: KID(3, subsets=0), "subsets must be at least 1, got 0"),
        (lambda: KID(3, subset_size=1), "subset_size must be at least 2 images, got 1"),
        (lambda: PRDC(3, density_k=0), "manifold_k and density_k must be at least 1, got 3 and 0"),
        (lambda: InceptionScore(1), "num_classes must be at least 2, got 1"),
        (lambda: CAS(SHAPE, steps=0), "steps must be at least 1, got 0"),
        (lambda: FID(3, nothing=0), "Unexpected keyword arguments: `nothing`"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- collections -------------------------------------------------------------------------------------------


def test_a_collection_shares_what_its_metrics_hold():
    collection = MetricCollection({name: MAKE[name]() for name in OF_FEATURES})
    for features, real in updates("fid"):
        collection.update(features, real=real)
    assert sorted(map(sorted, collection.compute_groups.values())) == [["fid"], ["kid", "prdc"]]
    held = dict(collection.items(copy_state=False))
    assert held["prdc"].real_features is held["kid"].real_features
    result = collection.compute()
    assert set(result) == {"fid", "kid", "precision", "recall", "density", "coverage"}
    assert result["fid"].item() == of(fed("fid"))[0]
    assert values(result["kid"]) == of(fed("kid"))
    assert [result[name].item() for name in ("precision", "recall", "density", "coverage")] == of(fed("prdc"))

    classes = MetricCollection({name: MAKE[name]() for name in OF_CLASSES})
    for (logits,) in updates("entropy"):
        classes.update(logits)
    assert len(classes.compute_groups) == 1
    for name, value in classes.compute().items():
        assert [value.item()] == of(fed(name))


@pytest.mark.parametrize("groups", [True, False])
def test_a_collection_is_reset_and_keeps_the_real_features(groups):
    settings = {"reset_real_features": False}
    collection = MetricCollection({name: MAKE[name](**settings) for name in OF_FEATURES}, compute_groups=groups)
    for features, real in updates("fid"):
        collection.update(features, real=real)
    first = collection.compute()
    for copy in (collection, collection.clone()):
        for _ in range(2):
            copy.reset()
            for features, real in updates("fid"):
                if not real:
                    copy.update(features, real=False)
            again = copy.compute()
            assert again.keys() == first.keys()
            assert all(values(again[key]) == values(first[key]) for key in first)


# -- processes ---------------------------------------------------------------------------------------------

PROGRAM = """
import sys
import torch
import torch.distributed as dist
from metrics.test_base import MAKE, fed, of, updates

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
results = {}
for name in MAKE:
    calls = updates(name)
    half = len(calls) // 2
    shares = [calls[::2], calls[1::2]]  # as many of each kind, in other numbers
    metric = fed(name, shares[rank])
    before = [len(state) for state in metric.metric_state.values() if isinstance(state, list)]
    together = of(metric)
    after = [len(state) for state in metric.metric_state.values() if isinstance(state, list)]
    lonely = fed(name, calls if rank == 0 else [])
    if rank == 1:
        lonely._update_count = 1  # torchmetrics warns of what was meant
    reason = ""
    try:
        if calls[0][0].is_floating_point():  # whole numbers are no NaN
            bad = torch.full_like(calls[-1][0], torch.nan)
            fed(name, calls if rank == 0 else [(bad, *calls[-1][1:])]).compute()
    except ValueError as error:
        reason = str(error)
    results[name] = {
        "together": together, "again": of(metric), "unsynced": before == after, "lonely": of(lonely), "reason": reason,
        "alone": of(fed(name, calls, sync_on_compute=False)),
    }
torch.save(results, f"{folder}/{rank}.pt")
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> list[dict]:
    """What two processes have found."""
    folder = tmp_path_factory.mktemp("processes")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    started = [process([sys.executable, "-c", PROGRAM, str(rank), folder], cwd=ROOT, env=env) for rank in (0, 1)]
    for child in started:
        _, errors = child.communicate(timeout=300)
        assert child.returncode == 0, errors
    return [load(Path(folder) / f"{rank}.pt") for rank in (0, 1)]


def test_two_processes_find_what_one_does(name, processes):
    calls = updates(name)
    expected = of(fed(name, calls[::2] + calls[1::2]))
    for result in processes:
        assert result[name]["together"] == result[name]["again"] == pytest.approx(expected, rel=1e-12)
        assert result[name]["unsynced"]
        assert result[name]["alone"] == pytest.approx(of(fed(name)), rel=1e-12)


def test_a_process_that_has_seen_nothing_holds_up_nobody(name, processes):
    for result in processes:
        assert result[name]["lonely"] == pytest.approx(of(fed(name)), rel=1e-12)


@pytest.mark.parametrize("name", OF_NUMBERS, indirect=True)
def test_all_processes_refuse_alike(name, processes):
    reasons = {result[name]["reason"] for result in processes}
    assert len(reasons) == 1
    assert "NaN or infinite" in reasons.pop()


def test_all_metrics_are_in_these_tests():
    def kinds(of):
        return {kind for child in of.__subclasses__() for kind in {child, *kinds(child)}}

    leaves = {kind for kind in kinds(Float64Metric) if not kind.__subclasses__()}
    assert leaves == {type(make()) for make in MAKE.values()}
