"""A child process is up when it answers itself."""

import socket
from types import SimpleNamespace

import pytest

from coordinator.engine.superlink import ChildError, wait_for_port


@pytest.mark.parametrize("ended", [[None, 0], [None, None]])
def test_a_child_that_ended_while_somebody_else_answers_at_its_port_did_not_start(tmp_path, ended):
    log, looks = tmp_path / "log", iter(ended)
    log.write_text("Address already in use")
    process = SimpleNamespace(poll=lambda: next(looks))
    child = SimpleNamespace(name="SuperLink", log_path=log, stop=lambda: None, process=process)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        if ended[-1] is None:  # positive control: a child that lives
            wait_for_port(child, "127.0.0.1", port)
            return
        with pytest.raises(ChildError, match="already in use"):
            wait_for_port(child, "127.0.0.1", port)
