"""The feature steps: what stands between the features of a backbone and their clustering, as layers of a network.

`z = normalise(C · ((x - mean) ∘ scale))`: standardization, principal components, and L2 normalisation, each of which
may be left out, of features some of which may be dropped: set to zero. `N` rows, `D` features of the backbone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whycluster.errors import UserError, true_or_false, whole_number

Normalisation = Literal["l2", "none"]
MOST_FEATURES = 8192  # of which principal components are computed: their covariances take half a gigabyte


class FeatureSteps(nn.Module):
    """Features of a backbone `(N, D)` `->` what is clustered, `(N, D')`.

    The features of several layers are first normalised layer by layer, so that each counts alike. A vector of zeros
    stays one.

    Args:
        widths: how many features each layer of the backbone gives.
        normalise: whether vectors are divided by their L2 norm.
        mean: of the features, `(D,)`; `None`: features are not centred.
        scale: factor of each centred feature, `(D,)`; `None`: 1.
        components: directions that the scaled features are projected on, `(D', D)`; `None`: features are not projected.
        kept: 1 for each feature that is used and 0 for each that is dropped, `(D,)`; `None`: all are used.

    Attributes:
        n_features: `D'`.

    Example:
        >>> FeatureSteps([2])(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """

    mean: Tensor | None
    scale: Tensor | None
    components: Tensor | None
    kept: Tensor | None

    def __init__(
        self,
        widths: Sequence[int],
        normalise: bool = True,
        mean: Tensor | None = None,
        scale: Tensor | None = None,
        components: Tensor | None = None,
        kept: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.widths, self.normalise = list(widths), normalise
        self.n_features = sum(widths) if components is None else len(components)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.register_buffer("components", components)
        self.register_buffer("kept", kept)

    def extra_repr(self) -> str:
        return f"{self.widths}, normalise={self.normalise}"

    def joined(self, features: Tensor) -> Tensor:
        """Joins the features of several layers, `(N, D)`, each normalised on its own if vectors are; drops some."""
        if self.kept is not None:
            features = features * self.kept
        if not self.normalise or len(self.widths) == 1:
            return features
        return torch.cat([F.normalize(part, dim=1) for part in torch.split(features, self.widths, 1)], 1)

    def forward(self, features: Tensor) -> Tensor:
        z = self.joined(features)
        if self.mean is not None:
            z = z - self.mean
        if self.scale is not None:
            z = z * self.scale
        if self.components is not None:
            z = F.linear(z, self.components)
        return F.normalize(z, dim=1) if self.normalise else z

    def content(self) -> dict[str, Any]:
        """Returns the arguments that make these steps, as tensors and plain values."""
        tensors = {name: None if one is None else one.cpu() for name, one in self._buffers.items()}
        return {"widths": self.widths, "normalise": self.normalise, **tensors}


class Covariance(NamedTuple):
    """Mean and covariance of rows."""

    n_rows: int
    mean: Tensor  # (D,) float64
    covariance: Tensor  # Σ (x - mean)(x - mean)ᵀ / N, (D, D) float64; or its diagonal alone, (D,)


def covariance(blocks: Iterable[Tensor], diagonal: bool = False) -> Covariance:
    """Computes the mean and the covariance of rows in one pass, in float64.

    Squares are summed about the first row, which keeps them from cancelling; a constant feature has no variance at all.

    Args:
        blocks: all rows, `(n, D)` each.
        diagonal: whether only variances are computed.

    Example:
        >>> covariance([torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 5.0]])], diagonal=True).covariance
        tensor([1., 0.], dtype=torch.float64)
    """
    n_rows = 0
    shift = first = second = torch.zeros(())
    for block in blocks:
        if not n_rows:
            shift = block[0].double()
            first = torch.zeros_like(shift)
            second = torch.zeros_like(first if diagonal else first[:, None] * first)
        moved = block.double() - shift
        first += moved.sum(0)
        second += moved.square().sum(0) if diagonal else moved.T @ moved
        n_rows += len(moved)
    mean = first / n_rows
    products = mean.square() if diagonal else mean[:, None] * mean
    return Covariance(n_rows, shift + mean, second / n_rows - products)


@dataclass(frozen=True)
class FeatureSettings:
    """Which steps features take on the way to the clustering.

    Attributes:
        normalize: `l2`: vectors are divided by their norm, so that a clustering compares directions; `none`.
        standardize: whether each feature gets mean 0 and variance 1; one that is constant gets mean 0.
        pca: how many principal components are kept, in the place of the features; `None`: the features are.
        whiten: whether each component is divided by its standard deviation.
        drop: numbers of the channels that are set to zero before all other steps, such as those that carry an artefact;
            `None`: no channel is.

    Raises:
        UserError: for settings that make no sense.
    """

    normalize: Normalisation = "l2"
    standardize: bool = False
    pca: int | None = None
    whiten: bool = False
    drop: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.normalize not in get_args(Normalisation):
            raise UserError(f"features.normalize={self.normalize!r} is unknown; choose l2 or none.")
        true_or_false("features.standardize", self.standardize)
        true_or_false("features.whiten", self.whiten)
        if self.pca is not None:
            whole_number("features.pca", self.pca, 1)
        elif self.whiten:
            raise UserError("features.whiten=true scales principal components; set features.pca to their number.")
        if self.drop is not None:
            if isinstance(self.drop, str | int | float):
                raise UserError(f"features.drop={self.drop!r} should be a list of channels, such as [12,87], or null.")
            numbers = {whole_number("a channel in features.drop", channel, 0) for channel in self.drop}
            object.__setattr__(self, "drop", tuple(sorted(numbers)))  # plain numbers, not as OmegaConf has lists

    def check(self, n_images: int, n_features: int, n_channels: int) -> None:
        """Checks that a collection of `N` images with `D` features of `C` channels can take these steps.

        Raises:
            UserError: for more components than images or features, or more features than their covariances fit memory;
                for dropped channels that do not exist, or if all are dropped.
        """
        unknown = [channel for channel in self.drop or () if channel >= n_channels]
        if unknown:
            raise UserError(
                f"features.drop={list(self.drop or ())} names the channel {unknown[0]}; the backbone has {n_channels}, "
                f"0 to {n_channels - 1}."
            )
        if self.drop and len(self.drop) == n_channels:
            raise UserError(f"features.drop names all {n_channels} channels of the backbone; leave some to cluster by.")
        if self.pca is None:
            return
        if n_features > MOST_FEATURES:
            raise UserError(
                f"features.pca takes at most {MOST_FEATURES} features, and the backbone gives {n_features}; pool them "
                "with backbone.pool=avg, or leave features.pca at null."
            )
        if self.pca > min(n_images - 1, n_features):  # about their mean, N images vary in N - 1 directions at most
            raise UserError(
                f"features.pca={self.pca} should be < the number of images, {n_images}, and <= that of features, "
                f"{n_features}."
            )

    def fit(self, blocks: Iterable[Tensor], widths: Sequence[int], channels: Tensor | None = None) -> FeatureSteps:
        """Fits the steps to features.

        Args:
            blocks: features of all images, `(n, D)` float32 each; they need not fit into memory together.
            widths: how many features each layer of the backbone gives.
            channels: the channel of each feature, `(D,)`; `None`: each feature is one.

        Raises:
            UserError: for features that are not finite, or that vary in fewer directions than components are wanted.
        """
        normalise = self.normalize == "l2"
        kept = None
        if self.drop:
            of_feature = torch.arange(sum(widths)) if channels is None else channels.cpu()
            kept = (~torch.isin(of_feature, torch.tensor(self.drop))).float()
        steps = FeatureSteps(widths, normalise, kept=kept)
        if not self.standardize and self.pca is None:
            return steps
        n_rows, mean, spread = covariance(map(steps.joined, blocks), diagonal=self.pca is None)
        if not (mean.isfinite().all() and spread.isfinite().all()):
            raise UserError("the features contain NaN or infinity; the weights of the backbone are not usable.")
        scale = components = None
        if self.standardize:
            scale = inverse_deviations(mean, spread if self.pca is None else spread.diagonal())
        if self.pca is not None:
            spread = spread if scale is None else spread * scale * scale[:, None]
            components = principal_components(spread, self.pca, n_rows if self.whiten else None)
        numbers = (None if one is None else one.float() for one in (mean, scale, components, kept))
        return FeatureSteps(widths, normalise, *numbers)


def inverse_deviations(mean: Tensor, variance: Tensor) -> Tensor:
    """Computes one over the standard deviation of each feature, `(D,)`; 1 where it only varies by float32 rounding."""
    deviation = variance.clamp(min=0).sqrt()
    varies = deviation > mean.abs() * torch.finfo(torch.float32).eps
    return deviation.reciprocal().where(varies, 1)


def principal_components(spread: Tensor, n_components: int, whiten_rows: int | None = None) -> Tensor:
    """Computes the directions of largest variance, those first, each with its largest entry positive.

    Args:
        spread: covariance of the features, `(D, D)` float64.
        n_components: how many, `D'`.
        whiten_rows: the number of rows `N`, if components are to be divided by their standard deviation (with `N - 1`
            degrees of freedom, as in scikit-learn); `None`: they have length 1.

    Returns:
        `(D', D)` float64.

    Raises:
        UserError: if features vary in fewer directions, up to rounding.
    """
    values, vectors = torch.linalg.eigh(spread)
    values, vectors = values.flip(0), vectors.flip(1).T  # in descending order, a row each
    rounding = values[0].clamp(min=0) * len(values) * torch.finfo(torch.float32).eps ** 2
    rank = int((values > rounding).sum())
    if n_components > rank:
        directions = f"which vary in {rank} directions only" if rank else "which are the same for all images"
        raise UserError(f"features.pca={n_components} asks too much of features {directions}; ask for fewer, or null.")
    values, vectors = values[:n_components], vectors[:n_components]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    vectors = vectors * largest.sign()
    if whiten_rows is not None:
        vectors = vectors / (values * whiten_rows / (whiten_rows - 1)).sqrt()[:, None]
    components: Tensor = vectors.contiguous()
    return components
