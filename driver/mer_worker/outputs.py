"""Memory for outputs: where a handler may write them, so that they need not be copied on their way to the caller."""

from __future__ import annotations

import sys

from mer_worker.bodies import aligned
from mer_worker.dtypes import NUMERIC, NUMPY_NAMES
from mer_worker.layout import layout_of
from mer_worker.shared import SHARED_FROM
from mer_worker.tensors import values_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Optional

    from mer_worker.interrupts import Interrupts
    from mer_worker.shared import Sharing


class Outputs:
    """Makes arrays of the kind that the handler gets, in memory shared with the driver where there is some."""

    def __init__(
        self, arrays: str = "numpy", memory: Optional[Sharing] = None, interrupts: Optional[Interrupts] = None
    ) -> None:
        self._arrays = arrays
        self._memory = memory
        self._interrupts = interrupts

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """Return a writable array of this shape, with whatever stands in its memory.

        Raises:
            ValueError: no array has this dtype or shape.
        """
        name = _name(dtype)
        layout = layout_of((("output", name, tuple(shape), ()),))
        assert layout.sizes is not None
        size = layout.sizes[0]
        block = self._lent(size) if self._memory is not None and size >= SHARED_FROM else None
        return values_of(layout, [aligned(size) if block is None else block], self._arrays)["output"]

    def _lent(self, size: int) -> Optional[memoryview]:
        assert self._memory is not None
        held = self._interrupts is not None and self._interrupts.hold()  # a place half taken would be lost
        try:
            return self._memory.own.lend(size)
        finally:
            if held and self._interrupts is not None:
                self._interrupts.release()


def _name(dtype: Any) -> str:
    """Return the wire's name of a dtype that is told by that name, as numpy's or as torch's."""
    name = dtype if isinstance(dtype, str) else str(dtype).replace("torch.", "")
    if name in NUMERIC:
        return name
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        try:
            known = NUMPY_NAMES.get(numpy.dtype(dtype).newbyteorder("<").str)
        except TypeError:
            known = None
        if known is not None:
            return known
    raise ValueError(f"an array has a dtype of numbers, not {dtype!r}")
