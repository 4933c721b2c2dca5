"""Proofs for contracts: what a chain is told, encoded and read back.

Everything but `rpc`, `sender` and `client` is pure. Imported only by what speaks to a chain.
"""
