"""Targets of explanations: `assigned`, `runner_up`, `all`, a cluster, a pair `c:k`, or all pairs `c:all`."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from whycluster.errors import UserError
from whycluster.explain.model import Assignment


@dataclass(frozen=True)
class Target:
    """A question about every image: which cluster is explained, and against which competitor.

    Attributes:
        name: `assigned`, `runner_up`, `3` or `3:5`.
        cluster: the cluster to explain, where the name alone does not say it; one, or one for each image, `(N,)`.
        against: the only competitor, if there is one; one, or one for each image.
    """

    name: str
    cluster: int | Tensor | None = None
    against: int | Tensor | None = None

    def clusters(self, assignment: Assignment) -> Tensor:
        """Returns the cluster to explain of each image, `(N,)`."""
        if self.cluster is None:
            return assignment.runner_up if self.name == "runner_up" else assignment.cluster
        return torch.as_tensor(self.cluster).to(assignment.cluster).expand_as(assignment.cluster)


def parse_target(text: str | int, n_clusters: int) -> list[Target]:
    """Reads a target as users write it; `all` becomes a target for each cluster, `c:all` one for each competitor.

    Args:
        text: `assigned`, `runner_up`, `all`, a cluster number, a pair `c:k` (why `c` and not `k`), or `c:all`.
        n_clusters: `K`.

    Raises:
        UserError: for anything else, clusters that do not exist, or a cluster against itself.

    Example:
        >>> parse_target("2:0", n_clusters=3)
        [Target(name='2:0', cluster=2, against=0)]
    """
    name = str(text).strip()
    if name in ("assigned", "runner_up"):
        return [Target(name)]
    if name == "all":
        return [Target(str(cluster), cluster) for cluster in range(n_clusters)]
    pairs = re.fullmatch(r"(\d+):all", name, re.ASCII)
    if pairs is not None:
        others = [k for k in range(n_clusters) if k != int(pairs[1])]
        return [target for k in others for target in parse_target(f"{pairs[1]}:{k}", n_clusters)]
    numbers = re.fullmatch(r"(\d+)(?::(\d+))?", name, re.ASCII)
    if numbers is None:
        raise UserError(
            f"target={name!r} is unknown; choose assigned, runner_up, all, a cluster number, a pair like 2:0, or 2:all."
        )
    cluster, against = (None if number is None else int(number) for number in numbers.groups())
    for number in (cluster, against):
        if number is not None and number >= n_clusters:
            raise UserError(f"target={name!r}: there is no cluster {number}; the model has 0 to {n_clusters - 1}.")
    if cluster == against:
        raise UserError(f"target={name!r} asks for a cluster against itself; give two different ones.")
    return [Target(f"{cluster}" if against is None else f"{cluster}:{against}", cluster, against)]
