# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The changelogs of the versions that an upgrade goes through: found, cut to size, and safe to show in a terminal.

A source is a folder, an http(s) URL, or by default what this collection observed itself. What it has of a version is
shown, and what it does not have is said.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import stat
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace
from typing import IO, Iterable, Iterator, Sequence

from .changelog_facts import FACTS, PREFACE, SOURCE
from .collection import VERSION
from .semantic_version import Version, VersionError, parse_version

REQUEST_TIMEOUT = 10.0
"""Seconds that one answer may take, redirects included."""

REQUESTS_AT_ONCE = 8

DOCUMENT_LIMIT = 1 << 20
"""Bytes that are read of one document."""

TEXT_LIMIT = 20_000
"""Characters that are shown of one version."""

REASON_LIMIT = 300
"""Characters that are repeated of what a server or the network says."""

TITLE_LIMIT = 200
"""Characters of a heading in which its version is looked for."""

PLACEHOLDER = "{version}"

COMMON_NAMES = ("CHANGELOG.md", "CHANGELOG.rst")

EXPECTED = (
    f"Expected as source: an absolute path of a folder that has <version>.md, {' or '.join(COMMON_NAMES)}; an http(s) "
    f"URL with {PLACEHOLDER} in it; or one of a changelog with a heading for each version."
)

# Newline and tab stay. The last two ranges turn the direction of writing, and with it what a line seems to say.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

_USER = re.compile(r"://[^/\s]*@")
_SECRET_PARAMETER = re.compile(
    r"([?&][^=&?#\s]*(?:token|secret|passw|key|sig|auth|credential)[^=&?#\s]*=)[^&#\s]*", re.IGNORECASE
)

# https://spec.commonmark.org/0.31.2/#atx-headings, #setext-headings and #fenced-code-blocks
_MARKDOWN_TITLE = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?")
_MARKDOWN_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_FENCE = re.compile(r" {0,3}(?:(`{3,})[^`]*|(~{3,}).*)")

# https://docutils.sourceforge.io/docs/ref/rst/restructuredtext.html#sections
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*")

_NAMED_VERSION = re.compile(
    r"[\[(*_`]*(?:(?:version|release|opstage(?:[ -]ce)?)\s+)*[\[(*_`]*v?([0-9]+\.[0-9A-Za-z.+-]*)", re.IGNORECASE
)


class ChangelogError(Exception):
    """Nothing could be learned from the source of the changelogs."""


@dataclass(frozen=True)
class Changelog:
    """What is known of one version.

    text: its changelog or, where none was found, a sentence that says so. source: path or URL, without passwords.
    """

    version: str
    text: str
    found: bool
    source: str


@dataclass(frozen=True)
class _Document:
    """What a source answered.

    reason: why there is no text, empty where there is one. learned: false where the source could not be asked at all.
    complete: false where the text goes on beyond DOCUMENT_LIMIT.
    """

    source: str
    text: str = ""
    reason: str = ""
    learned: bool = True
    complete: bool = True


@dataclass(frozen=True)
class _Heading:
    """line: the first one of the heading, from 0. level: 1 for the highest."""

    line: int
    level: int
    title: str


def read_changelogs(versions: Iterable[str], source: str | None = None, current: str | None = None) -> list[Changelog]:
    """Return what `source` has of each of `versions`, ascending, each once.

    source: an absolute path of a folder, an http(s) URL, or None for this collection's own observations. Versions that
    are not newer than `current` are left out; a `current` that is no version leaves none out. Raises VersionError for
    one of `versions` that is none, and ChangelogError where there are versions and nothing could be learned of any.
    """
    wanted = _newer({parse_version(version) for version in versions}, current)
    if not wanted:
        return []
    documents = _find_documents(wanted, source)
    if not any(document.learned for document in documents):
        first = documents[0]
        raise ChangelogError(f"No changelog can be read at {first.source}: {first.reason}. {EXPECTED}")
    return [_describe_version(str(version), document) for version, document in zip(wanted, documents)]


def describe_changelogs(changelogs: Sequence[Changelog]) -> str:
    """Return all of it as one text, each version under its name."""
    if not changelogs:
        return "There is no newer version whose changelog is to be read."
    return "\n\n".join(_titled(changelog) for changelog in changelogs)


def presentable(text: str) -> str:
    """Return `text` without control characters, but for newline and tab, and without what is secret in its URLs.

    Secret are user name and password, and the parameters whose names tell of a token, a key or a signature.
    """
    return _SECRET_PARAMETER.sub(r"\1***", _USER.sub("://***@", _CONTROL.sub("", text)))


def _newer(versions: Iterable[Version], current: str | None) -> list[Version]:
    try:
        oldest = parse_version(current) if current is not None else None
    except VersionError:
        oldest = None
    return sorted(version for version in versions if oldest is None or version > oldest)


def _titled(changelog: Changelog) -> str:
    title = f"Opstage {changelog.version}"
    origin = f"From {changelog.source}:\n\n" if changelog.found else ""
    return f"{title}\n{'=' * len(title)}\n\n{origin}{changelog.text}"


