"""Layer-wise relevance propagation through a network, from its output to its images."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from whycluster.errors import UserError
from whycluster.lrp.composites import Composite
from whycluster.lrp.description import described
from whycluster.lrp.forward_cache import ForwardCache, RelevanceOf
from whycluster.lrp.graph import Graph, export_graph, named_tensors, structure
from whycluster.lrp.plan import Planned, plan
from whycluster.lrp.receipts import Attribution
from whycluster.lrp.steps import Attention, ConstantStep, LinearStep
from whycluster.lrp.walk import Program


class LRP:
    """Layer-wise relevance propagation through any network that `torch.export` can export.

    The network is read, never changed: no hook is set, no parameter replaced, no gradient written. It is exported at
    the first images of a shape, and again only if its modules change; weights that change later are noticed, unless
    they are written through `.data`.

    Args:
        network: images `(N, ...)` `->` a tensor `(N, ...)`, or a tuple of such; explained as it computes in evaluation
            mode.
        composite: the rule of each layer.
        attention: `attn`: relevance passes the softmax of attention, and both factors of products (AttnLRP: Achtibat et
            al., arXiv 2402.05602); `cp`: that softmax is a constant (CP-LRP: Ali et al., arXiv 2202.07304), for which
            a composite should have `tokens=0.05`.

    Raises:
        UserError: if `network` is no module, `composite` no composite, or `attention` unknown.

    Example:
        >>> from whycluster.lrp import LRP, EpsilonPlus
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> lrp = LRP(network, EpsilonPlus())
        >>> output, relevance = lrp(torch.rand(5, 3, 4, 4), lambda output: output)
        >>> relevance.shape
        torch.Size([5, 3, 4, 4])
    """

    def __init__(self, network: nn.Module, composite: Composite, attention: Attention = "attn") -> None:
        if not isinstance(network, nn.Module):
            raise UserError(f"the network should be an nn.Module; here it is {network!r:.100}.")
        if not isinstance(composite, Composite):
            make = "named_composite makes one from a name"
            raise UserError(f"composite={composite!r:.100} should be a composite such as EpsilonPlus(); {make}.")
        if attention not in ("cp", "attn"):
            raise UserError(f"attention={attention!r} is unknown; choose 'cp' or 'attn'.")
        self.network, self.composite, self.attention = _unwrapped(network), composite, attention
        self._structure = ""
        self._plans: dict[Any, tuple[Graph, list[Planned]]] = {}
        self._programs: dict[Any, tuple[list[Any], Program]] = {}

    def __call__(self, images: Tensor, relevance_of_output: RelevanceOf) -> tuple[Any, Tensor]:
        """Returns the output and the relevance of the images; see `attribute`."""
        attribution = self.attribute(images, relevance_of_output)
        return attribution.output, attribution.relevance

    def attribute(self, images: Tensor, relevance_of_output: RelevanceOf) -> Attribution:
        """Explains a batch of images.

        Args:
            images: `(N, ...)`, as the network takes them.
            relevance_of_output: shaped as the output, or a function that makes it from the output; of a network that
                returns a tuple, a sequence of such.

        Returns:
            The output, the relevance of the images, and the receipt.

        Raises:
            UserError: as `forward` and `ForwardCache.propagate`.
        """
        cache = self.forward(images)
        with torch.inference_mode(False), torch.no_grad():
            relevance = relevance_of_output(cache.output) if callable(relevance_of_output) else relevance_of_output
        return cache.propagate(relevance, retain_graph=False)

    def forward(self, images: Tensor) -> ForwardCache:
        """Runs the network forward and keeps the values that propagation needs, for any number of targets.

        Args:
            images: `(N, ...)`; a copy is kept, so they may be overwritten.

        Raises:
            UserError: for images that are no tensor of floating point numbers; if the network cannot be exported, has
                an operation or a layer that relevance cannot pass, or mixes its images.
        """
        if not isinstance(images, Tensor) or not images.is_floating_point() or not images.ndim:
            kind = f"one of {images.dtype}, {tuple(images.shape)}" if isinstance(images, Tensor) else f"{images!r:.60}"
            raise UserError(f"images should be a tensor (N, ...) of floating point numbers; here it is {kind}.")
        with torch.inference_mode(False):
            return ForwardCache(self._program(images), _copied(images.detach()))

    def prepare(self, images: Tensor) -> None:
        """Exports the network for images `(N, ...)` of this shape beforehand; otherwise `forward` does so on first use.

        Raises:
            UserError: as `forward`.
        """
        with torch.inference_mode(False):
            self._plan(images)

    def of(self, network: nn.Module) -> "LRP":
        """Returns an LRP through another network of the same modules; only its weights are read, and nothing is
        exported.
        """
        other = LRP(network, self.composite, self.attention)
        other._structure, other._plans = self._structure, self._plans
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Returns what is pickled: graphs cannot be, and are exported again on first use."""
        return vars(self) | {"_structure": "", "_plans": {}, "_programs": {}}

    def describe(self, images: Tensor) -> str:
        """Lists what happens at each node in a table: operation, rule, and the batch norm folded into it.

        Args:
            images: `(N, ...)`, of which only shape, dtype and device matter.

        Raises:
            UserError: as `forward`.
        """
        with torch.inference_mode(False):
            return described(self._plan(images)[1])

    def _plan(self, images: Tensor) -> tuple[Graph, list[Planned]]:
        """Returns the graph for images of this shape, exported once, and its plan."""
        found = structure(self.network)
        if found != self._structure:
            self._structure, self._plans, self._programs = found, {}, {}
        key = self._key(images)
        if key not in self._plans:
            graph = export_graph(self.network, images)
            self._plans[key] = graph, plan(graph, self.composite, self.attention)
        return self._plans[key]

    def _program(self, images: Tensor) -> Program:
        """Returns the program for images of this shape, with the weights as they are now."""
        graph, planned = self._plan(images)
        key = self._key(images)
        weights = graph.weights(self.network)
        versions = [(one.data_ptr(), -1 if one.is_inference() else one._version) for one in weights.values()]
        if key not in self._programs or self._programs[key][0] != versions:
            with torch.no_grad():
                self._programs[key] = versions, _with_weights(graph, planned, weights)
        return self._programs[key][1]

    def _key(self, images: Tensor) -> Any:
        weights = next(iter(named_tensors(self.network).values()), images)
        return images.shape[1:], images.dtype, images.device, weights.dtype, weights.device


