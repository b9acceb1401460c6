# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Image references: `[registry[:port]/]path[:tag][@digest]`.

Grammar: https://pkg.go.dev/github.com/distribution/reference, with sha256 as the only digest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_REPOSITORY_LENGTH = 255
"""Characters; the limit of the distribution specification for a repository's name."""

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_DOMAIN_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_DOMAIN_LABEL}(?:\.{_DOMAIN_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?", re.ASCII)
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*", re.ASCII)


class ImageReferenceError(ValueError):
    """The text is no image reference, no tag or no digest."""


@dataclass(frozen=True)
class ImageReference:
    """One reference, validated. `repository` is everything before the tag, as written: `registry:5000/a/b`."""

    repository: str
    tag: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        _validate_repository(self.repository)
        if self.tag is not None:
            validate_tag(self.tag)
        if self.digest is not None:
            validate_digest(self.digest)

    def __str__(self) -> str:
        return self.format()

    @property
    def registry(self) -> str | None:
        """The registry's host and port, or None where the reference leaves it to the engine (Docker Hub)."""
        return _registry_of(self.repository)

    def format(self) -> str:
        """Return the reference as it is written in a Compose file."""
        tag = "" if self.tag is None else f":{self.tag}"
        digest = "" if self.digest is None else f"@{self.digest}"
        return f"{self.repository}{tag}{digest}"


def parse_image_reference(text: str) -> ImageReference:
    """Return the parts of an image reference; raises ImageReferenceError when it is none.

    What stands before an @ that no digest follows may be a password, and is not shown.
    """
    name, at_sign, digest = text.rpartition("@") if "@" in text else (text, "", "")
    if at_sign:
        validate_digest(digest)
    if "@" in name:
        raise ImageReferenceError("What has more than one @ is no image reference: expected one, before the digest.")
    repository, tag = name, None
    last_slash = name.rfind("/")
    last_colon = name.rfind(":")
    if last_colon > last_slash:
        repository, tag = name[:last_colon], name[last_colon + 1 :]
    return ImageReference(repository, tag, digest if at_sign else None)


def validate_tag(tag: str) -> str:
    """Return `tag` itself; raises ImageReferenceError when it is none."""
    if _TAG.fullmatch(tag) is None:
        raise ImageReferenceError(
            f"{tag!r} is no image tag: expected 1 to 128 letters, digits, '_', '.', '-', the first no '.' or '-'."
        )
    return tag


def validate_digest(digest: str) -> str:
    """Return `digest` itself; raises ImageReferenceError when it is no sha256 digest."""
    if _DIGEST.fullmatch(digest) is None:
        raise ImageReferenceError(
            f"{digest!r} is no image digest: expected 'sha256:' and 64 hexadecimal digits in lower case."
        )
    return digest


def _registry_of(repository: str) -> str | None:
    """The first component is a registry if it looks like a host: a dot, a port, capitals, or `localhost`."""
    first, slash, _path = repository.partition("/")
    looks_like_host = "." in first or ":" in first or first == "localhost" or first != first.lower()
    return first if slash and looks_like_host else None


def _validate_repository(repository: str) -> None:
    registry = _registry_of(repository)
    path = repository if registry is None else repository[len(registry) + 1 :]
    valid = _PATH.fullmatch(path) is not None and len(repository) <= MAX_REPOSITORY_LENGTH
    if registry is not None:
        valid = valid and _REGISTRY.fullmatch(registry) is not None
    if not valid:
        raise ImageReferenceError(
            f"{repository!r} is no image repository: expected [registry[:port]/]path, the path in lower case, "
            f"at most {MAX_REPOSITORY_LENGTH} characters, for example ghcr.io/xtrape-com/xtrape-capsule-ce."
        )
