"""What a page elsewhere may not do to a server on this machine.

A local server is reachable from every page the user opens. Such a page may send requests to it under its own name (a foreign
``Host``: DNS rebinding), under the server's name (a foreign ``Origin``: cross-site requests), or put it into a frame. All of
that is refused before any route is looked at; what is left is held to by the browser (Content-Security-Policy).

What the policy must allow was tried with Dash 4.4, dash-cytoscape 1.0 and plotly in Chromium: styles inside the page (Dash's
components and plotly's plots fail without), and images from ``data:`` and ``blob:`` (plotly's picture of a plot). Scripts come
from the server alone; Dash's few inline ones are named by their hashes. ``eval`` is not needed.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection
from html import escape

import flask
from dash.exceptions import DependencyException, InvalidResourceError
from werkzeug.exceptions import (
    BadRequest,
    Forbidden,
    HTTPException,
    LengthRequired,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
    Unauthorized,
    UnsupportedMediaType,
)

from circuits import jsontext
from circuits.errors import SettingsError
from circuits.show.words import visible

__all__ = ["COOKIE", "LARGEST", "LOOPBACK", "guard", "guarded", "policy"]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""Names under which a server on this machine may be asked for."""
LARGEST = 2_000_000
"""Bytes of a request's body."""
COOKIE = "circuits_token"

