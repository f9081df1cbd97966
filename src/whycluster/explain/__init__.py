"""The saved model, and images `->` explanations."""

from whycluster.explain.explainer import Explainer, Explanation, Receipt
from whycluster.explain.model import Assignment, ClusterModel
from whycluster.explain.targets import Target, parse_target

__all__ = [
    "Assignment",
    "ClusterModel",
    "Explainer",
    "Explanation",
    "Receipt",
    "Target",
    "parse_target",
]
