"""A server for this machine alone, on a free port, ended by Ctrl-C without a word."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

import dash
import pytest
from dash import html

from circuits.errors import RunError, SettingsError
from circuits.show.explore import serving
from circuits.show.explore.guard import guard
from circuits.show.explore.serving import HOST, free_port, serve, server_of


def small(*, watched: bool = True) -> dash.Dash:
    app = dash.Dash("small", serve_locally=True)
    app.layout = html.Div("here")
    if watched:
        guard(app.server, scripts=app.csp_hashes())
    return app


def a_free_port() -> int:
    """One whose neighbour is free too, as far as one can tell."""
    while True:
        with free_port(0) as found:
            port: int = found.getsockname()[1]
        if port < 65000:
            with free_port(port + 1) as beside:
                if beside.getsockname()[1] == port + 1:
                    return port


def test_the_port_that_is_asked_for_is_taken_and_the_next_where_it_is_in_use() -> None:
    port = a_free_port()
    with free_port(port) as first, free_port(port) as second:
        assert first.getsockname() == (HOST, port)
        assert second.getsockname()[0] == HOST
        assert second.getsockname()[1] > port
    with free_port(port) as again:
        assert again.getsockname()[1] == port


def test_a_port_on_which_another_interface_listens_is_in_use() -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        with free_port(other.getsockname()[1]) as found:
            assert found.getsockname()[1] != other.getsockname()[1]


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(SettingsError, match=f"port is {port}; expected 1 to 65535"):
        free_port(port)


def test_no_free_port_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with free_port(0) as taken:
        monkeypatch.setattr(serving, "_TRIES", 1)
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"no port from {port} to {port} is free; choose another with --port"):
            free_port(port)


def test_a_port_that_the_system_keeps_is_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(RunError, match="port 80 cannot be used: Permission denied; choose one above 1023"):
        free_port(80)


def test_an_app_without_a_guard_is_not_served() -> None:
    with pytest.raises(SettingsError, match="answers every page on the machine"):
        server_of(small(watched=False), 0)


def test_the_address_is_said_and_opened_and_the_page_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    port = a_free_port()
    said: list[str] = []
    opened: list[str] = []
    pages: list[str] = []

    class Ended(threading.Thread):
        """Stands for the user: looks at the page, and presses Ctrl-C."""

        def run(self) -> None:
            with urllib.request.urlopen(opened[0], timeout=10) as answer:
                pages.append(answer.read().decode())
            signal.raise_signal(signal.SIGINT)

    user = Ended()

    def look(address: str) -> bool:
        opened.append(address)
        user.start()
        return True

    monkeypatch.setattr(webbrowser, "open", look)
    with free_port(port):
        serve(small(), port, browser=True, say=said.append)
    user.join()
    address = opened[0]
    assert said == [
        f"port {port} is in use; taking {address.rsplit(':')[-1].strip('/')}",
        f"{address} (stop with Ctrl-C)",
    ]
    assert address.startswith("http://127.0.0.1:")
    assert "_dash-config" in pages[0]
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=1)


def test_without_a_browser_none_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: pytest.fail("a browser was opened"))
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        raise KeyboardInterrupt  # before it began to answer

    serve(small(), 0, browser=False, say=say)
    assert len(said) == 1


CODE = """
import sys, dash
from dash import html
from circuits.show.explore.guard import guard
from circuits.show.explore.serving import serve
app = dash.Dash("small", serve_locally=True)
app.layout = html.Div("here")
guard(app.server, scripts=app.csp_hashes())
serve(app, 0, browser=False, say=lambda text: print(text, flush=True))
print("ended")
"""


def test_a_process_ends_quietly_and_listens_on_the_loopback_address_alone() -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "-c", CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(serving.__file__).parents[3])},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.headers["Server"] == "circuits"
        if os.path.isdir(f"/proc/{process.pid}/net"):
            port = f"{int(address.rstrip('/').rsplit(':')[-1]):04X}"
            tables = [Path(f"/proc/{process.pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
            lines = [line.split() for table in tables for line in table.splitlines()]
            assert {line[1] for line in lines if line[1].endswith(":" + port) and line[3] == "0A"} == {
                f"0100007F:{port}"
            }
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out, err) == (0, "ended\n", "")
