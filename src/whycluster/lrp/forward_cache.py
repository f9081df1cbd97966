"""A forward pass whose values are kept for the propagation of relevance."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from whycluster.errors import UserError
from whycluster.lrp.linear_maps import Shift
from whycluster.lrp.plan import Planned
from whycluster.lrp.receipts import Absorbed, Attribution, Ledger, Receipt, per_image
from whycluster.lrp.steps import LinearStep
from whycluster.lrp.walk import Program

Relevance = Tensor | Sequence[Tensor]
RelevanceOf = Relevance | Callable[[Any], Relevance]


class ForwardCache:
    """A forward pass whose values are kept, so that relevance can be propagated from the output any number of times.

    Args:
        program: of the network.
        images: `(N, ...)`, which nothing else may write to.

    Attributes:
        output: of the network, a tensor or a tuple of tensors.

    Raises:
        UserError: if an output does not have a row for each image.
    """

    def __init__(self, program: Program, images: Tensor) -> None:
        self._program, self._images = program, images.requires_grad_()
        kind = images.device.type  # the backward pass, whenever it runs, multiplies as the forward pass did
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
                raise UserError(
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
            UserError: if the relevance is not shaped as the output, if a NaN or an infinity appears on the way, or if
                the values were freed before.
        """
        entering = [one.detach().to(self._images.dtype) for one in self._checked(relevance)]
        if self._used_up:
            raise UserError("these values were freed by propagate(…, retain_graph=False); run forward again.")
        self._used_up = not retain_graph
        with torch.inference_mode(False), self._autocast():
            entering = [one.clone() if one.is_inference() else one for one in entering]
            attribution = self._pass_back(self._outputs, entering, self._ledger, retain_graph)
            if retain_graph is False:
                self._outputs = []
            balanced = attribution.receipt.is_plausible(self._short)
            if not (balanced and all(one.isfinite() for one in self._ledger.sums)):
                self._find_fault(entering, attribution.receipt, balanced)
            return attribution

    def _checked(self, relevance: Any) -> list[Tensor]:
        """Returns the relevance of each output."""
        outputs, entering = ([one] if isinstance(one, Tensor) else one for one in (self.output, relevance))
        wanted = [tuple(output.shape) for output in outputs]
        text = f"of shape {wanted[0]}" if len(wanted) == 1 else f"for each output, of shapes {wanted}"
        if not isinstance(entering, list | tuple) or not all(isinstance(one, Tensor) for one in entering):
            raise UserError(
                f"relevance of the output should be a tensor {text}, or a function that makes one from the output; "
                f"here it is {relevance!r:.100}."
            )
        shapes = [tuple(one.shape) for one in entering]
        if shapes != wanted:
            found = shapes[0] if len(shapes) == 1 else shapes
            raise UserError(f"relevance of shape {found} does not fit the output: a tensor {text} is wanted.")
        return list(entering)

    def _pass_back(
        self, outputs: Sequence[Tensor], entering: Sequence[Tensor], ledger: Ledger, retain_graph: bool
    ) -> Attribution:
        ledger.retain, ledger.layers, ledger.unsigned = retain_graph, {}, []
        explained = [
            (output, one.clone()) for output, one in zip(outputs, entering, strict=True) if output.requires_grad
        ]
        if explained and len(self._images):
            starts, relevance = zip(*explained, strict=True)
            (pixels,) = torch.autograd.grad(starts, self._images, relevance, retain_graph, materialize_grads=True)
            pixels = pixels.contiguous()
        else:
            pixels = torch.zeros_like(self._images)
        for one, kept in zip(outputs, entering, strict=True):
            if not one.requires_grad:  # it does not depend on the images, or holds whole numbers
                ledger.add("constant output", Absorbed.nothing(kept, len(kept))._replace(bias=per_image(kept)))
        entered = torch.stack([per_image(one) for one in entering]).sum(0)
        unsigned = torch.stack([per_image(one.abs()) for one in entering]).sum(0)
        looked_at = unsigned, per_image(pixels.abs()), *ledger.unsigned
        receipt = Receipt(entered, per_image(pixels), ledger.layers, looked_at)
        output: Any = self.output.clone() if isinstance(self.output, Tensor) else tuple(map(torch.clone, self.output))
        return Attribution(output, pixels, receipt)

    def _find_fault(self, entering: Sequence[Tensor], receipt: Receipt, balanced: bool) -> None:
        """Repeats both passes and checks every value.

        Raises:
            UserError: with the name of the first node whose values are not finite, if there is one.
        """
        if not self._images.isfinite().all():
            raise UserError("the batch of images holds values that are not finite.")

        def look(one: Planned, value: Any) -> None:
            if not isinstance(value, Tensor):
                return
            # Where the mask of attention is -inf, its softmax is zero.
            may_be_masked = not isinstance(one.step, LinearStep) or one.step.kind is Shift
            found = value.detach().masked_fill(value == -torch.inf, 0) if may_be_masked else value.detach()
            _check_finite(found, f"the output of {one.name!r}")
            if value.requires_grad:
                at = f"the relevance that arrives at {one.name!r}"
                value.register_hook(partial(_check_finite, what=at))  # type: ignore[no-untyped-call]

        ledger = Ledger(len(self._images))
        with torch.enable_grad():
            outputs = self._program.run(self._images, ledger, look)
        if not all(one.isfinite().all() for one in entering):
            raise UserError("the relevance given for the output holds values that are not finite.")
        again = self._pass_back(outputs, entering, ledger, retain_graph=False)
        _check_finite(again.relevance, "the relevance that arrives at the images")
        if balanced:  # finite values may have an infinite sum
            return
        kept = receipt.layers
        worst = max(
            kept, key=lambda name: float(kept[name].total.abs().nan_to_num(torch.inf).max()), default="no layer"
        )
        raise UserError(
            "what entered is not what arrived and was absorbed: the weights were changed through .data, which goes "
            "unnoticed (make a new LRP); the numbers are too short for this network (compute in float64; most was "
            f"absorbed at {worst!r}); or a rule of your own takes more or less than all of the relevance."
        )


def _multiplies_short(images: Tensor) -> bool:
    """Tells whether products in single precision may have the digits of half precision, as on GPUs by default."""
    exact = images.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    return images.dtype == torch.float32 and not exact


def _check_finite(values: Tensor | None, what: str) -> None:
    if values is not None and not values.isfinite().all():  # a part of a tensor that gets no relevance is `None`
        kind = "NaN" if values.isnan().any() else "an infinity"
        raise UserError(f"{what} holds {kind}; look at the weights there, or raise the stabilizer of its rule.")