_METHODS = ("GET", "HEAD", "POST")
_DEEPEST = 100
"""Nesting of what a page sends; deeper than any figure, far from the end of the stack."""
_SHORTEST = 16
_HOST = re.compile(r"([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.ASCII)
_HASH = re.compile(r"'sha(256|384|512)-[A-Za-z0-9+/]+={0,2}'")
_LIBRARIES = "/_dash-component-suites/"
_MARK = "circuits.guard"


def guard(
    server: flask.Flask,
    *,
    hosts: Collection[str] = (),
    scripts: Collection[str] = (),
    token: str | None = None,
    largest: int = LARGEST,
) -> None:
    """Refuse on every route what does not come from this server's own page.

    A foreign ``Host``, ``Origin`` or ``Sec-Fetch-Site`` gives 403, another method than GET, HEAD and POST 405, a body larger
    than ``largest`` bytes 413. A POST must show that it comes from the same origin, and carry a JSON value that is not nested
    out of measure. Errors are short texts; what went wrong inside is logged, never shown.

    Args:
        hosts: names beside :data:`LOOPBACK` under which the server may be asked for, without port.
        scripts: hashes of the inline scripts of the page: ``app.csp_hashes()``, taken when all callbacks are there.
        token: when given, nothing is answered without it: the first time as ``/?token=...``, then from a cookie.
        largest: bytes.

    Raises:
        SettingsError: a host that is no name, a hash that is none, a token that can be guessed.
    """
    for host in hosts:
        found = _HOST.fullmatch(host.lower())
        if found is None or found[2] is not None:
            raise SettingsError(
                f"the host {host!r} is no name; expected one like lab.example.org or [2001:db8::1], without port"
            )
    if token is not None and len(token) < _SHORTEST:
        raise SettingsError(f"a token of {len(token)} letters can be guessed; expected at least {_SHORTEST}")
    names = frozenset(host.lower() for host in (*LOOPBACK, *hosts))
    header = policy(scripts)
    server.config["PROPAGATE_EXCEPTIONS"] = False  # an exception is logged and answered with a short text
    server.config["MAX_CONTENT_LENGTH"] = largest
    server.debug = False

    def before() -> flask.typing.ResponseReturnValue | None:
        request = flask.request
        _require_host(request, names)
        _require_method(request)
        _require_same_origin(request)
        _require_small(request, largest)
        if token is not None:
            answer = _admit(request, token)
            if answer is not None:
                return answer
        if request.method == "POST":
            _require_json(request)
        return None

    def after(response: flask.Response) -> flask.Response:
        response.headers["Content-Security-Policy"] = header
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        if not flask.request.path.startswith(_LIBRARIES) or response.status_code >= 400:
            response.headers["Cache-Control"] = "no-store"
        return response

    # Before anything else that Dash or an extension does with a request.
    server.before_request_funcs.setdefault(None, []).insert(0, before)
    server.after_request_funcs.setdefault(None, []).insert(0, after)  # run in reverse: this one has the last word
    server.register_error_handler(HTTPException, _said)
    for kind in (InvalidResourceError, DependencyException):  # Dash's own answers repeat the path, or fail
        server.register_error_handler(kind, lambda _: _said(NotFound("there is no such file")))
    server.extensions[_MARK] = True


def guarded(server: flask.Flask) -> bool:
    """Whether :func:`guard` watches over this server."""
    return _MARK in server.extensions


def policy(scripts: Collection[str] = ()) -> str:
    """The Content-Security-Policy.

    Raises:
        SettingsError: something in ``scripts`` is no hash in quotes.
    """
    for one in scripts:
        if not _HASH.fullmatch(one):
            raise SettingsError(f"{one!r} is no hash of a script; expected those of app.csp_hashes()")
    directives = {
        "default-src": "'none'",
        "script-src": " ".join(("'self'", *scripts)),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self'",
        "connect-src": "'self'",
        "object-src": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


# -- what a request must be --------------------------------------------------------------------------------------------


def _require_host(request: flask.Request, names: Collection[str]) -> None:
    # As it was sent: a framework's own reading may mend what must be refused.
    host = str(request.environ.get("HTTP_HOST", "")).lower()
    found = _HOST.fullmatch(host)
    if found is None or found[1] not in names:
        raise Forbidden(f"this server does not answer to {_short(host)}; open it under {', '.join(sorted(names))}")


def _require_method(request: flask.Request) -> None:
    if request.method not in _METHODS:
        error = MethodNotAllowed(valid_methods=_METHODS)
        error.description = f"{_short(request.method)} is not answered; expected {', '.join(_METHODS)}"
        raise error


def _require_same_origin(request: flask.Request) -> None:
    """What the browser says about where a request comes from, and for a POST that it says so at all."""
    origin = request.headers.get("Origin")
    own = origin is not None and origin.lower() in _origins(request)
    if origin is not None and not own:
        raise Forbidden(f"a page of {_short(origin)} may not ask this server; open its own page")
    site = request.headers.get("Sec-Fetch-Site")
    typed = site == "none" and request.method in ("GET", "HEAD")
    if site is not None and site != "same-origin" and not typed and not _followed(request, site):
        raise Forbidden(f"a request from another page ({_short(site)}) is not answered; open the address itself")
    if request.method == "POST" and not own and site != "same-origin":
        raise Forbidden("a POST must come from this server's own page; its Origin is missing")


def _origins(request: flask.Request) -> tuple[str, str]:
    host = request.environ["HTTP_HOST"].lower()
    return f"http://{host}", f"https://{host}"


def _followed(request: flask.Request, site: str) -> bool:
    """A link in a page of another port of this machine, a notebook's say: the user goes there and the page learns nothing."""
    navigation = (
        request.headers.get("Sec-Fetch-Mode") == "navigate" and request.headers.get("Sec-Fetch-Dest") == "document"
    )
    return site == "same-site" and navigation and request.method == "GET"


def _require_small(request: flask.Request, largest: int) -> None:
    if "Transfer-Encoding" in request.headers:  # no browser sends one; the size would be known too late
        raise LengthRequired("the length of the body is not given; send Content-Length")
    length = request.content_length
    if length is not None and length > largest:
        raise RequestEntityTooLarge(f"the request has {length:,} bytes; expected at most {largest:,}")


def _require_json(request: flask.Request) -> None:
    if request.mimetype != "application/json":
        raise UnsupportedMediaType(f"the content type is {_short(request.mimetype)}; expected application/json")
    try:
        value = jsontext.loads(request.get_data(cache=True).decode("utf-8"))
    except ValueError as error:
        raise BadRequest(f"the request is no JSON: {_short(error)}") from None
    if not jsontext.shallow(value, _DEEPEST):
        raise BadRequest(f"the request is nested more than {_DEEPEST} deep")


def _admit(request: flask.Request, token: str) -> flask.typing.ResponseReturnValue | None:
    """None for who has the token; who brings it in the address gets it as a cookie, and an address without it."""
    if _equal(request.cookies.get(COOKIE, ""), token):
        return None
    if request.method != "GET" or not _equal(request.args.get("token", ""), token):
        raise Unauthorized("this server needs its token; open the address that was printed when it started")
    response = flask.redirect("/", 303)  # never to a path that was sent: //elsewhere is one
    response.set_cookie(COOKIE, token, httponly=True, samesite="Strict", path="/")
    return response


def _equal(given: str, token: str) -> bool:
    """In a time that says nothing about where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode("utf-8"))


# -- what is said when something is wrong ------------------------------------------------------------------------------


def _said(error: HTTPException) -> flask.Response:
    """A short text: a page for who asked for one, JSON for the rest. Nothing of what happened inside."""
    code = error.code or 500
    text = "something went wrong inside; the terminal says what" if code >= 500 else str(error.description)
    if flask.request.path.startswith("/_") or not flask.request.accept_mimetypes.accept_html:
        response = flask.jsonify({"error": text, "status": code})
    else:
        body = f"<!doctype html><html lang=en><meta charset=utf-8><title>{code}</title><h1>{escape(error.name)}</h1>"
        response = flask.Response(f"{body}<p>{escape(text)}</p></html>\n", mimetype="text/html")
    response.status_code = code
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(error.valid_methods or _METHODS)
    return response


def _short(text: object) -> str:
    """What was sent, to be shown: quoted, without control characters, not longer than a line."""
    return f"'{visible(str(text)[:80])}'"
