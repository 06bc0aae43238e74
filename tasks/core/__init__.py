"""What every other package may use: the clock, identifiers, money, errors, the canonical row hash, crash points.

Uses nothing of Mailstay itself.
"""

from tasks.core.behind import Behind
from tasks.core.clock import Clock, ClockError, DrivenClock, Follower, SystemClock, open_clock
from tasks.core.crash import crash_point
from tasks.core.errors import MailstayError, UsageError
from tasks.core.files import create_file, replace_file
from tasks.core.ids import canonical_json, digest_of, sha256_hex
from tasks.core.money import Money
from tasks.core.native import address, compiled
from tasks.core.parent import end_with_parent
from tasks.core.progress import Progress, SilentProgress, current_progress, report_progress_to
from tasks.core.rowhash import TableChecksum, row_hashes
from tasks.core.text import bytes_per_second, mask_addresses, plural

__all__ = [
    "Behind",
    "Clock",
    "ClockError",
    "DrivenClock",
    "Follower",
    "MailstayError",
    "Money",
    "Progress",
    "SilentProgress",
    "SystemClock",
    "TableChecksum",
    "UsageError",
    "address",
    "bytes_per_second",
    "canonical_json",
    "compiled",
    "crash_point",
    "create_file",
    "current_progress",
    "digest_of",
    "end_with_parent",
    "mask_addresses",
    "open_clock",
    "plural",
    "replace_file",
    "report_progress_to",
    "row_hashes",
    "sha256_hex",
]
