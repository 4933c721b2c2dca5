"""Remote attestation: evidence, its verification, and what may be concluded from it.

Data flows one way: bytes -> evidence -> verify -> policy -> an `Appraisal`, which is
the only thing keys, sessions and receipts accept.
"""
