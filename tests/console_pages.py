"""The console under test: run a page of it on a folder, and read what a browser would make of it."""

from __future__ import annotations

import json
import shutil
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from documents import ROOT
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from dashboard.urls import PageLocation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest
    from streamlit.testing.v1.element_tree import Element

APP = ROOT / "stagekeeper" / "console" / "app.py"
SIGN_IN = {"auth": {"redirect_uri": "http://localhost/oauth2callback", "cookie_secret": "x", "client_id": "console"}}


class Outline(HTMLParser):
    """What a browser would make of some HTML: its elements, their attributes and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.elements if name in (attributes.get("class") or "").split()]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


class Shown:
    """The page after a run."""

    def __init__(self, app: AppTest) -> None:
        assert not app.exception, [element.message for element in app.exception]
        self.app = app
        self.html = "".join(_consoles(app))
        self.outline = Outline(self.html)

    @property
    def text(self) -> str:
        return self.outline.text

    def press(self, key: str) -> Shown:
        """Click a button, and let the page run."""
        return Shown(self.app.button(key=key).click().run())

    def press_anyway(self, key: str) -> Shown:
        """Send the click on a disabled button, as a client does that does not look."""
        self.app.button(key=key).proto.disabled = False
        return self.press(key)


def _consoles(app: AppTest) -> Iterator[str]:
    for element in app.get("bidi_component"):
        shown: Element = element
        yield json.loads(shown.proto.json)["html"]


class Console:
    """Runs pages of the console on one folder, with a flag file and an authorization file of its own."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, *, loopback: bool = True) -> None:
        self.root = root
        for name in ("flags.json", "authorization.yaml"):
            if not (root / name).exists():
                shutil.copy(ROOT / "examples" / name, root / name)
        names = {"HOME": "home", "LAKE_ROOT": "lake", "GATE_FILE": "gates.yaml", "FLAG_FILE": "flags.json"}
        for name, path in {**names, "AUTHORIZATION_FILE": "authorization.yaml"}.items():
            monkeypatch.setenv(f"STAGEKEEPER_{name}", str(root / path))
        monkeypatch.delenv("STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS", raising=False)
        monkeypatch.setattr(sys, "argv", ["app.py", *(["--loopback"] if loopback else [])])

    def show(self, place: PageLocation | None = None, *, user: dict[str, Any] | None = None) -> Shown:
        """Run a page; `user` holds the claims of somebody who has signed in."""
        place = place or PageLocation()
        app = AppTest.from_file(APP, default_timeout=60)
        app._page_hash = calc_hash("" if place.page == "overview" else place.page)  # noqa: SLF001 - it switches files only
        for name, value in place.parameters().items():
            app.query_params[name] = value
        if user is not None:
            app.secrets.update(SIGN_IN)
            app.user = user
        return Shown(app.run())
