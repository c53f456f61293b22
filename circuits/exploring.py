"""Opening a run in the browser, with its model where that may be had."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.errors import SettingsError
from circuits.runs.directory import Run, open_run
from circuits.runs.newest import newest_run

if TYPE_CHECKING:
    from circuits.show.explore.desk import Desk, Living

__all__ = ["explore", "explorer"]


def explore(
    run: Run | str | os.PathLike[str] | None = None,
    *,
    port: int | None = None,
    browser: bool = True,
    model: str | os.PathLike[str] | None = None,
    prompts: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Show a run in the browser until Ctrl-C; on 127.0.0.1 only.

    Args:
        run: a run or its directory; the newest of ``runs/`` when None.
        port: 8050 or the next free one when None.
        browser: open the page.
        model: what the run was made with, for what is computed live. Needed where the model does not come with the package: a
            run may be a stranger's, and what it names is not fetched unasked.
        prompts: the run's prompts, where they do not come with the package.
        say: told the address.

    Raises:
        RunError: no run, or a damaged one; no port is free.
        SettingsError: the explorer's libraries are not installed.
    """
    app, _ = explorer(run, model=model, prompts=prompts)
    from circuits.show.explore.serving import serve

    serve(app, port, browser=browser, say=say)


def explorer(
    run: Run | str | os.PathLike[str] | None = None,
    *,
    model: str | os.PathLike[str] | None = None,
    prompts: str | os.PathLike[str] | None = None,
    live: bool = True,
) -> tuple[Any, Desk]:
    """The explorer's Dash app and what it shows, not yet served; ``live=False`` leaves the model out.

    Raises:
        RunError, SettingsError: see :func:`explore`.
    """
    opened = run if isinstance(run, Run) else open_run(newest_run(Path("runs")) if run is None else run)
    try:
        from circuits.show.explore.app import make_app
        from circuits.show.explore.desk import Desk
    except ModuleNotFoundError as error:
        if error.name not in ("dash", "dash_cytoscape"):
            raise
        raise SettingsError(
            f"the explorer needs {error.name}, which is not installed: pip install 'emotion-circuits[explore]'"
        ) from None

    def wake(run: Run) -> Living:
        from circuits.live import Live  # brings torch: loaded beside the page, not before it

        found = Live.of(run, model, prompts)
        found.warm()
        return found

    desk = Desk(opened, wake if live else None, "" if live else "it was not asked for")
    return make_app(desk), desk
