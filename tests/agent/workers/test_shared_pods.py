"""Pods handed on: duplicates that live on their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshless_core.agent.workers.shared_pods import SharedPods
from meshless_core.documents import PodPlacement
from meshless_core.errors import SocketDirectoryError
from meshless_core.socketd import PodDirectories, PodSockets
from meshless_core.types import MeshletRef, PodRef

POD = PodPlacement(PodRef("shop", "web-0"), "uid-0", MeshletRef("shop", "web"), None)


def test_a_worker_gets_duplicates_and_closing_them_leaves_the_originals(tmp_path: Path) -> None:
    parked = PodDirectories(tmp_path).create(POD)
    pods = {POD.uid: PodSockets(POD, parked.listener, parked.server_folder)}
    shared = SharedPods(pods)
    copy = shared.create(POD)
    assert copy.placement == POD
    assert copy.listener.getsockname() == parked.listener.getsockname()
    assert os.path.samestat(os.fstat(copy.server_folder), os.fstat(parked.server_folder))
    shared.remove(copy)
    assert copy.listener.fileno() == -1
    assert parked.listener.fileno() >= 0
    assert (tmp_path / "shop" / "web-0" / "client" / "meshless").is_socket(), "nothing on disk is touched"
    parked.close()


def test_a_pod_that_went_meanwhile_is_an_error_that_names_it() -> None:
    with pytest.raises(SocketDirectoryError, match="pod shop/web-0 is gone"):
        SharedPods({}).create(POD)
