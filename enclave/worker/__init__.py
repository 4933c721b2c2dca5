"""The engine in a process of its own: it crashes alone, and the node starts it again.

`wire` and `mailbox` belong to both ends; `server`, `convert` and `process` run in the
worker; `client`, `multiplex` and `supervisor` run in the node and never import the engine.
"""
