"""The node behaves as its OpenAPI document says, whatever is generated from it."""

from __future__ import annotations

import pytest
import schemathesis
from schemathesis import checks

pytestmark = pytest.mark.slow

EXAMPLES = 15
CHECKS = (
    checks.not_a_server_error,
    schemathesis.checks.CHECKS.get_one("status_code_conformance"),
    schemathesis.checks.CHECKS.get_one("content_type_conformance"),
    schemathesis.checks.CHECKS.get_one("response_headers_conformance"),
    schemathesis.checks.CHECKS.get_one("response_schema_conformance"),
)
