"""Installing what a description lists."""

from __future__ import annotations

import pytest

from resurgam.restore.installing import surroundings


def test_no_build_sees_a_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    """P6: code of packages runs while they are built; where the index is, pip may know."""
    for name in (
        "RESURGAM_VAULT_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
    ):
        monkeypatch.setenv(name, "a secret")
    monkeypatch.setenv("PIP_CACHE_DIR", "/cache")
    seen = surroundings()
    assert "a secret" not in seen.values()
    assert seen["PIP_CACHE_DIR"] == "/cache"
