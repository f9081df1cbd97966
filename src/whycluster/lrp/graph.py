"""A network as a graph of functional ATen operations: exported once, run for any batch size and any weights.

`torch.export` follows what the network computes for images of one shape; nothing in its graph is written in place, and
the weights are inputs of the graph, so that a network whose weights change need not be exported again.
"""

import math
import operator
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export

from whycluster.errors import UserError
from whycluster.lrp.decompositions import decompositions

aten = torch.ops.aten
VIEWS = (aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.flatten.using_ints)
BATCH_NORM = aten._native_batch_norm_legit_no_training.default
# Tensors of other strides than in the export, such as channels-last images, may have no view of the wanted shape.
SUBSTITUTES = {aten.view.default: aten.reshape.default, aten._unsafe_view.default: aten.reshape.default}
# Folders whose code is not the user's: those of torch and of this package.
NOT_THE_USERS = tuple(f"{place}{os.sep}" for place in (Path(torch.__file__).parent, Path(__file__).parents[1]))


class Batch(NamedTuple):
    """Where the images are in a tensor: in the dimension `axis`, which has `outer · N · inner` entries."""

    axis: int
    inner: int = 1  # consecutive entries of this dimension that belong to one image

    def per_image(self, values: Tensor, n: int) -> Tensor:
        """Sums the values of each of `n` images, `(n,)`."""
        if self.axis == 0 and self.inner == 1 and len(values) == n:
            return values.sum(tuple(range(1, values.ndim))) if values.ndim > 1 else values
        outer = values.shape[self.axis] // max(n * self.inner, 1)
        shape = values.shape
        apart = values.reshape(*shape[: self.axis], outer, n, self.inner, *shape[self.axis + 1 :])
        return apart.sum([at for at in range(apart.ndim) if at != self.axis + 1])


