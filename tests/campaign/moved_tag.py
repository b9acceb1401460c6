# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry in front of the one of the testbed, on one host, in which a tag names the image of another tag.

moved_tag.py PORT REGISTRY TAG OTHER_TAG
"""

from __future__ import annotations

import http.client
import http.server
import sys

PORT, REGISTRY, TAG, OTHER_TAG = int(sys.argv[1]), *sys.argv[2:5]
COPIED = ("Content-Type", "Content-Length", "Docker-Content-Digest", "Docker-Distribution-Api-Version", "Etag")


class Handler(http.server.BaseHTTPRequestHandler):
    """Passes what a pull asks for on to the registry."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # the name that http.server looks for
        """Ask the registry, for the other tag where it is for the one, and hand its answer on."""
        path = self.path.replace(f"/manifests/{TAG}", f"/manifests/{OTHER_TAG}")
        connection = http.client.HTTPConnection(REGISTRY, timeout=60)
        accepted = self.headers.get_all("Accept") or ["*/*"]
        connection.request(self.command, path, headers={"Accept": ", ".join(accepted)})
        answer = connection.getresponse()
        self.send_response(answer.status)
        for name in COPIED:
            value = answer.getheader(name)
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        while piece := answer.read(1 << 16):
            self.wfile.write(piece)
        connection.close()

    do_HEAD = do_GET  # noqa: N815  # the name that http.server looks for


http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
