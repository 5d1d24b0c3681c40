"""Take secrets out of COMMAND lines, URLs and messages before they are stored or logged.

What counts as a secret: the password of a URL; the value of an option, variable, URL parameter,
connection string word, JSON member or HTTP header whose *name* looks like one; the user of Consul's
URL; and what the patterns of the configuration match. A secret under an innocent name
(``-pSECRET``, ``-u user:secret``, a token as another URL's user) takes a pattern. In doubt more is
hidden, not less: a stored line is for people to recognise, not to run again.
"""

from __future__ import annotations

from guardrun.errors import ConfigError
from guardrun.units import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Sequence

MASK = "***"

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NAME = _LETTERS | frozenset("0123456789_-.")
_SCHEME = _LETTERS | frozenset("0123456789+-.")
_OPTION = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_QUOTES = ("'", '"')
_BLANKS = " \t\r\n"
_SIGNS = ":=>"
_APOSTROPHE = "'\"'\"'"  # as shlex.quote writes one; its double quotes end no string
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "busybox"})

_TOKEN_IS_USER = ("consul://", "consuls://")

# Names are compared in lower case without - _ and dots: db-password, DB_PASSWORD, dbPassword.
_ENDINGS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "secretkey",
    "secretkeybase",
    "privatekey",
    "accountkey",
    "sharedkey",
    "authkey",
    "signingkey",
    "encryptionkey",
    "credential",
    "credentials",
    "authorization",
    "passin",
    "passout",
    "keypass",
    "storepass",
    "sshpass",
)
# Too short to be looked for inside a word: compass, forward, author.
_LAST_WORDS = frozenset({"pass", "pwd", "auth", "creds", "cookie", "psk"})
# One of these is in every secret name; most words have none, and are done with.
_HINTS = ("pass", "secret", "token", "key", "auth", "cred", "pwd", "cookie", "psk")
# Flags about a secret, which take no value: the next word is somebody else's.
_FLAG_WORDS = frozenset({"no", "ask", "prompt", "skip", "without", "disable", "enable", "allow"})


