"""Text as a database takes it: valid UTF-8, and lists and objects as JSON.

By hand, and with the C half of ``json`` alone: importing ``json`` takes as long as a bare
interpreter's start.
"""

from __future__ import annotations

try:
    from _json import encode_basestring_ascii as quote
except ImportError:  # an interpreter without the accelerator
    from json.encoder import encode_basestring_ascii as quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardrun.model import Holder


def plain(text: str) -> str:
    r"""``text`` with what is not valid Unicode (``\udcff`` stands for the byte ff) written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def plain_or_none(text: str | None) -> str | None:
    """As ``plain``; ``None`` stays."""
    return None if text is None else plain(text)


def json_list(words: Iterable[str]) -> str:
    """A JSON array of strings, in ASCII: undecodable bytes survive as escapes."""
    return "[" + ", ".join([quote(word) for word in words]) + "]"


def json_holder(holder: Holder | None) -> str | None:
    """A holder as the JSON object of contract section 5; ``since`` in seconds since 1970."""
    if holder is None:
        return None
    job_id = "null" if holder.job_id is None else quote(holder.job_id)
    since = "null" if holder.since is None else repr(float(holder.since))
    return f'{{"owner": {quote(holder.owner)}, "job_id": {job_id}, "since": {since}}}'
