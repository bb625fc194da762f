"""What our metrics have in common as `torchmetrics.Metric`s: exact states, wherever they are and whoever holds them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from gan.errors import GANError

NO_FLOAT64 = "mps"  # the type of device


class Float64Metric(Metric):
    """A metric whose states keep their type: sums and features are float64, whatever it is cast to.

    The scores are differences of large numbers, so `set_dtype`, `half`, `.to(dtype)` and a module that is cast as a
    whole leave the states as they are. `.to(device)` moves them, but not to Apple's GPU, which has no float64: there
    states stay on the CPU, features are brought to them, and scores are computed on it.

    Args:
        **kwargs: Those of `torchmetrics.Metric`: `sync_on_compute`, `process_group` and so on.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._no_rows: dict[str, Tensor] = {}  # of each state of rows: its shape and type

    @property
    def home(self) -> torch.device:
        """Where the states are."""
        return torch.device("cpu") if self.device.type == NO_FLOAT64 else self.device

    def add_rows(self, name: str, *shape: int, dtype: torch.dtype = torch.float64) -> None:
        """Adds a state of any number of rows (N, *shape), which processes put one after the other."""
        self.add_state(name, [], dist_reduce_fx="cat")
        self._no_rows[name] = torch.zeros(0, *shape, dtype=dtype)

    def append(self, name: str, rows: Tensor) -> None:
        """Adds rows (N, ...) to a state."""
        getattr(self, name).append(rows.detach().to(self.home).to(self._no_rows[name].dtype))

    def rows(self, name: str) -> Tensor:
        """All rows (N, ...) of a state."""
        state = getattr(self, name)
        return state if isinstance(state, Tensor) else torch.cat([self._no_rows[name].to(self.home), *state])

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As torchmetrics' own, and with processes that have seen nothing, for which the others would wait for ever."""
        for name, no_rows in self._no_rows.items():
            if isinstance(getattr(self, name), list) and not getattr(self, name):
                setattr(self, name, [no_rows.to(self.home)])
        super().sync(*args, **kwargs)

    def score(self, value: float) -> Tensor:
        """A number as metrics give it: float64 ()."""
        return torch.tensor(value, dtype=torch.float64, device=self.home)

    def set_dtype(self, dst_type: str | torch.dtype) -> "Float64Metric":
        """Does nothing."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> "Float64Metric":
        device = fn(torch.empty(0, device=self.device)).device
        super()._apply(lambda tensor: tensor if device.type == NO_FLOAT64 else tensor.to(device), *args, **kwargs)
        self._device = device
        return self


class RealAndFakeMetric(Float64Metric):
    """A metric of generated features beside real ones; states of the real ones have names that begin with `real_`.

    Args:
        dim: Values of a feature vector, D.
        reset_real_features: Whether `reset` forgets the real features too, as torchmetrics' argument of this name.
            Where it does not, `forward` gives the score of a batch of generated features by all real ones.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: If `dim` is below 1.
    """

    def __init__(self, dim: int, reset_real_features: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not dim >= 1:
            raise GANError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self.reset_real_features = reset_real_features
        # A state, so that a MetricCollection does not let one that keeps them stand for one that does not.
        self.add_state("keeps_real", torch.tensor(not reset_real_features), dist_reduce_fx="max")

    @property
    def full_state_update(self) -> bool:
        """How torchmetrics' `forward` works: adding up states would count twice what `reset` has not cleared."""
        return not self.reset_real_features

    def reset(self) -> None:
        """Forgets all features, or the generated ones alone."""
        kept = {name: state for name, state in self.metric_state.items() if name.startswith("real_")}
        if not self.reset_real_features:
            for name, state in kept.items():
                if isinstance(state, list):
                    setattr(self, name, [])  # torchmetrics clears the list itself
        super().reset()
        if not self.reset_real_features:
            for name, state in kept.items():
                setattr(self, name, state)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Adds the states of another metric, real features included."""
        # Torchmetrics refuses where `full_state_update` is set, which is about `forward` alone.
        keeps, self.reset_real_features = self.reset_real_features, True
        try:
            super().merge_state(incoming_state)
        finally:
            self.reset_real_features = keeps

    def check(self, features: Tensor) -> None:
        """Raises a ValueError unless features are (N, dim)."""
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise GANError(f"features must have the shape (N, {self.dim}), got {tuple(features.shape)}")


class FeaturesMetric(RealAndFakeMetric):
    """A metric that needs all features at once. In a `MetricCollection`, all such share one copy of them."""

    def __init__(self, dim: int, reset_real_features: bool = True, **kwargs: Any) -> None:
        super().__init__(dim, reset_real_features, **kwargs)
        self.add_rows("real_features", dim)
        self.add_rows("fake_features", dim)

    def update(self, features: Tensor, real: bool) -> None:
        """Adds feature vectors; NaN or infinite ones make `compute` raise, on all processes alike.

        Args:
            features: (N, dim) of any floating type; N may be 0.
            real: Whether they are of real images.

        Raises:
            ValueError: If they have another shape.
        """
        self.check(features)
        self.append("real_features" if real else "fake_features", features)
