"""What the URLs of a cluster have in common."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

import pytest

from guardrun.errors import ConfigError
from guardrun.locks import consul_url, etcd_url, members


@pytest.mark.parametrize(
    ("hosts", "wanted"),
    [
        ("a:1,[::1]:2,[::2]:3", ["a", "::1", "::2"]),
        ("[::1],[::2]", ["::1", "::2"]),
        ("[::1],a", ["::1", "a"]),
    ],
)
def test_addresses_in_brackets(
    monkeypatch: pytest.MonkeyPatch, hosts: str, wanted: list[str]
) -> None:
    """They may come anywhere, also with a Python that expects one alone."""

    def strict(url: str) -> SplitResult:
        before, bracket, rest = url.partition("//")[2].rpartition("@")[2].partition("[")
        after = rest.partition("]")[2]
        if bracket and (before or after.partition("/")[0][:1] not in ("", ":")):
            raise ValueError("Invalid IPv6 URL")
        return urlsplit(url)

    monkeypatch.setattr(members, "urlsplit", strict)
    assert [one.host for one in etcd_url.read(f"etcd://u:p@{hosts}").members] == wanted
    assert [one.host for one in consul_url.read(f"consul://t@{hosts}").members] == wanted


def test_a_bracket_in_a_password() -> None:
    """It is one."""
    assert etcd_url.read("etcd://u:p[%5B]@h").login == ("u", "p[[]")
    assert consul_url.read("consul://t[]@[::1]").token == "t[]"
    with pytest.raises(ConfigError):
        etcd_url.read("etcd://[h")
