"""An evaluation for people: a table, curves in TensorBoard, and a few sentences."""

import math
from pathlib import Path
from typing import Any

from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from whycluster.evaluation import Evaluation
from whycluster.evaluation.evaluation import ORDERS
from whycluster.evaluation.measuring import MEASURES
from whycluster.evaluation.statistics import Interval

FOLDER = "evaluation"  # within that of TensorBoard


def evaluation_table(evaluation: Evaluation) -> Table:
    """The methods, one a line, best first by the first fill."""
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
        table.add_row(
            *_cells(evaluation, method, fills), style="bold" if method == next(iter(evaluation.methods)) else ""
        )
    return table


def _cells(evaluation: Evaluation, method: str, fills: list[str]) -> list[str]:
    measured = evaluation.methods[method]
    srg = [evaluation.srg(method, fill) for fill in fills]
    cells = [
        method,
        str(measured.passes),
        f"{measured.seconds:.3f}",
        *(_said(figure) for figure in srg),
        f"{evaluation.srg(method, fills[0], 'probability').value:.3f}",
        f"{evaluation.flipped(method, fills[0], 'most').value:.0%}",
    ]
    if measured.in_masks is not None:
        mass, rank, hit = measured.in_masks
        cells += [f"{mass.nanmean():.1%}", f"{rank.mean():.1%}", f"{hit.mean():.0%}"]
    return cells


def _said(figure: Interval) -> str:
    value, low, high = figure
    return f"{value:.3f}" + (f" ({low:.2f} to {high:.2f})" if math.isfinite(low) else "")  # of a single image it is NaN


def evaluation_sentences(evaluation: Evaluation) -> list[str]:
    """What else was found out about our explanations."""
    sanity: dict[str, Any] = evaluation.sanity
    left = [f"{stage['size']['value']:.2f}" for stage in sanity["randomised"]]
    signed = [f"{stage['correlation']['value']:.2f}" for stage in sanity["randomised"]]
    asked, noise, kept = sanity["discriminativity"], sanity["sensitivity"], sanity["receipts"]
    pairs = asked["pairs"]["value"]
    against = "" if pairs != pairs else f", and {pairs:.2f} against one competitor and against another"  # NaN
    return [
        f"shuffled weights, top layer first, leave rank correlations of size {', '.join(left)} with the heatmaps "
        f"({sanity['unrelated']['value']:.2f}: nothing is left, as between heatmaps of different images); with their "
        f"signs, which may change from image to image, {', '.join(signed)} on average",
        f"heatmaps of a cluster and of its runner-up correlate by {asked['runner_up']['value']:.2f}{against}",
        f"noise of 2 % changes heatmaps by {noise['change']['value']:.0%} of their length at worst; rank correlation "
        f"{noise['correlation']['value']:.2f}",
        f"of the discriminant, {kept['pixels']:.0%} arrive at the pixels and {kept['absorbed']:.0%} are absorbed; "
        f"receipts balance to {kept['imbalance']:.0e}",
    ]


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Curves for TensorBoard: a run for each method, so that one chart shows them all; steps are patches gone."""
    for method in evaluation.methods:
        writer = SummaryWriter(str(folder / FOLDER / method))
        for fill in evaluation.settings["fills"]:
            for measure in MEASURES:
                for order in ORDERS:
                    curve = evaluation.mean_curve(method, fill, order, measure)
                    for count, value in zip(evaluation.counts, curve, strict=True):
                        writer.add_scalar(f"{measure}, {fill}/{order} relevant first", value, count)
            srg = evaluation.srg(method, fill)
            writer.add_scalar(f"srg/{fill}", srg.value, 0)
        writer.close()
