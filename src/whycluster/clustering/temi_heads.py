"""TEMI as functions and as the heads that it trains: clusters from the neighbourhoods of frozen features.

N. Adaloglou, F. Michels, H. Kalisch, M. Kollmann, Exploring the Limits of Deep Image Clustering using Pretrained
Models, BMVC 2023, arXiv 2303.17896. `H` heads, `B` rows, `K` clusters, `D` features.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from whycluster.clustering.features import sample_rows, sample_size
from whycluster.errors import UserError, real_number, whole_number

MARGINAL_MOMENTUM = 0.9  # of the running mean of cluster probabilities
STEP_ROWS = 512  # rows of a step, about
LEAST_STEPS = 4  # of an epoch
MEAN_SHARE = 0.5  # of the mean, which is taken from the rows; measured, see docs/deep_clustering.md
SPREAD_ROWS = 2000  # rows whose cosine similarities say how much they vary, about
LEAST_SPREAD = 1e-4  # so that rows that are all as similar have a temperature, too


@dataclass(frozen=True, kw_only=True)
class TemiSettings:
    """How TEMI learns.

    Attributes:
        n_init: restarts of k-means.
        n_heads: heads, which begin from the restarts of least inertia; the head of least loss wins.
        n_neighbours: of each row, of which an epoch draws one.
        temperature: of the softmax over cosine similarities, in standard deviations of those of different rows.
        exponent: `β` of the mutual information, above 0, at most 1; the lower, the more alike in size are clusters.
        momentum: of the teachers, between 0 and 1.
        learning_rate: of Adam at the beginning; it falls to 0 by a cosine.
        epochs: passes over the rows.
    """

    n_init: int = 32
    n_heads: int = 8
    n_neighbours: int = 20
    temperature: float = 0.5
    exponent: float = 0.6
    momentum: float = 0.99
    learning_rate: float = 1e-3
    epochs: int = 100

    def check(self, prefix: str = "") -> None:
        """Checks the settings, whose names a message begins with `prefix`.

        Raises:
            UserError: for the first that makes no sense.
        """
        for name in ("n_init", "n_heads", "n_neighbours", "epochs"):
            whole_number(prefix + name, getattr(self, name), 1)
        if self.n_heads > self.n_init:
            raise UserError(
                f"{prefix}n_heads={self.n_heads} should be <= {prefix}n_init={self.n_init}, as each head begins from a "
                "restart of k-means of its own."
            )
        for name in ("temperature", "learning_rate"):
            real_number(prefix + name, getattr(self, name), above=0)
        real_number(f"{prefix}exponent", self.exponent, above=0, most=1)
        real_number(f"{prefix}momentum", self.momentum, above=0, below=1)


def pointwise_information(log_p: Tensor, log_q: Tensor, log_marginal: Tensor, beta: float) -> Tensor:
    """Computes the pointwise mutual information of two images, `log Σ_c (p(c|x) q(c|x'))^β / q(c)`.

    Args:
        log_p: `log p(c|x)`, `(H, B, K)`.
        log_q: `log q(c|x')`, `(H, B, K)`.
        log_marginal: `log q(c)`, `(H, K)`.
        beta: `β`, above 0, at most 1; below 1 it keeps clusters from being empty.

    Returns:
        `(H, B)`.
    """
    return torch.logsumexp(beta * (log_p + log_q) - log_marginal[:, None], -1)


def pair_weights(log_q: Tensor, log_q_near: Tensor) -> Tensor:
    """Computes how sure the teachers are that two images belong together, `Σ_c q(c|x) q(c|x')`, mean over heads.

    Args:
        log_q: `log q(c|x)`, `(H, B, K)`.
        log_q_near: `log q(c|x')`, `(H, B, K)`.

    Returns:
        `(B,)`, from 0 to 1.
    """
    return (log_q + log_q_near).exp().sum(-1).mean(0)


def temi_loss(student: Tensor, teacher: Tensor, log_marginal: Tensor, beta: float) -> Tensor:
    """Computes the loss `-½ w(x, x') (pmi(x, x') + pmi(x', x))`, mean over pairs.

    Args:
        student: `log p(c|x)` of rows, and behind them of their neighbours, `(H, 2 B, K)`.
        teacher: `log q(c|x)`, likewise.
        log_marginal: `log q(c)`, `(H, K)`.
        beta: see `pointwise_information`.

    Returns:
        `(H,)`.
    """
    (log_p, log_p_near), (log_q, log_q_near) = student.chunk(2, 1), teacher.chunk(2, 1)
    there = pointwise_information(log_p, log_q_near, log_marginal, beta)
    back = pointwise_information(log_p_near, log_q, log_marginal, beta)
    return -(pair_weights(log_q, log_q_near) * (there + back) / 2).mean(1)


def epoch_pairs(neighbours: np.ndarray, steps: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Draws each row once, in random order, with one of its neighbours; depends on seed and epoch alone.

    Args:
        neighbours: `(N, k)`.
        steps: into which the rows are split.
        seed: of the fit.
        epoch: its number.

    Returns:
        For each step numbers of rows and of their partners, `(2, B)`.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(neighbours))
    partners = neighbours[order, random.integers(neighbours.shape[1], size=len(order))]
    return np.array_split(np.stack((order, partners)), steps, axis=1)


def start_rows(n_rows: int, n_features: int, n_clusters: int, seed: int) -> np.ndarray:
    """Draws the rows on which k-means is run, ascending: all of them unless they are many."""
    return sample_rows(n_rows, sample_size(n_features, n_clusters), seed)


def warm_starts(z: np.ndarray, n_clusters: int, settings: TemiSettings, seed: int) -> Tensor:
    """Runs k-means several times, and returns the centroids of those of least inertia.

    Args:
        z: rows or a sample of them, `(N, D)`, of length 1.
        n_clusters: `K`.
        settings: say how many restarts there are, and how many are returned.
        seed: same seed, same centroids.

    Returns:
        `(H, K, D)`, the best first.
    """
    random = np.random.RandomState(seed)
    with threadpool_limits(1):  # sums of several threads come in any order
        fits = [KMeans(n_clusters, n_init=1, random_state=random).fit(z) for _ in range(settings.n_init)]
    fits.sort(key=lambda fit: float(fit.inertia_))
    return torch.from_numpy(np.stack([fit.cluster_centers_ for fit in fits[: settings.n_heads]]))


def cosine_spread(z: Tensor) -> float:
    """Computes the standard deviation of the cosine similarities of different rows, those of an even sample.

    Args:
        z: rows of length 1, `(N, D)`.

    Returns:
        At least `LEAST_SPREAD`.

    Example:
        >>> cosine_spread(torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]))  # 1, -1, -1
        0.9428090415820634
    """
    some = z[:: math.ceil(len(z) / SPREAD_ROWS)].double()
    different = ~torch.eye(len(some), dtype=torch.bool, device=z.device)
    return max(float((some @ some.T)[different].std(correction=0)), LEAST_SPREAD)


def n_steps(n_rows: int) -> int:
    """Returns how many steps an epoch has; of small collections, too, it has several."""
    return max(min(n_rows, LEAST_STEPS), round(n_rows / STEP_ROWS))


class TemiHeads(nn.Module):
    """Heads of `K` unit prototypes each, `p(c|z) = softmax_c(<prototype_c, z> / τ)`, and their teachers.

    Args:
        starts: prototypes to begin with, of any length, `(H, K, D)`.
        settings: how they learn.
        spread: standard deviation of the cosine similarities of rows; `τ` is the temperature of the settings times it.
    """

    temperature: Tensor  # τ
    teacher: Tensor  # prototypes, (H, K, D)
    marginal: Tensor  # q(c), (H, K)
    loss: Tensor  # running mean over the steps of about an epoch, (H,)
    step: Tensor  # steps that are done

    def __init__(self, starts: Tensor, settings: TemiSettings, spread: float) -> None:
        super().__init__()
        self.settings = settings
        self.student = nn.Parameter(torch.empty(starts.shape))
        self.register_buffer("teacher", torch.empty(starts.shape))
        self.register_buffer("temperature", torch.empty(()))
        self.start(starts, spread)
        self.register_buffer("marginal", torch.full(starts.shape[:2], 1 / starts.shape[1]))
        self.register_buffer("loss", torch.zeros(len(starts)))
        self.register_buffer("step", torch.tensor(0))

    @torch.no_grad()
    def start(self, starts: Tensor, spread: float) -> None:
        """Sets the prototypes that student and teacher begin with, `(H, K, D)`, and the temperature."""
        self.student.copy_(F.normalize(starts.float(), dim=-1))
        self.teacher.copy_(self.student)
        self.temperature.fill_(self.settings.temperature * spread)

    @property
    def prototypes(self) -> Tensor:
        """The prototypes of the best teacher, `(K, D)` float64, of length 1."""
        return F.normalize(self.teacher[self.loss.argmin()].double(), dim=-1)

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([self.student], lr=self.settings.learning_rate)

    def learn(self, z: Tensor, near: Tensor, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
        """Makes one step, of `steps` in an epoch.

        Args:
            z: rows of length 1, `(B, D)`.
            near: a neighbour of each, likewise.
            optimizer: see `optimizer`.
            steps: in an epoch.

        Returns:
            Losses, `(H,)`.
        """
        both = torch.cat((z, near))
        with torch.no_grad():
            teacher = self._log_probabilities(self.teacher, both)
            self.marginal.lerp_(teacher.exp().mean(1), 1 - MARGINAL_MOMENTUM)
        student = self._log_probabilities(self.student, both)
        log_marginal = self.marginal.clamp(min=torch.finfo(self.marginal.dtype).tiny).log()
        losses = temi_loss(student, teacher, log_marginal, self.settings.exponent)
        # Not by `backward`: where several processes make the same steps, they have no gradients to exchange.
        [self.student.grad] = torch.autograd.grad(losses.sum(), [self.student])
        progress = float(self.step) / (steps * self.settings.epochs)
        optimizer.param_groups[0]["lr"] = self.settings.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        optimizer.step()
        with torch.no_grad():
            self.teacher.lerp_(self.student, 1 - self.settings.momentum)
            self.loss.lerp_(losses, 1 / min(int(self.step) + 1, steps))
            self.step += 1
        return losses.detach()

    def _log_probabilities(self, prototypes: Tensor, z: Tensor) -> Tensor:
        """Computes `(H, B, K)` of unit rows `(B, D)`."""
        scores = z @ F.normalize(prototypes, dim=-1).flatten(0, 1).T  # (B, H K)
        scores = scores.view(len(z), *prototypes.shape[:2]).movedim(1, 0)
        return (scores / self.temperature).log_softmax(-1)
