# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import errno
import hashlib
import os
import pty
import select
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.encryption import (
    ENCRYPTED_SUFFIX,
    EncryptedFile,
    EncryptionError,
    decrypt_file,
    encrypt_file,
    require_recipients,
)
from sqlite_testing import mounted_tmpfs, names_in

CHUNK = 64 * 1024
"""age encrypts and authenticates so many bytes at a time."""

CONTENT = os.urandom(3 * CHUNK + 100)


@dataclass(frozen=True)
class Pair:
    """A public key and the text of the file with the private one."""

    recipient: str
    identity: str

    @property
    def secrets(self) -> list[str]:
        """What must be told to nobody, in pieces."""
        return [line for line in self.identity.splitlines() if line[:1] not in "#-" and len(line) > 8]


def make_age_pair() -> Pair:
    identity = subprocess.run(["age-keygen"], capture_output=True, check=True, text=True).stdout
    return Pair(identity.split("public key: ", 1)[1].split("\n", 1)[0], identity)


def make_ssh_pair(folder: Path, *options: str, passphrase: str = "") -> Pair:
    command = ["ssh-keygen", "-q", "-N", passphrase, "-C", "somebody at work", "-f", str(folder / "key"), *options]
    subprocess.run(command, check=True)
    return Pair((folder / "key.pub").read_text().strip(), (folder / "key").read_text())


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_age_pair()


@pytest.fixture(scope="module")
def other() -> Pair:
    return make_age_pair()


