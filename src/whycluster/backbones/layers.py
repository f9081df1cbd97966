"""The layers of a network: the modules and functions that it calls, and the names by which users select them.

A module is named by its dotted name: `layer4.1.relu`. A function or a method of a tensor, called in the forward pass of
a module, has the module's name and its own: `inception5b.cat`. Further calls are numbered:
`layer4.1.relu_1` is the second. Functions inside `torch.nn`'s own modules are not listed. torchvision's
`get_graph_node_names` gives the same names to the nodes of its graphs.
"""

import copy
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

# Operators whose methods have other names than the functions.
OPERATORS = {"__rsub__": "sub", "__rdiv__": "div", "__rpow__": "pow"}

# Errors of a network that does not take images of some size.
REFUSALS = (AssertionError, IndexError, RuntimeError, ValueError)


class Layer(NamedTuple):
    """A layer that has just been computed.

    Attributes:
        name: its name for users, see above.
        output: what it returned.
        module: the dotted name of the module, if it is one.
        call: how often that module had been called before.
        innermost: whether no other layer is part of it.
    """

    name: str
    output: Any
    module: str | None
    call: int
    innermost: bool


class LayerWatch(TorchFunctionMode):
    """A context in which `visit` is called for each layer of a network that has been computed, in order.

    Args:
        network: hooks are registered on it on entering, and removed on leaving.
        visit: is called with each layer; it may raise to stop the network.
    """

    def __init__(self, network: nn.Module, visit: Callable[[Layer], None]) -> None:
        super().__init__()
        self.network = network
        self.visit = visit
        self.names: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.n_visits = 0
        # Of the modules that are running: their names, or `None` where functions are not listed, and the visits before.
        self.running: list[tuple[str | None, int]] = [("", 0)]
        self.handles: list[RemovableHandle] = []

    def __enter__(self) -> "LayerWatch":
        for name, module in self.network.named_modules():
            self.handles.append(module.register_forward_pre_hook(partial(self._begin, name)))
            self.handles.append(module.register_forward_hook(partial(self._end, name)))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        for handle in self.handles:
            handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        inside = self.running[-1][0]
        name = getattr(func, "__name__", "__get__")
        if inside is not None and name != "__get__" and _is_of_tensors(output):
            self._visit_function(inside, OPERATORS.get(name, name.strip("_")), output)
        return output

    def _begin(self, name: str, module: nn.Module, inputs: Any) -> None:
        self.running.append((None if _is_opaque(module) else name, self.n_visits))

    def _end(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        _, visits_before = self.running.pop()
        call = self.calls[name]
        self.calls[name] += 1
        if name:  # the whole network is none of its layers
            self._visit(name, output, name, call, self.n_visits == visits_before)

    def _visit_function(self, inside: str, function: str, output: Any) -> None:
        prefix = f"{inside}." if inside else ""
        self._visit(prefix + function, output)
        if not isinstance(output, Tensor):  # its parts are unpacked, and have names of their own
            for part in output:
                self._visit(f"{prefix}getitem", part)

    def _visit(self, name: str, output: Any, module: str | None = None, call: int = 0, innermost: bool = True) -> None:
        number = self.names[name]
        self.names[name] += 1
        self.n_visits += 1
        self.visit(Layer(f"{name}_{number}" if number else name, output, module, call, innermost))


def layer_names(network: nn.Module, images: Tensor | None = None) -> list[str]:
    """Lists the names at which a network can be cut, in the order in which they are computed.

    Args:
        network: any network; it is not changed.
        images: normalised images that it takes, `(N, 3, H, W)`; `None`: one blank image of 224 × 224 pixels.
    """
    images = blank_images(network, 224) if images is None else images
    return list(dict.fromkeys(layer.name for layer in all_layers(evaluated(network), images)))


def all_layers(network: nn.Module, images: Tensor) -> list[Layer]:
    """Lists all layers of a network in evaluation mode, without their outputs, which would fill the memory.

    If the network fails early, as its classifier is for images of another size, the layers before that are listed.
    """
    layers: list[Layer] = []
    try:
        with torch.no_grad(), LayerWatch(network, lambda layer: layers.append(layer._replace(output=None))):
            network(images)
    except REFUSALS:
        if not layers:
            raise
    return layers


def evaluated(network: nn.Module) -> nn.Module:
    """Copies a network into evaluation mode, with modules of its own and the same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    return copy.deepcopy(network, dict(shared)).eval()


def blank_images(network: nn.Module, size: int) -> Tensor:
    """Makes one image of zeros `(1, 3, size, size)`, on the device of a network and of its type."""
    floating = (tensor for tensor in chain(network.parameters(), network.buffers()) if tensor.is_floating_point())
    return next(floating, torch.zeros(())).new_zeros(1, 3, size, size)


def _is_opaque(module: nn.Module) -> bool:
    """Tells whether a module is of `torch.nn` and computes something itself."""
    return type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)


def _is_of_tensors(output: Any) -> bool:
    if isinstance(output, tuple | list):
        return bool(output) and all(isinstance(part, Tensor) for part in output)
    return isinstance(output, Tensor)
