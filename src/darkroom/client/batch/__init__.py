"""Many edits from a list: planned before anything is sent, recorded as they go, resumed where they stopped.

    plan.py     a CSV, JSONL or folder -> Planned jobs, or every fault with its line
    ledger.py   what has become of each job, on disk before the next step is taken
    runner.py   n jobs in flight, each from its recorded state to its end
    report.py   errors.csv and results.jsonl;  sheet.py  the contact sheet
"""

from darkroom.client.batch.ledger import Entry, Ledger, LedgerBusy, LedgerMismatch, LedgerUnwritable
from darkroom.client.batch.plan import PlanError, Planned, read_plan
from darkroom.client.batch.runner import Batch, Summary

__all__ = [
    "Batch",
    "Entry",
    "Ledger",
    "LedgerBusy",
    "LedgerMismatch",
    "LedgerUnwritable",
    "PlanError",
    "Planned",
    "Summary",
    "read_plan",
]
