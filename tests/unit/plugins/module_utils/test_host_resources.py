# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.host_resources import (
    Need,
    available_memory,
    existing_folder,
    memory_problems,
    room_problems,
    used_memory,
)
from sqlite_testing import mounted_tmpfs

MEMINFO = "MemTotal:        8000000 kB\nMemFree:          200000 kB\nMemAvailable:    1000000 kB\n"
AVAILABLE = 1000000 * 1024


class TestRoom:
    def test_enough(self, tmp_path: Path) -> None:
        assert room_problems([]) == []
        assert room_problems([Need(str(tmp_path), 1, "image")]) == []

    def test_needs_on_one_file_system_add_up(self, tmp_path: Path) -> None:
        with mounted_tmpfs(tmp_path / "small", "1m") as small:
            each = [Need(str(small / "a" / "b"), 600_000, "image"), Need(str(small), 500_000, "migrations")]
            for need in each:
                assert room_problems([need]) == []
            (problem,) = room_problems([*each, Need(str(tmp_path), 1, "rehearsal")])
            free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
        assert problem == (
            f"Too little room on the file system of {small}: {free} bytes are free, 1100000 are needed (600000 for the "
            f"image in {small}/a/b, 500000 for the migrations in {small}). {1100000 - free} bytes are missing: free "
            "them, or use another folder."
        )

    def test_each_file_system_by_itself(self, tmp_path: Path) -> None:
        with mounted_tmpfs(tmp_path / "one", "1m") as one, mounted_tmpfs(tmp_path / "two", "1m") as two:
            needs = [Need(str(folder), 2 << 20, "image") for folder in (one, two)]
            first, second = room_problems(needs)
            assert room_problems([Need(str(folder), 700_000, "image") for folder in (one, two)]) == []
        assert str(one) in first
        assert str(two) in second

    def test_a_file_system_without_a_size(self, tmp_path: Path) -> None:
        with mounted_tmpfs(tmp_path / "boundless", "0") as boundless:
            assert room_problems([Need(str(boundless), 1 << 60, "image")]) == []

    def test_the_nearest_folder_that_exists(self, tmp_path: Path) -> None:
        assert existing_folder(str(tmp_path / "a" / "b")) == str(tmp_path)
        assert existing_folder(str(tmp_path)) == str(tmp_path)
        assert existing_folder("/nowhere/at/all") == "/"


class TestMemory:
    @pytest.fixture
    def host(self, tmp_path: Path) -> Path:
        (tmp_path / "proc" / "77").mkdir(parents=True)
        (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
        return tmp_path

    def in_group(self, host: Path, listed: str, folder: str, name: str, used: int, stat: str = "") -> None:
        (host / "proc" / "77" / "cgroup").write_text(listed)
        group = host / "cgroups" / folder
        group.mkdir(parents=True)
        (group / name).write_text(f"{used}\n")
        if stat:
            (group / "memory.stat").write_text(stat)

    def second_version(self, host: Path, used: int, stat: str = "") -> None:
        self.in_group(host, "0::/system.slice/d.scope\n", "system.slice/d.scope", "memory.current", used, stat)

    def problems(self, host: Path) -> list[str]:
        return memory_problems(77, str(host / "proc"), str(host / "cgroups"))

    def test_as_much_as_the_service_uses_is_enough(self, host: Path) -> None:
        self.second_version(host, AVAILABLE)
        assert self.problems(host) == []

    def test_too_little(self, host: Path) -> None:
        self.second_version(host, AVAILABLE + 1)
        (problem,) = self.problems(host)
        assert f"{AVAILABLE} bytes are available on this host, the service uses {AVAILABLE + 1}. 1 bytes" in problem

    def test_the_first_version_of_control_groups(self, host: Path) -> None:
        listed = "12:pids:/docker/x\n5:cpu,memory:/docker/x\n0::/system.slice/docker.service\n"
        stat = "inactive_file 5\ntotal_inactive_file 1000\n"
        self.in_group(host, listed, "memory/docker/x", "memory.usage_in_bytes", 5000, stat)
        assert used_memory(77, str(host / "proc"), str(host / "cgroups")) == 4000

    def test_cached_files_that_are_not_in_use_do_not_count(self, host: Path) -> None:
        self.second_version(host, AVAILABLE + 1000, "anon 4\ninactive_file 1000\nworkingset_x 1\n")
        assert self.problems(host) == []

    def test_what_is_not_known_is_no_problem(self, host: Path) -> None:
        assert self.problems(host) == []
        self.second_version(host, AVAILABLE * 2)
        assert memory_problems(0, str(host / "proc"), str(host / "cgroups")) == []
        (host / "proc" / "meminfo").unlink()
        assert self.problems(host) == []

    def test_this_host(self) -> None:
        assert (available_memory() or 0) > 1 << 20
