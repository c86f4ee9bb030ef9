"""An agent that is started again is no reason to be refused: until it has what it needs, connects wait."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator

import meshless_sdk
import pytest

from tests.mesh.running_mesh import RunningMesh, until

pytestmark = pytest.mark.slow

DIALLERS = 4
ROUNDS = 2


@contextlib.contextmanager
def serving(mesh: RunningMesh, pod: str) -> Iterator[None]:
    """A pod that greets and closes."""
    over = threading.Event()

    def serve() -> None:
        listener.settimeout(0.05)
        while not over.is_set():
            with contextlib.suppress(TimeoutError, ConnectionError):
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"hello")

    with mesh.listen(pod) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@contextlib.contextmanager
def dialling(mesh: RunningMesh, service: str) -> Iterator[list[bool]]:
    """Dial all the time; an item for each connection that was made."""
    over = threading.Event()
    made: list[bool] = []

    def dial() -> None:
        while not over.is_set():
            # refused while no agent is there at all, or cut with it: that is the other agent's log to tell
            with contextlib.suppress(meshless_sdk.MeshlessError, OSError), mesh.dial(service, "web-0") as connection:
                if connection.recv(5) == b"hello":
                    made.append(True)

    threads = [threading.Thread(target=dial) for _ in range(DIALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("state", ["kept", "lost"])
def test_a_servers_agent_that_is_killed_and_started_again_refuses_nobody_for_want_of_leaves(
    mesh: RunningMesh, state: str
) -> None:
    server, client = mesh.agent("node-b"), mesh.agent("node-a")
    earlier = len(client.access_log())
    with serving(mesh, "far-0"), dialling(mesh, "http.far.shop") as made:
        for _ in range(ROUNDS):
            killed = server.kill()
            if state == "lost":
                shutil.rmtree(server.folder / "state")
            until(lambda pid=killed: server.pid != pid and server.ready, "the next agent is ready")  # type: ignore[misc]  # of a default
            enough = len(made) + 20
            until(lambda wanted=enough: len(made) >= wanted, "connections are made again")  # type: ignore[misc]  # of a default
    until(lambda: not client.connections(), "all connections ended")
    refused = [line["detail"] for line in client.access_log()[earlier:] if line["event"] == "refused"]
    assert not [reason for reason in refused if "unrecognized name" in reason], "refused for want of leaves"
