"""Layer-wise relevance propagation through a network, from its output to its images."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from whycluster.lrp.composites import Composite
from whycluster.lrp.description import described
from whycluster.lrp.graph import Graph, export_graph, named_tensors, structure
from whycluster.lrp.operations import Attention, ConstantStep, LinearStep
from whycluster.lrp.plan import Planned, plan
from whycluster.lrp.receipts import Attribution, Ledger, Receipt, per_image
from whycluster.lrp.walk import Program

Relevance = Tensor | Sequence[Tensor]
RelevanceOf = Relevance | Callable[[Any], Relevance]


class LRP:
    """Layer-wise relevance propagation through any network that `torch.export` can export.

    The network is read, never changed: no hook is set, no parameter replaced, no gradient written. It is exported at
    the first images of a shape, and again only if its modules change; weights that change later are noticed, unless
    they are written through `.data`.

    Args:
        network: images `(N, ...)` `->` a tensor `(N, ...)`, or a tuple of such; explained as it computes in evaluation
            mode.
        composite: the rule of each layer.
        attention: `cp`: the softmaxed attention is a constant (Ali et al., arXiv 2202.07304); `attn`: relevance passes
            the softmax and both factors of products (Achtibat et al., arXiv 2402.05602).

    Raises:
        ValueError: for what is no network, no composite, or another kind of attention.

    Example:
        >>> from whycluster.lrp import LRP, EpsilonPlus
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> lrp = LRP(network, EpsilonPlus())
        >>> output, relevance = lrp(torch.rand(5, 3, 4, 4), lambda output: output)
        >>> relevance.shape
        torch.Size([5, 3, 4, 4])
    """

    def __init__(self, network: nn.Module, composite: Composite, attention: Attention = "cp") -> None:
        if not isinstance(network, nn.Module):
            raise ValueError(f"the network should be an nn.Module; here it is {network!r:.100}.")
        if not isinstance(composite, Composite):
            raise ValueError(
                f"composite={composite!r:.100} should be a composite such as EpsilonPlus(); named_composite makes one "
                "from a name."
            )
        if attention not in ("cp", "attn"):
            raise ValueError(f"attention={attention!r} is unknown; choose 'cp' or 'attn'.")
        self.network = _unwrapped(network)
        self.composite = composite
        self.attention = attention
        self._structure = ""
        self._plans: dict[Any, tuple[Graph, list[Planned]]] = {}
        self._programs: dict[Any, tuple[list[Any], Program]] = {}

    def __call__(self, images: Tensor, relevance_of_output: RelevanceOf) -> tuple[Any, Tensor]:
        """Output and relevance of the images; see `attribute`."""
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
            ValueError: as `forward` and `ForwardCache.propagate`.
        """
        cache = self.forward(images)
        with torch.inference_mode(False), torch.no_grad():
            relevance = relevance_of_output(cache.output) if callable(relevance_of_output) else relevance_of_output
        return cache.propagate(relevance, retain_graph=False)

    def forward(self, images: Tensor) -> "ForwardCache":
        """Runs the network forward and keeps what relevance needs on its way back, for one target after another.

        Args:
            images: `(N, ...)`; a copy is kept, so they may be overwritten.

        Raises:
            ValueError: for images that are no tensor of floating point numbers; if the network cannot be exported, has
                an operation or a layer that relevance cannot pass, or mixes its images.
        """
        if not isinstance(images, Tensor) or not images.is_floating_point() or not images.ndim:
            kind = f"one of {images.dtype}, {tuple(images.shape)}" if isinstance(images, Tensor) else f"{images!r:.60}"
            raise ValueError(f"images should be a tensor (N, ...) of floating point numbers; here it is {kind}.")
        with torch.inference_mode(False):
            return ForwardCache(self._program(images), _copied(images.detach()))

    def prepare(self, images: Tensor) -> None:
        """Exports the network for images `(N, ...)` of this shape, which `forward` else does when it meets them.

        Raises:
            ValueError: as `forward`.
        """
        with torch.inference_mode(False):
            self._plan(images)

    def of(self, network: nn.Module) -> "LRP":
        """The same through another network of the same modules; only its weights are read, and nothing is exported."""
        other = copy.copy(self)
        other.network, other._programs = _unwrapped(network), {}
        return other

    def describe(self, images: Tensor) -> str:
        """A table of what happens at each node: operation, rule, and the batch norm folded into it.

        Args:
            images: `(N, ...)`, of which only shape and kind matter.

        Raises:
            ValueError: as `forward`.
        """
        with torch.inference_mode(False):
            return described(self._plan(images)[1])

    def _plan(self, images: Tensor) -> tuple[Graph, list[Planned]]:
        """The graph for images of this shape, exported once."""
        found = structure(self.network)
        if found != self._structure:
            self._structure, self._plans, self._programs = found, {}, {}
        key = self._key(images)
        if key not in self._plans:
            graph = export_graph(self.network, images)
            self._plans[key] = graph, plan(graph, self.composite, self.attention)
        return self._plans[key]

    def _program(self, images: Tensor) -> Program:
        """The program for images of this shape, with the weights as they are now."""
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


