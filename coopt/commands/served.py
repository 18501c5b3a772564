"""One page, served to this machine alone: GET and HEAD of `/`, nothing else, until it is stopped."""

from __future__ import annotations

import http.server
from pathlib import Path

HERE = "127.0.0.1"
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def server(page: Path, port: int = 0) -> http.server.HTTPServer:
    """A server of one file's bytes on the loopback interface; port 0: any that is free."""
    data = page.read_bytes()

    class OnePage(http.server.BaseHTTPRequestHandler):
        server_version, sys_version = "coopt", ""
        timeout = 10

        def do_GET(self) -> None:
            """The page, or nothing."""
            # By another name, a page elsewhere could have a browser read this one (DNS rebinding).
            known = {f"{name}:{self.connection.getsockname()[1]}" for name in (HERE, "localhost")}
            if self.headers.get("Host") not in known:
                return self.send_error(421)
            if self.path != "/":
                return self.send_error(404)
            self.send_response(200)
            for name, value in {**HEADERS, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing of a request is written down."""

    return http.server.ThreadingHTTPServer((HERE, port), OnePage)
