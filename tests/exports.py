"""Tests that build the same network again and again have it exported once."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from whycluster.lrp import graph


def remembered() -> Callable[[nn.Module, Tensor], graph.Graph]:
    """`export_graph`, which knows networks of the same modules again; these must not differ in what no module shows."""
    export, known = graph.export_graph, dict[Any, graph.Graph]()

    def export_graph(network: nn.Module, images: Tensor) -> graph.Graph:
        modules = [(name, type(module)) for name, module in network.named_modules()]
        weights = next(iter(graph.named_tensors(network).values()), images)
        key = graph.structure(network), str(modules), images.shape[1:], images.dtype, images.device, weights.dtype
        if key not in known:
            known[key] = export(network, images)
        return known[key]

    return export_graph
