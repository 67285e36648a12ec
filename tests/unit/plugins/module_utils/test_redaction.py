"""Secrets in texts that people read."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils.redaction import hide_url_passwords, redact, secret_texts

KEY = "-----BEGIN EC PRIVATE KEY-----\nMIGkAgEB\nBDBX\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def-123456", "Authorization: Bearer (hidden)"),
        ("authorization: token 0a1b2c3d4e", "authorization: token (hidden)"),
        ("connecting to postgres://hub:hunter2@db:5432/x", "connecting to postgres://hub:(hidden)@db:5432/x"),
        ("HTTPS_PROXY=http://u:p@ss@10.0.0.9:3128/", "HTTPS_PROXY=http://u:(hidden)@10.0.0.9:3128/"),
        ("proxy http://10.0.0.9:3128 for a@b", "proxy http://10.0.0.9:3128 for a@b"),
        ("Proxy-Authorization: Basic dTpwYXNzd29yZA==", "Proxy-Authorization: Basic (hidden)"),
        ("client_secret=abc, next", "client_secret=(hidden), next"),
        ('{"password": "hunter2", "user": "a"}', '{"password": "(hidden)", "user": "a"}'),
        ("cookie_secret_file: /srv/x", "cookie_secret_file: (hidden)"),
        (f"before\n{KEY}\nafter", "before\n(hidden)\nafter"),
        (KEY[:50], "(hidden)"),
        ("jwt eyJhbGciOi.eyJzdWIi.c2ln end", "jwt (hidden) end"),
        ("key " + "0123456789abcdef" * 2, "key (hidden)"),
        ("x@sha256:" + "0123456789abcdef" * 4, "x@sha256:" + "0123456789abcdef" * 4),
        ("GET /hub/api?token=abcdef&x=1", "GET /hub/api?token=(hidden)&x=1"),
        ("the token is missing", "the token is missing"),
        ("0/3 nodes are available", "0/3 nodes are available"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text, expected):
    assert redact(text) == expected


def test_only_passwords_of_urls():
    text = "--token-auth-file=/x\nHTTP_PROXY=http://u:p@h:1\n"
    assert hide_url_passwords(text) == "--token-auth-file=/x\nHTTP_PROXY=http://u:(hidden)@h:1\n"


def test_known_secrets_are_hidden_wherever_they_are():
    assert redact("login of admin with correct-horse failed", {"correct-horse", "horse"}).count("(hidden)") == 1


def test_texts_of_secrets():
    def secret(**values):
        return {"data": {key: base64.b64encode(value).decode() for key, value in values.items()}}

    found = secret_texts(
        [
            secret(a=b"correct-horse\n", short=b"true", binary=b"\xff\xfe\xfd\xfc\xfb"),
            secret(file=b"hub:\n  name: jupyterhub\n  cookieSecret: 0123456789\n  apiToken: 'abcdefghij'\n"),
            {"type": "helm.sh/release.v1", **secret(release=b"a-whole-chart")},
            secret(HTTP_PROXY=b"http://u:correct%40proxy@10.0.0.9:3128"),
            {"data": None},
        ]
    )
    proxies = {"http://u:correct%40proxy@10.0.0.9:3128", "correct%40proxy", "correct@proxy"}
    assert found == {"correct-horse", "0123456789", "abcdefghij", *proxies}
