"""Deep embedded clustering: centroids and the last stage of a backbone, learned together.

Xie, Girshick, Farhadi 2016, arXiv 1511.06335; kept near the pretrained features as Guo et al. 2017 keep near a
reconstruction (doi 10.24963/ijcai.2017/243), and with targets from images as they are for augmented ones as in Guo et
al. 2018 (DEC-DA). `N` images, `K` clusters, `D` features.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from whycluster.clustering.features import FeatureStore
from whycluster.data.augmentation import EpochBatches, Key, RowBatch, RowBatches
from whycluster.data.image_pass import computed_at_once, is_quick
from whycluster.data.images import MOST_WORKERS, n_cores, share_of_rank
from whycluster.errors import UserError

Inputs = Callable[[np.ndarray, int], Tensor]
VALIDATION_ROWS = 32
PROGRESS = ("changed", "n_iter", "n_quiet")  # numbers in a checkpoint
PATIENCE = 5  # epochs: a small collection has few steps in one, after which often no image has changed yet


def squared_distances(x: Tensor, centroids: Tensor) -> Tensor:
    """Computes `|x_i - mu_j|²` of rows `(N, D)` to centroids `(K, D)`, `(N, K)`."""
    origin = centroids.detach().mean(0)  # near the data, as squares of large numbers would cancel
    x, centroids = x - origin, centroids - origin
    products = torch.addmm(centroids.square().sum(1), x, centroids.T, alpha=-2)
    return (products + x.square().sum(1, keepdim=True)).clamp(min=0)


def log_soft_assignment(squared: Tensor, alpha: float) -> Tensor:
    """Computes the logarithm of the soft assignment by a Student-t kernel (Xie et al. 2016, eq. 1).

    `q_ij = (1 + d_ij² / alpha)^(-(alpha + 1) / 2) / Σ_j' (1 + d_ij'² / alpha)^(-(alpha + 1) / 2)`

    Args:
        squared: squared distances `d_ij²`, `(N, K)`.
        alpha: degrees of freedom, > 0: the larger, the lighter the tails.

    Returns:
        `log q`, `(N, K)`.

    Example:
        >>> log_soft_assignment(torch.tensor([[0.0, 1.0]]), alpha=1.0).exp()
        tensor([[0.6667, 0.3333]])
    """
    return (-(alpha + 1) / 2 * torch.log1p(squared / alpha)).log_softmax(1)


def target_distribution(q: Tensor, frequencies: Tensor) -> Tensor:
    """Computes the target `p_ij = (q_ij² / f_j) / Σ_j' (q_ij'² / f_j')` (Xie et al. 2016, eq. 3).

    Squares sharpen what is confident, and the division keeps large clusters from growing.

    Args:
        q: soft assignments of some rows, `(n, K)`.
        frequencies: `f_j = Σ_i q_ij` over all rows, `(K,)`.

    Example:
        >>> q = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
        >>> target_distribution(q, q.sum(0))
        tensor([[0.9000, 0.1000],
                [0.1000, 0.9000]])
    """
    weights = q.square() / frequencies.clamp(min=torch.finfo(q.dtype).tiny)
    return weights / weights.sum(1, keepdim=True)


def divergence(p: Tensor, log_q: Tensor) -> Tensor:
    """Computes `KL(p_i || q_i) = Σ_j p_ij log(p_ij / q_ij)` of each row, `(n,)` (Xie et al. 2016, eq. 2)."""
    return (torch.xlogy(p, p) - p * log_q).sum(1)


@dataclass(frozen=True)
class DecSettings:
    """Numbers of a fit; see `docs/dec.md`.

    Attributes:
        alpha: degrees of freedom of the Student-t kernel.
        spread: mean squared distance of a row to its centroid at the beginning: the unit of all squared distances.
        sharpness: what squared distances are multiplied by before they enter the kernel.
        anchor: weight of the squared distance of features from where they began.
        learning_rate: of the trained stage of the backbone, by Adam.
        centroid_rate: of the centroids, by Adam, in deviations of a feature within its cluster.
        batch_size: images of a step, in all processes together.
        tol: the fit ends when at most this fraction of the images changed their cluster in each of `PATIENCE` epochs.
        seed: same seed, same result.
    """

    alpha: float
    spread: float
    sharpness: float
    anchor: float
    learning_rate: float
    centroid_rate: float
    batch_size: int
    tol: float
    seed: int


class DeepEmbeddedClustering(pl.LightningModule):
    """Deep embedded clustering: an epoch draws all images once, and then assigns all of them anew.

    Targets (eq. 3) follow from the images as they are, at the end of the epoch before; several processes divide each
    batch among them, and add up their gradients.

    Args:
        embed: what the network reads `->` features `(n, D)`; those of its parameters that require a gradient are
            learned.
        clean: rows of the collection, and the epoch `->` what the network reads of them.
        augmented: the same with random changes.
        features: where all features begin, `(N, D)`.
        start: centroids to begin with, `(K, D)`.
        settings: numbers of the fit.
        num_workers: processes that load; `None`: as many as fit.

    Attributes:
        clusters: the cluster of each row after the last epoch, `(N,)`.
        changed: fraction of the rows that changed their cluster in the last epoch.
        n_iter: epochs.
    """

    start: Tensor
    strict_loading = False  # a checkpoint holds what is learned alone

    def __init__(
        self,
        embed: nn.Module,
        clean: Inputs,
        augmented: Inputs,
        features: FeatureStore,
        start: Tensor,
        settings: DecSettings,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        self.num_workers = num_workers
        self.embed, self.clean, self.augmented = embed, clean, augmented
        self.features, self.settings = features, settings
        self.deviation = math.sqrt(settings.spread / features.n_features)
        self.register_buffer("start", start.float(), persistent=False)
        # (K, D), in deviations of a feature, so that one learning rate suits features of any scale.
        self.moved = nn.Parameter(torch.zeros_like(self.start))
        self.changed, self.n_iter, self.n_quiet = 1.0, 0, 0
        with torch.no_grad():
            self.q = torch.cat([self._log_q(batch).exp() for batch in features.batches(len(start))])  # (N, K)
        self.clusters = self.q.argmax(1)

    @property
    def centroids(self) -> Tensor:
        """The centroids, `(K, D)`."""
        return self.start + self.deviation * self.moved

    @property
    def has_settled(self) -> bool:
        """Whether few images have changed their cluster in each of the last epochs."""
        return self.n_quiet >= PATIENCE

    def configure_optimizers(self) -> torch.optim.Optimizer:
        stage = [parameter for parameter in self.embed.parameters() if parameter.requires_grad]
        groups = [{"params": [self.moved], "lr": self.settings.centroid_rate}]
        return torch.optim.Adam(groups + ([{"params": stage}] if stage else []), lr=self.settings.learning_rate)

    def transfer_batch_to_device(self, batch: RowBatch, device: torch.device, dataloader_idx: int) -> RowBatch:
        return batch._replace(inputs=batch.inputs.to(device))  # row numbers index tensors that stay on the CPU

    def on_train_start(self) -> None:
        self.trainer.should_stop = self.has_settled  # the checkpoint is that of a finished fit

    def on_train_epoch_start(self) -> None:
        self.batches.begin(self.n_iter)
        self.frequencies = self.q.sum(0)
        self.loss = torch.zeros((), device=self.device)
        self.found = torch.zeros_like(self.q)  # not later, as tensors made in inference mode cannot be trained with

    def training_step(self, batch: RowBatch) -> Tensor:
        if not len(batch.rows):  # more processes than rows: the others add up with its zero gradients
            return 0.0 * torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum()
        z = self._embedded(batch.inputs)
        p = target_distribution(self.q[batch.rows], self.frequencies).to(z.device)
        begun = torch.from_numpy(self.features.rows(batch.rows.numpy())).to(z.device)
        drift = (z - begun).square().sum(1) / self.settings.spread
        each = divergence(p, self._log_q(z)) + self.settings.anchor * drift
        loss = each.sum() / batch.total
        if not loss.isfinite():
            raise UserError(
                f"the loss of head=dec is not finite in epoch {self.current_epoch}; "
                f"lower head.learning_rate={self.settings.learning_rate}."
            )
        self.loss += each.detach().sum()
        return loss * self.trainer.world_size  # DDP averages gradients, and they add up

    def validation_step(self, batch: RowBatch) -> None:
        if len(batch.rows) and not self.trainer.sanity_checking:
            self.found[batch.rows] = self._log_q(self._embedded(batch.inputs)).exp().to(self.found)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        self.q = self._add_up(self.found).to(self.q)
        if (self.q.sum(1) < 0.5).any():
            raise UserError("the trainer left out images in head=dec; leave out what limits its batches.")
        before, self.clusters = self.clusters, self.q.argmax(1)
        self.changed = float((self.clusters != before).double().mean())
        self.n_iter = self.current_epoch + 1
        sizes = self.clusters.bincount(minlength=len(self.start))
        loss = self._add_up(self.loss) / len(self.q)
        if self.logger is not None:  # `self.log` sums over processes, which then wait for one that draws the bar
            largest = float(sizes.max() / sizes.sum())
            values = {"dec/loss": float(loss), "dec/changed": self.changed, "dec/largest_cluster": largest}
            self.logger.log_metrics(values, step=self.current_epoch)
        self.n_quiet = self.n_quiet + 1 if self.changed <= self.settings.tol else 0
        self.trainer.should_stop = self.has_settled

    def on_train_epoch_end(self) -> None:
        validated = self.n_iter == self.current_epoch + 1
        if not validated or self.trainer.num_training_batches < len(self.batches):
            raise UserError("the trainer left out images in head=dec; leave out what limits its batches.")

    def _add_up(self, part: Tensor) -> Tensor:
        """Sums over all processes."""
        return torch.as_tensor(self.trainer.strategy.reduce(part.to(self.device), reduce_op="sum"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        learned = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {name: checkpoint["state_dict"][name] for name in sorted(learned)}
        checkpoint["dec"] = {"q": self.q, **{name: getattr(self, name) for name in PROGRESS}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["dec"]
        self.q = state["q"].cpu()
        for name in PROGRESS:
            setattr(self, name, state[name])
        self.clusters = self.q.argmax(1)

    def train_dataloader(self) -> DataLoader[RowBatch]:
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        settings = self.settings
        self.batches = EpochBatches(len(self.features), settings.batch_size, settings.seed, rank, world_size)
        self.batches.begin(self.n_iter)  # processes that load begin at once
        return self._loader(self.augmented, self.batches)

    def val_dataloader(self) -> DataLoader[RowBatch]:
        share = share_of_rank(range(len(self.features)), self.trainer.global_rank, self.trainer.world_size)
        parts = np.array_split(list(share), max(1, math.ceil(len(share) / VALIDATION_ROWS)))
        return self._loader(self.clean, [(0, part, len(part)) for part in parts])

    def _loader(self, inputs: Inputs, keys: Iterable[Key]) -> DataLoader[RowBatch]:
        workers = self.num_workers
        if workers is None:
            quick = is_quick(lambda: inputs(np.arange(1), 0), self.trainer.strategy.root_device)
            workers = 0 if quick else min(MOST_WORKERS, n_cores() // 2)
        data = RowBatches(inputs)
        return DataLoader(data, batch_size=None, sampler=keys, num_workers=workers, persistent_workers=workers > 0)

    def _embedded(self, inputs: Tensor) -> Tensor:
        """Computes features `(n, D)` of images or of features."""
        parts = computed_at_once(inputs) if inputs.ndim == 4 else (inputs,)
        return torch.cat([self.embed(part) for part in parts])

    def _log_q(self, z: Tensor) -> Tensor:
        """Computes the logarithm of the soft assignments of features, `(n, K)`."""
        settings = self.settings
        squared = squared_distances(z, self.centroids) / settings.spread
        return log_soft_assignment(settings.sharpness * squared, settings.alpha)
