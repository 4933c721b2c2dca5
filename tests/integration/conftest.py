"""One real node for most tests: loading its models is what costs time."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from running import GIVEN_KEY, RunningNode, running, sha256


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A simulated node with the default models. Tests leave it as they found it."""
    digest = sha256(GIVEN_KEY.encode()).removeprefix("sha256:")
    options = ("--body-timeout", "2", "--api-key-digest", f"given={digest}")
    with running(tmp_path_factory.mktemp("shared") / "state", *options) as node:
        yield node


@pytest.fixture
def client(node: RunningNode) -> Iterator[httpx.Client]:
    with node.client() as client:
        yield client
