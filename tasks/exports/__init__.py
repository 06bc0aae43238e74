"""A provider's own export as a source of backups: fetched part by part into a spool, then read like a database."""

from tasks.exports.source import ExportSource, open_export
from tasks.exports.spool import KEPT

__all__ = ["KEPT", "ExportSource", "open_export"]
