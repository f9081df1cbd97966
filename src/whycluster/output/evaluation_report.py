"""The report of an evaluation: a table, sentences, and curves for TensorBoard."""

import math
from pathlib import Path
from typing import Any

from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from whycluster.evaluation import OURS, Evaluation
from whycluster.evaluation.results import ORDERS, SCORES
from whycluster.evaluation.sanity import SENSITIVITY_NOISE
from whycluster.evaluation.statistics import Interval


def evaluation_table(evaluation: Evaluation) -> Table:
    """Builds the table: one row per method, the highest SRG for the first fill at the top."""
    fills = evaluation.settings["fills"]
    table = Table(
        title=f"Flipping {evaluation.settings['images']} images, up to {evaluation.settings['fraction']:.0%} of each: "
        "SRG is the area between least and most relevant first (95 % intervals)"
    )
    table.add_column("method")
    for name in ("passes", "s/image", *(f"SRG, {fill}" for fill in fills), "SRG of probability", "flips by most"):
        table.add_column(name, justify="right")
    if evaluation.mask_area is not None:
        area, n = float(evaluation.mask_area.mean()), len(evaluation.mask_area)
        for name in (f"mass in masks ({n} images, {area:.1%} of the area)", "rank accuracy", "densest in masks"):
            table.add_column(name, justify="right")
    for method in sorted(evaluation.methods, key=lambda name: -evaluation.srg(name, fills[0]).value):
        table.add_row(*_cells(evaluation, method, fills), style="bold" if method == OURS else "")
    return table


def _cells(evaluation: Evaluation, method: str, fills: list[str]) -> list[str]:
    results = evaluation.methods[method]
    cells = [
        method,
        str(results.passes),
        f"{results.seconds:.3f}",
        *(_with_interval(evaluation.srg(method, fill)) for fill in fills),
        f"{evaluation.srg(method, fills[0], 'probability').value:.3f}",
        f"{evaluation.flipped(method, fills[0], 'most').value:.0%}",
    ]
    if results.mask_agreement is not None:
        mass, rank, hit = results.mask_agreement
        cells += [f"{mass.nanmean():.1%}", f"{rank.mean():.1%}", f"{hit.mean():.0%}"]
    return cells


def _with_interval(figure: Interval) -> str:
    value, low, high = figure
    return f"{value:.3f}" + (f" ({low:.2f} to {high:.2f})" if math.isfinite(low) else "")  # NaN for a single image


def evaluation_sentences(evaluation: Evaluation) -> list[str]:
    """Writes sentences on the sanity checks and receipts of our explanations."""
    sanity: dict[str, Any] = evaluation.sanity
    sizes = [f"{stage['size']['value']:.2f}" for stage in sanity["randomised"]]
    signed = [f"{stage['correlation']['value']:.2f}" for stage in sanity["randomised"]]
    targets, noise, receipts = sanity["discriminativity"], sanity["sensitivity"], sanity["receipts"]
    pairs = targets["pairs"]["value"]
    against = "" if math.isnan(pairs) else f", and {pairs:.2f} against one competitor and against another"
    return [
        f"with weights shuffled from the top layer down, heatmaps keep an absolute rank correlation of "
        f"{', '.join(sizes)} with the original ones ({sanity['unrelated']['value']:.2f} is chance: that of heatmaps of "
        f"different images); with its sign, which may differ between images, it averages to {', '.join(signed)}",
        f"heatmaps of a cluster and of its runner-up correlate by {targets['runner_up']['value']:.2f}{against}",
        f"noise of {100 * SENSITIVITY_NOISE:g} % changes heatmaps by at most {noise['change']['value']:.0%} of their "
        f"norm; rank correlation {noise['correlation']['value']:.2f}",
        f"of the discriminant, {receipts['pixels']:.0%} arrive at the pixels and {receipts['absorbed']:.0%} are "
        f"absorbed; receipts balance to {receipts['imbalance']:.0e}",
    ]


def write_curves(folder: Path, evaluation: Evaluation) -> None:
    """Writes flipping curves for TensorBoard over the patches removed: one run per method, so that charts overlay them.

    Args:
        folder: TensorBoard's; the curves go into `evaluation/<method>` below it.
        evaluation: the results.
    """
    for method in evaluation.methods:
        with SummaryWriter(str(folder / "evaluation" / method)) as writer:
            for fill in evaluation.settings["fills"]:
                for score in SCORES:
                    for order in ORDERS:
                        curve = evaluation.mean_curve(method, fill, order, score)
                        for count, value in zip(evaluation.counts, curve, strict=True):
                            writer.add_scalar(f"{score}, {fill}/{order} relevant first", value, count)
                writer.add_scalar(f"srg/{fill}", evaluation.srg(method, fill).value, 0)
