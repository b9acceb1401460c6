# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Encrypt files for the holders of private keys, and decrypt them, with the program age (https://age-encryption.org).

What encrypts needs public keys only, the recipients. A private key, the identity, reaches age through a pipe: it is
in no argument, no environment, no file and no error.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator, Sequence

from .command import CommandTimeoutError, CompletedCommand, Take, stream_command
from .durable_files import new_file

ENCRYPTED_SUFFIX = ".age"

_PROGRAM = "age"

# https://github.com/C2SP/C2SP/blob/main/age.md
_BEGINNING = b"age-encryption.org/"
_BECH32_DIGITS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_AGE_RECIPIENT = re.compile(f"age1[{_BECH32_DIGITS}]{{58}}")

# The first bytes of a public key of OpenSSH say what kind it is; RSA keys of less than 2048 bits are refused by age.
_SSH_RECIPIENT = re.compile(
    r"(ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI[A-Za-z0-9+/]{43}|ssh-rsa AAAAB3NzaC1yc2E[A-Za-z0-9+/]{300,}={0,2})"
    r"( [^\x00-\x1f\x7f]*)?"
)

_PRIVATE_KEY = re.compile(r"SECRET-KEY|PRIVATE KEY|AGE-PLUGIN-", re.IGNORECASE)
_IDENTITY = re.compile(r"^(AGE-SECRET-KEY-|AGE-PLUGIN-|-----BEGIN |age-encryption\.org/)", re.MULTILINE)


class EncryptionError(Exception):
    """A file cannot be encrypted or decrypted. The text holds no key."""


@dataclass(frozen=True)
class EncryptedFile:
    """A file that age wrote: its size in bytes, and its SHA-256 as 64 hexadecimal digits."""

    size: int
    sha256: str


def require_age() -> None:
    """Raise EncryptionError unless age is on this host."""
    if shutil.which(_PROGRAM) is None:
        raise EncryptionError(
            "The age command was not found on this host: install it, on Debian and Ubuntu the package `age` "
            "(https://age-encryption.org), or have backups made without encryption."
        )


def require_recipients(recipients: Sequence[str]) -> None:
    """Raise EncryptionError unless there are recipients and each is a public key of age (`age1…`) or of OpenSSH."""
    if not recipients:
        raise EncryptionError("There is no recipient to encrypt for: name at least one public key, `age1…` or `ssh-…`.")
    for number, recipient in enumerate(recipients, 1):
        fault = _find_fault(recipient)
        if fault is not None:
            raise EncryptionError(f"Recipient {number} of {len(recipients)} {fault}")


def encrypt_file(source: str, destination: str, recipients: Sequence[str], timeout: float | None) -> EncryptedFile:
    """Encrypt `source` as the new file `destination`, 0600, so that each of `recipients` can decrypt it.

    Its content is on disk when this returns, its name once the folder is synced; after a failure there is none.
    `timeout` is in seconds, None for no bound. Raises EncryptionError.
    """
    require_recipients(recipients)
    require_age()
    arguments = [argument for recipient in recipients for argument in ("--recipient", recipient)]
    digest = hashlib.sha256()
    with _explained(source, destination, "encrypted"), open(source, "rb") as reading, new_file(destination) as writing:

        def take(piece: bytes) -> None:
            writing.write(piece)
            digest.update(piece)

        completed = _run_age(arguments, reading.fileno(), take, timeout)
        if completed.status != 0:
            words = _words(completed)
            for number, recipient in enumerate(recipients, 1):
                words = words.replace(recipient, f"recipient {number}")
            raise EncryptionError(
                f"{source} could not be encrypted, age {_ending(completed)}: {words}. If that is about a recipient, "
                "copy the public key again, whole."
            )
        size = writing.tell()
    return EncryptedFile(size, digest.hexdigest())


def decrypt_file(source: str, destination: str, identity: str, timeout: float | None) -> None:
    """Decrypt `source`, which encrypt_file wrote, as the new file `destination`, 0600.

    `identity` is the text of an age identity file or of a private key of OpenSSH, without a passphrase. On disk as
    with encrypt_file; after a failure there is no `destination`. `timeout` is in seconds, None for no bound. Raises
    EncryptionError.
    """
    _require_identity(identity)
    require_age()
    with _explained(source, destination, "decrypted"), open(source, "rb") as reading, new_file(destination) as writing:
        if os.pread(reading.fileno(), len(_BEGINNING), 0) != _BEGINNING:
            raise EncryptionError(
                f"{source} does not begin as files do that age encrypted: it is damaged, or was never encrypted. Take "
                "another copy of it, or another recovery point."
            )
        arguments = ["--decrypt", "--identity", "-"]
        completed = _run_age(
            arguments, reading.fileno(), writing.write, timeout, identity.encode(errors="surrogateescape")
        )
        if completed.status != 0:
            raise EncryptionError(_explain_decryption(source, completed))


