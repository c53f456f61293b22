"""Every route of a Dash app, asked in every way by who must not: refused before the route is looked at."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import dash
import flask
import pytest
from dash import Input, Output, dcc, html

from circuits.errors import SettingsError
from circuits.show.explore.guard import COOKIE, LARGEST, guard, guarded, policy
from circuits.show.explore.serving import server_of

SECRET = "what lies beside the assets"
OWN = {"Host": "127.0.0.1:8050"}
SAME = {**OWN, "Origin": "http://127.0.0.1:8050", "Sec-Fetch-Site": "same-origin"}
ROUTES = (
    "/", "/anything/else", "/_dash-layout", "/_dash-dependencies", "/_dash-update-component", "/_reload-hash", "/_favicon.ico",
    "/assets/page.css", "/assets/missing.css", "/static/x", "/_dash-component-suites/dash/deps/react.js",
    "/_dash-component-suites/dash/nothing.js", "/mine",
)  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND")
HOSTS = (
    "evil.example", "evil.example:8050", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example#localhost",
    "localhost@evil.example", "evil.example@localhost", "localhost:8050@evil.example", "localhost:evil", "localhost:",
    "localhost:808080", "localhost:-1", "localhost.", "localhost ", " localhost", "localhost\t", "localhost,evil.example",
    "localhost, localhost", "127.0.0.2", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0", "[::]", "[::1", "::1",
    "[::ffff:127.0.0.1]", "[::1]evil", "[::1%lo]", "ⓛocalhost", "localhost\x00", "localhost/../", "localhost\\evil", "*", "",
    "http://localhost", "loc%61lhost", "xn--localhost", "a" * 10_000,
)  # fmt: skip
TRAVERSALS = (
    "../secret.txt", "../../secret.txt", "..%2fsecret.txt", "..%2Fsecret.txt", "%2e%2e/secret.txt", "%2e%2e%2fsecret.txt",
    "..%5csecret.txt", "..\\secret.txt", "....//secret.txt", "..;/secret.txt", ".%2e/secret.txt", "..%252fsecret.txt",
    "%252e%252e%252fsecret.txt", "..%c0%afsecret.txt", "..%ef%bc%8fsecret.txt", "..%u2215secret.txt", "x/../../secret.txt",
    "/../secret.txt", "//../secret.txt", "./.././secret.txt", "..%00/secret.txt", "../secret.txt%00.css",
    "page.css/../../secret.txt", "page.css%00", "%2fetc%2fpasswd", "//etc/passwd", "/etc/passwd",
    "../../../../../../../../etc/passwd", "..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "file:///etc/passwd", "C:%5cWindows%5cwin.ini", "%5c%5chost%5cshare%5cx",
    "link.txt", "%7e/.ssh/id_rsa", "..%0d%0asecret.txt",
)  # fmt: skip


def app_in(folder: Path) -> dash.Dash:
    """A small app: a callback on the server, one in the page, an own route, a callback and a route that fail."""
    (folder / "assets").mkdir()
    (folder / "secret.txt").write_text(SECRET)
    (folder / "assets" / "page.css").write_text("body { margin: 0 }")
    app = dash.Dash("small", assets_folder=str(folder / "assets"), serve_locally=True)
    app.layout = html.Div([dcc.Input(id="in", value="a"), html.Div(id="out"), html.Div(id="also"), html.Div(id="bad")])

    @app.callback(Output("out", "children"), Input("in", "value"))
    def out(value: str) -> str:
        return f"got {value}"

    @app.callback(Output("bad", "children"), Input("in", "value"))
    def bad(value: str) -> str:
        raise ZeroDivisionError(f"a secret in {folder}")

    app.clientside_callback("function (v) { return 'page ' + v; }", Output("also", "children"), Input("in", "value"))

    @app.server.route("/mine", methods=["GET", "POST", "PUT", "DELETE"])
    def mine() -> str:
        return "mine"

    @app.server.route("/broken")
    def broken() -> str:
        raise ZeroDivisionError(f"a secret in {folder}")

    return app


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> dash.Dash:
    found = app_in(tmp_path_factory.mktemp("app"))
    guard(found.server, scripts=found.csp_hashes())
    return found


def asked(app: dash.Dash, path: str, method: str = "GET", headers: dict[str, str] | None = None, **more: Any) -> Any:
    """The answer; headers go to the application as they are, however odd."""
    environ = {f"HTTP_{k.upper().replace('-', '_')}": v for k, v in (OWN | (headers or {})).items()}
    place, _, query = path.partition("?")
    environ["PATH_INFO"] = unquote(place, "latin-1")
    client = app.server.test_client(use_cookies=False)
    return client.open("/", method=method, environ_overrides=environ, query_string=query, buffered=True, **more)


def wanted(value: str = "b", output: str = "out") -> dict[str, Any]:
    """What the page posts to a callback."""
    return {
        "output": f"{output}.children", "outputs": {"id": output, "property": "children"},
        "inputs": [{"id": "in", "property": "value", "value": value}], "changedPropIds": ["in.value"],
    }  # fmt: skip


# -- what the page itself asks is answered -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8050", "localhost:9", "LOCALHOST:8050", "[::1]:8050", "[::1]"]
)
def test_the_page_is_answered_under_the_names_of_this_machine(app: dash.Dash, host: str) -> None:
    for site in ({}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}, {"Origin": f"http://{host}"}):
        answer = asked(app, "/", headers={"Host": host, **site})
        assert answer.status_code == 200
        assert "_dash-config" in answer.text


def test_a_callback_of_the_page_is_answered(app: dash.Dash) -> None:
    for evidence in ({"Origin": SAME["Origin"]}, {"Sec-Fetch-Site": "same-origin"}, SAME):
        answer = asked(app, "/_dash-update-component", "POST", evidence, json=wanted())
        assert answer.json["response"] == {"out": {"children": "got b"}}


def test_every_answer_carries_the_headers(app: dash.Dash) -> None:
    for path in ROUTES:
        for method, headers in (("GET", OWN), ("GET", {"Host": "evil.example"}), ("PUT", OWN)):
            answer = asked(app, path, method, headers)
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            kept = answer.headers.get("Cache-Control")
            assert kept == "no-store" or (path.startswith("/_dash-component") and answer.status_code == 200)
            assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_policy_allows_no_script_but_the_servers_and_those_named(app: dash.Dash) -> None:
    said = asked(app, "/").headers["Content-Security-Policy"]
    scripts = next(d for d in said.split("; ") if d.startswith("script-src"))
    assert "unsafe" not in scripts
    assert scripts.count("'sha256-") >= 2  # the renderer and the callback in the page
    assert "frame-ancestors 'none'" in said
    assert "http" not in said
    assert "*" not in said


# -- what comes from elsewhere is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS, ids=lambda h: repr(h[:24]))
def test_a_foreign_host_is_refused_on_every_route_in_every_way(app: dash.Dash, host: str) -> None:
    for path in ROUTES:
        for method in METHODS:
            # What a page says that believes itself to be on its own server: DNS rebinding.
            for more in ({}, {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}):
                answer = asked(app, path, method, {"Host": host, **more})
                assert (answer.status_code, SECRET in answer.text) == (403, False), (path, method)
                assert "got" not in answer.text
                assert len(answer.data) < 1000


def test_a_request_without_a_host_is_refused(app: dash.Dash) -> None:
    with app.server.request_context({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SERVER_NAME": "localhost", "SERVER_PORT": "80",
                                     "wsgi.url_scheme": "http"}):  # fmt: skip
        assert app.server.full_dispatch_request().status_code == 403


@pytest.mark.parametrize(
    "origin",
    ["null", "", "http://evil.example", "http://127.0.0.1", "http://127.0.0.1:8051", "http://localhost:8050", "file://",
     "ws://127.0.0.1:8050", "http://127.0.0.1:8050.evil.example", "http://127.0.0.1:8050@evil.example", "http://127.0.0.1:8050/",
     "127.0.0.1:8050", "chrome-extension://abcdef", "http://127.0.0.1:8050 http://evil.example"],
)  # fmt: skip
def test_a_foreign_origin_is_refused_on_every_route_in_every_way(app: dash.Dash, origin: str) -> None:
    for path in ROUTES:
        for method in METHODS[:3]:
            for site in ({}, {"Sec-Fetch-Site": "same-origin"}):
                assert asked(app, path, method, {"Origin": origin, **site}).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "nonsense", "same-origin, cross-site", "None"])
def test_what_the_browser_says_comes_from_elsewhere_is_refused(app: dash.Dash, site: str) -> None:
    for path in ROUTES:
        for method in METHODS[:3]:
            for mode, into in (("no-cors", "script"), ("cors", "empty"), ("navigate", "iframe")):
                headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": into}
                assert asked(app, path, method, headers).status_code == 403


def test_a_link_is_followed_from_this_machine_alone(app: dash.Dash) -> None:
    went = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert asked(app, "/", "GET", {"Sec-Fetch-Site": "same-site", **went}).status_code == 200
    assert asked(app, "/", "GET", {"Sec-Fetch-Site": "cross-site", **went}).status_code == 403
    assert asked(app, "/mine", "POST", {"Sec-Fetch-Site": "same-site", **went}, json={}).status_code == 403


@pytest.mark.parametrize("evidence", [{}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-site"}])
def test_a_post_must_show_where_it_comes_from(app: dash.Dash, evidence: dict[str, str]) -> None:
    for path in ROUTES:
        assert asked(app, path, "POST", evidence, json=wanted()).status_code == 403


@pytest.mark.parametrize("method", METHODS[3:])
def test_other_methods_are_not_answered(app: dash.Dash, method: str) -> None:
    for path in ROUTES:
        answer = asked(app, path, method, SAME)
        assert answer.status_code == 405
        assert answer.headers["Allow"] == "GET, HEAD, POST"


# -- bodies ------------------------------------------------------------------------------------------------------------


def test_a_large_body_is_refused_unread(app: dash.Dash) -> None:
    class Unread:
        def read(self, *_: int) -> bytes:
            raise AssertionError("the body was read")

        readline = readlines = __iter__ = read

    for path in ROUTES:
        for method in METHODS[:3]:
            more = {"wsgi.input": Unread(), "CONTENT_LENGTH": str(LARGEST + 1), "CONTENT_TYPE": "application/json"}
            environ = {"HTTP_HOST": SAME["Host"], "HTTP_ORIGIN": SAME["Origin"], **more}
            answer = app.server.test_client().open(path, method=method, environ_overrides=environ)
            assert answer.status_code == 413
    assert asked(app, "/_dash-update-component", "POST", SAME, json=wanted("b" * (LARGEST - 1000))).status_code == 200


def test_a_body_of_unknown_length_is_refused(app: dash.Dash) -> None:
    assert asked(app, "/mine", "POST", {**SAME, "Transfer-Encoding": "chunked"}, json={}).status_code == 411


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/jsonp"]
)
def test_a_form_is_no_json(app: dash.Dash, kind: str) -> None:
    answer = asked(app, "/_dash-update-component", "POST", SAME, data=json.dumps(wanted()), content_type=kind)
    assert answer.status_code == 415


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"NaN", b'{"a": Infinity}', b'{"a": 1, "a": 2}', b"[" * 10**6, b"[" * 101 + b"]" * 101, b"1" * 5000,
     b'{"a":' * 10**5],
)  # fmt: skip
def test_what_is_no_plain_json_is_refused(app: dash.Dash, body: bytes) -> None:
    answer = asked(app, "/_dash-update-component", "POST", SAME, data=body, content_type="application/json")
    assert answer.status_code == 400
    assert len(answer.data) < 400


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_out_of_what_is_served(app: dash.Dash, path: str) -> None:
    for before in ("/assets/", "/_dash-component-suites/dash/", "/_dash-component-suites/", "/static/", "/"):
        answer = asked(app, before + path)
        if answer.status_code in (301, 302, 308):
            assert answer.headers["Location"].startswith(("/", "http://127.0.0.1:8050/"))
            continue
        # What nobody serves is the page itself, by Dash's catch-all.
        assert answer.status_code in (400, 404) or "_dash-config" in answer.text
        assert SECRET not in answer.text
        assert "root:" not in answer.text


def test_what_is_said_about_a_missing_file_is_no_page(app: dash.Dash) -> None:
    answer = asked(app, "/_dash-component-suites/<script>alert(1)</script>/x.js")
    assert answer.status_code == 404
    assert "<script>" not in answer.text
    page = asked(app, "/assets/<script>alert(1)</script>", headers={"Accept": "text/html"})
    assert page.status_code == 404
    assert "<script>" not in page.text


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [("/broken", "GET", None), ("/_dash-update-component", "POST", wanted(output="bad")),
     ("/_dash-update-component", "POST", {"output": 5}), ("/_dash-update-component", "POST", [1])],
)  # fmt: skip
def test_what_goes_wrong_inside_is_logged_and_not_shown(
    app: dash.Dash, path: str, method: str, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = asked(app, path, method, SAME, json=body)
    assert answer.status_code == 500
    assert "the terminal says what" in answer.text
    for inner in ("secret", "ZeroDivision", "Traceback", ".py", "KeyError"):
        assert inner not in answer.text
    assert any(record.exc_info for record in caplog.records)


def test_an_error_is_a_page_for_who_wants_one_and_json_for_the_rest(app: dash.Dash) -> None:
    page = asked(app, "/", headers={"Host": "<b>evil", "Accept": "text/html"})
    assert page.mimetype == "text/html"
    assert "&lt;b&gt;evil" in page.text
    assert "<b>" not in page.text
    for value in (asked(app, "/", headers={"Host": "evil", "Accept": "application/json"}),
                  asked(app, "/_dash-layout", headers={"Host": "evil", "Accept": "text/html"})):  # fmt: skip
        assert value.json["status"] == 403
        assert "'evil'" in value.json["error"]


# -- other names, and a token ------------------------------------------------------------------------------------------


TOKEN = "t0ken-" * 5


@pytest.fixture
def elsewhere(tmp_path: Path) -> dash.Dash:
    found = app_in(tmp_path)
    guard(found.server, hosts=("lab.example", "[2001:db8::1]"), token=TOKEN, scripts=found.csp_hashes())
    return found


def test_a_named_host_is_answered_to_who_has_the_token(elsewhere: dash.Dash) -> None:
    own = {"Host": "Lab.example:9000"}
    for path in ROUTES:
        assert asked(elsewhere, path, "GET", own).status_code == 401
        assert asked(elsewhere, path, "GET", {**own, "Cookie": f"{COOKIE}={TOKEN[:-1]}"}).status_code == 401
    assert asked(elsewhere, "/?token=" + "x" * 30, "GET", own).status_code == 401
    assert asked(elsewhere, f"/?token={TOKEN}", "GET", {"Host": "lab.example.evil"}).status_code == 403
    first = asked(elsewhere, f"//evil.example/?token={TOKEN}", "GET", own)
    assert (first.status_code, first.headers["Location"]) == (303, "/")
    cookie = first.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    with_token = {**own, "Cookie": f"{COOKIE}={TOKEN}"}
    assert asked(elsewhere, "/", "GET", with_token).status_code == 200
    assert asked(elsewhere, "/", "GET", {**with_token, "Host": "[2001:db8::1]:80"}).status_code == 200
    same = {**with_token, "Origin": "http://lab.example:9000"}
    assert asked(elsewhere, "/_dash-update-component", "POST", same, json=wanted()).status_code == 200
    assert asked(elsewhere, f"/_dash-update-component?token={TOKEN}", "POST", {**own, "Origin": same["Origin"]},
                 json=wanted()).status_code == 401  # fmt: skip


@pytest.mark.parametrize(
    ("more", "message"),
    [({"hosts": ["lab.example:80"]}, "is no name"), ({"hosts": ["*"]}, "is no name"), ({"hosts": [""]}, "is no name"),
     ({"token": "short"}, "a token of 5 letters can be guessed"), ({"scripts": ["'unsafe-inline'"]}, "is no hash of a script"),
     ({"scripts": ["'sha256-abc=' *"]}, "is no hash of a script")],
)  # fmt: skip
def test_what_would_open_a_door_is_refused(more: dict[str, Any], message: str) -> None:
    server = flask.Flask("x")
    with pytest.raises(SettingsError, match=message):
        guard(server, **more)
    assert not guarded(server)


def test_the_policy_of_no_scripts_is_the_servers_own() -> None:
    assert "script-src 'self';" in policy()


# -- through a socket --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def port(app: dash.Dash) -> Iterator[int]:
    server = server_of(app, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.port
    server.shutdown()
    thread.join()


def sent(port: int, data: str) -> str:
    """What a server answers to bytes as they are."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as stream:
        stream.sendall(data.encode("latin-1"))
        stream.shutdown(socket.SHUT_WR)
        parts = []
        while part := stream.recv(65536):
            parts.append(part)
    return b"".join(parts).decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("GET / HTTP/1.1", "Host: 127.0.0.1", 200),
        ("GET / HTTP/1.1", "Host: evil.example", 403),
        ("GET / HTTP/1.1", "", 403),
        ("GET / HTTP/1.0", "", 403),
        ("GET http://evil.example/ HTTP/1.1", "Host: 127.0.0.1", 403),
        ("GET / HTTP/1.1", "Host: 127.0.0.1\r\nHost: evil.example", 403),
        ("GET / HTTP/1.1", "Host: evil.example\r\nHost: 127.0.0.1", 403),
        ("GET / HTTP/1.1", "X: y\r\n Host: 127.0.0.1", 403),
        ("POST /mine HTTP/1.1", "Host: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\nTransfer-Encoding: chunked", 411),
        ("POST /mine HTTP/1.1", "Host: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\nContent-Length: 9999999999", 413),
        ("TRACE / HTTP/1.1", "Host: 127.0.0.1", 405),
        ("GET /assets/../../secret.txt HTTP/1.1", "Host: 127.0.0.1", 404),
        ("GET /assets/..%2f..%2fsecret.txt HTTP/1.1", "Host: 127.0.0.1", 404),
    ],
)
def test_a_request_as_it_is_sent(port: int, request_line: str, headers: str, status: int) -> None:
    answer = sent(port, f"{request_line}\r\n{headers}\r\nConnection: close\r\n\r\n")
    assert int(answer.split()[1]) == status
    assert SECRET not in answer
    assert "Werkzeug" not in answer
    assert "Python" not in answer
