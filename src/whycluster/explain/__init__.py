"""The saved model, and explanations of images and of tables by it."""

from whycluster.explain.explainer import DiscriminantReceipt, Explainer, Explanation
from whycluster.explain.model import Assignment, ClusterModel
from whycluster.explain.targets import Target, parse_target

__all__ = [
    "Assignment",
    "ClusterModel",
    "DiscriminantReceipt",
    "Explainer",
    "Explanation",
    "Target",
    "parse_target",
]
