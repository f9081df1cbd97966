"""k-means as a LightningModule: an epoch is one iteration of Lloyd's algorithm, for all restarts at once."""

import time
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from whycluster.clustering.features import FeatureStore
from whycluster.clustering.lloyd import Sums, accumulate, assign, reseed, starts, update
from whycluster.errors import UserError
from whycluster.files import written_whole

SAMPLE = 10_000  # rows that k-means++ draws starts from; more for many clusters
# With the candidates, all that iterations hand on.
STATE = ("active", "settled", "measured", "iterations", "epochs", "seconds")
SAVED_EVERY = 1.0  # second, at most


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
        saved: a file that finished iterations are saved to; if it is there, fitting goes on from it.

    Attributes:
        centroids: of the best restart, after fitting, `(K, D)` float64.
        inertia: of the best restart.
        n_iter: iterations of the best restart.
        seconds: that all iterations took.

    Raises:
        UserError: for more clusters than rows, fewer than two, or features that are not finite.
    """

    automatic_optimization = False  # nothing here has a gradient
    origin: Tensor

    def __init__(
        self,
        features: FeatureStore,
        n_clusters: int,
        n_init: int = 10,
        max_iter: int = 300,
        tol: float = 1e-4,
        seed: int = 0,
        saved: Path | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (("n_clusters", n_clusters, 2), ("n_init", n_init, 1), ("max_iter", max_iter, 1)):
            if value < least:
                raise UserError(f"head.{name}={value} should be >= {least}.")
        if not tol >= 0:
            raise UserError(f"head.tol={tol} should be >= 0.")
        self.features = features
        self.max_iter = max_iter
        mean = features.mean()
        if not mean.isfinite().all():
            raise UserError("the features contain NaN or infinity; the weights of the backbone are not usable.")
        self.threshold = tol * features.variance(mean)
        # Distances are computed around the mean, or float32 cancels.
        self.register_buffer("origin", mean.float(), persistent=False)
        self.active = torch.arange(n_init)  # restarts that still take part
        self.settled = torch.zeros(n_init, dtype=torch.bool)  # of these, whose centroids are final but not yet measured
        self.measured = torch.full((n_init,), torch.inf, dtype=torch.float64)  # inertia of those that are
        self.iterations = torch.zeros(n_init, dtype=torch.long)
        self.epochs, self.seconds = 0, 0.0
        self.saved, self._saved_at = saved, time.monotonic()
        if saved is not None and saved.exists():
            start = self._restored(saved)
        else:
            start = starts(self._sample(n_clusters, seed) - self.origin.numpy(), n_clusters, n_init, seed)
        # (R, K, D). Parameters, although no gradient moves them: so DDP hands every process the same start.
        self.candidates = nn.Parameter(start)

    def _sample(self, n_clusters: int, seed: int) -> np.ndarray:
        size = min(len(self.features), max(SAMPLE, 10 * n_clusters))
        rows = np.random.RandomState(seed).choice(len(self.features), size, replace=False)
        return self.features.rows(np.sort(rows))

    @property
    def centroids(self) -> Tensor:
        return self.candidates.detach()[self.measured.argmin()].double() + self.origin.double()

    @property
    def inertia(self) -> float:
        return float(self.measured.min())

    @property
    def n_iter(self) -> int:
        return int(self.iterations[self.measured.argmin()])

    def configure_optimizers(self) -> None:
        """None: centroids follow from sums."""

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        products = (
            self.candidates.shape[0] * self.candidates.shape[1]
        )  # of each row, with the centroids of all restarts
        return self.features.loader(products, self.trainer.global_rank, self.trainer.world_size)

    @torch.no_grad()
    def on_train_epoch_start(self) -> None:
        self._begun = time.monotonic()
        self.moving = self.candidates[self.active.to(self.device)]  # (A, K, D)
        self.sums = Sums.nothing(self.moving)
        # (A, K) in every process, whatever its share of the rows; below zero stands for no row
        self.far_distances = self.moving.new_full(self.moving.shape[:2], -1)
        self.far_rows = torch.zeros_like(self.far_distances, dtype=torch.long)

    @torch.no_grad()
    def training_step(self, batch: tuple[Tensor, Tensor]) -> None:
        rows, x = batch
        sums, distances = accumulate(x.sub_(self.origin), self.moving)  # the batch is ours alone
        self.sums = self.sums + sums
        self._remember_far(rows, distances)

    def _remember_far(self, rows: Tensor, distances: Tensor) -> None:
        """Keeps the rows farthest from their centroids, as many as clusters could be empty, for `reseed`."""
        distances = torch.cat((self.far_distances, distances), 1)
        rows = torch.cat((self.far_rows, rows.expand(len(self.active), -1)), 1)
        top = distances.topk(self.moving.shape[1], dim=1)
        self.far_distances, self.far_rows = top.values, rows.gather(1, top.indices)

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        total = Sums(*(self._add_up(part) for part in self.sums))
        self._log(total)
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
        self.active = at
        self.trainer.should_stop = len(at) == 0
        self._log_shift(shift[going.to(self.device)])
        self.epochs += 1
        self.seconds += time.monotonic() - self._begun
        if self.saved is not None and self.trainer.is_global_zero and time.monotonic() - self._saved_at > SAVED_EVERY:
            self._save(self.saved)

    def _save(self, path: Path) -> None:
        """Writes what the next iteration begins with."""
        state = {name: getattr(self, name) for name in STATE} | {"candidates": self.candidates.detach().cpu()}
        with written_whole(path) as beside, open(beside, "wb") as file:
            torch.save(state, file)
        self._saved_at = time.monotonic()

    def _restored(self, path: Path) -> Tensor:
        """Takes up what was saved, and returns the candidates."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name in STATE:
            setattr(self, name, state[name])
        candidates: Tensor = state["candidates"]
        return candidates

    def _add_up(self, part: Tensor) -> Tensor:
        """The sum over all processes."""
        return torch.as_tensor(self.trainer.strategy.reduce(part, reduce_op="sum"))

    def _gathered(self, part: Tensor) -> Tensor:
        """`(A, F)` of each process `->` `(A, F·processes)`, the same in all of them."""
        return torch.as_tensor(self.all_gather(part)).view(-1, *part.shape).movedim(0, 1).flatten(1)

    def _reseeded(self, total: Sums) -> Sums:
        """The sums with a row for every empty cluster, the same rows in every process."""
        far = self._gathered(self.far_distances).sort(dim=1, descending=True, stable=True)
        rows = self._gathered(self.far_rows).gather(1, far.indices)
        parts = []
        for restart, farthest in enumerate(rows[at][far.values[at] >= 0] for at in range(len(rows))):
            one = Sums(*(part[restart : restart + 1] for part in total))
            if (one.counts == 0).any():
                x = torch.from_numpy(self.features.rows(farthest.cpu().numpy())).to(self.device) - self.origin
                one = reseed(one, x, assign(x, self.moving[restart])[0])
            parts.append(one)
        return Sums(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _log(self, total: Sums) -> None:
        """The inertia of the centroids this iteration began with, of the best restart."""
        if self.logger is not None:
            best = min(self.inertia, float(total.inertia.min()))
            self.logger.log_metrics({"kmeans/inertia": best}, step=self.epochs)

    def _log_shift(self, shift: Tensor) -> None:
        """How far the centroids of each moving restart went, the least of them, and how many restarts go on."""
        if self.logger is not None and len(shift):
            figures = {"kmeans/centroid_shift": float(shift.min().sqrt()), "kmeans/restarts": float(len(shift))}
            self.logger.log_metrics(figures, step=self.epochs)
