"""Policy: what genuine evidence must be to be wanted, declared in a file."""

from __future__ import annotations

from attestation.policy.appraisal import Appraisal, Claim
from attestation.policy.evaluate import evaluate
from attestation.policy.load import load_policy
from attestation.policy.model import Policy

__all__ = ["Appraisal", "Claim", "Policy", "evaluate", "load_policy"]
