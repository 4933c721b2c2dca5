"""`python -m enclave.worker`: the engine, started and watched by the node."""

from __future__ import annotations

from enclave.worker.main import main

if __name__ == "__main__":
    main()
