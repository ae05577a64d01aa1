"""What a guest is told, of errors and of pings: nothing of the owner's servers."""

from __future__ import annotations

import pytest

from mer.core.errors import (
    AuthenticationFailed,
    Busy,
    DeadlineExceeded,
    HostKeyRefused,
    MerError,
    ModelFailed,
    NotAllowed,
    RunTooLong,
    ServerUnreachable,
    WorkerLost,
)
from mer.execution.ping import Step
from mer.faces.serve_ssh.refusals import OWNERS, for_guest
from mer.faces.serve_ssh.shown import steps_of

HIDDEN = "gpu7"


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationFailed(f"{HIDDEN}, authenticate: it does not let ada in", hint=f"server edit {HIDDEN}"),
        HostKeyRefused(f"the key of {HIDDEN} has changed", hint=f"mer -a server trust {HIDDEN}"),
        ServerUnreachable(f"{HIDDEN}, connect: Connection refused", hint=f"mer server show {HIDDEN}"),
        WorkerLost(f"the worker on {HIDDEN} cannot be reached any more: Connection lost", hint="run --retry"),
        DeadlineExceeded(f"the worker of {HIDDEN}/model:1 was not loaded within 60 s"),
        Busy(f"{HIDDEN} opens no session beside the 8 that it has", hint="MaxSessions of its sshd_config"),
    ],
)
def test_a_guest_does_not_hear_of_the_owners_servers(error: MerError):
    told = for_guest(error)
    assert type(told) is type(error)
    assert HIDDEN not in f"{told.message} {told.hint}"
    assert told.hint in (OWNERS, None)


def test_a_model_that_failed_is_told_without_what_its_owner_could_do():
    error = ModelFailed("No module named 'torch'", hint=f"{HIDDEN} runs it by /opt/python3", traceback="File …")
    told = for_guest(error)
    assert isinstance(told, ModelFailed)
    assert (told.message, told.hint, told.traceback) == ("No module named 'torch'", None, None)


def test_what_a_guest_did_wrong_is_told_whole():
    assert for_guest(RunTooLong("the run took longer than its limit of 2 s")).message.endswith("limit of 2 s")
    told = for_guest(NotAllowed("'log' is not lent", hint="This key may be used for `run MODEL`"))
    assert (told.message, told.hint) == ("'log' is not lent", "This key may be used for `run MODEL`")


def test_a_ping_tells_a_guest_its_steps_and_nothing_else():
    step = Step(
        name="host key",
        ok=False,
        microseconds=7,
        detail=f"{HIDDEN}: new",
        exit_code=77,
        hint=f"trust {HIDDEN}",
        server=HIDDEN,
    )
    assert steps_of([step]) == [Step(name="host key", ok=False, microseconds=7, exit_code=77)]
