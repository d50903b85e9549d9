"""The report as one HTML file: sections in a row, their plots as data, style and scripts inside.

A content security policy in the page lets nothing run or load but these very
scripts and styles, named by their digests, and forbids every request; a page
that refreshes itself may ask the place it came from, and no other.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from rlhf_audit_auditor.report_page.agreement import agreement_section
from rlhf_audit_auditor.report_page.annotators import annotators_section
from rlhf_audit_auditor.report_page.asking import Asking, Query, Section
from rlhf_audit_auditor.report_page.checkpoints import checkpoints_section
from rlhf_audit_auditor.report_page.curves import curves_section
from rlhf_audit_auditor.report_page.gradients import gradients_section
from rlhf_audit_auditor.report_page.integrity import Checked, integrity_section, not_proved_section
from rlhf_audit_auditor.report_page.markup import Html, join, moment, tag
from rlhf_audit_auditor.report_page.replicas import replicas_section
from rlhf_audit_auditor.report_page.rollouts import rollouts_section
from rlhf_audit_auditor.report_page.runs import RunState, run_section


@dataclass(frozen=True, slots=True)
class Page:
    """What the report says, before it is a file."""

    title: str
    head: Html
    sections: tuple[Section, ...]

    @property
    def plots(self) -> Mapping[str, object]:
        """Plots of all sections by name."""
        return {name: spec for section in self.sections for name, spec in section.plots.items()}

    def as_json(self) -> bytes:
        """What a page that refreshes itself asks for."""
        shown = {section.id: str(section.body) for section in self.sections}
        return json.dumps(
            {"title": self.title, "head": str(self.head), "sections": shown, "plots": self.plots}, allow_nan=False
        ).encode("utf-8")


def gather(query: Query, run_id: str | None, checked: Checked, *, now_us: int) -> Page:
    """Ask everything that the page shows. ``run_id`` None: a trail without runs."""
    asking = Asking(query, run_id)
    facts, state = run_section(asking)
    sections = (
        facts,
        curves_section(asking),
        gradients_section(asking),
        replicas_section(asking),
        rollouts_section(asking),
        annotators_section(asking),
        agreement_section(asking),
        checkpoints_section(asking),
        integrity_section(asking, checked),
        not_proved_section(checked.report),
    )
    title = "Feedback" if run_id is None else f"Run {run_id}"
    return Page(title, _head(title, state, checked, sections, now_us), sections)


def render(page: Page, *, refresh_ms: int | None = None) -> bytes:
    """The file. With ``refresh_ms`` the page asks ``data.json`` beside it so often."""
    style = _asset("vendor/uplot/uPlot.min.css") + _asset("page.css")
    scripts = (_asset("vendor/uplot/uPlot.iife.min.js"), _asset("page.js"))
    policy = "; ".join(
        [
            "default-src 'none'",
            "script-src " + " ".join(_source(script) for script in scripts),
            f"style-src {_source(style)}",
            "img-src data:",
            "connect-src 'none'" if refresh_ms is None else "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    head = join(
        [
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="referrer", content="no-referrer"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("link", rel="icon", href="data:,"),
            tag("title", f"{page.title} - audit report"),
            tag("style", Html(style)),
        ]
    )
    data = Html(_script_safe(json.dumps(page.plots, allow_nan=False, ensure_ascii=True)))
    links = join(tag("a", section.title, href=f"#{section.id}") for section in page.sections)
    body = join(
        [
            tag("header", page.head, id="head"),
            tag("nav", links),
            tag("main", join(_section(section) for section in page.sections)),
            tag("script", data, type="application/json", id="plots"),
            *(tag("script", Html(script)) for script in scripts),
        ]
    )
    root = tag("html", tag("head", head), tag("body", body), lang="en", data_refresh_ms=refresh_ms)
    return f"<!doctype html>\n{root}\n".encode()


def _section(section: Section) -> Html:
    body = tag("div", section.body, class_="body")
    return tag("section", tag("h2", section.title), body, id=section.id)


def _head(title: str, state: RunState, checked: Checked, sections: Sequence[Section], now_us: int) -> Html:
    report = checked.report
    if report is None:
        kind, verdict = "warn", "not checked"
    else:
        kind = {"verified": "good", "could not check": "warn"}.get(report.status, "bad")
        verdict = report.status if report.exit_code else f"{report.status}: {report.level}"
    marks = [tag("span", verdict, class_=f"mark {kind}")]
    if report is not None and report.completeness is not None:
        found = report.completeness.verdict
        kinds = {"yes": "good", "no": "bad", "unknown": "warn"}
        words = {"yes": "complete", "no": "events missing", "unknown": "completeness unknown"}[found]
        marks.append(tag("span", words, class_=f"mark {kinds[found]}"))
    marks += [tag("a", one.alarm, class_="mark bad", href=f"#{one.id}") for one in sections if one.alarm]
    marks.append(tag("span", state.text, class_=f"mark {'live' if state.is_training else 'plain'}"))
    made = tag("p", f"Made {moment(now_us)} UTC from the trail's query copy.", class_="aside")
    return join([tag("h1", title), tag("p", join(marks), class_="marks"), made])


def _script_safe(text: str) -> str:
    """JSON that no HTML parser takes for the end of its script element, or for a comment."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def _asset(path: str) -> str:
    return files("rlhf_audit_auditor.report_page").joinpath(path).read_text(encoding="utf-8")


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
