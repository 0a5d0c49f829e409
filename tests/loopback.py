"""The network of tests: none, or a hub on this machine that answers as libraries ask of theirs."""

import hashlib
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMIT = "0" * 40


def refuse_all_but(monkeypatch, *hosts: str) -> None:
    """Refuse every connection but to these hosts, so that no test waits for a hub."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family == socket.AF_UNIX or address[0] in hosts:
            return connect(self, address)
        raise ConnectionRefusedError(f"tests have no network, and something wanted {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def no_network(monkeypatch):
    """Loopback alone is reachable; stands in for conftest's fixture where it is imported."""
    refuse_all_but(monkeypatch, "127.0.0.1")


class Silent(BaseHTTPRequestHandler):
    """A handler that logs nothing."""

    def log_message(self, *arguments):
        pass


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]):
    """Serve by a handler on loopback, in a thread; yields the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def hub(files: dict[str, bytes], refusal: int = 404, code: str = ""):
    """Serve `files` by path on loopback; anything else is refused with a status.

    Yields (address, requests seen). Hugging Face's client wants an ETag and the commit of a file,
    and reads the kind of a refusal from X-Error-Code.
    """
    seen: list[str] = []

    class Handler(Silent):
        def answer(self, body: bool) -> None:
            seen.append(f"{self.command} {self.path}")
            content = files.get(self.path)
            self.send_response(200 if content is not None else refusal)
            if content is None:
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
            else:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body and content:
                self.wfile.write(content)

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

    with served(Handler) as address:
        yield address, seen
