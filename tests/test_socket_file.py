"""Only one's own socket is removed."""

from __future__ import annotations

from pathlib import Path

from meshless_core.socket_file import remove_socket_file


def test_only_ones_own_socket_is_removed(tmp_path: Path) -> None:
    path, other = tmp_path / "s", tmp_path / "other"
    path.write_text("")
    other.write_text("")
    remove_socket_file(path, other.stat())
    assert path.exists()
    remove_socket_file(path, path.stat())
    assert not path.exists()
    remove_socket_file(path, other.stat())