def _find_fault(recipient: str) -> str | None:
    """Return what is wrong with a recipient and what to do, None where nothing is. Does not tell what it says."""
    if _PRIVATE_KEY.search(recipient):
        return (
            "is a private key, with which anybody who reads these settings can decrypt every backup. Give the public "
            "key that belongs to it (`age-keygen -y` tells it), and make a new pair if others could read this one."
        )
    if _SSH_RECIPIENT.fullmatch(recipient):
        return None
    if not _AGE_RECIPIENT.fullmatch(recipient):
        return (
            "is no public key that can be encrypted for: expected one line, `age1` and 58 letters and digits as "
            "age-keygen prints them, or `ssh-ed25519 …` or `ssh-rsa …` as in the .pub file of an OpenSSH key."
        )
    if not _has_valid_checksum(recipient):
        return "is a public key of age with a mistake in it, its checksum is wrong: copy it again, whole."
    return None


def _has_valid_checksum(recipient: str) -> bool:
    """Whether the last six digits of `age1…` fit the others (BIP 173, bech32_verify_checksum)."""
    prefix, digits = recipient.split("1", 1)
    values = [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]
    values += [_BECH32_DIGITS.index(digit) for digit in digits]
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            checksum ^= generator if top >> bit & 1 else 0
    return checksum == 1


def _require_identity(identity: str) -> None:
    """Raise EncryptionError where `identity` has nothing in it that could be a private key."""
    expected = (
        "Give the text of the identity file that age-keygen wrote, its line `AGE-SECRET-KEY-1…` included, or of the "
        "private key of OpenSSH, for one of the public keys that the backup was encrypted for."
    )
    if not identity.strip():
        raise EncryptionError(f"There is no identity to decrypt with. {expected}")
    if not _IDENTITY.search(identity):
        raise EncryptionError(f"The identity holds no private key; a public key can only encrypt. {expected}")


@contextmanager
def _explained(source: str, destination: str, done: str) -> Iterator[None]:
    """Raise EncryptionError in the place of OSError and CommandTimeoutError; `done` says what is done to `source`."""
    try:
        yield
    except FileExistsError as error:
        raise EncryptionError(
            f"{source} cannot be {done} as {destination}: something of that name is there. Remove it or choose another "
            "name."
        ) from error
    except OSError as error:
        raise EncryptionError(
            f"{source} cannot be {done} as {destination}: {error}. Mend that and try again."
        ) from error
    except CommandTimeoutError as error:
        raise EncryptionError(
            f"{source} was not {done} in time: age gave {error} and was killed. Allow more time, or see what keeps the "
            "host or its disk busy."
        ) from error


def _run_age(
    arguments: Sequence[str], reading: int, take: Take, timeout: float | None, given: bytes = b""
) -> CompletedCommand:
    """Run age on what the descriptor `reading` has open.

    age is given the file by the descriptor's name, so that its standard input is free for what it must not find
    anywhere else.
    """
    command = [_PROGRAM, *arguments, f"/proc/self/fd/{reading}"]
    return stream_command(command, timeout, take, given, [reading])


def _words(completed: CompletedCommand) -> str:
    """Return what age gave as its reason."""
    lines = completed.stderr.decode(errors="replace").splitlines()
    reasons = [line.split("error: ", 1)[1] for line in lines if line.startswith("age: error: ")]
    return "; ".join(reasons or lines) or "no reason given"


def _ending(completed: CompletedCommand) -> str:
    if completed.status < 0:
        return f"was ended by signal {-completed.status}"
    return f"failed with exit code {completed.status}"


def _explain_decryption(source: str, completed: CompletedCommand) -> str:
    """Return why age failed, and what to do.

    Without the words of age, which repeat parts of what it read: of the file and, where that is damaged, of the key.
    """
    words = _words(completed)
    if re.search("(read|obtain) passphrase|obtain public key|encrypted with age", words):
        return (
            "The identity is itself encrypted, with a passphrase or for a key, and there is nobody to ask for that. "
            "Give the private key as it is: what `age --decrypt` makes of an encrypted identity file, or a copy of the "
            "OpenSSH key without a passphrase (`ssh-keygen -p`)."
        )
    if re.search('"-"|identity file', words):
        return (
            "The identity is no private key that age can read: it is damaged, cut off or of another kind. Copy the "
            "file that age-keygen or ssh-keygen wrote again, whole."
        )
    if "no identity matched" in words:
        return (
            f"{source} was not encrypted for this identity: its public key is not among the recipients. Give the "
            "private key of one of those that the backup was encrypted for."
        )
    return (
        f"{source} could not be decrypted, age {_ending(completed)}: the file is damaged, cut off, or was encrypted in "
        "another way. Take another copy of it, or another recovery point."
    )