def _describe_version(version: str, document: _Document) -> Changelog:
    if document.reason:
        text = f"No changelog of {version} was found at {document.source}: {document.reason}."
    elif len(document.text) > TEXT_LIMIT:
        text = (
            f"{document.text[:TEXT_LIMIT]}\n\n[Cut here: {TEXT_LIMIT} of {len(document.text)} characters are shown. "
            f"Read the rest at {document.source}.]"
        )
    elif not document.complete:
        text = (
            f"{document.text}\n\n[Cut here: only the first {DOCUMENT_LIMIT} bytes of the document are read. Read the "
            f"rest at {document.source}.]"
        )
    else:
        text = document.text
    return Changelog(version, text, not document.reason, document.source)


def _find_documents(versions: Sequence[Version], source: str | None) -> list[_Document]:
    """Return one document for each version."""
    if source is None:
        return [_read_facts(str(version)) for version in versions]
    if re.match(r"https?://", source, re.IGNORECASE) is None:
        return _read_folder(source, versions)
    if not _is_understood(source):
        return [_Document("its URL", reason=_NOT_UNDERSTOOD, learned=False)] * len(versions)
    if PLACEHOLDER in source:
        return _fetch_all([source.replace(PLACEHOLDER, str(version)) for version in versions])
    sections = _Sections(_fetch_all([source])[0], urllib.parse.urlsplit(source).path)
    return [sections.find(version) for version in versions]


def _read_facts(version: str) -> _Document:
    if version not in FACTS:
        return _Document(
            SOURCE, reason=f"it has observations of {', '.join(FACTS)} only; name a folder or a URL that has more"
        )
    return _Document(SOURCE, "\n".join((PREFACE, "", *(f"- {fact}" for fact in FACTS[version]))))


# Folders


def _read_folder(folder: str, versions: Sequence[Version]) -> list[_Document]:
    shown = presentable(folder)
    path = os.path.expanduser(folder)
    if not os.path.isabs(path) or PLACEHOLDER in path:
        reason = "it is neither an http(s) URL nor an absolute path of a folder"
        return [_Document(shown, reason=reason, learned=False)] * len(versions)
    try:
        names = set(os.listdir(path))
    except OSError as error:
        return [_Document(shown, reason=f"the folder cannot be read: {error.strerror}", learned=False)] * len(versions)
    common = next((name for name in COMMON_NAMES if name in names), None)
    sections = _Sections(_read_file(os.path.join(path, common)), common) if common else None
    documents = []
    for version in versions:
        name = f"{version}.md"
        if name in names:
            documents.append(_read_file(os.path.join(path, name)))
        elif sections:
            documents.append(sections.find(version))
        else:
            documents.append(_Document(shown, reason=f"it has neither {name} nor {' nor '.join(COMMON_NAMES)}"))
    return documents


