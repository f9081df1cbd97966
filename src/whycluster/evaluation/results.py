"""Results of an evaluation: what was measured of each method, and its figures with confidence intervals."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor

from whycluster.evaluation.flipping import area
from whycluster.evaluation.statistics import Interval, interval

Order = Literal["most", "least"]
ORDERS: tuple[Order, ...] = ("most", "least")  # which patches are removed first: the most or the least relevant ones
# What a flipping curve measures of the cluster explained; `assigned` is 1 where the image is still in it, else 0.
SCORES = ("discriminant", "probability", "assigned")


class FlippingCurves(NamedTuple):
    """Scores of each image at each point of its curves, `(N, T, 3)`; the last dimension is `SCORES`."""

    most: Tensor  # the most relevant patches are removed first
    least: Tensor  # the least relevant patches are removed first


class MaskAgreement(NamedTuple):
    """Agreement of heatmaps with the masks of the `M` images that have one; see `masks`."""

    mass: Tensor  # share of the positive relevance inside, (M,)
    rank: Tensor  # rank accuracy, (M,)
    hit: Tensor  # 1 where the densest region lies inside, else 0, (M,)


class MethodResults(NamedTuple):
    """Results of one method on all images."""

    passes: int  # through the network, per image
    seconds: float  # per image
    curves: Mapping[str, FlippingCurves]  # name of a fill `->` its curves
    mask_agreement: MaskAgreement | None  # `None` without masks


class Evaluation(NamedTuple):
    """Results of all methods on the same images."""

    methods: Mapping[str, MethodResults]  # name `->` its results; the first is ours
    counts: list[int]  # patches removed at each point of the curves
    n_patches: int  # of an image
    mask_area: Tensor | None  # share of the image that masks cover, (M,); `None` without masks
    sanity: dict[str, Any]  # sanity checks, discriminativity and receipts of ours, as JSON values
    settings: dict[str, Any]  # JSON values

    def srg(self, method: str, fill: str, score: str = "discriminant") -> Interval:
        """Mean area between the curves of least and of most relevant first; discriminants in units of their start."""
        curves, column = self.methods[method].curves[fill], SCORES.index(score)
        gap = (area(curves.least, self.counts) - area(curves.most, self.counts))[:, column]
        return interval(gap, curves.most[:, 0, column] if score == "discriminant" else None)

    def flipped(self, method: str, fill: str, order: Order) -> Interval:
        """Share of the images that have left their cluster at the end of the curve."""
        return interval(1 - self._curve(method, fill, order, "assigned")[:, -1])

    def mean_curve(self, method: str, fill: str, order: Order, score: str) -> list[float]:
        """Mean over images at each of the counts; discriminants in units of their start."""
        curve = self._curve(method, fill, order, score).mean(0)
        means: list[float] = (curve / curve[0] if score == "discriminant" else curve).tolist()
        return means

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values; what is undefined is NaN."""
        values: dict[str, Any] = {
            "settings": self.settings,
            "fraction_gone": [count / self.n_patches for count in self.counts],
            "methods": {name: self._method_json(name) for name in self.methods},
            "sanity": self.sanity,
        }
        if self.mask_area is not None:
            values["masks"] = {"images": len(self.mask_area), "area": float(self.mask_area.mean())}
        return values

    def _curve(self, method: str, fill: str, order: Order, score: str) -> Tensor:
        curve: Tensor = getattr(self.methods[method].curves[fill], order)
        return curve[..., SCORES.index(score)]

    def _method_json(self, method: str) -> dict[str, Any]:
        results = self.methods[method]
        values: dict[str, Any] = {
            "passes": results.passes,
            "seconds_per_image": results.seconds,
            "flipping": {fill: self._flipping_json(method, fill) for fill in results.curves},
        }
        if results.mask_agreement is not None:
            agreement = results.mask_agreement._asdict()
            values["masks"] = {name: interval(column)._asdict() for name, column in agreement.items()}
        return values

    def _flipping_json(self, method: str, fill: str) -> dict[str, Any]:
        return {
            "srg": {score: self.srg(method, fill, score)._asdict() for score in SCORES[:2]},
            "flipped": {order: self.flipped(method, fill, order)._asdict() for order in ORDERS},
            "curves": {
                score: {order: self.mean_curve(method, fill, order, score) for order in ORDERS} for score in SCORES
            },
        }
