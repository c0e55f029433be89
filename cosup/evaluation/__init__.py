from cosup.evaluation.report import QuestionResult, Report, TaskScores, evaluate
from cosup.evaluation.report_text import markdown, notes, table_rows, write_report

__all__ = ["evaluate", "write_report", "Report", "TaskScores", "QuestionResult", "markdown", "notes", "table_rows"]
