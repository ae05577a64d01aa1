"""An invocation that nothing stands against: it will start, on one server after the other if need be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mer.audit.bodies import FailedAttempt, Subject
from mer.core.errors import InputInvalid, MerError
from mer.core.records import InvocationId
from mer.execution.routes import Route
from mer.execution.workplaces import Workplace
from mer.registry.resolve import Candidate
from mer_worker.encoded import Encoded
from mer_worker.tensors import TensorError, encode


class Prepared(msgspec.Struct):
    """What is to run, where, and with which inputs, which fit.

    They are encoded once somebody asks for that: an audit, which is to see what is sent, or whoever lets time pass, in
    which the caller might change them. What was encoded is what is sent.
    """

    invocation: InvocationId
    route: Route
    values: Mapping[str, Any]
    in_wire_form: Encoded | None = None
    """The inputs encoded, once they were; until then the values are of a form that fits as it is (InputForms)."""

    failed: tuple[FailedAttempt, ...] = ()
    """Attempts before this one, each by a server that could not run it, or lost it."""
    given: bool = False
    """Whether this attempt has had a worker that had to be waited for."""

    @property
    def attempts(self) -> int:
        """How many there were, this one included."""
        return len(self.failed) + 1

    def fail(self, error: MerError, route: Route) -> None:
        """Take in how this attempt ended, and where the next one goes."""
        self.failed += (FailedAttempt.by(self.route.server, error),)
        self.route, self.given = route, False

    @property
    def encoded(self) -> Encoded:
        """The inputs, encoded now if need be. Raises: InputInvalid: they were changed since they were looked at."""
        encoded = self.in_wire_form
        if encoded is None:
            try:
                self.in_wire_form = encoded = encode(self.values)
            except TensorError as error:
                raise InputInvalid(str(error)) from error
        return encoded

    @property
    def subject(self) -> Subject:
        """What it is about, as records say it: with the key of the machine, once that was reached."""
        route = self.route
        if not route.far:
            return route.subject
        return msgspec.structs.replace(route.subject, host_key=route.workplace.host.host_key)

    @property
    def candidate(self) -> Candidate:
        """The version, and the server."""
        return self.route.candidate

    @property
    def workplace(self) -> Workplace:
        """The host, and what a worker there is to load."""
        return self.route.workplace
