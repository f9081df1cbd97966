"""TEMI as a LightningModule: an epoch draws each row once, with one of its neighbours."""

import numpy as np
import pytorch_lightning as pl
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from whycluster.clustering.features import FeatureStore
from whycluster.clustering.neighbours import nearest_neighbours, query_blocks, unit_rows
from whycluster.clustering.temi_heads import (
    TemiHeads,
    TemiSettings,
    cosine_spread,
    epoch_pairs,
    n_steps,
    start_rows,
    warm_starts,
)
from whycluster.data import share_of_rank
from whycluster.errors import UserError


class Temi(pl.LightningModule):
    """TEMI over stored features; several processes share the search for neighbours, and then make the same steps each.

    What an epoch draws follows from the seed and its number, and all else is in the `state_dict`: a fit that resumes
    from a checkpoint ends with the same bits.

    Args:
        features: what to cluster.
        n_clusters: `K`.
        origin: from which cosines are taken, `(D,)`; `MEAN_SHARE` of the mean.
        settings: how the heads learn.
        seed: same seed, same result.

    Raises:
        UserError: for fewer rows than neighbours.
    """

    automatic_optimization = False  # the heads take their own steps, which no process has to share
    origin: Tensor  # (D,)

    def __init__(
        self, features: FeatureStore, n_clusters: int, origin: Tensor, settings: TemiSettings, seed: int = 0
    ) -> None:
        super().__init__()
        if len(features) <= settings.n_neighbours:
            raise UserError(
                f"head.n_neighbours={settings.n_neighbours} should be < the number of images, {len(features)}."
            )
        self.features, self.seed, self.steps = features, seed, n_steps(len(features))
        self.register_buffer("origin", origin)
        unset = torch.full((settings.n_heads, n_clusters, features.n_features), torch.nan)
        self.heads = TemiHeads(unset, settings, torch.nan)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.heads.optimizer()

    def on_fit_start(self) -> None:
        settings, (_, n_clusters, _) = self.heads.settings, self.heads.student.shape
        if self.heads.step == self.steps * settings.epochs:
            return  # the checkpoint is that of a finished fit
        self.neighbours = self._neighbours()
        if self.heads.step == 0:  # nothing to go on from
            some = start_rows(len(self.features), self.features.n_features, n_clusters, self.seed)
            rows = self.features.rows(some)
            z = unit_rows(rows, self.origin).cpu()
            begin = warm_starts(z.numpy(), n_clusters, settings, self.seed), cosine_spread(z)
            self.heads.start(*self.trainer.strategy.broadcast(begin))

    def _neighbours(self) -> np.ndarray:
        """Finds the neighbours of all rows, `(N, k)`; each process finds those of its share of the rows."""
        blocks = query_blocks(len(self.features))
        share = share_of_rank(blocks, self.trainer.global_rank, self.trainer.world_size)
        bar = self.trainer.progress_bar_callback is not None and self.trainer.is_global_zero and len(share) > 1
        n_neighbours, x = self.heads.settings.n_neighbours, self.features.open()
        found = torch.full((len(x), n_neighbours), -1, device=self.device)  # -1 where another process finds them
        for block in track(share, "nearest neighbours", disable=not bar):
            found[block.start : block.stop] = nearest_neighbours(x, self.origin, n_neighbours, block)
        everyones = torch.as_tensor(self.all_gather(found)).view(-1, *found.shape)
        return everyones.amax(0).cpu().numpy()

    def train_dataloader(self) -> DataLoader[int]:
        return DataLoader(range(self.steps), batch_size=None)  # type: ignore[arg-type]  # a range will do

    def on_train_epoch_start(self) -> None:
        self.pairs = epoch_pairs(self.neighbours, self.steps, self.seed, self.current_epoch)

    def training_step(self, step: int) -> None:
        z, near = (unit_rows(self.features.rows(rows), self.origin) for rows in self.pairs[step])
        self.heads.learn(z, near, self.optimizers(), self.steps)  # type: ignore[arg-type]  # Lightning wraps it

    def on_train_epoch_end(self) -> None:
        if self.heads.step != self.steps * (self.current_epoch + 1):
            raise UserError("the trainer left out steps of TEMI; leave out what limits its batches.")
        if self.logger is not None:
            marginal = self.heads.marginal[self.heads.loss.argmin()]
            figures = {"loss": self.heads.loss.min(), "entropy": -(marginal * marginal.log()).sum()}
            figures["largest_cluster"] = marginal.max()
            self.logger.log_metrics(
                {f"temi/{name}": float(figure) for name, figure in figures.items()}, step=self.current_epoch
            )
