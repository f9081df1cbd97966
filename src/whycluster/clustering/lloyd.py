"""k-means as a LightningModule: an epoch is one iteration of Lloyd's algorithm for all restarts."""

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from whycluster.clustering.features import FeatureStore
from whycluster.clustering.kmeans import Sums, accumulate, reseed, starts, update

SAMPLE = 10_000  # rows that k-means++ draws starts from; more for many clusters


class KMeans(pl.LightningModule):
    """Exact Lloyd over stored features; several processes share the rows and add up their sums.

    Args:
        features: what to cluster.
        n_clusters: `K`, from 2 to the number of rows.
        n_init: restarts from different starts; the one of least inertia wins.
        max_iter: iterations at most.
        tol: a restart has converged when its centroids move by no more than `tol` times the features' variance
            (squared distances, as in scikit-learn).
        seed: same seed, same result.

    Attributes:
        centroids: of the best restart, after fitting, `(K, D)`.
        inertia: of the best restart.
        n_iter: iterations of the best restart.

    Raises:
        ValueError: for more clusters than rows, fewer than two, or features that are not finite.
    """

    automatic_optimization = False  # nothing here has a gradient

    def __init__(
        self, features: FeatureStore, n_clusters: int, n_init: int = 10, max_iter: int = 300, tol: float = 1e-4, seed: int = 0
    ) -> None:
        super().__init__()
        for name, value, least in (("n_clusters", n_clusters, 2), ("n_init", n_init, 1), ("max_iter", max_iter, 1)):
            if value < least:
                raise ValueError(f"head.{name}={value} should be >= {least}.")
        if len(features) < n_clusters:
            raise ValueError(f"head.n_clusters={n_clusters} should be <= the number of images, {len(features)}.")
        self.features = features
        self.max_iter = max_iter
        mean = features.mean()
        if not mean.isfinite().all():
            raise ValueError("the features contain NaN or infinity; the backbone's weights are not usable.")
        self.threshold = tol * features.variance(mean)
        start = starts(self._sample(n_clusters, seed) - mean.float().numpy(), n_clusters, n_init, seed)
        self.register_buffer("origin", mean.float())  # distances are computed around it, or float32 cancels
        self.register_buffer("candidates", start)  # (R, K, D)
        self.active = torch.arange(n_init)  # restarts that still move
        self.measured = torch.full((n_init,), torch.inf, dtype=torch.float64)  # inertia of those that do not
        self.iterations = torch.zeros(n_init, dtype=torch.long)
        self.settled = torch.zeros(n_init, dtype=torch.bool)  # centroids are final, inertia still to be measured

    origin: Tensor
    candidates: Tensor

    def _sample(self, n_clusters: int, seed: int) -> np.ndarray:
        size = min(len(self.features), max(SAMPLE, 10 * n_clusters))
        rows = np.random.RandomState(seed).choice(len(self.features), size, replace=False)
        return self.features.rows(np.sort(rows))

    @property
    def centroids(self) -> Tensor:
        return self.candidates[self.measured.argmin()] + self.origin

    @property
    def inertia(self) -> float:
        return float(self.measured.min())

    @property
    def n_iter(self) -> int:
        return int(self.iterations[self.measured.argmin()])

    def configure_optimizers(self) -> None:
        """None: centroids follow from sums."""

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self.features.loader(self.trainer.global_rank, self.trainer.world_size)

    def on_train_epoch_start(self) -> None:
        self.moving = self.candidates[self.active.to(self.device)]  # (A, K, D)
        self.sums = Sums.nothing(self.moving)
        empty = self.moving.new_zeros(len(self.active), 0)
        self.far_distances, self.far_rows = empty, empty.long()

    def training_step(self, batch: tuple[Tensor, Tensor]) -> None:
        rows, x = batch
        sums, distances = accumulate(x - self.origin, self.moving)
        self.sums = self.sums + sums
        self._remember_far(rows, distances)

    def _remember_far(self, rows: Tensor, distances: Tensor) -> None:
        """Keeps the rows farthest from their centroids, as many as clusters could be empty, for `reseed`."""
        distances = torch.cat((self.far_distances, distances), 1)
        rows = torch.cat((self.far_rows, rows.expand(len(self.active), -1)), 1)
        top = distances.topk(min(self.moving.shape[1], distances.shape[1]), dim=1)
        self.far_distances, self.far_rows = top.values, rows.gather(1, top.indices)

    def on_train_epoch_end(self) -> None:
        total = Sums(*(self._add_up(part) for part in self.sums))
        settled = self.settled[self.active]
        self.measured[self.active[settled]] = total.inertia.cpu()[settled]
        if (total.counts == 0).any():
            total = self._reseeded(total)
        moved, shift = update(total, self.moving)
        going = ~settled
        at = self.active[going]
        self.candidates[at.to(self.device)] = moved[going.to(self.device)]
        self.iterations[at] += 1
        self.settled[at] = (shift.cpu()[going] <= self.threshold) | (self.iterations[at] >= self.max_iter)
        self._log(total, shift)
        self.active = self.active[going]
        self.trainer.should_stop = len(self.active) == 0

    def _add_up(self, part: Tensor) -> Tensor:
        total: Tensor = self.trainer.strategy.reduce(part, reduce_op="sum")  # type: ignore[assignment]
        return total

    def _reseeded(self, total: Sums) -> Sums:
        """The sums with a row for every empty cluster, the same rows in every process."""
        distances = self.all_gather(self.far_distances).movedim(0, 1).flatten(1) if self.trainer.world_size > 1 else self.far_distances
        rows = self.all_gather(self.far_rows).movedim(0, 1).flatten(1) if self.trainer.world_size > 1 else self.far_rows
        order = distances.argsort(dim=1, descending=True, stable=True)
        parts = []
        for restart, farthest in enumerate(rows.gather(1, order)):
            one = Sums(*(part[restart : restart + 1] for part in total))
            if (one.counts == 0).any():
                x = torch.from_numpy(self.features.rows(farthest.cpu().numpy())).to(self.device) - self.origin
                left = (torch.cdist(x.double(), self.moving[restart].double())).argmin(1)
                one = reseed(one, x, left)
            parts.append(one)
        return Sums(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _log(self, total: Sums, shift: Tensor) -> None:
        """The best restart's figures; a centroid shift of zero stands for restarts that were only measured."""
        if self.logger is not None:
            best = int(total.inertia.argmin())
            figures = {"kmeans/inertia": total.inertia[best], "kmeans/centroid_shift": shift[best].sqrt(), "kmeans/active_restarts": float(len(self.active))}
            self.logger.log_metrics({name: float(value) for name, value in figures.items()}, step=self.current_epoch)
