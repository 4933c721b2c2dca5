"""What runs inside the trust boundary: the engine, its worker process, keys and sealing."""