def _read_file(path: str) -> _Document:
    shown = presentable(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return _Document(shown, reason="it is no regular file", learned=False)
        with open(path, "rb") as file:
            return _decode(shown, file.read(DOCUMENT_LIMIT + 1))
    except OSError as error:
        return _Document(shown, reason=f"it cannot be read: {error.strerror}", learned=False)


def _decode(source: str, body: bytes) -> _Document:
    text = body[:DOCUMENT_LIMIT].decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub("", text).strip("\n")
    if not text.strip():
        return _Document(source, reason="it is empty")
    return _Document(source, text, complete=len(body) <= DOCUMENT_LIMIT)


# Servers

_NOT_UNDERSTOOD = (
    "it has no host, or a port that is no number; it is not repeated here, as it may have a password in it, in which "
    "/ ? # [ ] @ and : must be written as %2F %3F %23 %5B %5D %40 and %3A"
)


def _is_understood(url: str) -> bool:
    """Whether the parts of the URL can be told apart, and so what is secret in it."""
    try:
        parts = urllib.parse.urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects to http and https only. The credentials are for the server that the URL names, and go to no other."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return what to ask next; None where the answer is taken as it is, an error."""
        target = urllib.parse.urlsplit(newurl)
        if target.scheme not in ("http", "https") or "@" in target.netloc:
            return None
        redirected = super().redirect_request(req, fp, code, msg, headers, newurl)
        credentials = req.unredirected_hdrs.get("Authorization")
        if redirected and credentials and target[:2] == urllib.parse.urlsplit(req.full_url)[:2]:
            redirected.add_unredirected_header("Authorization", credentials)
        return redirected


def _fetch_all(urls: Sequence[str]) -> list[_Document]:
    """Each within REQUEST_TIMEOUT, whatever it is that takes long: a thread that is late is left behind."""
    documents: dict[str, _Document] = {}

    def fetch(url: str) -> None:
        documents[url] = _fetch(url)

    for start in range(0, len(urls), REQUESTS_AT_ONCE):
        threads = [
            threading.Thread(target=fetch, args=(url,), daemon=True) for url in urls[start : start + REQUESTS_AT_ONCE]
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + REQUEST_TIMEOUT
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
    late = f"there was no whole answer within {REQUEST_TIMEOUT:g} s"
    return [documents.get(url) or _Document(presentable(url), reason=late, learned=False) for url in urls]


def _fetch(url: str) -> _Document:
    shown = presentable(url)
    try:
        # Longer than a caller waits, so that only one of the two times out; the thread comes to its end with it.
        with urllib.request.build_opener(_Redirects).open(_request(url), timeout=2 * REQUEST_TIMEOUT) as response:
            body = response.read(DOCUMENT_LIMIT + 1)
            if len(body) <= DOCUMENT_LIMIT and response.length:
                return _Document(shown, reason=f"the answer ended {response.length} bytes early", learned=False)
            encoding = response.headers.get("Content-Encoding", "identity")
            kind = response.headers.get_content_type()
    except urllib.error.HTTPError as error:
        error.close()
        more = ", a redirect that is not followed" if 300 <= error.code < 400 else ""
        return _Document(shown, reason=f"HTTP {error.code}{more}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        return _Document(shown, reason=_words(cause), learned=False)
    if encoding.lower() != "identity":
        return _Document(shown, reason=f"the answer is in the encoding {_words(encoding)}, which was not asked for")
    if kind in ("text/html", "application/xhtml+xml"):
        return _Document(shown, reason=f"the answer is a web page ({kind}), expected Markdown or plain text")
    return _decode(shown, body)


def _words(said: object) -> str:
    """What a server or the network says, on one line of bounded length."""
    words = " ".join(presentable(str(said)[: 2 * REASON_LIMIT]).split())[:REASON_LIMIT]
    return words or type(said).__name__


def _request(url: str) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(url)
    user, separator, location = parts.netloc.rpartition("@")
    address = urllib.parse.urlunsplit(parts._replace(netloc=location))
    request = urllib.request.Request(address, headers={"User-Agent": f"capsule.opstage/{VERSION}"})
    if separator:
        credentials = ":".join(urllib.parse.unquote(part) for part in user.partition(":")[::2])
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}")
    return request


# Headings


class _Sections:
    """A document with a heading for each version, read once; its name tells which markup it is in."""

    def __init__(self, document: _Document, name: str) -> None:
        self._document = document
        self._lines = document.text.split("\n")
        find_headings = _restructured_headings if name.endswith(".rst") else _markdown_headings
        self._headings = list(find_headings(self._lines))

    def find(self, version: Version) -> _Document:
        """Return the section of `version`, from its heading to the next one of the same or a higher level."""
        if self._document.reason:
            return self._document
        for number, heading in enumerate(self._headings):
            if _named_version(heading.title) == version:
                rest = self._headings[number + 1 :]
                end = next((other.line for other in rest if other.level <= heading.level), None)
                text = "\n".join(self._lines[heading.line : end]).strip("\n")
                return replace(self._document, text=text, complete=self._document.complete or end is not None)
        where = "" if self._document.complete else f" in its first {DOCUMENT_LIMIT} bytes"
        return replace(self._document, text="", reason=f"it has no heading of {version}{where}")


def _named_version(title: str) -> Version | None:
    """The version that a title begins with, as in `[0.3.0] - 2026-01-01` or `Release v0.3.0`."""
    match = _NAMED_VERSION.match(title.strip()[:TITLE_LIMIT])
    try:
        return parse_version(match[1].rstrip(".-")) if match else None
    except VersionError:
        return None


def _markdown_headings(lines: Sequence[str]) -> Iterator[_Heading]:
    """An underline of hyphens makes a heading of a version's name only: more often it is meant as a rule."""
    fence = ""
    for number, line in enumerate(lines):
        mark = _FENCE.fullmatch(line)
        title = _MARKDOWN_TITLE.fullmatch(line)
        underline = _MARKDOWN_UNDERLINE.fullmatch(line)
        if fence:
            if mark and line.strip().startswith(fence) and not line.strip(" \t" + fence[0]):
                fence = ""
        elif mark:
            fence = mark[1] or mark[2]
        elif title:
            yield _Heading(number, len(title[1]), title[2] or "")
        elif underline and number and lines[number - 1].strip() and (number == 1 or not lines[number - 2].strip()):
            above = lines[number - 1]
            if underline[1][0] == "=" or _named_version(above):
                yield _Heading(number - 1, 1 if underline[1][0] == "=" else 2, above)


def _restructured_headings(lines: Sequence[str]) -> Iterator[_Heading]:
    """Levels are in the order in which their adornments appear, of which one with an overline is another."""
    styles: list[tuple[str, bool]] = []
    after = 0
    for number in range(1, len(lines)):
        title, underline = lines[number - 1].rstrip(), lines[number].rstrip()
        if not title or _ADORNMENT.fullmatch(title) or not _ADORNMENT.fullmatch(underline):
            continue
        above = lines[number - 2].rstrip() if number - 2 >= after else ""
        overlined = above == underline
        if (above and not overlined) or (title[0] == " " and not overlined) or len(underline) < min(len(title), 4):
            continue
        style = (underline[0], overlined)
        if style not in styles:
            styles.append(style)
        yield _Heading(number - 1 - overlined, styles.index(style) + 1, title)
        after = number + 1
