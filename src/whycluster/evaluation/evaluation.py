"""What an evaluation found, as figures with intervals."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor

from whycluster.evaluation.flipping import area
from whycluster.evaluation.measuring import MEASURES, Measured
from whycluster.evaluation.statistics import Interval, interval

Order = Literal["most", "least"]
ORDERS: tuple[Order, ...] = ("most", "least")  # relevant patches first


class Evaluation(NamedTuple):
    """All figures of an evaluation.

    Attributes:
        methods: name `->` what was measured; the first is ours.
        counts: patches gone at each point of the curves.
        n_patches: of an image.
        mask_area: share of the image that masks cover, `(M,)`; `None` without masks.
        sanity: plain values: sanity, discriminativity and receipts of ours.
        settings: plain values.
    """

    methods: Mapping[str, Measured]
    counts: list[int]
    n_patches: int
    mask_area: Tensor | None
    sanity: dict[str, Any]
    settings: dict[str, Any]

    def srg(self, method: str, fill: str, measure: str = "discriminant") -> Interval:
        """Area between the curves of least and of most relevant first; discriminants in units of their start."""
        curves, column = self.methods[method].curves[fill], MEASURES.index(measure)
        gap = (area(curves.least, self.counts) - area(curves.most, self.counts))[:, column]
        return interval(gap, curves.most[:, 0, column] if measure == "discriminant" else None)

    def flipped(self, method: str, fill: str, order: Order) -> Interval:
        """Share of the images that are in another cluster at the end of a curve."""
        return interval(1 - self._curve(method, fill, order, "assigned")[:, -1])

    def mean_curve(self, method: str, fill: str, order: Order, measure: str) -> list[float]:
        """The mean over images at each of the counts; discriminants in units of their start."""
        curve = self._curve(method, fill, order, measure).mean(0)
        means: list[float] = (curve / curve[0] if measure == "discriminant" else curve).tolist()
        return means

    def to_plain(self) -> dict[str, Any]:
        """Everything as plain values, for a JSON file."""
        plain: dict[str, Any] = {
            "settings": self.settings,
            "fraction_gone": [count / self.n_patches for count in self.counts],
            "methods": {name: self._plain(name) for name in self.methods},
            "sanity": self.sanity,
        }
        if self.mask_area is not None:
            plain["masks"] = {"images": len(self.mask_area), "area": float(self.mask_area.mean())}
        return plain

    def _curve(self, method: str, fill: str, order: Order, measure: str) -> Tensor:
        curve: Tensor = getattr(self.methods[method].curves[fill], order)
        return curve[..., MEASURES.index(measure)]

    def _plain(self, method: str) -> dict[str, Any]:
        measured = self.methods[method]
        plain: dict[str, Any] = {
            "passes": measured.passes,
            "seconds_per_image": measured.seconds,
            "flipping": {fill: self._plain_flipping(method, fill) for fill in measured.curves},
        }
        if measured.in_masks is not None:
            plain["masks"] = {name: interval(values)._asdict() for name, values in measured.in_masks._asdict().items()}
        return plain

    def _plain_flipping(self, method: str, fill: str) -> dict[str, Any]:
        return {
            "srg": {measure: self.srg(method, fill, measure)._asdict() for measure in MEASURES[:2]},
            "flipped": {order: self.flipped(method, fill, order)._asdict() for order in ORDERS},
            "curves": {
                measure: {order: self.mean_curve(method, fill, order, measure) for order in ORDERS}
                for measure in MEASURES
            },
        }
