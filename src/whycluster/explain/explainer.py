"""Images `->` explanations: the discriminant of a cluster, propagated back through head and backbone to the pixels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from whycluster.errors import UserError
from whycluster.explain.images import Images, batches
from whycluster.explain.model import Assignment, ClusterModel
from whycluster.explain.targets import Target, parse_target
from whycluster.heads import Beta, ClusterLayer, Midpoint, RuleName, Zero
from whycluster.heads.beta import user_beta
from whycluster.heads.layers import HeadRule
from whycluster.lrp import LRP, Attention, Composite, Epsilon, Residual, named_composite
from whycluster.lrp.composites import GAMMA, Row
from whycluster.lrp.forward_cache import ForwardCache

if TYPE_CHECKING:
    from whycluster.explain.clusters import ClusterDescription

BATCH_SIZE = 16
STEPS = "steps.*"  # nodes of the feature steps in the graph
HEAD_RULES: dict[RuleName, type[HeadRule]] = {"zero": Zero, "midpoint": Midpoint}
# Chosen by the figures in docs/defaults.md.
RESIDUAL_OF_HEAD_RULE: dict[RuleName, Residual] = {"zero": "norm", "midpoint": "ratio"}


class StepsAndHead(nn.Module):
    """The part of a model behind the backbone: features `(N, D)` `->` features after the steps `(N, D')` and
    discriminants `(N, K)`, from either of which relevance is propagated.

    Args:
        model: a fitted model.
    """

    def __init__(self, model: ClusterModel) -> None:
        super().__init__()
        self.steps, self.head = model.steps, model.head

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Computes both outputs."""
        after = self.steps(features)
        return after, self.head(after)


class DiscriminantReceipt(NamedTuple):
    """Where the relevance of each image went; `discriminant = pixels + absorbed`, up to rounding. All `(N,)`.

    Attributes:
        discriminant: the discriminant that was explained.
        features: the relevance that arrived at the features of the backbone, before the feature steps.
        pixels: the relevance that arrived at the pixels.
        absorbed: the relevance that biases and stabilisers of head, feature steps and network absorbed.
    """

    discriminant: Tensor
    features: Tensor
    pixels: Tensor
    absorbed: Tensor


class Explanation(NamedTuple):
    """The explanation of why images are, or are not, in a cluster.

    Attributes:
        target: the cluster explained, `(N,)`.
        heatmap: relevance of each pixel, summed over colours, `(N, H, W)`.
        concepts: relevance of each channel of the features, `(N, C)`; see `whycluster.explain.concepts`.
        receipt: where the relevance went.
        assignment: the clusters that the images are assigned to, whatever was explained.
        features: of the backbone, before the feature steps, `(N, D)`.
    """

    target: Tensor
    heatmap: Tensor
    concepts: Tensor
    receipt: DiscriminantReceipt
    assignment: Assignment
    features: Tensor

    @property
    def cluster(self) -> Tensor:
        """The cluster each image is assigned to, `(N,)`."""
        return self.assignment.cluster

    @property
    def discriminant(self) -> Tensor:
        """The discriminant that was explained, `(N,)`: of `target`, or against the one competitor asked for."""
        return self.receipt.discriminant


