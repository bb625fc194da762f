"""What every metric asks of its tensors, and what it says where that is not so."""

import pytest
import torch

from gan.metrics.checks import check_finite, check_same_width, checked


def test_values_become_float64_without_gradients():
    for dtype in (torch.bfloat16, torch.float32, torch.int64):
        assert checked(torch.ones(3, 2, dtype=dtype), "values").dtype == torch.float64
    assert not checked(torch.ones(3, 2, requires_grad=True), "values").requires_grad


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.ones(3), r"values must have the shape \(N, D\), got \(3,\)"),
        (torch.ones(3, 0), r"values must have the shape \(N, D\), got \(3, 0\)"),
        (torch.ones(3, 2), "values: at least 4 rows are needed, got 3: use more images"),
        (torch.tensor([[1.0], [torch.nan], [torch.inf], [0]]), "values: 2 of 4 rows have NaN or infinite values"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        checked(values, "values", at_least=4)


def test_rows_that_are_not_finite_are_counted_once():
    images = torch.zeros(5, 1, 2, 2)
    check_finite(images, "images")
    images[1], images[3, 0, 0, 0] = torch.nan, -torch.inf
    with pytest.raises(ValueError, match="images: 2 of 5 rows have NaN or infinite values"):
        check_finite(images, "images")


def test_widths():
    check_same_width(torch.ones(1, 3), torch.ones(2, 3), "both")
    with pytest.raises(ValueError, match="both must have as many columns, got 3 and 4"):
        check_same_width(torch.ones(1, 3), torch.ones(1, 4), "both")
