"""The report of a run as one page: facts, curves, gradients, feedback, integrity.

Everything shown comes from SQL on the query copy, through a function that is
handed in, and from a verifier's report. Prompts, responses and remarks never
get here: no query asks for them.
"""

from rlhf_audit_auditor.report_page.asking import Query, Row
from rlhf_audit_auditor.report_page.integrity import Checked
from rlhf_audit_auditor.report_page.page import Page, gather, render
from rlhf_audit_auditor.report_page.runs import Run, runs_of

__all__ = ["Checked", "Page", "Query", "Row", "Run", "gather", "render", "runs_of"]
