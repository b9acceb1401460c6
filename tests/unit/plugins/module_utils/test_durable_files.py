# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import (
    PrivateFolderError,
    make_private_folder,
    replace_file,
    sync_folder,
    write_new_file,
)
from sqlite_testing import names_in


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Let nothing be private by chance."""
    before = os.umask(0)
    yield
    os.umask(before)


class TestWriteNewFile:
    def test_content_and_mode(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        write_new_file(str(path), b"content")
        assert (path.read_bytes(), mode(path)) == (b"content", 0o600)

    def test_an_existing_file_stays_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")
        with pytest.raises(FileExistsError):
            write_new_file(str(path), b"new")
        assert path.read_bytes() == b"old"

    def test_a_planted_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FileExistsError):
            write_new_file(str(tmp_path / "link"), b"content")
        assert names_in(tmp_path) == ["link"]


class TestReplaceFile:
    def test_new_and_again(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        for content in (b"first", b"second"):
            replace_file(str(path), content)
            assert (path.read_bytes(), mode(path)) == (content, 0o600)
        assert names_in(tmp_path) == ["file"]

    def test_what_a_killed_run_left_is_no_hindrance(self, tmp_path: Path) -> None:
        (tmp_path / "file.partial").symlink_to(tmp_path / "elsewhere")
        replace_file(str(tmp_path / "file"), b"content")
        assert names_in(tmp_path) == ["file"]
        assert (tmp_path / "file").read_bytes() == b"content"

    def test_a_link_is_replaced_and_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").write_bytes(b"kept")
        (tmp_path / "file").symlink_to(tmp_path / "elsewhere")
        replace_file(str(tmp_path / "file"), b"content")
        assert (tmp_path / "elsewhere").read_bytes() == b"kept"
        assert not (tmp_path / "file").is_symlink()

    def test_the_old_file_is_there_until_the_new_one_is_on_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")

        def failing_disk(_descriptor: int) -> None:
            raise OSError(errno.EIO, "the disk is broken")

        monkeypatch.setattr(os, "fsync", failing_disk)
        with pytest.raises(OSError, match="the disk is broken"):
            replace_file(str(path), b"new")
        assert path.read_bytes() == b"old"


class TestMakePrivateFolder:
    def test_everything_that_is_missing_is_private(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        make_private_folder(str(tmp_path / "a" / "b" / "c"))
        assert [mode(tmp_path / name) for name in ("", "a", "a/b", "a/b/c")] == [0o755, 0o700, 0o700, 0o700]

    def test_an_existing_folder_becomes_private_and_keeps_its_files(self, tmp_path: Path) -> None:
        folder = tmp_path / "folder"
        folder.mkdir(mode=0o777)
        (folder / "file").touch()
        make_private_folder(str(folder))
        assert (mode(folder), names_in(folder)) == (0o700, ["file"])

    @pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
    def test_what_is_no_folder_is_refused(self, tmp_path: Path, kind: str) -> None:
        folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
        if kind == "file":
            folder.write_bytes(b"")
        else:
            folder.symlink_to(elsewhere)
        if kind == "link":
            elsewhere.mkdir(mode=0o755)
        with pytest.raises(PrivateFolderError, match=r"must be a folder of user id \d+ and no link"):
            make_private_folder(str(folder))
        assert not elsewhere.exists() or mode(elsewhere) == 0o755

    def test_another_users_folder_is_refused(self, tmp_path: Path) -> None:
        assert os.geteuid() == 0, "only root can make a folder of another user"
        (tmp_path / "folder").mkdir(mode=0o755)
        os.chown(tmp_path / "folder", 100, 101)
        with pytest.raises(PrivateFolderError, match="found drwxr-xr-x, owner 100"):
            make_private_folder(str(tmp_path / "folder"))
        assert mode(tmp_path / "folder") == 0o755

    @pytest.mark.parametrize("folder", ["folder", "", "./folder"])
    def test_a_relative_path_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(PrivateFolderError, match="expected an absolute path"):
            make_private_folder(folder)
        assert names_in(tmp_path) == []


def test_only_a_folder_can_be_synced(tmp_path: Path) -> None:
    sync_folder(str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        sync_folder(str(tmp_path / "file"))
