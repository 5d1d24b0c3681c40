"""SHA-256 and SHA-1 without OpenSSL.

``hashlib`` loads libcrypto for them: 3 ms, a quarter of a bare interpreter's start. CPython's own
``random`` takes the same shortcut for the same reason. Where the interpreter was built without
modules of its own for them, hashlib has them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha1, sha256
else:
    try:
        from _sha2 import sha256  # 3.12 and later
    except ImportError:
        try:
            from _sha256 import sha256  # 3.11
        except ImportError:
            from hashlib import sha256
    try:
        from _sha1 import sha1
    except ImportError:
        from hashlib import sha1

__all__ = ["sha1", "sha256"]
