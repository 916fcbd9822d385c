"""What was found, on one page that a browser, a mail client and a printer can show: nothing is loaded from elsewhere."""

from physadv.report.compare import compare_reports
from physadv.report.page import write_report

__all__ = ["compare_reports", "write_report"]