class ForwardCache:
    """A forward pass whose values are kept, so that relevance can come back from the output as often as wanted.

    Args:
        program: of the network.
        images: `(N, ...)`, of which this is the only owner.

    Attributes:
        output: of the network, a tensor or a tuple of tensors.

    Raises:
        ValueError: if an output does not have a row for each image.
    """

    def __init__(self, program: Program, images: Tensor) -> None:
        self._program, self._images = program, images.requires_grad_()
        kind = images.device.type  # the way back, whenever it comes, multiplies as the forward pass did
        precision, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        self._autocast = partial(torch.autocast, kind, dtype=precision, enabled=enabled)
        self._short = enabled or _multiplies_short(images)
        self._ledger = Ledger(len(images))
        with torch.enable_grad():
            self._outputs = program.run(self._images, self._ledger)
        self._used_up = False
        # Copies, as a caller may write into them.
        outputs = [one.detach().clone(memory_format=torch.contiguous_format) for one in self._outputs]
        self.output: Any = outputs[0] if len(outputs) == 1 else tuple(outputs)
        for output in outputs:
            if not output.ndim or len(output) != len(images):
                raise ValueError(
                    f"the network makes an output of shape {tuple(output.shape)} from images of shape "
                    f"{tuple(images.shape)}; it should have a row for each image. Let it keep the batch dimension."
                )

    def propagate(self, relevance: Relevance, retain_graph: bool = True) -> Attribution:
        """Passes relevance from the output to the images.

        Args:
            relevance: shaped as the output; of a network that returns a tuple, a sequence of such.
            retain_graph: whether other targets may follow, which share all denominators with this one; `False` frees
                each value once relevance has passed it.

        Raises:
            ValueError: if the relevance is not shaped as the output, if a NaN or an infinity appears on the way, or if
                the values were freed before.
        """
        entering = [one.detach().to(self._images.dtype) for one in self._checked(relevance)]
        if self._used_up:
            raise ValueError("these values were freed by propagate(…, retain_graph=False); run forward again.")
        self._used_up = not retain_graph
        with torch.inference_mode(False), self._autocast():
            entering = [one.clone() if one.is_inference() else one for one in entering]
            attribution = self._walk(self._outputs, entering, self._ledger, retain_graph)
            if retain_graph is False:
                self._outputs = []
            # R / inf is 0: a receipt may balance over an infinity.
            if not (attribution.receipt.is_plausible(self._short) and all(one.isfinite().all() for one in self._tensors)):
                self._find_fault(entering, attribution.receipt)
            return attribution

    @property
    def _tensors(self) -> list[Tensor]:
        return [self.output] if isinstance(self.output, Tensor) else list(self.output)

    def _checked(self, relevance: Any) -> list[Tensor]:
        """Relevance of each output."""
        wanted = [tuple(output.shape) for output in self._tensors]
        given = [relevance] if isinstance(relevance, Tensor) else relevance
        text = f"of shape {wanted[0]}" if len(wanted) == 1 else f"for each output, of shapes {wanted}"
        if not isinstance(given, list | tuple) or not all(isinstance(one, Tensor) for one in given):
            raise ValueError(
                f"relevance of the output should be a tensor {text}, or a function that makes one from the output; "
                f"here it is {relevance!r:.100}."
            )
        shapes = [tuple(one.shape) for one in given]
        if shapes != wanted:
            found = shapes[0] if len(shapes) == 1 else shapes
            raise ValueError(f"relevance of shape {found} does not fit the output: a tensor {text} is wanted.")
        return list(given)

    def _walk(
        self, outputs: Sequence[Tensor], entering: Sequence[Tensor], ledger: Ledger, retain_graph: bool
    ) -> Attribution:
        ledger.retain, ledger.layers, ledger.unsigned = retain_graph, {}, []
        if any(one.requires_grad for one in outputs) and len(self._images):
            pixels = torch.autograd.grad(
                outputs, self._images, [one.clone() for one in entering], retain_graph, materialize_grads=True
            )[0].contiguous()
        else:
            pixels = torch.zeros_like(self._images)
        entered, unsigned = (sum(per_image(values) for values in some) for some in (entering, map(torch.abs, entering)))
        receipt = Receipt(entered, per_image(pixels), ledger.layers, (unsigned, per_image(pixels.abs()), *ledger.unsigned))  # type: ignore[arg-type]
        output = self.output.clone() if isinstance(self.output, Tensor) else tuple(one.clone() for one in self.output)
        return Attribution(output, pixels, receipt)

    def _find_fault(self, entering: Sequence[Tensor], receipt: Receipt) -> None:
        """Goes both ways again, looking at every value.

        Raises:
            ValueError: with the name of the first node whose values are not finite, if there is one.
        """
        if not self._images.isfinite().all():
            raise ValueError("the batch of images holds values that are not finite.")

        def look(name: str, value: Any) -> None:
            if isinstance(value, Tensor):
                _check_finite(value.detach(), f"the output of {name!r}")
                if value.requires_grad:
                    value.register_hook(lambda r: _check_finite(r, f"the relevance that arrives at {name!r}"))

        ledger = Ledger(len(self._images))
        with torch.enable_grad():
            outputs = self._program.run(self._images, ledger, look)
        if not all(one.isfinite().all() for one in entering):
            raise ValueError("the relevance given for the output holds values that are not finite.")
        again = self._walk(outputs, entering, ledger, retain_graph=False)
        _check_finite(again.relevance, "the relevance that arrives at the images")
        worst = max(receipt.layers, key=lambda name: float(receipt.layers[name].total.abs().nan_to_num(torch.inf).max()))
        raise ValueError(
            "what entered is not what arrived and was absorbed: the weights were changed through .data, which goes "
            "unnoticed (make a new LRP); the numbers are too short for this network (compute in float64; most was "
            f"absorbed at {worst!r}); or a rule of your own takes more or less than all of the relevance."
        )


