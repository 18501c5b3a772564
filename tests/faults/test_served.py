"""D6: a served report is of this machine, read-only, and runs nothing."""

from __future__ import annotations

import http.client
import threading

import pytest

from coopt.commands.served import HERE, server


@pytest.fixture
def port(tmp_path):
    (tmp_path / "report.html").write_text("<p>a page</p>")
    (tmp_path / "secret").write_text("no")
    with server(tmp_path / "report.html") as one:
        thread = threading.Thread(target=one.serve_forever, daemon=True)
        thread.start()
        assert one.server_address[0] == HERE == "127.0.0.1"
        yield one.server_address[1]
        one.shutdown()
        thread.join()


def ask(port: int, method: str, path: str = "/", host: str = "") -> tuple[int, dict, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_the_page_comes_with_a_policy_that_lets_nothing_run(port):
    status, headers, body = ask(port, "GET")
    assert (status, body) == (200, b"<p>a page</p>")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script" not in policy and "connect" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff" and "Python" not in headers["Server"]
    assert ask(port, "HEAD")[0] == 200 and ask(port, "HEAD")[2] == b""
    assert ask(port, "GET", host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT"])
def test_nothing_can_be_changed(port, method):
    assert ask(port, method)[0] in (405, 501)


@pytest.mark.parametrize(
    ("path", "host"), [("/secret", ""), ("/../secret", ""), ("/", "evil.example"), ("/report.html", "")]
)
def test_nothing_else_is_there(port, path, host):
    status, _, body = ask(port, "GET", path, host)
    assert status in (404, 421) and b"no" != body
