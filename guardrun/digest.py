"""SHA-256 without OpenSSL.

``hashlib`` loads libcrypto for it: 3 ms, a quarter of a bare interpreter's start. CPython's own
``random`` takes the same shortcut for the same reason.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha2 import sha256  # 3.12 and later
    except ImportError:
        try:
            from _sha256 import sha256  # 3.11
        except ImportError:
            from hashlib import sha256

__all__ = ["sha256"]