@dataclass(frozen=True)
class Graph:
    """What a network computes from images of one shape."""

    nodes: list[fx.Node]  # operations in order of computation; only those that lead to the output
    images: fx.Node  # the node of the images
    outputs: list[fx.Node]  # the nodes that the network returns
    names: dict[fx.Node, str]  # a module (`features.0`), or a module and an operation (`layer1.0.add`)
    batches: dict[fx.Node, Batch]  # where the images are in the value of each node that depends on them
    sources: dict[fx.Node, str | Tensor]  # placeholder `->` the name of its parameter or buffer, or a constant itself

    def weights(self, network: nn.Module) -> dict[fx.Node, Tensor]:
        """Returns the tensors of a network that the graph reads."""
        tensors = named_tensors(network)
        return {node: tensors[one] if isinstance(one, str) else one for node, one in self.sources.items()}


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and buffers of a network by their names."""
    pairs = (*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False))
    return {name: tensor.detach() for name, tensor in pairs}


def structure(network: nn.Module) -> str:
    """Describes a network in a text that changes when modules are replaced, when most of their settings change, and
    with the shape of a weight.
    """
    return f"{network} {[(name, tuple(one.shape), one.dtype) for name, one in named_tensors(network).items()]}"


def export_graph(network: nn.Module, images: Tensor) -> Graph:
    """Exports the graph of a network as it computes in evaluation mode.

    Args:
        network: takes one tensor of images, returns a tensor or a tuple of tensors.
        images: `(N, ...)`; of them only shape, dtype and device matter.

    Raises:
        UserError: if the network cannot be exported, with PyTorch's reason and the line of the network's source.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise UserError("a network compiled by torch.jit cannot be exported; give the module that it was made from.")
    example = torch.zeros(2, *images.shape[1:], dtype=images.dtype, device=images.device)
    try:
        with _evaluating(network), torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            # A fixed batch would be a constant of the graph. The graph runs for batches of any size; the maximum keeps
            # export from a refusal of kernels on a GPU that have one, such as cuDNN's batch norm with 65,535.
            program = export(network, (example,), dynamic_shapes=({0: Dim("batch", max=64)},))
            # Decomposed attention gives other strides than attention does, of which torch 2.11 has no view.
            for node in program.graph.nodes:
                node.target = SUBSTITUTES.get(node.target, node.target)
            program = program.run_decompositions(decompositions())
    except Exception as error:  # the network's own program runs here, on tensors without values: anything may fail
        raise UserError(_reason(network, error)) from error
    return _graph(network, program)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Puts a network into evaluation mode, and afterwards back into the mode it was in."""
    before = [(module, module.training) for module in network.modules()]
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, training in before:
            module.training = training


def _reason(network: nn.Module, error: Exception) -> str:
    """Writes one sentence: PyTorch's reason and the line of the network's source."""
    written = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.name == "forward" and os.sep in frame.filename and not frame.filename.startswith((*NOT_THE_USERS, "<"))
    ]
    line = f' (File "{written[-1].filename}", line {written[-1].lineno})' if written else ""
    text = str(error).strip() or type(error).__name__
    if "specialized it to be a constant" in text:
        text = "it fixes the number of images; take that from x.shape[0], and not from len(x), where you need it"
    first = next((part.strip() for part in text.splitlines() if part.strip()), text)
    return f"{type(network).__name__} cannot be exported by torch.export: {first.rstrip('.')}{line}."


def _graph(network: nn.Module, program: ExportedProgram) -> Graph:
    """Extracts the part of an exported program that leads to its output, with what is known of its nodes."""
    graph, signature = program.graph, program.graph_signature
    _take_first_outputs(graph)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    images = [node for node in placeholders if node.name in signature.user_inputs]
    names = signature.inputs_to_parameters | signature.inputs_to_buffers | signature.inputs_to_lifted_tensor_constants
    weights, constants = named_tensors(network), {**program.constants, **program.state_dict}
    sources: dict[fx.Node, str | Tensor] = {}
    for node in placeholders:
        if node not in images:
            name = names[node.name]
            sources[node] = name if name in weights else constants[name]
    returned = [
        one
        for one in graph.output_node().args[0]
        if not isinstance(one, fx.Node) or one.name not in signature.buffers_to_mutate
    ]
    outputs = [one for one in returned if isinstance(one, fx.Node) and isinstance(one.meta.get("val"), Tensor)]
    kind = program.call_spec.out_spec.type
    if len(images) != 1 or len(outputs) != len(returned) or kind not in (None, tuple, list):
        raise UserError(
            f"{type(network).__name__} should take one tensor of images and return a tensor or a tuple of tensors; "
            f"it takes {len(images)} tensors and returns {len(returned)} values"
            f"{f' in a {kind.__name__}' if kind else ''}, of which {len(outputs)} are tensors."
        )
    nodes = _leading_to(graph, outputs)
    return Graph(nodes, images[0], outputs, _names(nodes, network), _batches(nodes, images[0]), sources)


def _take_first_outputs(graph: fx.Graph) -> None:
    """Replaces the node of a batch norm by its first output; the others are empty in evaluation mode."""
    for node in list(graph.nodes):
        if node.target is operator.getitem and node.args[0].target is BATCH_NORM:
            norm = node.args[0]
            norm.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(norm)
            graph.erase_node(node)


def _leading_to(graph: fx.Graph, outputs: Sequence[fx.Node]) -> list[fx.Node]:
    """Returns the operations that outputs depend on."""
    wanted = set(outputs)
    for node in reversed(graph.nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    return [node for node in graph.nodes if node in wanted and node.op == "call_function"]


def function_of(node: fx.Node) -> Callable[..., Any]:
    """Returns the function that a node calls."""
    target: Any = node.target
    target = SUBSTITUTES.get(target, target)
    return (lambda *inputs: BATCH_NORM(*inputs)[0]) if target is BATCH_NORM else target


def operation_name(node: fx.Node) -> str:
    """Returns the operation without its overload: `add` of `aten.add.Tensor`."""
    return str(getattr(node.target, "__name__", node.target)).split(".")[0].strip("_")


def _names(nodes: Sequence[fx.Node], network: nn.Module) -> dict[fx.Node, str]:
    """Names each node; calls of one layer share its name, other operations are counted."""
    counts: dict[str, int] = {}
    names = {}
    for node in nodes:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        path, kind = stack[-1] if stack else ("", "")
        path = path.split("@")[0] if "." in str(kind) else ""
        if str(kind).startswith("torch.nn.") and path and not any(True for _ in network.get_submodule(path).children()):
            names[node] = path
            continue
        name = f"{path}.{operation_name(node)}".lstrip(".")
        at = counts[name] = counts.get(name, -1) + 1
        names[node] = f"{name}_{at}" if at else name
    return names


def _batches(nodes: Sequence[fx.Node], images: fx.Node) -> dict[fx.Node, Batch]:
    """Finds the dimension of the images in the value of each node: its size has the batch size as a factor."""
    batches = {images: Batch(0)}
    for node in nodes:
        value = node.meta.get("val")
        value = value[0] if isinstance(value, list | tuple) and value else value  # of several outputs the first
        shape = list(value.shape) if isinstance(value, Tensor) else []
        factors = [batch_factor(size, images) for size in shape]
        axis = next((at for at, factor in enumerate(factors) if factor), None)
        if axis is None:
            continue
        source = next((one for one in node.all_input_nodes if one in batches), images)
        inner = batches[source].inner if factors[axis] > 1 else 1
        if factors[axis] > 1 and node.target in VIEWS:
            before = batches[source]
            stride = before.inner * math.prod(source.meta["val"].shape[before.axis + 1 :])
            inner = max(1, stride // max(1, math.prod(shape[axis + 1 :])))
        batches[node] = Batch(axis, inner)
    return batches


def batch_factor(size: Any, images: fx.Node) -> int:
    """Returns how many times the batch size a size is; 0 if it does not depend on it."""
    symbol = images.meta["val"].shape[0].node.expr
    if not isinstance(size, torch.SymInt) or symbol not in size.node.expr.free_symbols:
        return 0
    return int(size.node.expr.subs(symbol, 1))


def source_line(node: fx.Node) -> str:
    """Returns the last line of the network's own program that led to a node; empty if there is none."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    places = [line for line in lines if line.startswith("File") and not any(place in line for place in NOT_THE_USERS)]
    return f", {places[-1]}" if places else ""