@pytest.fixture(scope="module")
def ed25519(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_ssh_pair(tmp_path_factory.mktemp("ed25519"), "-t", "ed25519")


@pytest.fixture(scope="module")
def rsa(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_ssh_pair(tmp_path_factory.mktemp("rsa"), "-t", "rsa", "-b", "2048")


@pytest.fixture(scope="module", params=["ssh", "old ssh", "age", "armored age"])
def protected(tmp_path_factory: pytest.TempPathFactory, pair: Pair, request: pytest.FixtureRequest) -> Pair:
    """An identity that is protected by a passphrase."""
    folder = tmp_path_factory.mktemp("protected")
    if "ssh" in request.param:
        options = ["-t", "rsa", "-b", "2048", "-m", "PEM"] if "old" in request.param else ["-t", "ed25519"]
        return make_ssh_pair(folder, *options, passphrase="correct horse")
    (folder / "plain").write_text(pair.identity)
    armor = ["--armor"] if "armored" in request.param else []
    command = ["age", "--passphrase", *armor, "--output", str(folder / "protected"), str(folder / "plain")]
    status, shown = at_a_terminal(*command, typed=b"\n")
    assert status == 0, shown
    return Pair(pair.recipient, (folder / "protected").read_bytes().decode("utf-8", "surrogateescape"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "opstage.db").write_bytes(CONTENT)
    return tmp_path / "opstage.db"


@pytest.fixture
def encrypted(source: Path, pair: Pair) -> Path:
    """Alone in its folder."""
    path = encrypt(source, pair)
    source.unlink()
    return path


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Let nothing be private by chance."""
    before = os.umask(0)
    yield
    os.umask(before)


def encrypt(source: Path, *pairs: Pair) -> Path:
    path = source.with_name(source.name + ENCRYPTED_SUFFIX)
    encrypt_file(str(source), str(path), [pair.recipient for pair in pairs], 30)
    return path


def decrypted(path: Path, identity: str) -> bytes:
    destination = path.with_name("decrypted")
    decrypt_file(str(path), str(destination), identity, 30)
    content = destination.read_bytes()
    destination.unlink()
    return content


def payload_of(content: bytes) -> int:
    """Where the header ends: behind the line with its own authentication."""
    return content.index(b"\n", content.index(b"\n--- ") + 1) + 1


def refused(path: Path, identity: str) -> str:
    """Why `path` is not decrypted. Nothing is left, and nothing is told of the identity."""
    before = names_in(path.parent)
    with pytest.raises(EncryptionError) as caught:
        decrypt_file(str(path), str(path.with_name("decrypted")), identity, 30)
    assert names_in(path.parent) == before
    assert not [secret for secret in Pair("", identity).secrets if secret in str(caught.getrepr(chain=True))]
    return str(caught.value)


def at_a_terminal(*command: str, typed: bytes = b"") -> tuple[int, str]:
    """Run a command that has a terminal, and somebody at it who types that; its exit code and what it shows."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvp(command[0], command)
    os.write(terminal, typed)
    shown = b""
    while select.select([terminal], [], [], 20)[0]:
        try:
            shown += os.read(terminal, 65536)
        except OSError:
            break
    else:
        os.kill(process, signal.SIGKILL)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode()


def put_in_place_of_age(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder.mkdir()
    (folder / "age").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "age").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


class TestRoundTrip:
    @pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 40 * CHUNK])
    def test_sizes(self, tmp_path: Path, pair: Pair, size: int) -> None:
        content = os.urandom(size)
        (tmp_path / "source").write_bytes(content)
        assert decrypted(encrypt(tmp_path / "source", pair), pair.identity) == content

    def test_each_of_several_recipients(self, source: Path, pair: Pair, other: Pair, ed25519: Pair, rsa: Pair) -> None:
        pairs = (pair, other, ed25519, rsa)
        path = encrypt(source, *pairs)
        for each in pairs:
            assert decrypted(path, each.identity) == CONTENT

    def test_an_identity_file_with_several_keys(self, encrypted: Path, pair: Pair, other: Pair) -> None:
        assert decrypted(encrypted, f"{other.identity}\n# and the old one\n{pair.identity}") == CONTENT

    def test_an_identity_without_the_end_of_its_last_line(self, source: Path, pair: Pair, ed25519: Pair) -> None:
        """So does Ansible read a file."""
        path = encrypt(source, pair, ed25519)
        for each in (pair, ed25519):
            assert decrypted(path, each.identity.rstrip()) == CONTENT


class TestEncryptFile:
    def test_what_is_on_disk(self, source: Path, pair: Pair) -> None:
        path = source.with_name("copy.age")
        made = encrypt_file(str(source), str(path), [pair.recipient], 30)
        content = path.read_bytes()
        assert made == EncryptedFile(len(content), hashlib.sha256(content).hexdigest())
        assert content.startswith(b"age-encryption.org/v1\n")
        assert CONTENT[:64] not in content
        assert source.read_bytes() == CONTENT

    def test_only_the_owner_can_read_it_from_the_beginning(
        self, tmp_path: Path, source: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = shutil.which("age")
        script = f'stat -c %a {tmp_path}/*.age > {tmp_path}/mode; exec {program} "$@"'
        put_in_place_of_age(tmp_path / "bin", monkeypatch, script)
        path = encrypt(source, pair)
        assert (tmp_path / "mode").read_text() == "600\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_it_is_on_disk_when_the_call_returns(
        self, source: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing_disk(descriptor: int) -> None:
            assert os.fstat(descriptor).st_size > len(CONTENT)
            raise OSError(errno.EIO, "the disk is broken")

        monkeypatch.setattr(os, "fsync", failing_disk)
        with pytest.raises(EncryptionError, match="the disk is broken"):
            encrypt(source, pair)
        assert names_in(source.parent) == [source.name]

    def test_a_mistake_in_a_recipient_that_only_age_can_see(
        self, tmp_path: Path, source: Path, pair: Pair, rsa: Pair
    ) -> None:
        cut = rsa.recipient.split()[1][:-8]
        with pytest.raises(
            EncryptionError, match=r"failed with exit code 1: .*recipient 2.* copy the public"
        ) as caught:
            encrypt(source, pair, Pair(f"ssh-rsa {cut}", ""))
        assert cut not in str(caught.value)
        assert names_in(tmp_path) == [source.name]

    def test_recipients_are_looked_at_before_all_else(self, tmp_path: Path) -> None:
        with pytest.raises(EncryptionError, match="Recipient 1 of 1 is no public key"):
            encrypt_file(str(tmp_path / "nothing"), str(tmp_path / "copy"), ["nobody"], 30)

    def test_too_slow(self, tmp_path: Path, pair: Pair) -> None:
        source = tmp_path / "endless"
        source.touch()
        os.truncate(source, 1 << 40)
        with pytest.raises(
            EncryptionError, match=r"endless was not encrypted in time: .* within 0\.2 s and was killed"
        ):
            encrypt_file(str(source), str(tmp_path / "copy"), [pair.recipient], 0.2)
        assert names_in(tmp_path) == ["endless"]

    def test_the_disk_is_full(self, tmp_path: Path, source: Path, pair: Pair) -> None:
        with mounted_tmpfs(tmp_path / "small", "64k") as small:
            with pytest.raises(EncryptionError, match="No space left on device"):
                encrypt_file(str(source), str(small / "copy"), [pair.recipient], 30)
            assert names_in(small) == []

    def test_an_interruption_leaves_nothing(
        self, tmp_path: Path, source: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put_in_place_of_age(tmp_path / "bin", monkeypatch, "kill -INT $PPID; exec sleep 60")
        with pytest.raises(KeyboardInterrupt):
            encrypt(source, pair)
        assert names_in(tmp_path) == ["bin", source.name]


class TestBothWays:
    """What is the same whether a file is encrypted or decrypted."""

    @pytest.fixture(params=["encrypt", "decrypt"])
    def way(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def convert(self, way: str, source: str, destination: str, pair: Pair) -> None:
        if way == "encrypt":
            encrypt_file(source, destination, [pair.recipient], 30)
        else:
            decrypt_file(source, destination, pair.identity, 30)

    def fails(self, way: str, source: Path, destination: Path, pair: Pair) -> str:
        with pytest.raises(EncryptionError) as caught:
            self.convert(way, str(source), str(destination), pair)
        assert not [secret for secret in pair.secrets if secret in str(caught.getrepr(chain=True))]
        return str(caught.value)

    def test_what_is_there_stays(self, encrypted: Path, pair: Pair, way: str) -> None:
        there = encrypted.with_name("there")
        there.write_bytes(b"old")
        assert "something of that name is there. Remove it" in self.fails(way, encrypted, there, pair)
        assert there.read_bytes() == b"old"

    def test_no_link_is_followed(self, encrypted: Path, pair: Pair, way: str) -> None:
        link = encrypted.with_name("link")
        link.symlink_to(encrypted.with_name("elsewhere"))
        assert "something of that name is there" in self.fails(way, encrypted, link, pair)
        assert names_in(encrypted.parent) == ["link", encrypted.name]

    @pytest.mark.parametrize(("name", "found"), [("nothing", "No such file"), (".", "Is a directory")])
    def test_no_source(self, tmp_path: Path, pair: Pair, way: str, name: str, found: str) -> None:
        error = self.fails(way, tmp_path / name, tmp_path / "copy", pair)
        assert error.startswith(f"{tmp_path / name} cannot be {way}ed as {tmp_path / 'copy'}: ")
        assert found in error
        assert names_in(tmp_path) == []

    def test_no_folder(self, encrypted: Path, pair: Pair, way: str) -> None:
        error = self.fails(way, encrypted, encrypted.parent / "nowhere" / "copy", pair)
        assert "No such file or directory" in error

    def test_no_age(self, encrypted: Path, pair: Pair, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(encrypted.parent))
        assert "age command was not found on this host: install it" in self.fails(
            way, encrypted, encrypted.with_name("copy"), pair
        )
        assert names_in(encrypted.parent) == [encrypted.name]

    def test_age_is_killed(self, encrypted: Path, pair: Pair, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
        put_in_place_of_age(encrypted.parent / "bin", monkeypatch, "kill -KILL $$")
        assert "age was ended by signal 9" in self.fails(way, encrypted, encrypted.with_name("copy"), pair)
        assert names_in(encrypted.parent) == ["bin", encrypted.name]


class TestDecryptFile:
    def test_only_the_owner_can_read_it(self, encrypted: Path, pair: Pair) -> None:
        destination = encrypted.with_name("decrypted")
        decrypt_file(str(encrypted), str(destination), pair.identity, None)
        assert (destination.read_bytes(), stat.S_IMODE(destination.stat().st_mode)) == (CONTENT, 0o600)

    def test_another_key(self, encrypted: Path, other: Pair) -> None:
        assert "was not encrypted for this identity" in refused(encrypted, other.identity)

    def test_another_key_of_another_kind(self, encrypted: Path, ed25519: Pair, rsa: Pair) -> None:
        for each in (ed25519, rsa):
            assert "was not encrypted for this identity" in refused(encrypted, each.identity)

    @pytest.mark.parametrize("part", ["recipient", "file key", "mac", "nonce", "first chunk", "last chunk", "end"])
    def test_damaged(self, encrypted: Path, pair: Pair, part: str) -> None:
        content = bytearray(encrypted.read_bytes())
        payload = payload_of(content)
        lines = [content.index(b"\n", position) for position in (0, 30)]
        position = {
            "recipient": lines[0] + 20,
            "file key": lines[1] + 5,
            "mac": payload - 10,
            "nonce": payload + 3,
            "first chunk": payload + 100,
            "last chunk": -50,
            "end": -1,
        }[part]
        content[position] ^= 1
        encrypted.write_bytes(content)
        error = refused(encrypted, pair.identity)
        if part in ("recipient", "file key"):
            assert "was not encrypted for this identity" in error or "the file is damaged, cut off" in error
        else:
            assert "the file is damaged, cut off" in error

    @pytest.mark.parametrize("cut", ["to nothing", "in its beginning", "in its header", "at a chunk", "by a byte"])
    def test_cut_off(self, encrypted: Path, pair: Pair, cut: str) -> None:
        content = encrypted.read_bytes()
        size = {
            "to nothing": 0,
            "in its beginning": 10,
            "in its header": 60,
            "at a chunk": payload_of(content) + 16 + 2 * (CHUNK + 16),
            "by a byte": len(content) - 1,
        }[cut]
        os.truncate(encrypted, size)
        expected = "does not begin as files do that age encrypted" if size < 22 else "the file is damaged, cut off"
        assert expected in refused(encrypted, pair.identity)

    def test_something_behind_it(self, encrypted: Path, pair: Pair) -> None:
        with encrypted.open("ab") as stream:
            stream.write(b"x")
        assert "the file is damaged" in refused(encrypted, pair.identity)

    def test_a_file_that_was_never_encrypted_is_not_told(self, tmp_path: Path, pair: Pair) -> None:
        (tmp_path / ".env").write_text("OPSTAGE_SESSION_SECRET=correct-horse-battery-staple\n")
        error = refused(tmp_path / ".env", pair.identity)
        assert "does not begin as files do that age encrypted" in error
        assert "horse" not in error

    @pytest.mark.parametrize("identity", ["", " \n\n"])
    def test_no_identity(self, encrypted: Path, identity: str) -> None:
        assert "There is no identity to decrypt with. Give the text" in refused(encrypted, identity)

    def test_the_public_key_alone(self, encrypted: Path, pair: Pair) -> None:
        assert "The identity holds no private key" in refused(encrypted, f"# mine\n{pair.recipient}\n")

    def test_a_damaged_identity(self, encrypted: Path, pair: Pair, ed25519: Pair) -> None:
        (key,) = pair.secrets
        lines = ed25519.identity.splitlines()
        for identity in (
            key[:-1],
            key[:-1] + ("Q" if key[-1] != "Q" else "P"),
            key[:30] + "b" + key[31:],
            f"{pair.identity}{key[:40]}",
            f"{pair.identity}unexpected",
            "\n".join(lines[:-1]),
            "\n".join([lines[0], *lines[2:]]),
            "age-encryption.org/v1\nunexpected",
        ):
            assert "The identity is no private key that age can read" in refused(encrypted, identity), identity

    def test_the_identity_is_nowhere_but_in_the_pipe(
        self, tmp_path: Path, encrypted: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program, seen = shutil.which("age"), tmp_path / "seen"
        look = f'{{ cat /proc/$$/cmdline /proc/$$/environ; stat -Lc "\n%F" /proc/$$/fd/0; }} > {seen}'
        put_in_place_of_age(tmp_path / "bin", monkeypatch, f'{look}; exec {program} "$@"')
        assert decrypted(encrypted, pair.identity) == CONTENT
        assert pair.secrets[0] not in seen.read_text()
        assert "--identity\0-\0" in seen.read_text()
        assert seen.read_text().splitlines()[-1] in ("fifo", "socket")

    def test_too_slow(self, encrypted: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        put_in_place_of_age(encrypted.parent / "bin", monkeypatch, "exec sleep 60")
        with pytest.raises(EncryptionError, match=r"was not decrypted in time: .* within 0\.2 s and was killed"):
            decrypt_file(str(encrypted), str(encrypted.with_name("copy")), pair.identity, 0.2)
        assert names_in(encrypted.parent) == ["bin", encrypted.name]


class TestPassphrase:
    """Of an identity: there is nobody who could be asked for it."""

    def test_nobody_is_asked(self, source: Path, protected: Pair) -> None:
        assert "The identity is itself encrypted" in refused(encrypt(source, protected), protected.identity)

    def test_not_at_a_terminal_either(
        self, tmp_path: Path, source: Path, protected: Pair, collections_root: Path
    ) -> None:
        script = (
            "import sys\n"
            "from pathlib import Path\n"
            f"sys.path.insert(0, {str(collections_root)!r})\n"
            "from ansible_collections.capsule.opstage.plugins.module_utils import encryption\n"
            "identity = Path(sys.argv[1]).read_bytes().decode('utf-8', 'surrogateescape')\n"
            "try:\n"
            "    encryption.decrypt_file(sys.argv[2], sys.argv[3], identity, None)\n"
            "except encryption.EncryptionError as error:\n"
            "    sys.exit(str(error))\n"
        )
        identity = tmp_path / "identity"
        identity.write_bytes(protected.identity.encode("utf-8", "surrogateescape"))
        path, destination = encrypt(source, protected), tmp_path / "decrypted"
        status, shown = at_a_terminal(sys.executable, "-c", script, str(identity), str(path), str(destination))
        assert status == 1
        assert shown.startswith("The identity is itself encrypted")
        assert not destination.exists()

    def test_an_identity_that_is_encrypted_for_a_key(self, encrypted: Path, pair: Pair, other: Pair) -> None:
        command = ["age", "--armor", "--recipient", pair.recipient]
        identity = subprocess.run(command, input=other.identity, capture_output=True, check=True, text=True).stdout
        assert "The identity is itself encrypted" in refused(encrypted, identity)


class TestRequireRecipients:
    def test_public_keys(self, pair: Pair, other: Pair, ed25519: Pair, rsa: Pair) -> None:
        ssh = [ed25519.recipient, rsa.recipient]
        without_comment = [" ".join(key.split()[:2]) for key in ssh]
        require_recipients([pair.recipient, other.recipient, *ssh, *without_comment])

    def test_none(self) -> None:
        with pytest.raises(EncryptionError, match="no recipient to encrypt for: name at least one"):
            require_recipients([])

    def test_a_private_key_is_not_told(self, pair: Pair, ed25519: Pair) -> None:
        (key,) = pair.secrets
        for secret in (key, key.lower(), f" {key}\n", pair.identity, f"ssh-ed25519 {key}", ed25519.identity):
            with pytest.raises(
                EncryptionError, match=r"^Recipient 2 of 3 is a private key, .* Give the public"
            ) as caught:
                require_recipients([pair.recipient, secret, pair.recipient])
            told = str(caught.value)
            assert not [line for line in (key, key.lower(), *ed25519.secrets) if line in told]

    @pytest.mark.parametrize("text", ["", "age1", "github:somebody", "/etc/age/recipients", "--output=/etc/passwd"])
    def test_no_key_at_all(self, text: str) -> None:
        with pytest.raises(EncryptionError, match=r"^Recipient 1 of 1 is no public key that can be") as caught:
            require_recipients([text])
        assert "passwd" not in str(caught.value)

    def test_a_key_that_is_not_whole(self, pair: Pair, ed25519: Pair) -> None:
        ssh = ed25519.recipient
        for text in (
            pair.recipient[:-1],
            pair.recipient + "q",
            f"{pair.recipient}\n",
            pair.recipient.upper(),
            ssh.split()[0],
            ssh[:60],
            f"{ssh}\nssh-rsa",
            ssh.replace("ssh-ed25519", "ssh-rsa"),
        ):
            with pytest.raises(EncryptionError, match="is no public key that can be"):
                require_recipients([text])

    def test_a_kind_of_ssh_key_that_age_does_not_take(self, tmp_path: Path) -> None:
        with pytest.raises(EncryptionError, match="is no public key that can be"):
            require_recipients([make_ssh_pair(tmp_path, "-t", "ecdsa").recipient])

    def test_a_mistake_in_any_place(self, pair: Pair) -> None:
        key = pair.recipient
        for position in range(4, len(key)):
            wrong = key[:position] + ("q" if key[position] != "q" else "p") + key[position + 1 :]
            with pytest.raises(EncryptionError, match="its checksum is wrong: copy it again"):
                require_recipients([wrong])
