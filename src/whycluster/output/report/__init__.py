"""The page of an explain run: what each cluster is about, which images are typical, and which may not belong."""

from whycluster.output.report.report import FOLDER, PAGE, write_report

__all__ = ["FOLDER", "PAGE", "write_report"]
