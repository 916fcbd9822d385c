"""What was found, on one page that any browser can show and print: nothing is loaded from elsewhere."""

from physadv.report.compare import compare_reports
from physadv.report.page import write_report

__all__ = ["compare_reports", "write_report"]
