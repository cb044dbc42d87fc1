"""Variables that are stored twice, as Keras 3's `model.export()` writes them."""

from collections import defaultdict

from tfapprox.rewriters.saved_model.files import SavedModelFiles
from tfapprox.rewriters.saved_model.variables import Variable, VariableTable


def merge_duplicates(files: SavedModelFiles, table: VariableTable) -> dict[str, str]:
    """Makes unused copies of a variable one with it in the table.

    A copy has the name, dtype, shape and trainability of a variable that functions
    capture and the very same bytes, and no function captures it. (In an export of Keras
    3, Python reads the captured variable and TF Serving the copy.)

    Returns:
      Key of each copy -> key of the variable that stands for it from now on.
    """
    functions = files.meta.object_graph_def.concrete_functions.values()
    captured = {table.of_object.get(node) for f in functions for node in f.bound_inputs}
    captured.discard(None)
    used = defaultdict(list)
    for key in sorted(key for key in captured if key is not None):
        used[_likeness(table.variables[key])].append(key)
    found = {}
    for key, variable in table.variables.items():
        if key in captured or not variable.objects:
            continue
        for original in used.get(_likeness(variable), ()):
            if files.tensor(original).tobytes() == files.tensor(key).tobytes():
                found[key] = original
                break
    for copy, original in found.items():
        table.merge(copy, original)
    return found


def _likeness(variable: Variable) -> tuple:
    return variable.name, variable.dtype, variable.shape, variable.trainable
