"""k-means as a LightningModule: an epoch is one iteration of Lloyd's algorithm, for all restarts at once."""

import math
import warnings

import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from torch.utils.data import DataLoader

from whycluster.clustering.assignments import Assignments, readonly_tensor
from whycluster.clustering.features import FeatureStore, sample_rows, sample_size
from whycluster.clustering.lloyd import Sums, inertia, moments, reseed, starts, update
from whycluster.data import share_of_rank
from whycluster.errors import UserError, whole_number

ORIGIN_ROWS = 1000  # rows whose median is the origin of the products


class KMeans(pl.LightningModule):
    """K-means by exact Lloyd iterations over stored features; several processes share the rows and add up their sums.

    The state between two iterations is in the `state_dict`, and so in Lightning's checkpoints: a fit that resumes from
    one ends with the same bits.

    Args:
        features: what to cluster.
        n_clusters: `K`, from 2 to the number of rows.
        n_init: restarts from different starts; the one of least inertia wins.
        max_iter: iterations at most.
        tol: a restart has converged when its centroids move by no more than `tol` times the features' variance
            (squared distances, as in scikit-learn).
        seed: same seed, same result.
        spherical: whether centroids are kept at length 1; the features should have that length, too.

    Attributes:
        centroids: of the best restart, after fitting, `(K, D)` float64.
        inertia: of the best restart; infinite before one has ended.
        n_iter: iterations of the best restart.

    Raises:
        UserError: for more clusters than rows, fewer than two, or features that are not finite.
    """

    automatic_optimization = False  # nothing here has a gradient
    settled: Tensor  # restarts whose centroids are final, (R,)
    measured: Tensor  # their inertia; infinite for those that still take part, (R,)
    filled: Tensor  # their clusters that have rows, (R,)
    iterations: Tensor  # of each restart, (R,)

    def __init__(
        self,
        features: FeatureStore,
        n_clusters: int,
        n_init: int = 10,
        max_iter: int = 300,
        tol: float = 1e-4,
        seed: int = 0,
        spherical: bool = False,
    ) -> None:
        super().__init__()
        for name, value, least in (("n_clusters", n_clusters, 2), ("n_init", n_init, 1), ("max_iter", max_iter, 1)):
            whole_number(f"head.{name}", value, least)
        if not tol >= 0:
            raise UserError(f"head.tol={tol} should be >= 0.")
        if len(features) < n_clusters:
            raise UserError(f"head.n_clusters={n_clusters} should be <= the number of images, {len(features)}.")
        self.features, self.max_iter, self.seed, self.spherical = features, max_iter, seed, spherical
        self.origin = torch.from_numpy(np.median(self._sample(ORIGIN_ROWS), axis=0))  # unlike the mean, robust
        batches = features.batches(width=16 * features.n_features)  # small ones, as they are summed up in float64
        self.mean, self.scatter, self.largest = moments(batches, self.origin)
        if not self.mean.isfinite().all():
            raise UserError("the features contain NaN or infinity; the weights of the backbone are not usable.")
        self.threshold = tol * self.scatter / (len(features) * features.n_features)
        self.register_buffer("settled", torch.zeros(n_init, dtype=torch.bool))
        self.register_buffer("measured", torch.full((n_init,), math.inf, dtype=torch.float64))
        self.register_buffer("filled", torch.zeros(n_init, dtype=torch.long))
        self.register_buffer("iterations", torch.zeros(n_init, dtype=torch.long))
        # (R, K, D). A parameter, although no gradient moves it, as DDP takes no module without one.
        self.candidates = nn.Parameter(torch.full((n_init, n_clusters, features.n_features), math.nan).double())

    @property
    def centroids(self) -> Tensor:
        return self.candidates.detach()[self.measured.argmin()]

    @property
    def inertia(self) -> float:
        return float(self.measured.min())

    @property
    def n_iter(self) -> int:
        return int(self.iterations[self.measured.argmin()])

    @property
    def active(self) -> Tensor:
        """The numbers of the restarts that still take part."""
        return self.measured.isinf().nonzero()[:, 0]

    def configure_optimizers(self) -> None:
        """Returns no optimizer: centroids follow from sums."""

    @torch.no_grad()
    def on_fit_start(self) -> None:
        if self.candidates.isnan().all():  # nothing to go on from
            n_init, n_clusters, _ = self.candidates.shape
            sample = self._sample(sample_size(self.features.n_features, n_clusters)) - self.origin.numpy()
            start = starts(sample, n_clusters, n_init, self.seed).double() + self.origin
            self.candidates.copy_(self.trainer.strategy.broadcast(start))
        origin, n_rows = self.origin.to(self.device), len(self.features)
        self.assignments = Assignments(len(self._share()), n_rows, origin, self.scatter, self.largest)

    def _sample(self, size: int) -> np.ndarray:
        """Draws rows at random, in order."""
        return self.features.rows(sample_rows(len(self.features), size, self.seed))

    def on_train_start(self) -> None:
        self.trainer.should_stop = not len(self.active)  # the checkpoint is that of a finished fit

    def _share(self) -> range:
        """Returns the rows of this process."""
        share = share_of_rank(range(len(self.features)), self.trainer.global_rank, self.trainer.world_size)
        return range(share[0], share[-1] + 1) if share else range(0)

    def _parts(self) -> list[slice]:
        """Splits the rows of this process into parts, of which all processes have the same number."""
        n_init, n_clusters, _ = self.candidates.shape
        step = self.features.batch_rows(n_init * n_clusters)
        parts = math.ceil(math.ceil(len(self.features) / self.trainer.world_size) / step)
        shares = (share_of_rank(self._share(), part, parts) for part in range(parts))
        return [slice(share[0], share[-1] + 1) if share else slice(0, 0) for share in shares]

    def train_dataloader(self) -> DataLoader[slice]:
        return DataLoader(self._parts(), batch_size=None)  # type: ignore[arg-type]  # a list will do

    @torch.no_grad()
    def on_train_epoch_start(self) -> None:
        self.moving = self.candidates[self.active]  # (A, K, D)
        self.assignments.move(self.moving)

    @torch.no_grad()
    def training_step(self, part: slice) -> None:
        self.assignments.update(part.start - self._share().start, self.features.open()[part])

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        total = Sums(*(self._add_up(part) for part in self.assignments.sums()))
        if (total.counts.sum(1) < len(self.features)).any():
            raise UserError("the trainer left out features in k-means; leave out what limits its batches.")
        measured = inertia(total, self.moving, self.mean.to(self.device), self.scatter)
        self._log("inertia", min(self.inertia, float(measured.min())))
        settled = self.settled[self.active]
        self.filled[self.active] = (total.counts > 0).sum(1)
        going, at = ~settled, self.active[~settled]
        self.measured[self.active[settled]] = measured[settled]
        moved, shift = update(self._reseeded(total), self.moving, self.spherical)
        self.candidates[at] = moved[going]
        self.iterations[at] += 1
        self.settled[at] = (shift[going] <= self.threshold) | (self.iterations[at] >= self.max_iter)
        self.assignments.keep(going)
        if len(at):
            self._log("centroid_shift", float(shift[going].min().sqrt()))
            self._log("restarts", float(len(at)))
        self.trainer.should_stop = not len(at)

    def on_train_end(self) -> None:
        filled, n_clusters = int(self.filled[self.measured.argmin()]), self.candidates.shape[1]
        if math.isfinite(self.inertia) and filled < n_clusters and self.trainer.is_global_zero:
            warnings.warn(
                f"Number of distinct clusters ({filled}) found smaller than n_clusters ({n_clusters}). Possibly due to "
                "duplicate points.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _add_up(self, part: Tensor) -> Tensor:
        """Sums over all processes."""
        return torch.as_tensor(self.trainer.strategy.reduce(part, reduce_op="sum"))

    def _reseeded(self, total: Sums) -> Sums:
        """Gives every empty cluster a row, the same one in every process."""
        parts = []
        for restart in range(len(self.moving)):
            one = Sums(*(part[restart : restart + 1] for part in total))
            if (one.counts == 0).any():
                rows, clusters = self._farthest(restart)
                one = reseed(one, torch.from_numpy(self.features.rows(rows.cpu().numpy())).to(self.device), clusters)
            parts.append(one)
        return Sums(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _farthest(self, restart: int) -> tuple[Tensor, Tensor]:
        """Finds the `K` rows of all processes farthest from their centroids, farthest first, and their clusters."""
        centroids = self.moving[restart]
        # (distance, row, cluster); -1 where there is no row, so that all processes gather tensors of one shape.
        far = centroids.new_full((3, len(centroids)), -1)
        for part in self._parts():
            clusters = self.assignments.labels[restart, part.start - self._share().start :][: part.stop - part.start]
            x = readonly_tensor(self.features.open()[part]).to(self.device)
            distances = (x.double() - centroids[clusters.long()]).square().sum(1)
            rows = torch.arange(part.start, part.stop, device=self.device)
            far = _top(torch.cat((far, torch.stack((distances, rows.double(), clusters.double()))), 1), len(centroids))
        far = _top(torch.as_tensor(self.all_gather(far)).view(-1, *far.shape).movedim(0, 1).flatten(1), len(centroids))
        _, rows, clusters = far[:, far[0] >= 0].long()
        return rows, clusters

    def _log(self, name: str, value: float) -> None:
        """Logs a value of the restarts: the best inertia, the least shift of centroids, or how many restarts go on."""
        if self.logger is not None:
            self.logger.log_metrics({f"kmeans/{name}": value}, step=self.current_epoch)


def _top(far: Tensor, size: int) -> Tensor:
    """Returns the columns with the largest first entries, the first of equal ones first."""
    return far[:, far[0].argsort(descending=True, stable=True)[:size]]
