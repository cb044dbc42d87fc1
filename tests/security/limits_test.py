"""Little input does not become much memory or time."""

import pytest

from tests.security.hostile import all_nodes, edit
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model import open_saved_model, shapes


def grow_constants(meta):
    for node in all_nodes(meta):
        tensor = node.attr["value"].tensor
        if node.op == "Const" and len(tensor.tensor_shape.dim) == 2:
            tensor.ClearField("tensor_content")
            tensor.float_val[:] = [1.0]
            # Half a gigabyte, which would be had; of much more numpy itself would complain.
            for dim, size in zip(tensor.tensor_shape.dim, (2**14, 2**13), strict=True):
                dim.size = size


def served_function(meta):
    """Returns the function with most products among those that the main graph reaches."""
    functions = {f.signature.name: f for f in meta.graph_def.library.function}
    reached, nodes = set(), list(meta.graph_def.node)
    while nodes:
        node = nodes.pop()
        for name in {a.func.name for a in node.attr.values() if a.func.name} - reached:
            reached.add(name)
            nodes.extend(functions[name].node_def)
    bodies = [functions[name] for name in sorted(reached)]
    return max(bodies, key=lambda f: sum(n.op == "MatMul" for n in f.node_def))


def grow_packs(meta):
    """Packs a kernel 40 times, six times over: 40^6 copies of it out of a few hundred bytes."""
    body = served_function(meta)
    product = [node for node in body.node_def if node.op == "MatMul"][-1]
    reference = product.input[1]
    for i in range(6):
        node = body.node_def.add(name=f"pack_{i}", op="Pack")
        node.input.extend([reference] * 40)
        node.attr["N"].i, node.attr["T"].type = 40, 1
        reference = f"pack_{i}:output:0"
    product.input[1] = reference


@pytest.mark.parametrize("grow", [grow_constants, grow_packs])
def test_little_data_is_not_blown_up(model, grow):
    inspection = open_saved_model(edit(model, grow)).inspection
    assert any("can't be worked out" in kept.reason for kept in inspection.kept)


def test_variables_larger_than_their_files_are_refused(model, monkeypatch):
    from tfapprox.rewriters.saved_model.files import SavedModelFiles

    real = SavedModelFiles.tensor_shapes.func
    monkeypatch.setattr(
        SavedModelFiles,
        "tensor_shapes",
        property(lambda self: {name: [2**20, 2**20] for name in real(self)}),
    )
    with pytest.raises(UserError, match="is said to have shape"):
        open_saved_model(model)


def double_calls(meta):
    """Calls the function through 40 more, each of which calls the one before it twice."""
    library = meta.graph_def.library
    body = served_function(meta)
    original = last = body.signature.name
    (key,) = body.ret
    for level in range(40):
        function = library.function.add()
        function.CopyFrom(body)
        function.signature.name = f"level_{level}"
        del function.node_def[:]
        function.control_ret.clear()
        del function.signature.control_output[:]
        for i in range(2):
            call = function.node_def.add(name=f"call_{i}", op="StatefulPartitionedCall")
            for argument in body.signature.input_arg:
                call.input.append(argument.name)
                call.attr["Tin"].list.type.append(argument.type)
            call.attr["Tout"].list.type.append(1)
            call.attr["f"].func.name = last
        both = function.node_def.add(name="both", op="AddV2", input=["call_0:output:0"])
        both.input.append("call_1:output:0")
        both.attr["T"].type = 1
        function.ret[key] = "both:z:0"
        last = function.signature.name
    for node in all_nodes(meta):
        if node.attr["f"].func.name == original and not node.name.startswith("call_"):
            node.attr["f"].func.name = last


def test_calls_that_double_at_every_level_end(model, monkeypatch):
    # A minute's worth of operations by default; the test need not wait so long.
    monkeypatch.setattr(shapes, "_MOST_OPERATIONS", 2000)
    walks = []
    real = shapes.ShapeInference._walk
    monkeypatch.setattr(
        shapes.ShapeInference, "_walk", lambda *args: walks.append(0) or real(*args)
    )
    inspection = open_saved_model(edit(model, double_calls)).inspection
    assert len(inspection.sites) == 2
    assert 100 < len(walks) < 10_000


def test_functions_that_call_themselves_are_refused(model):
    def recurse(meta):
        for function in meta.graph_def.library.function:
            call = function.node_def.add(name="again", op="StatefulPartitionedCall")
            call.input.extend(argument.name for argument in function.signature.input_arg)
            call.attr["f"].func.name = function.signature.name

    with pytest.raises(UserError, match="calls itself"):
        open_saved_model(edit(model, recurse))
