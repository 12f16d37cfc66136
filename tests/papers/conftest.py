"""Fixtures that several tests of the laboratory share."""

import pytest

from attribook.papers.data import mnist5k, photos20


@pytest.fixture(scope="session")
def digits():
    return mnist5k()


@pytest.fixture(scope="session")
def photos():
    return photos20()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTRIBOOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