def _with_weights(graph: Graph, planned: list[Planned], weights: dict[fx.Node, Tensor]) -> Program:
    """Builds the program of a plan with the weights that the network has now; what does not depend on the images is
    computed once.
    """
    constants: dict[fx.Node, Any] = {node: one.clone() if one.is_inference() else one for node, one in weights.items()}
    layers = {}

    def value(argument: Any) -> Any:
        return fx.map_arg(argument, constants.__getitem__)

    for one in planned:
        if isinstance(one.step, ConstantStep) and all(source in constants for source in one.reads):
            constants[one.node] = one.compute(constants.__getitem__)
        elif isinstance(one.step, LinearStep) and all(source in constants for source in one.step.weights):
            layers[one.node] = one.step.make(value)
    return Program(planned, graph.batches, graph.images, graph.outputs, constants, layers)


def _unwrapped(network: nn.Module) -> nn.Module:
    """Returns the network inside the wrapper of torch.compile or of data-parallel training."""
    if isinstance(network, nn.parallel.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(network.module)
    compiled = getattr(network, "_orig_mod", None)
    return network if compiled is None else _unwrapped(compiled)


def _copied(images: Tensor) -> Tensor:
    """Copies images; on a CPU with the channels last, where convolutions are a sixth faster."""
    fast = images.ndim == 4 and images.device.type == "cpu" and images.dtype == torch.float32
    return images.clone(memory_format=torch.channels_last if fast else torch.preserve_format)
