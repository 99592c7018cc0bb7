"""A server on this machine that speaks the chat-completions protocol in any manner a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-CANARYKEY"
MODELS = {"data": [{"id": "m"}]}
Manner = Callable[[BaseHTTPRequestHandler], None]


def answering(value: Any, code: int = 200, **headers: str) -> Manner:
    """Answer with a JSON value, or with bytes as they are."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        handler.send_response(code)
        for name, text in {"Content_Length": str(len(data)), **headers}.items():
            handler.send_header(name.replace("_", "-"), text)
        handler.end_headers()
        handler.wfile.write(data)

    return act


def completion(content: Any, **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content}, "finish_reason": "stop"}], **more}


class Handler(BaseHTTPRequestHandler):
    server: Any

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        self.server.models(self)

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        try:
            self.server.chat(self)
        except OSError:  # the client has gone
            self.close_connection = True


@contextmanager
def serving() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    server.seen, server.models, server.chat = [], answering(MODELS), answering(completion("well"))
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
