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
    "psnr": ("PSNR, dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "lpips": ("LPIPS", "{:.4f}"),
}


def scalar(metric: str, extractor: str) -> str:
    """The name that a score is logged by: `fid/<extractor>`, and `scores/<metric>/<extractor>` for all others.

    What stands before the first slash makes the groups of charts in TensorBoard and elsewhere. What stands last tells
    the scores of one tracker from those of another, which may be of other images: so it does of scores that no
    extractor sees, such as PSNR.
    """
    return f"fid/{extractor}" if metric == "fid" else f"scores/{metric}/{extractor}"


def table(generated: dict[str, float], real: dict[str, float], source: dict[str, float] | None = None) -> Table:
    """Scores of generated images, beside those of as many real ones, and of the sources that they were made from."""
    columns = {"generated": generated, "real": real} | ({} if source is None else {"source": source})
    rows = Table("score")
    for images in columns:
        rows.add_column(images, justify="right")
    for metric, (name, form) in ROWS.items():
        if metric in generated:
            rows.add_row(
                name, *(form.format(scores[metric]) if metric in scores else "" for scores in columns.values())
            )
    return rows
