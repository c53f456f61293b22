"""One page for the user of this machine: a threaded server on the loopback address, stopped with Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import socket
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from circuits.errors import RunError, SettingsError
from circuits.show.explore.guard import guarded

if TYPE_CHECKING:
    import dash

__all__ = ["HOST", "PORT", "free_port", "serve", "server_of"]

HOST = "127.0.0.1"
PORT = 8050
_TRIES = 100
_IDLE = 120
"""Seconds after which a connection on which nothing is sent is closed."""


class _Quiet(WSGIRequestHandler):
    """Says nothing about requests, and no version to who asks."""

    timeout = _IDLE
    protocol_version = "HTTP/1.1"

    def version_string(self) -> str:
        return "circuits"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: errors are logged by the application."""


def serve(app: dash.Dash, port: int | None, *, browser: bool, say: Callable[[str], None]) -> None:
    """Answer until Ctrl-C, on 127.0.0.1 only.

    Args:
        port: 8050 when None. Where a port is in use the next free one is taken, and said.
        browser: open the page.
        say: told the address.

    Raises:
        SettingsError: a port that is none, or an app without a guard.
        RunError: no port is free or may be used.
    """
    wanted = PORT if port is None else port
    server = server_of(app, wanted)
    address = f"http://{HOST}:{server.port}/"
    try:
        if wanted not in (0, server.port):
            say(f"port {wanted} is in use; taking {server.port}")
        say(f"{address} (stop with Ctrl-C)")
        if browser:
            with contextlib.suppress(webbrowser.Error):  # the address was said
                webbrowser.open(address)
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def server_of(app: dash.Dash, wanted: int) -> BaseWSGIServer:
    """A server that listens already: on ``wanted``, the next free port, or any for 0. ``serve_forever()`` makes it answer.

    Raises:
        SettingsError: a port that is none, or an app without a guard.
        RunError: no port is free or may be used.
    """
    if not guarded(app.server):
        raise SettingsError(
            "this app answers every page on the machine; call circuits.show.explore.guard.guard on its server"
        )
    with free_port(wanted) as listening:
        # The socket is handed over, so that nobody can take the port in between; the server keeps a copy of its own.
        server = make_server(
            HOST, listening.getsockname()[1], app.server, threaded=True, request_handler=_Quiet, fd=listening.fileno()
        )
    return server


def free_port(wanted: int) -> socket.socket:
    """A listening socket on the first free port from ``wanted`` on; for 0, on any.

    Raises:
        SettingsError: ``wanted`` is no port.
        RunError: none of the next hundred is free, or the system does not allow it.
    """
    if not 0 <= wanted <= 65535:
        raise SettingsError(f"port is {wanted}; expected 1 to 65535, or 0 for any that is free")
    last = min(wanted + _TRIES, 65536)
    for port in range(wanted, last):
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # A port whose last connections are still being closed is free; one on which somebody listens is not.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((HOST, port))
            found.listen(128)
        except OSError as error:
            found.close()
            if error.errno != errno.EADDRINUSE:
                raise RunError(
                    f"port {port} cannot be used: {error.strerror}; choose one above 1023 with --port"
                ) from error
        else:
            return found
    raise RunError(f"no port from {wanted} to {last - 1} is free; choose another with --port")
