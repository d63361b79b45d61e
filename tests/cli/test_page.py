"""The page of ``pipecodec doctor --html`` in a real browser: its picture, its texts, no request."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import pipecodec
from pipecodec.report.page import as_html
from pipecodec.report.skips import skips

from . import models

SCRIPT = """
<script>
const errors = [];
addEventListener("error", event => errors.push(String(event.message || event.target.outerHTML)),
                 true);
addEventListener("load", () => {
  const boxes = name => [...document.querySelectorAll(name)].map(element => {
    const {left, top, right, bottom} = element.getBoundingClientRect();
    return {text: element.textContent, left, top, right, bottom};
  });
  const stages = [...document.querySelectorAll(".stage")].map(stage => {
    const {left, top, right, bottom} = stage.querySelector(".box").getBoundingClientRect();
    const texts = [...stage.querySelectorAll("text")].map(element => {
      const box = element.getBoundingClientRect();
      return {text: element.textContent, left: box.left, top: box.top, right: box.right,
              bottom: box.bottom};
    });
    return {left, top, right, bottom, texts};
  });
  const told = {
    errors, stages, texts: boxes("svg text"), picture: boxes("svg")[0],
    tags: boxes(".skip .tag"), marks: boxes(".skip .mark"),
    requests: performance.getEntriesByType("resource").map(entry => entry.name),
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
  document.body.innerHTML = "";
  document.title = "measured:" + JSON.stringify(told);
});
</script>
"""

MODELS = {"fine-2": (models.fine, 2), "wide-3": (models.wide, 3), "evil-4": (models.evil, 4),
          "skipping-16": (models.skipping, 16), "broken-3": (models.broken, 3)}  # fmt: skip


@pytest.fixture(scope="module")
def reports() -> dict[str, Any]:
    made = {}
    for name, (build, stages) in MODELS.items():
        model, batch = build()
        part = pipecodec.partition(model, kwargs=batch, n_stages=stages)
        made[name] = pipecodec.doctor(part, **batch)
    return made


@pytest.fixture(scope="module")
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    reason = "no chromium on PATH: install the package chromium of your system"
    if os.environ.get("PIPECODEC_REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


def measured(browser: str, page: str, folder: Path, *options: str) -> dict[str, Any]:
    """Open a copy of the page, in which scripts may run, and return the script's measurements."""
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', page)
    assert policy is not None
    file = folder / "page.html"
    file.write_text(page.replace(policy[0], SCRIPT), encoding="utf-8")
    shown = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu",
            "--disable-background-networking", "--enable-logging=stderr", "--v=0",
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1200,900", *options, "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "CONSOLE" not in shown.stderr, shown.stderr
    found = re.search(r"<title>measured:(.*?)</title>", shown.stdout, re.DOTALL)
    assert found is not None, shown.stdout[:2000] + shown.stderr
    told: dict[str, Any] = json.loads(html.unescape(found[1]))
    return told


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    slack = 1.0
    return bool(
        one["left"] < other["right"] - slack
        and other["left"] < one["right"] - slack
        and one["top"] + 3 < other["bottom"] - 3
        and other["top"] + 3 < one["bottom"] - 3
    )


def inside(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(
        one["left"] >= other["left"]
        and one["right"] <= other["right"]
        and one["top"] >= other["top"]
        and one["bottom"] <= other["bottom"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_page_in_a_browser(
    name: str, reports: dict[str, Any], browser: str, tmp_path: Path
) -> None:
    told = measured(browser, as_html(reports[name], f"{models.EVIL}:{name}"), tmp_path)
    assert told["errors"] == []
    assert told["requests"] == []
    assert told["wide"] <= 0, "the page scrolls sideways"
    assert len(told["stages"]) == MODELS[name][1]
    for k, stage in enumerate(told["stages"]):
        assert stage["texts"][0]["text"].startswith(f"stage {k}: "), stage["texts"][0]
        for text in stage["texts"]:
            assert inside(text, stage), text
    for i, text in enumerate(told["texts"]):
        assert inside(text, told["picture"]), text
        for other in told["texts"][:i]:
            assert not overlap(text, other), (text, other)
    for i, tag in enumerate(told["tags"]):
        assert inside(told["marks"][i], tag)
        assert not any(overlap(tag, other) for other in told["tags"][:i])


class Outline(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def outline(report: Any, name: str = "train:build") -> Outline:
    made = Outline()
    made.feed(as_html(report, name))
    return made


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_loaded_or_run(name: str, reports: dict[str, Any]) -> None:
    page = outline(reports[name], models.EVIL)
    assert not page.all("script")
    places = ("src", "srcset", "action", "data", "poster", "xlink:href")
    for tag, attributes in page.found:
        assert not [key for key in attributes if key.startswith("on")], tag
        assert not [key for key in attributes if key in places], tag
        assert attributes.get("href", "#").startswith(("#", "data:,")), tag
    (style,) = re.findall(r"<style>(.*?)</style>", as_html(reports[name], "x"), re.DOTALL)
    assert "@import" not in style and "url(" not in style
    shown = as_html(reports[name], models.EVIL)
    assert "\x1b" not in shown and "\u202e" not in shown and "\0" not in shown
    assert "<script" not in shown


def test_headings_tables_and_the_picture_in_words(reports: dict[str, Any]) -> None:
    page = outline(reports["skipping-16"])
    assert [tag for tag, _ in page.found if tag == "h1"] == ["h1"]
    assert len(page.all("h2")) >= 3
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) >= 17
    (svg,) = page.all("svg")
    assert svg["role"] == "img"
    ids = {attributes.get("id") for _, attributes in page.found}
    assert set(str(svg["aria-labelledby"]).split()) <= ids
    words = " ".join(page.text)
    assert "A pipeline of 16 stages." in words
    assert "cross from stage 14 to stage 15." in words
    assert "skip from stage 0 to stage 3." in words
    assert page.all("html")[0]["lang"] == "en"


def test_skips_are_the_values_that_pass_stages_by(reports: dict[str, Any]) -> None:
    found = {(skip.maker, skip.user) for skip in skips(reports["skipping-16"])}
    assert found >= {(k, k + 3) for k in range(13)}
    assert skips(reports["fine-2"]) == []
    (skip,) = skips(reports["wide-3"])
    assert (skip.maker, skip.user, len(skip.names)) == (0, 2, 1000)


def test_a_thousand_values_are_collapsed(reports: dict[str, Any]) -> None:
    first, *_ = outline(reports["wide-3"]).all("details")
    assert "open" not in first
    assert "open" in outline(reports["fine-2"]).all("details")[0]
    assert len(outline(reports["wide-3"]).all("tr")) > 2000


def test_problems_and_remedies(reports: dict[str, Any]) -> None:
    words = " ".join(outline(reports["broken-3"]).text)
    assert "to_sparse is not strided" in words
    assert "→ send its indices and values" in words
    assert "No problems" in " ".join(outline(reports["fine-2"]).text)


def test_light_and_dark(reports: dict[str, Any]) -> None:
    assert "@media (prefers-color-scheme: dark)" in as_html(reports["fine-2"], "x")
