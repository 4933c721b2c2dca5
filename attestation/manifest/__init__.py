"""Gramine manifests of the node: bundled, rendered, linted, measured and signed.

Offline and reproducible: the same files give the same manifest, the same MRENCLAVE and the
same SIGSTRUCT, whoever renders them and wherever. Nothing here runs an enclave.
"""