class Explainer:
    """Explains the assignments of a model.

    Args:
        model: a fitted model, on the device to work on.
        composite: the rules for the network: a name, or a `Composite`.
        head_rule: `zero`, `midpoint`, or `auto`: `zero`, as features of a CNN that are zero have no relevance to pass.
            `midpoint` takes features that no step has centred: it gives relevance to a feature at its mean, which is
            zero after the step, so that no share of it could be passed on.
        beta: stiffness of the pooling over competitors; `auto`: the model's own.
        residual: the rule of residual additions, `ratio` or `norm`, in a named composite; `auto`: the one that explains
            better after the head rule by measurement, `norm` after `zero` and `ratio` after `midpoint`.
        attention: how relevance passes attention, `attn` or `cp` (see `LRP`); in a named composite it also decides the
            gamma of linear layers on tokens.
        gamma: of convolutions in the composite `epsilon_gamma_box`; `None`: 0.25.

    Attributes:
        composite: its name, or its type.
        gamma: of convolutions in a composite by that name, else `None`.
        residual: the rule of residual additions in a named composite, else `None`.
        network: LRP through the backbone, normalised images `->` features.
        clustering: LRP through what is behind it; see `StepsAndHead`.

    Raises:
        UserError: for an unknown composite or rule, a gamma that the composite does not have, a midpoint rule behind
            centred features, or a network that LRP cannot pass.

    Example:
        >>> import whycluster.backbones, whycluster.heads
        >>> backbone = whycluster.backbones.build_backbone("glyphnet", "DEFAULT", pool="flatten")
        >>> head = whycluster.heads.neuralize(torch.rand(3, backbone.n_features))
        >>> Explainer(ClusterModel(backbone, head)).explain(torch.rand(5, 3, 32, 32)).heatmap.shape
        torch.Size([5, 32, 32])
    """

    def __init__(
        self,
        model: ClusterModel,
        composite: str | Composite = "epsilon_gamma_box",
        head_rule: Literal["auto", "zero", "midpoint"] = "auto",
        beta: Beta = "auto",
        residual: Residual | Literal["auto"] = "auto",
        attention: Attention = "attn",
        gamma: float | None = None,
    ) -> None:
        if head_rule not in ("auto", "zero", "midpoint"):
            raise UserError(f"head_rule={head_rule!r} is unknown; choose auto, zero or midpoint.")
        if not isinstance(composite, str | Composite):
            raise UserError(f"composite={composite!r:.100} should be the name of a composite, or a composite.")
        if head_rule == "midpoint" and model.steps.mean is not None:
            raise UserError(
                "head_rule=midpoint is not defined behind features.standardize and features.pca: it gives relevance to "
                "features that are zero after these steps, and that could not pass them; take head_rule=zero."
            )
        self.beta = user_beta(beta)
        self.model = model
        self.head_rule: RuleName = "zero" if head_rule == "auto" else head_rule
        self.composite = composite if isinstance(composite, str) else type(composite).__name__
        self.gamma = gamma
        self.residual: Residual | None = None
        if isinstance(composite, str):
            self.residual = RESIDUAL_OF_HEAD_RULE[self.head_rule] if residual == "auto" else residual
            composite = named_composite(composite, *model.backbone.bounds(), self.residual, attention, gamma)
            if self.composite == "epsilon_gamma_box" and gamma is None:
                self.gamma = GAMMA
        elif gamma is not None:
            raise UserError(f"gamma={gamma} is of a composite by its name; give it to the composite itself.")
        # Without a stabiliser: behind the zero rule the relevance of an output of a step vanishes where that does.
        rows: list[Row] = [(ClusterLayer, HEAD_RULES[self.head_rule](beta)), (STEPS, Epsilon(0)), *composite.rows]
        self.clustering = LRP(StepsAndHead(model), Composite(rows), attention)
        self.network = LRP(model.backbone.network, composite, attention)
        side, centre = model.backbone.preprocessing.crop, model.head.centre
        self._blank = model.backbone.normalise(torch.zeros(1, 3, side, side, device=centre.device))
        self.network.prepare(self._blank)  # raises at once if LRP cannot pass the network

    def describe(self) -> str:
        """Lists the rule of each node of the network, and of what is behind it, in a table each."""
        blank_features = self._blank.new_zeros(1, self.model.backbone.n_features)
        return f"{self.network.describe(self._blank)}\n{self.clustering.describe(blank_features)}"

    def describe_clusters(self, images: Images) -> "list[ClusterDescription]":
        """Says what each cluster that has some of the images is about: prototypes, concepts, contrasts, and more.

        Args:
            images: as in `explain`; in what is returned they are numbers, from 0.

        Raises:
            UserError: as `explain`, for images.
            UnreadableImageError: for a path that holds no image.

        Example:
            >>> import whycluster.backbones, whycluster.heads
            >>> backbone = whycluster.backbones.build_backbone("glyphnet", "DEFAULT", pool="flatten")
            >>> images = torch.rand(6, 3, 32, 32)
            >>> head = whycluster.heads.neuralize(backbone(images[:2]))  # two of the images as centroids
            >>> found = Explainer(ClusterModel(backbone, head)).describe_clusters(images)
            >>> [one.prototypes[0] < 6 for one in found]
            [True, True]
        """
        from whycluster.explain.clusters import describe_images  # which needs this module

        return describe_images(self, images)

    def explain(self, images: Images, target: str | int = "assigned") -> Explanation:
        """Explains images.

        Args:
            images: paths or Pillow images, which are resized and cropped by the model's preprocessing; or images that
                are already: a tensor or a NumPy array `(N, 3, H, W)`, uint8 or floats from 0 to 1, or a list of them,
                `(3, H, W)` each.
            target: `assigned`, `runner_up`, a cluster number, or a pair `c:k` (why `c` and not `k`).

        Raises:
            UserError: for a target that does not exist, no images, or a tensor of another shape, type or range.
            UnreadableImageError: for a path that holds no image.
        """
        targets = parse_target(target, self.model.n_clusters)
        if len(targets) != 1:
            raise UserError(f"target={target!r} has many answers; use explain_all, or ask for one after another.")
        return joined([explanations[0] for explanations in self._batches(images, targets)])

    def explain_all(self, images: Images, target: str | int = "all") -> list[Explanation]:
        """Explains images for several targets in turn; the network is run forward only once.

        Args:
            images: as in `explain`.
            target: `all`: every cluster; `c:all`: cluster `c` against each of the others.
        """
        targets = parse_target(target, self.model.n_clusters)
        return [joined(parts) for parts in zip(*self._batches(images, targets), strict=True)]

    def explain_targets(self, images: Tensor, targets: Sequence[Target]) -> list[Explanation]:
        """Explains one batch `(N, 3, H, W)` for each target, with one forward pass."""
        network = self.network.forward(self.model.backbone.normalise(images))
        clustering = self.clustering.forward(network.output)
        assignment = self.model.assign(clustering.output[0])
        explanations = []
        for number, target in enumerate(targets, start=1):
            more = number < len(targets)
            entering, explained, absorbed = self.entering(clustering, target)
            at_features = clustering.propagate(entering, more)
            at_pixels = network.propagate(at_features.relevance, more)
            receipt = DiscriminantReceipt(
                explained,
                at_features.relevance.sum(1, dtype=torch.float64),
                at_pixels.relevance.flatten(1).sum(1, dtype=torch.float64),
                absorbed + at_features.receipt.absorbed + at_pixels.receipt.absorbed,
            )
            clusters, heatmap = target.clusters(assignment), at_pixels.relevance.sum(1)
            concepts = self.model.backbone.channel_sums(at_features.relevance)
            explanations.append(Explanation(clusters, heatmap, concepts, receipt, assignment, network.output))
        return explanations

    def entering(self, clustering: ForwardCache, target: Target) -> tuple[list[Tensor], Tensor, Tensor]:
        """Starts the propagation of a target.

        Args:
            clustering: a forward pass of `self.clustering`.
            target: what to explain.

        Returns:
            The relevance that enters at the features after the steps, `(N, D')`, and at the discriminants, `(N, K)`;
            the discriminants that are explained, `(N,)`; and what biases absorbed of these before, `(N,)`.
        """
        features, discriminants = clustering.output  # after the steps
        clusters = target.clusters(self.model.assign(features))
        if target.against is None:
            explained = discriminants.gather(1, clusters[:, None])[:, 0]
            of_head = torch.zeros_like(discriminants).scatter_(1, clusters[:, None], explained[:, None])
            return [torch.zeros_like(features), of_head], explained, torch.zeros_like(explained)
        # The margin to one competitor is no output of the head.
        head = self.model.head.attribute(features, clusters, target.against, self.head_rule, self.beta)
        return [head.relevance.to(features), torch.zeros_like(discriminants)], head.explained, head.absorbed

    def _batches(self, images: Images, targets: Sequence[Target]) -> list[list[Explanation]]:
        device = self.model.head.centre.device
        prepared = batches(images, self.model.backbone.preprocessing, BATCH_SIZE)
        return [self.explain_targets(batch.to(device), targets) for batch in prepared]


def joined(parts: Sequence[Explanation]) -> Explanation:
    """Concatenates the explanations of batches."""
    targets, heatmaps, concepts, receipts, assignments, features = zip(*parts, strict=True)
    return Explanation(
        torch.cat(targets),
        torch.cat(heatmaps),
        torch.cat(concepts),
        DiscriminantReceipt(*(torch.cat(column) for column in zip(*receipts, strict=True))),
        Assignment(*(torch.cat(column) for column in zip(*assignments, strict=True))),
        torch.cat(features),
    )
