"""Ends before it asks for a job, as a worker with a broken import does."""

raise SystemExit("these weights are damaged")
