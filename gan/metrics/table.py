"""Scores as they are called where they are logged, and as a table for the eye."""

from rich.table import Table

ROWS = {  # of the table: a score, what it is called, and how it is written
    "fid": ("FID", "{:.3f}"),
    "fid_infinity": ("FID of infinitely many", "{:.3f}"),
    "kid": ("KID", "{:.5f}"),
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
    "density": ("density", "{:.3f}"),
    "coverage": ("coverage", "{:.3f}"),
    "modes_covered": ("classes covered", "{:.0f}"),
    "entropy": ("entropy of the classes, nats", "{:.3f}"),
    "inception_score": ("inception score", "{:.3f}"),
    "fid_within_classes": ("FID within the classes, mean", "{:.3f}"),
    "class_accuracy": ("of the class asked for", "{:.3f}"),
    "accuracy_score": ("accuracy of a classifier trained on it", "{:.3f}"),
}


def scalar(metric: str, extractor: str) -> str:
    """The name that a score is logged by: `fid/<extractor>`, and `scores/<metric>/<extractor>` for all others.

    What stands before the first slash makes the groups of charts in TensorBoard and elsewhere.
    """
    return f"fid/{extractor}" if metric == "fid" else f"scores/{metric}/{extractor}"


def table(generated: dict[str, float], real: dict[str, float]) -> Table:
    """Scores of generated images, beside those of as many real ones."""
    rows = Table("score")
    for images in ("generated", "real"):
        rows.add_column(images, justify="right")
    for metric, (name, form) in ROWS.items():
        if metric in generated:
            rows.add_row(name, form.format(generated[metric]), form.format(real[metric]) if metric in real else "")
    return rows
