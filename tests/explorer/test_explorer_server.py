"""The server of the page, asked by hand: who may ask, how much, and what is read as text."""

import http.client
import json
import threading

import pytest

import dmft
from dmft.explorer.server import LONGEST_BODY, Server
from dmft.explorer.session import Session

QUESTION = json.dumps({"kind": "equations"})


@pytest.fixture(scope="module")
def server():
    model = dmft.literature.phase_retrieval(1, 0.1)
    with Server(Session(model, dmft.SGD(0.05, constraint="sphere"), t_max=4.0)) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(server, method="POST", path="ask", body=QUESTION, token=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    given = {"Origin": server.origin, "Content-Type": "application/json"}
    given |= {name.replace("_", "-"): text for name, text in headers.items()}
    token = server.token if token is None else token
    address = f"/{token}/{path}" if token else f"/{path}"
    sent = {name: text for name, text in given.items() if text}
    connection.request(method, address, body if method == "POST" else None, sent)
    answer = connection.getresponse()
    result = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return result


def test_the_page_answers_its_own_questions(server):
    status, headers, body = ask(server)
    assert status == 200
    assert "align" in json.loads(body)["latex"]
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in ("", "page.js", "style.css", "fonts/KaTeX_Main-Regular.woff2"):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request("GET", f"/{server.token}/{path}")
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"Origin": "https://example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),  # a form or a script without one
        ({"Host": "example.org"}, 403),  # a foreign name that points to this machine
        ({"Host": "localhost:1"}, 403),
        ({"token": ""}, 403),
        ({"token": "0" * 32}, 403),
        ({"Content-Type": "text/plain"}, 415),  # what another page may send unasked
        ({"Content-Length": "-1"}, 411),
        ({"body": "{" * 50_000}, 400),
        ({"body": "no JSON"}, 400),
        ({"path": "../../etc/passwd"}, 404),
        ({"path": "fonts/../page.py", "method": "GET"}, 404),
        ({"path": "page.js", "method": "GET", "token": "x"}, 403),
        ({"path": "page.js", "method": "GET", "Origin": "https://example.org"}, 403),
        ({"method": "PUT"}, 501),
    ],
)
def test_others_are_refused(server, changed, status):
    assert ask(server, **changed)[0] == status


def test_an_oversized_question_is_not_read(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest("POST", f"/{server.token}/ask")
    connection.putheader("Origin", server.origin)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(LONGEST_BODY + 1))
    connection.endheaders()  # and no body follows
    assert connection.getresponse().status == 413
    connection.close()


def test_a_hostile_formula_is_refused_by_the_whitelist(server, tmp_path):
    target = tmp_path / "hit"
    for text in (
        f"open('{target}', 'w')", "__import__('os').system('true')", "z.__class__", "exec('1')",
        "[z for z in (1,)]", "(lambda: z)()", "9**9**9**9*z",
    ):  # fmt: skip
        question = {"kind": "solve", "formulas": {"student": text}}
        status, _, body = ask(server, body=json.dumps(question))
        assert status == 200
        assert "error" in json.loads(body), text
    assert not target.exists()


def test_only_this_machine_is_bound(server):
    assert server.server_address[0] == "127.0.0.1"
    assert len(server.token) >= 32
