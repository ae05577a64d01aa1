"""Which inputs of a version were found to fit, so that further ones like them need no look.

A small call costs little more than the code that it touches. The commonest inputs are one tensor of the same name, dtype and
shape, call after call: for those a look-up says all that encoding them and holding them against the specs would say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mer.core.specs import VersionSpec
from mer_worker.encoded import Encoded
from mer_worker.templates import UNUSUAL, is_plain_array
from mer_worker.tensors import Buffer

MOST_FORMS = 256
"""Of one version. A model that takes any shape may be given ever new ones, and must not fill the memory."""


class InputForms:
    """Forms of the inputs of one version: of one tensor, its class, name, dtype and shape."""

    def __init__(self, spec: VersionSpec) -> None:
        self.spec = spec
        self._bytes: dict[tuple[Any, ...], int] = {}

    def fit(self, given: Mapping[str, Any]) -> bool:
        """Tell whether inputs are of a form that is known to fit: they can be sent as they are."""
        try:
            ((name, value),) = given.items()
            kind = type(value)
            size = self._bytes[kind, name, value.dtype, value.shape]
            # a Buffer may say of itself what it likes; that an array has its shape's bytes is numpy's word
            return kind is not Buffer or bool(value.data.nbytes == size)
        except UNUSUAL:
            return False

    def learn(self, given: Mapping[str, Any], encoded: Encoded) -> None:
        """Take in that these inputs fit, as they are; `encoded` is their form on the wire."""
        layout = encoded.layout
        if not layout.single or layout.sizes is None or len(given) != 1:
            return
        ((name, value),) = given.items()
        if type(value) is Buffer or is_plain_array(value):
            if len(self._bytes) >= MOST_FORMS:
                self._bytes.clear()
            self._bytes[type(value), name, value.dtype, value.shape] = layout.sizes[0]
