"""The page served on this machine: a token in its address, one origin, nothing from outside.

Only 127.0.0.1 is bound. Every address starts with a random token; the names in Host and Origin must
be those of this server, so that no other page of the browser reaches it, by a foreign name that
points here neither. A body is bounded, JSON, and a question that `Session.reply` checks.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dmft.errors import BadParameter
from dmft.explorer.page import BODY, MODULES, encoded, fonts, html, inline, script, style
from dmft.explorer.session import Session

ADDRESS = "127.0.0.1"
# Bytes of a question; the largest, a row of a diagram, has a few thousand.
LONGEST_BODY = 65_536
# Seconds after which a silent connection is closed.
PATIENCE = 60
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
START = """
const description = {description};
const backend = {{
    form: "server",
    simulates: description.simulates,
    async ask(question) {{
        const answer = await fetch("ask", {{
            method: "POST", headers: {{ "Content-Type": "application/json" }},
            body: JSON.stringify(question),
        }}).catch(() => {{ throw new Error("The server has ended: start dmft explore again."); }});
        if (!answer.ok) throw new Error(`The server refused: ${{await answer.text()}}`);
        return answer.json();
    }},
}};
new Explorer(document.getElementById("explorer"), description, backend, katex);
"""


class Server(ThreadingHTTPServer):
    """A session behind a token; a thread for each connection."""

    daemon_threads = True

    def __init__(self, session: Session, port: int = 0) -> None:
        if not 0 <= port < 65536:
            raise BadParameter(f"a port lies between 0 (any) and 65535, got {port}")
        self.session, self.token = session, secrets.token_urlsafe(24)
        self.files = files(session)
        try:
            super().__init__((ADDRESS, port), Handler)
        except OSError as error:
            raise BadParameter(f"port {port} of {ADDRESS} is not free: {error.strerror}") from error

    def server_close(self) -> None:
        """Close the socket, and end what derives."""
        super().server_close()
        self.session.typed.end()

    @property
    def origin(self) -> str:
        """Scheme, address and port."""
        return f"http://{ADDRESS}:{self.server_port}"

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"{self.origin}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a connection is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def files(session: Session) -> dict[str, tuple[str, bytes]]:
    """All that can be read, by name."""
    description = session.description()
    start = START.format(description=inline(description))
    page = html(
        session.title,
        "",
        '<link rel="stylesheet" href="style.css">',
        '<script type="module" src="page.js"></script>',
    )
    found = {
        "": ("text/html; charset=utf-8", page.encode()),
        "page.js": ("text/javascript; charset=utf-8", (script(*MODULES) + start).encode()),
        "style.css": ("text/css; charset=utf-8", (style(False) + BODY).encode()),
    }
    found |= {f"fonts/{name}": ("font/woff2", data) for name, data in fonts().items()}
    return found


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE
    # An answer is one packet: none waits for the receipt of the one before.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Send a file of the page."""
        name = self._name()
        if name is None:
            return
        if name not in self.server.files:
            return self._refuse(404, "there is no such page")
        kind, data = self.server.files[name]
        self._send(200, kind, data)

    def do_POST(self) -> None:
        """Answer a question."""
        name = self._name()
        if name is None:
            return
        length = self.headers.get("Content-Length", "")
        if name != "ask":
            return self._refuse(404, "requests are answered at ask")
        if self.headers.get("Origin") != self.server.origin:
            return self._refuse(403, "requests from other pages are refused")
        if self.headers.get_content_type() != "application/json":
            return self._refuse(415, "a question is application/json")
        if not length.isdigit() or "Transfer-Encoding" in self.headers:
            return self._refuse(411, "the length of the request is missing")
        if int(length) > LONGEST_BODY:
            return self._refuse(413, f"a request has at most {LONGEST_BODY} bytes")
        try:
            question = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            return self._refuse(400, "a question is JSON")
        self._send(200, "application/json", encoded(self.server.session.reply(question)).encode())

    def _name(self) -> str | None:
        """What is asked for, behind the token; None where the request was refused."""
        if self.headers.get("Host") != f"{ADDRESS}:{self.server.server_port}":
            self._refuse(403, "the host is another")
            return None
        if self.headers.get("Origin") not in (None, self.server.origin):
            self._refuse(403, "requests from other pages are refused")
            return None
        _, token, *rest = [*self.path.split("?")[0].split("/"), ""]
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(403, "the token is missing or wrong: open the address that was printed")
            return None
        return "/".join(rest).rstrip("/")

    def _refuse(self, code: int, words: str) -> None:
        self.close_connection = True  # what else was sent is not read
        self._send(code, "text/plain; charset=utf-8", words.encode())

    def _send(self, code: int, kind: str, data: bytes) -> None:
        self.send_response(code)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the address of a request holds the token."""


def serve(
    session: Session, port: int = 0, *, browser: bool = True,
    ready: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Serve a session until Ctrl-C."""
    with Server(session, port) as server:
        if ready is not None:
            ready(server.url)
        with contextlib.ExitStack() as stack:
            if browser:
                stack.enter_context(opened(server.url))
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever(poll_interval=0.2)


@contextlib.contextmanager
def opened(url: str) -> Iterator[None]:
    """Open an address in the browser by a file that its owner alone can read, and that leads there.

    Everybody on a machine reads command lines, on which the token of an address would stand.
    """
    import webbrowser

    try:
        folder = tempfile.mkdtemp(prefix="dmft-explore-")  # for its owner alone
    except OSError:  # no place to write: the address was printed
        yield
        return
    try:
        file = Path(folder) / "page.html"
        file.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={url}">\n')
        webbrowser.open(file.as_uri())
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
