"""The server of the page, asked by hand: who may ask, how much, and what is read as text."""

import html.parser
import http.client
import json
import os
import re
import threading
import time
import webbrowser
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest
import sympy as sp

import dmft
from dmft.explorer import typed
from dmft.explorer.server import LONGEST_BODY, Server, opened
from dmft.explorer.session import Session
from dmft.explorer.static import static_text

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


def test_entries_of_any_type_keep_the_connection(server):
    for question in (
        {"kind": ["solve"]}, {"kind": {}}, {"kind": "solve", "formulas": {"student": ["z"]}},
        {"kind": "solve", "formulas": {"student": {}}}, {"kind": "solve", "formulas": [["z"]]},
        {"kind": "solve", "off": [[]]}, {"kind": "solve", "values": {"seed": [1]}},
        {"kind": "diagram", "x": {"name": [], "values": [{}]}, "y": {"name": {}, "values": 1}},
        {"kind": "diagram", "measure": {}, "x": [], "y": None}, {"kind": "cancel", "formulas": 1},
    ):  # fmt: skip
        status, _, body = ask(server, body=json.dumps(question))
        assert status == 200
        assert "defect" not in json.loads(body)["error"], question


def test_a_formula_that_takes_too_long_blocks_nobody_and_is_ended(server, monkeypatch):
    """z**32 is derived for minutes; other questions are answered meanwhile."""
    monkeypatch.setattr(typed, "BUDGET", dict.fromkeys(typed.BUDGET, 0.5))
    body = json.dumps({"kind": "equations", "formulas": {"student": "z**32"}})
    answers = []
    asked = threading.Thread(target=lambda: answers.append(ask(server, body=body)[2]))
    asked.start()
    assert "latex" in ask(server)[2]  # of the declared formulas
    asked.join(60)
    assert "no answer within 0.5 s" in json.loads(answers[0])["error"]
    begun = time.monotonic()
    assert "no answer within" in ask(server, body=body)[2]  # and is not tried again
    assert time.monotonic() - begun < 1.0


def test_a_derivation_that_nobody_waits_for_is_cancelled(server):
    formulas, answers = {"student": "z**32 + z"}, []
    body = json.dumps({"kind": "solve", "formulas": formulas})
    asked = threading.Thread(target=lambda: answers.append(ask(server, body=body)[2]))
    asked.start()
    cancel = json.dumps({"kind": "cancel", "formulas": formulas})
    while not json.loads(ask(server, body=cancel)[2])["cancelled"]:
        assert asked.is_alive()
    asked.join(10)
    assert "cancelled" in json.loads(answers[0])["error"]
    assert not server.session.typed.processes


def test_the_token_is_on_no_command_line(server, monkeypatch):
    given = []
    monkeypatch.setattr(webbrowser, "open", given.append)
    with opened(server.url):
        assert server.token not in given[0]
        file = Path(url2pathname(urlparse(given[0]).path))
        assert server.url in file.read_text()
        assert os.name != "posix" or file.parent.stat().st_mode & 0o077 == 0
    assert not file.exists()


def test_static_pages_carry_the_licence_of_katex_and_no_markup_of_names():
    name = "<!--<script></SCRIPT>"
    z, letter = sp.Symbol("z", real=True), sp.Symbol(name, real=True)
    student = dmft.Committee(sp.erf(letter * z), 1)
    model = dmft.Model(student, dmft.Committee(z, 1))
    page = static_text(Session(model, dmft.GradientFlow(), title=name, values={name: 0.5}))
    assert "Copyright (c) 2013-2020 Khan Academy" in page
    assert "Permission is hereby granted" in page
    script = re.search(r'<script type="module">(.*)</script>', page, re.DOTALL)[1]
    assert not re.search(r"<!--|</?script", script, re.IGNORECASE)

    class Tags(html.parser.HTMLParser):
        found = ()

        def handle_starttag(self, tag, attrs):
            self.found = (*self.found, tag)

    parser = Tags()
    parser.feed(page)
    assert parser.found.count("script") == 1
