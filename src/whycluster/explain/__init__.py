"""The saved model, and images `->` explanations."""

from whycluster.explain.explainer import Explainer, Explanation, Receipt
from whycluster.explain.model import Assignment, ClusterModel
from whycluster.explain.predict import Explained, ExplanationModule
from whycluster.explain.targets import Target, parse_target

__all__ = [
    "Assignment",
    "ClusterModel",
    "Explained",
    "Explainer",
    "Explanation",
    "ExplanationModule",
    "Receipt",
    "Target",
    "parse_target",
]