def redact_argv(argv: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """Replace the secrets in COMMAND's words by ``***``; other words stay as they are.

    Doing it again changes nothing. A pattern is matched against one word at a time.
    Raises ConfigError for a pattern that is not a regular expression.
    """
    words = tuple(argv)
    while (hidden := _hide_in_argv(words, patterns)) != words:
        words = hidden
    return words


def redact_text(text: str, patterns: Sequence[str]) -> str:
    """Replace the secrets in a message, or in a shell's command string, by ``***``.

    Doing it again changes nothing. Raises ConfigError for a pattern that is not a regular
    expression.
    """
    while (hidden := _hide_matches(_hide(text, _BLANKS), patterns)) != text:
        text = hidden
    return text


def redact_url(url: str) -> str:
    """Replace a URL's password and its secret query parameters by ``***``.

    All of ``url`` is taken for one URL, blanks in a badly written password included.
    """
    while (hidden := _hide(url, "")) != url:
        url = hidden
    return url


# The loops above end, and seldom go round twice: one replacement can bring another to light, but
# each takes away something that is no star, or makes a run of stars three long.


def _hide_in_argv(argv: tuple[str, ...], patterns: Sequence[str]) -> tuple[str, ...]:
    words: list[str] = []
    before = ""
    shell = False
    for word in argv:
        if word and _takes_secret(before) and not _is_long_option(word):
            words.append(MASK)
        elif shell and _is_command_flag(before):
            words.append(_hide_matches(_hide(word, _BLANKS), patterns))
        else:
            words.append(_hide_matches(_hide_in_word(word), patterns))
        shell = shell or word.rpartition("/")[2] in _SHELLS
        before = word
    return tuple(words)


def _hide_in_word(word: str) -> str:
    """As ``_hide``; but a name or a URL that starts the word takes in all the rest of it."""
    if _has_hint(word):
        end = _span(word, 0, _NAME)
        start = end + 1
        if word.startswith(":", end) and _is_header(word[:end]):
            start = _span(word, start, _BLANKS)
        elif not word.startswith("=", end) or _is_directory(word[:end], word[start:]):
            start = len(word)
        if start < len(word) and _is_secret(word[:end]):
            return word[:start] + MASK
    scheme, separator, _ = word.partition("://")
    whole_url = separator and _span(scheme, 0, _SCHEME) == len(scheme)
    return _hide(word, "" if whole_url else _BLANKS)


def _hide(text: str, blanks: str) -> str:
    if "://" in text:
        text = _hide_passwords(text, blanks)
    if _has_hint(text):
        text = _hide_values(text, blanks)
    return text


def _hide_matches(text: str, patterns: Sequence[str]) -> str:
    if not patterns:
        return text
    import re

    for pattern in patterns:
        try:
            hidden = re.sub(pattern, lambda match: MASK if match.group() else "", text)
        except re.error as error:
            raise ConfigError(
                f"redact: {shown(pattern)} is not a regular expression ({error}):"
                " correct it in the configuration"
            ) from None
        if hidden != text:
            text = hidden
            while MASK + "*" in text:
                text = text.replace(MASK + "*", MASK)
    return text


# ---------------------------------------------------------------- scheme://user:secret@host


def _hide_passwords(text: str, blanks: str) -> str:
    pieces = []
    kept = 0
    start = text.find("://") + 3
    while start >= 3:
        first, last = _password(text, start, blanks)
        if first < last:
            pieces.append(text[kept:first])
            kept = start = last
        start = text.find("://", start) + 3
    return MASK.join([*pieces, text[kept:]])


def _password(text: str, start: int, blanks: str) -> tuple[int, int]:
    """Where the password begins and ends of the URL whose ``://`` ends at ``start``."""
    end = _first(text, start, "/?#" + blanks)
    at_sign = text.rfind("@", start, end)
    if text.endswith(_TOKEN_IS_USER, 0, start):
        return start, max(text.rfind("@", start, _first(text, start, blanks)), start)
    colon = text.find(":", start, end if at_sign < 0 else at_sign)
    if colon < 0:
        return start, start
    if (
        at_sign < 0
        and text[start] != "["
        and (colon == start or not text[colon + 1 : end].isdigit())
    ):
        # What stands in the place of a port is none: a password with a bare / ? or # in it.
        at_sign = text.rfind("@", end, _first(text, end, blanks))
    return colon + 1, at_sign


# ---------------------------------------------------------------- name=secret, and its kin


def _hide_values(text: str, blanks: str) -> str:
    pieces = []
    kept = at = 0
    while at < len(text):
        end = _span(text, at, _NAME)
        if end > at and _is_secret(text[at:end]):
            first, last = _value(text, at, end, blanks)
            if first < last:
                pieces.append(text[kept:first])
                kept = end = last
        at = max(end, at + 1)
    return MASK.join([*pieces, text[kept:]])


def _value(text: str, start: int, end: int, blanks: str) -> tuple[int, int]:
    """Where the value begins and ends of the name that stands from ``start`` to ``end``."""
    name = text[start:end]
    before = text[start - 1 : start]
    quote = before if before in _QUOTES else ""
    closing = _closing_quote(text, end, quote)
    after = end + len(closing)
    sign_at = _span(text, after, blanks)
    sign_end = _span(text, sign_at, _SIGNS)
    sign = text[sign_at:sign_end]
    at = _span(text, sign_end, blanks)
    if closing and sign:
        return _member(text, at)
    if closing and name.startswith("-") and text.startswith(",", sign_at):
        return _member(text, _span(text, sign_at + 1, blanks))
    if "=" in sign:
        if sign_at == after:  # PGPASSWORD= psql: an empty value, then a word of its own
            at = sign_end
        if _is_directory(name, text[at : at + 1]):
            return end, end
        if before and before in "?&#;":
            return at, _word_end(text, at, blanks + "&", "")
        return at, _word_end(text, at, blanks, quote)
    if sign == ":" and sign_at == after:
        if _is_header(name) and before not in ("/", "@"):
            return at, _word_end(text, at, blanks if quote else "\n", quote)
        if at > sign_end and not name.startswith("-"):
            return at, _word_end(text, at, blanks, quote)
    if not sign and at > after and _takes_secret(name):
        last = _word_end(text, at, blanks, "")
        if not _is_long_option(text[at:last]):
            return at, last
    return end, end


def _closing_quote(text: str, end: int, quote: str) -> str:
    """The quote that ends a name: ``"``, or ``\\"`` in a string within a string."""
    for mark in (quote, f"\\{quote}"):
        if quote and text.startswith(mark, end):
            return mark
    return ""


def _member(text: str, at: int) -> tuple[int, int]:
    """The value of a member of a JSON object or of a printed dict, without its quotes."""
    for mark in ('"', "'", '\\"', "\\'"):
        if text.startswith(mark, at):
            first = at + len(mark)
            return first, _string_end(text, first, mark)
    return at, _first(text, at, ",}] \t\r\n")


def _string_end(text: str, at: int, mark: str) -> int:
    # Within a string within a string, a backslash is two, and a quote after it is two again.
    escape = "\\" * len(mark)
    while at < len(text) and not text.startswith(mark, at):
        if text.startswith(escape, at):
            at += len(escape)
            at += len(escape) if text.startswith("\\", at) else 1
        elif text.startswith(_APOSTROPHE, at):
            at += len(_APOSTROPHE)
        else:
            at += 1
    return min(at, len(text))


def _word_end(text: str, start: int, ends: str, quote: str) -> int:
    """Where a word of the shell ends that begins inside ``quote``, or outside of any.

    Its own last quote, when it began inside it, is not part of it.
    """
    opened = quote
    at = start
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in ends:
            break
        elif char in _QUOTES and text.find(char, at + 1) >= 0:
            quote = char
        at += 1
    at = min(at, len(text))
    return at - 1 if opened and not quote and text[at - 1] == opened else at


# ---------------------------------------------------------------- names


def _has_hint(text: str) -> bool:
    lowered = text.lower()
    return any(hint in lowered for hint in _HINTS)


def _is_secret(name: str) -> bool:
    words = name.lower().replace("-", "_").replace(".", "_")
    return words.replace("_", "").endswith(_ENDINGS) or words.rpartition("_")[2] in _LAST_WORDS


def _is_directory(name: str, value: str) -> bool:
    """``PWD`` is a password in connection strings, and the shell's working directory."""
    return name == "PWD" and value.startswith("/")


def _is_header(name: str) -> bool:
    if name.startswith("-"):
        return False
    return "-" in name or name.lower().endswith(("authorization", "cookie"))


def _takes_secret(word: str) -> bool:
    """Say whether ``word`` is an option whose value is the next word, and a secret."""
    if not word.startswith("-") or not _has_hint(word) or _span(word, 0, _NAME) < len(word):
        return False
    return _is_secret(word) and word.lstrip("-").partition("-")[0] not in _FLAG_WORDS


def _is_long_option(word: str) -> bool:
    """Say whether ``word`` is too much of an option (``--dry-run``) to be a secret."""
    name = word[2:].partition("=")[0]
    return word.startswith("--") and name[:1].isalpha() and _span(name, 0, _OPTION) == len(name)


def _is_command_flag(word: str) -> bool:
    """``-c``, also among others as in ``-lc``: what follows is a command string for a shell."""
    return word.startswith("-") and word.endswith("c") and word[1:].isalpha()


def _span(text: str, start: int, alphabet: Container[str]) -> int:
    """Where the run of ``alphabet`` that begins at ``start`` ends."""
    end = start
    while end < len(text) and text[end] in alphabet:
        end += 1
    return end


def _first(text: str, start: int, chars: str) -> int:
    """Where the first of ``chars`` stands from ``start`` on, or the end."""
    found = (text.find(char, start) for char in chars)
    return min((at for at in found if at >= 0), default=len(text))
