"""Topic files: atomic, bounded, and never outside their folder."""

import os
import stat
from pathlib import Path

import pytest

from meshless_core.bus.topic_files import TopicFiles
from meshless_core.documents_codec import MAX_DOCUMENT_BYTES
from meshless_core.errors import BusError, InvalidNameError


@pytest.mark.parametrize("fsync", [False, True])
def test_what_was_written_is_read_and_listed(tmp_path: Path, fsync: bool) -> None:
    files = TopicFiles(str(tmp_path / "bus"), fsync=fsync)
    files.write("service/shop/cart/http", b"1")
    files.write("service/shop/cart/http", b"2")
    found = files.read("service/shop/cart/http")
    assert found is not None
    assert found == (files.signature("service/shop/cart/http"), b"2")
    assert list(files.topics()) == ["service/shop/cart/http"]
    assert [path.name for path in (tmp_path / "bus/service/shop/cart").iterdir()] == ["http.json"]


def test_a_topic_without_a_file_is_none(tmp_path: Path) -> None:
    files = TopicFiles(str(tmp_path / "bus"))
    assert files.read("a/b") is None
    assert files.signature("a/b") is None
    assert list(files.topics()) == []
    files.delete("a/b")


def test_every_write_changes_the_signature_even_with_equal_content(tmp_path: Path) -> None:
    files = TopicFiles(str(tmp_path))
    files.write("a", b"1")
    before = files.signature("a")
    files.write("a", b"1")
    assert files.signature("a") != before


def test_delete_removes_empty_folders_but_not_the_root_nor_neighbours(tmp_path: Path) -> None:
    files = TopicFiles(str(tmp_path))
    files.write("service/shop/cart/http", b"1")
    files.write("service/shop/web/http", b"1")
    files.delete("service/shop/cart/http")
    assert sorted(path.name for path in (tmp_path / "service/shop").iterdir()) == ["web"]
    files.delete("service/shop/web/http")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("topic", ["../x", "a/../../x", "/etc/passwd", "a\0b", ".", "a/.b"])
def test_no_topic_leads_out_of_the_folder(tmp_path: Path, topic: str) -> None:
    files = TopicFiles(str(tmp_path))
    for call in (files.read, files.delete, lambda text: files.write(text, b"")):
        with pytest.raises(InvalidNameError):
            call(topic)


def test_a_file_that_is_too_large_is_read_only_one_byte_past_the_limit(tmp_path: Path) -> None:
    files = TopicFiles(str(tmp_path))
    files.write("a", b"x" * (MAX_DOCUMENT_BYTES + 1000))
    found = files.read("a")
    assert found is not None
    assert len(found[1]) == MAX_DOCUMENT_BYTES + 1


def test_links_and_special_files_are_refused_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "bus"
    root.mkdir()
    (root / "link.json").symlink_to(tmp_path / "secret")
    os.mkfifo(root / "pipe.json")
    (root / "folder.json").mkdir()
    files = TopicFiles(str(root))
    for topic in ("link", "pipe", "folder"):
        with pytest.raises(BusError, match=f"cannot read {root}/{topic}.json"):
            files.read(topic)


def test_strangers_files_are_no_topics(tmp_path: Path) -> None:
    files = TopicFiles(str(tmp_path))
    files.write("a/b", b"1")
    for name in ("README", ".b.json.1.tmp", "UPPER.json", "..json"):
        (tmp_path / "a" / name).write_text("")
    assert list(files.topics()) == ["a/b"]


def test_a_failed_write_keeps_the_old_content_and_leaves_no_litter(tmp_path: Path) -> None:
    files = TopicFiles(str(tmp_path))
    (tmp_path / "a.json").mkdir()  # rename cannot replace a folder
    (tmp_path / "a.json" / "full").write_text("")
    with pytest.raises(BusError, match=f"cannot write {tmp_path}/a.json"):
        files.write("a", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_file_where_a_folder_has_to_be_is_an_error_naming_it(tmp_path: Path) -> None:
    (tmp_path / "bus").write_text("")
    files = TopicFiles(str(tmp_path / "bus"))
    with pytest.raises(BusError, match="cannot write"):
        files.write("a/b", b"1")
    assert files.read("a/b") is None


def test_documents_can_be_read_by_other_users(tmp_path: Path) -> None:
    files = TopicFiles(str(tmp_path))
    previous = os.umask(0o022)
    try:
        files.write("a/b", b"1")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a/b.json").stat().st_mode) == 0o644
