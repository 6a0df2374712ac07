"""`report.html` beside a run: what an ads engineer needs to decide, on one page that needs nothing else."""

from training.report.write import write_report

__all__ = ["write_report"]
