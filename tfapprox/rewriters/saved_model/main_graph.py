"""Writes the new main graph: factors' handles, redirected calls, saver, collections."""

import hashlib

import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model.body import FreshNames, producer_of
from tfapprox.rewriters.saved_model.body_rewriting import BodyRewriter
from tfapprox.rewriters.saved_model.cleaning import drop_dead, needed_functions, unify_handles
from tfapprox.rewriters.saved_model.collections import (
    factor_variable,
    rewrite_contexts,
    rewrite_variables,
)
from tfapprox.rewriters.saved_model.files import OBJECT_GRAPH_KEY
from tfapprox.rewriters.saved_model.objects import StoredGraph
from tfapprox.rewriters.saved_model.saver import SaverSide, tensor_lists
from tfapprox.rewriters.saved_model.saver_rewriting import NewFold, NewTensor, SaverRewriter
from tfapprox.rewriters.saved_model.substitution import Substitution


class MainGraphWriter:
    """Rewrites the main graph of one MetaGraph.

    Attributes:
      references: factor -> node of its handle or constant.
    """

    def __init__(self, substitution: Substitution, meta: meta_graph_pb2.MetaGraphDef):
        """Args: meta: the new MetaGraph, with everything but its graph in place."""
        self._substitution, self._meta = substitution, meta
        self._source, self._table = substitution.source, substitution.source.table
        self._specialiser, self._served = substitution.specialiser, substitution.served
        self._factors = substitution.factors
        self._nodes: dict[str, node_def_pb2.NodeDef] = dict(self._source.main.nodes)
        self._new_nodes: list[node_def_pb2.NodeDef] = []
        self._kernels = {
            r.served.factors[0]: r.kernel.first.kernel.shape
            for r in substitution.replacements
            if r.served is not None
        }
        self.references: dict[int, str] = {}
        self._make_references()

    def write(self, stored: StoredGraph | None) -> None:
        """Fills in the graph, and brings collections up to date.

        Args:
          stored: the checkpoint's new object graph, of which the saver holds a copy.
        """
        rewriter = BodyRewriter(self._served, self._source.tracer.main, (), self.references)
        self._nodes = {node.name: node for node in (*rewriter.nodes(), *self._new_nodes)}
        self._rewrite_saver(stored)
        superfluous = unify_handles(self._nodes, self._table, self._source.live_main)
        forgotten = [k for k in self._substitution.forgotten if k in self._table.variables]
        handles = {h for key in forgotten for h in self._table.variables[key].handles}
        drop_dead(self._nodes, handles | superfluous, self._source.live_main)
        self._rewrite_collections()
        old, made = self._source.files.meta.graph_def, self._meta.graph_def
        made.versions.CopyFrom(old.versions)
        made.node.extend(self._nodes.values())
        made.library.gradient.extend(old.library.gradient)
        made.library.registered_gradients.extend(old.library.registered_gradients)
        made.library.function.extend(self._functions())

    def _functions(self) -> list[function_pb2.FunctionDef]:
        """Returns the new function library."""
        roots = set(self._meta.object_graph_def.concrete_functions)
        library = self._meta.graph_def.library
        roots |= {registered.gradient_func for registered in library.registered_gradients}
        # A public function that got a new name is no longer needed under the old one.
        gone = self._source.tracer.entries.keys() - roots
        old = {n: body for n, body in self._source.functions.items() if n not in gone}
        return needed_functions(
            self._specialiser.functions, old, self._source.main, roots, self._nodes.values()
        )

    def _make_references(self) -> None:
        """Makes a node for every factor that isn't a constant of some function."""
        wanted = {
            i
            for instance in self._source.tracer.instances
            for i in self._specialiser.needs(instance)
        }
        wanted.update(self._served.needs(self._source.tracer.main))
        names = FreshNames(self._nodes)
        for index in sorted(wanted):
            factor = self._factors[index]
            name = names.get(factor.name)
            node = node_def_pb2.NodeDef(name=name)
            if factor.variable is not None:
                node.op = "VarHandleOp"
                node.attr["shared_name"].s = self._shared_name(name, index).encode()
                node.attr["dtype"].type = factor.dtype
                node.attr["shape"].shape.CopyFrom(tf.TensorShape(factor.value.shape).as_proto())
                node.attr["_output_shapes"].list.shape.add()
                node.device = self._device(factor.variable)
            else:
                node.op = "Const"
                node.attr["dtype"].type = factor.dtype
                node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(factor.value))
            self._nodes[name] = node
            self._new_nodes.append(node)
            self.references[index] = name

    def _shared_name(self, name: str, index: int) -> str:
        """Returns the name of a variable's resource.

        What is folded must not meet another model's in one process: its codes tell it apart.
        """
        fold = self._factors[index].fold
        if fold is None:
            return name
        content = b"".join(self._factors[i].value.tobytes() for i in fold)
        return f"{name}_{hashlib.sha1(content).hexdigest()[:12]}"

    def _device(self, key: str) -> str:
        handles = self._table.variables[key].handles
        return self._source.main.nodes[handles[0]].device if handles else ""

    def _rewrite_collections(self) -> None:
        """Lists the factors where TF1's collections listed the variables they replace."""
        gone = {h for k in self._substitution.removed for h in self._table.variables[k].handles}
        by_handle = {
            handle: [i for i in indices if i in self.references]
            for key, indices in self._substitution.indices_by_variable().items()
            for handle in self._table.variables[key].handles
        }
        made: dict[str, node_def_pb2.NodeDef] = {}
        old = self._source.main.nodes
        for collection in self._meta.collection_def.values():
            rewrite_variables(
                collection,
                gone,
                lambda handle, old: [
                    factor_variable(self.references[i], self._factors[i].value, old, made)
                    for i in by_handle[handle]
                ],
            )
        self._nodes.update(made)
        inserted: dict[str, list[str]] = {}
        for name in self._nodes.keys() - old.keys():
            inserted.setdefault(name.rpartition("/")[0], []).append(name)
        for name, collection in self._meta.collection_def.items():
            rewrite_contexts(name, collection, self._nodes, inserted)

    def _rewrite_saver(self, stored: StoredGraph | None) -> None:
        added = [
            NewTensor(
                self._substitution.key(i),
                name,
                self._factors[i].dtype,
                self._factors[i].value.shape,
            )
            for i, name in self.references.items()
            if self._factors[i].stored
        ]
        saver = self._meta.saver_def
        for side, method, last in (
            (self._source.saving, SaverRewriter.save, saver.save_tensor_name),
            (self._source.restoring, SaverRewriter.restore, saver.restore_op_name),
        ):
            if side is None:
                if added:
                    raise UserError(
                        f"{self._source.files.path} has variables but no saver: export it again"
                    )
                continue
            folds = self._folds() if side is self._source.restoring else ()
            rewriter = SaverRewriter(side, self._substitution.forgotten, added, folds)
            method(rewriter)
            self._store_side(side, rewriter, producer_of(last))
        if stored is not None and self._source.saving is not None:
            self._update_object_graph_constant(self._source.saving, stored)

    def _folds(self) -> list[NewFold]:
        """Returns the variables that restoring computes from others."""
        found = []
        for index, name in self.references.items():
            factor = self._factors[index]
            if factor.fold is not None:
                codes, generator = (self._substitution.key(i) for i in factor.fold)
                kernel = self._kernels[index]
                shape = factor.value.shape
                found.append(NewFold(name, codes, generator, kernel, factor.dtype, shape))
        return found

    def _store_side(self, side: SaverSide, rewriter: SaverRewriter, last: str) -> None:
        if side.call is None:
            rewriter.require_assignments(last)
            for name in rewriter.gone:
                self._nodes.pop(name, None)
            old = side.body.nodes
            self._nodes.update({k: v for k, v in rewriter.nodes.items() if v is not old.get(k)})
            return
        function, inputs = rewriter.function()
        self._specialiser.functions[function.signature.name] = function
        call = node_def_pb2.NodeDef()
        call.CopyFrom(side.call)
        controls = [x for x in call.input if x.startswith("^")]
        call.ClearField("input")
        call.input.extend([*inputs, *controls])
        del call.attr["Tin"].list.type[:]
        call.attr["Tin"].list.type.extend(a.type for a in function.signature.input_arg)
        self._nodes[call.name] = call

    def _update_object_graph_constant(self, side: SaverSide, stored: StoredGraph) -> None:
        """Stores the checkpoint's object graph where the saving side takes it from."""
        for node in (n for n in side.body.nodes.values() if n.op == "SaveV2"):
            names, _ = tensor_lists(side.body, node)
            if OBJECT_GRAPH_KEY not in names:
                continue
            reference = side.body.data_inputs(node)[3 + names.index(OBJECT_GRAPH_KEY)]
            name = side.main_graph_node(reference)
            if name in self._nodes and self._nodes[name].op == "Const":
                constant = node_def_pb2.NodeDef()
                constant.CopyFrom(self._nodes[name])
                value = tf.make_tensor_proto(stored.SerializeToString(), tf.string, [])
                constant.attr["value"].tensor.CopyFrom(value)
                self._nodes[name] = constant
