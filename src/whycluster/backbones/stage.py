"""The stage of a network that is trained on, by name or by default."""

import difflib
from collections.abc import Sequence

from torch import nn

from whycluster.errors import UserError

CONTAINER = 0.9  # a module that holds more of the parameters of its parent is no stage, but holds the stages


def stage_names(network: nn.Module) -> list[str]:
    """Lists the modules of a network that have parameters, by their dotted names."""
    return [name for name, module in network.named_modules() if name and any(True for _ in module.parameters())]


def default_stage(network: nn.Module) -> str:
    """Finds the last stage of a network that has weights.

    It is the last child with a weight matrix or a kernel; a child that holds nearly all parameters, such as the
    `encoder` of a vision transformer or the `features` of a VGG, is entered.

    Raises:
        UserError: if the network has no such module.

    Example:
        >>> default_stage(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)))
        '1'
    """
    children = {name: _size(child) for name, child in network.named_children() if _has_matrix(child)}
    if not children:
        raise UserError("the backbone has no stage with parameters to train; set head.finetune=null.")
    last, total = list(children)[-1], _size(network)
    child = network.get_submodule(last)
    if children[last] > CONTAINER * total and any(_has_matrix(below) for below in child.children()):
        return f"{last}.{default_stage(child)}"
    return last


def stage_parameters(network: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
    """Returns the parameters of some modules, each once.

    Args:
        network: that they belong to.
        names: dotted names of modules.

    Raises:
        UserError: for an unknown module, with the nearest names, and for one without parameters.
    """
    found: dict[int, nn.Parameter] = {}
    modules = dict(network.named_modules())
    for name in names:
        if name not in modules or not name:
            near = ", ".join(difflib.get_close_matches(name, stage_names(network), n=4, cutoff=0))
            raise UserError(f"head.finetune={name!r} is no module of the backbone; the nearest are {near}.")
        own = {id(parameter): parameter for parameter in modules[name].parameters()}
        if not own:
            raise UserError(
                f"head.finetune={name!r} has no parameters before the layer at which the backbone is cut; choose one "
                f"of {', '.join(stage_names(network)[-4:])}."
            )
        found |= own
    return list(found.values())


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