def _with_weights(graph: Graph, planned: list[Planned], weights: dict[fx.Node, Tensor]) -> Program:
    """A plan with the weights that the network has now: what does not depend on the images is computed once."""
    constants: dict[fx.Node, Any] = {
        node: one.clone() if one.is_inference() else one for node, one in weights.items()
    }
    layers = {}

    def value(given: Any) -> Any:
        return fx.map_arg(given, constants.__getitem__)

    for one in planned:
        if isinstance(one.step, ConstantStep) and all(source in constants for source in one.reads):
            constants[one.node] = one.compute(constants.__getitem__)
        elif isinstance(one.step, LinearStep) and all(source in constants for source in one.step.weights):
            layers[one.node] = one.step.make(value)
    return Program(planned, graph.batches, graph.images, graph.outputs, constants, layers)


def _unwrapped(network: nn.Module) -> nn.Module:
    """What is within the wrapping of torch.compile, or of data-parallel training."""
    if isinstance(network, nn.parallel.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(network.module)
    inner: nn.Module = getattr(network, "_orig_mod", network)
    return inner


def _copied(images: Tensor) -> Tensor:
    """A copy, on a CPU with the channels last: its convolutions are the faster for it, by a sixth."""
    fast = images.ndim == 4 and images.device.type == "cpu" and images.dtype == torch.float32
    return images.clone(memory_format=torch.channels_last if fast else torch.preserve_format)


def _multiplies_short(images: Tensor) -> bool:
    """Whether single precision may be multiplied with the digits of half precision, as GPUs do by default."""
    exact = images.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    return images.dtype == torch.float32 and not exact


def _check_finite(values: Tensor, what: str) -> None:
    if not values.isfinite().all():
        kind = "NaN" if values.isnan().any() else "an infinity"
        raise ValueError(f"{what} holds {kind}; look at the weights there, or raise the stabilizer of its rule.")
