"""What only replaced kernels needed is gone from the main graph."""

import pytest
import tensorflow as tf

from tests.corpus import saved_models_products, saved_models_tf1
from tests.rewriters.saved_model.contract_test import run_cc, truncated
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model

_MODELS = {
    "objects": saved_models_products.matmul,
    "resource variables": saved_models_tf1.tf1_resource_variables,
    "reference variables": saved_models_tf1.tf1_reference_variables,
}


@pytest.mark.parametrize("name", _MODELS)
def test_nothing_of_a_replaced_variable_is_left(name, tmp_path):
    inputs = _MODELS[name](tmp_path / "source")
    source = open_saved_model(tmp_path / "source")
    sites = {site.name: truncated(site, 0.5) for site in source.inspection.sites}
    write_saved_model(source, sites, tmp_path / "out")
    run_cc(tmp_path / "out", inputs)
    replaced = {
        h for k in source.kernels for r in k.roots for h in source.table.variables[r].handles
    }
    out = open_saved_model(tmp_path / "out")
    assert replaced and not replaced & out.main.nodes.keys()
    # Neither initial values nor reads: what is left belongs to other variables and factors.
    leftovers = [n for n in out.main.nodes if n.startswith(tuple(f"{h}/" for h in replaced))]
    assert not leftovers
    largest = max(n.ByteSize() for n in out.main.nodes.values())
    assert largest < min(4 * s.kernel.size for s in source.inspection.sites)
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(out.files.meta.graph_def, name="")
