"""How well properties of images alone tell a cluster from others.

`n` images, `F` properties.
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from whycluster.explain.image_properties import BORDER_AND_CORNERS, PROPERTIES

FOLDS = 5
EXTREME = 0.9  # AUC of one property, from which on it is suspicious
OF_COLOUR = ("brightness", "contrast", "colourfulness", "saturation", "red cast", "yellow cast")


class Separation(NamedTuple):
    """How well properties tell a cluster from others.

    Attributes:
        auc: of logistic regression by all properties, cross-validated; 0.5 where it cannot be told.
        name: the property of whole images that does best alone.
        best_auc: its AUC, in the direction that is better.
        median_own: its median in the cluster.
        median_others: its median elsewhere.
        ranked: rows of the cluster, the most extreme in this property first.
    """

    auc: float
    name: str
    best_auc: float
    median_own: float
    median_others: float
    ranked: np.ndarray

    @property
    def is_extreme(self) -> bool:
        """Whether one property, and all together, tell the cluster from others almost without fail."""
        return self.best_auc >= EXTREME and self.auc >= EXTREME

    @property
    def is_of_colour(self) -> bool:
        """Whether the property can be undone by other colours."""
        return self.name in OF_COLOUR

    @property
    def strength(self) -> float:
        """Strength of the suspicion, from 0 to 1."""
        return float(np.clip((min(self.auc, self.best_auc) - 0.8) / 0.2, 0, 1))


def separation(properties: np.ndarray, own: np.ndarray, others: np.ndarray) -> Separation:
    """Tells a cluster from others by properties, alone and together.

    Args:
        properties: of all images, `(n, F)`, in the order of `PROPERTIES`.
        own: rows of the cluster.
        others: rows of other clusters.
    """
    rows = np.concatenate([own, others])
    x, y = properties[rows].astype(np.float64), np.arange(len(rows)) < len(own)
    alone = single_aucs(x, y)
    # What is at an edge or in a corner can be filled in, and is judged by that.
    whole = [number for number, name in enumerate(PROPERTIES) if not name.endswith(BORDER_AND_CORNERS)]
    at = max(whole, key=lambda number: float(abs(alone[number] - 0.5)))
    sign = 1 if alone[at] >= 0.5 else -1
    ranked = own[np.argsort(-sign * properties[own, at], kind="stable")]
    here, elsewhere = (float(np.median(properties[some, at])) for some in (own, others))
    best = float(max(alone[at], 1 - alone[at]))
    return Separation(cross_validated_auc(x, y), PROPERTIES[at], best, here, elsewhere, ranked)


def single_aucs(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Computes the area under the ROC curve of each column of `(n, F)` for labels `(n,)` bool, `(F,)`."""
    n_true, n_false = int(y.sum()), int((~y).sum())
    ranks = rankdata(x, axis=0)[y].sum(0)
    aucs: np.ndarray = (ranks - n_true * (n_true + 1) / 2) / (n_true * n_false)
    return aucs


def cross_validated_auc(x: np.ndarray, y: np.ndarray) -> float:
    """Computes the AUC of logistic regression over five folds; 0.5 where a class has fewer rows than folds."""
    if min(y.sum(), (~y).sum()) < FOLDS:
        return 0.5
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=200))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged does not matter here
        scores = cross_val_predict(model, x, y, cv=folds, method="decision_function")
    return float(roc_auc_score(y, scores))
