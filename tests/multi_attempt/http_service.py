"""A small HTTP server in a thread, for tests that need somebody to ask."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Takes JSON, answers it, and prints nothing."""

    def do_GET(self) -> None:
        self.got()

    def do_POST(self) -> None:
        self.posted(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def got(self) -> None:
        """Answer a GET."""
        raise NotImplementedError

    def posted(self, body: Any) -> None:
        """Answer a POST with this body."""
        raise NotImplementedError

    def reply(self, content: Any, status: int = 200) -> None:
        """Answer with bytes as they are, or with anything else as JSON."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server with these answers; its address."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()
