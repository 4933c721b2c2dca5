"""Graphs are put together here: nodes in order, weights by name, content kept outside."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper

OPSET: Final = 21
IR_VERSION: Final = 10
MS: Final = "com.microsoft"
INLINE_BELOW_ITEMS: Final = 16


class GraphBuilder:
    """Collects a graph. Methods return the name of what they added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: dict[str, NDArray[Any]] = {}

    def node(
        self, op: str, inputs: list[str], out: str, /, domain: str = "", **attributes: Any
    ) -> str:
        return self.node_with_outputs(op, inputs, [out], domain=domain, **attributes)

    def node_with_outputs(
        self, op: str, inputs: list[str], outputs: list[str], /, domain: str = "", **attributes: Any
    ) -> str:
        """The first output's name, which is the node's name too."""
        name = outputs[0]
        self.nodes.append(
            helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes)
        )
        return name

    def weight(self, name: str, value: NDArray[Any]) -> str:
        """A constant; the first value given to a name stays."""
        self.weights.setdefault(name, np.ascontiguousarray(value))
        return name

    def serialise(
        self, name: str, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]
    ) -> tuple[bytes, dict[str, NDArray[Any]]]:
        """The model, and the arrays its external initialisers stand for.

        Handing arrays over beside the model avoids protobuf's 2 GB limit and two copies.
        """
        declared, external = [], {}
        for key, value in self.weights.items():
            if value.size < INLINE_BELOW_ITEMS:
                kind = helper.np_dtype_to_tensor_dtype(value.dtype)
                declared.append(helper.make_tensor(key, kind, value.shape, value.ravel().tolist()))
            else:
                external[key] = value
                declared.append(_external(key, value))
        graph = helper.make_graph(self.nodes, name, inputs, outputs, declared)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MS, 1)]
        model = helper.make_model(
            graph, opset_imports=opsets, producer_name="adyton", ir_version=IR_VERSION
        )
        return bytes(model.SerializeToString()), external


def _external(name: str, value: NDArray[Any]) -> TensorProto:
    t = TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
        dims=value.shape,
        data_location=TensorProto.EXTERNAL,
    )
    for key, text in (("location", "memory"), ("offset", "0"), ("length", str(value.nbytes))):
        t.external_data.add(key=key, value=text)
    return t
