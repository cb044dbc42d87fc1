"""Who else needs the variables and constants of a kernel, and whether that forbids replacing it."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable

from tfapprox.rewriters.saved_model.composing import is_composition
from tfapprox.rewriters.saved_model.provenance import Static, Value
from tfapprox.rewriters.saved_model.sites import SiteFinder
from tfapprox.rewriters.saved_model.tracing import Instance, Tracer
from tfapprox.rewriters.saved_model.variables import VariableTable

# Handing on a handle, or asking whether it is initialised, needs no value.
_HARMLESS = frozenset(("ReadVariableOp", "VarIsInitializedOp", "DisableCopyOnRead", "NoOp"))


@dataclasses.dataclass(frozen=True)
class OtherUse:
    """Something that needs a root and isn't a site's product.

    Attributes:
      op: operation.
      instance: where.
      writes: it changes the variable.
      whole: it reads a tensor that can be composed from factors.
      value: what it reads, if that is known.
    """

    op: str
    instance: Instance
    writes: bool = False
    whole: bool = False
    value: Static | None = None


def reject_other_uses(
    finder: SiteFinder,
    tracer: Tracer,
    live_main: set[str],
    fetched: Iterable[str],
    table: VariableTable,
) -> None:
    """Gives a reason to kernels whose variables are written, or read by anything but products.

    Reading one in a function that no signature runs is no reason: it is composed there.

    Args:
      live_main: main-graph nodes that can be asked for.
      fetched: main-graph references that signatures fetch.
    """
    users = _other_users(finder, tracer.instances, live_main)
    for root, user in _outside_users(tracer, fetched):
        users[root].append(user)
    served = {id(tracer.main), *map(id, tracer.instances_behind(live_main))}
    by_root = defaultdict(list)
    for kernel in finder.kernels:
        for root in sorted(kernel.roots):
            by_root[root].append(kernel)
    for kernel in finder.kernels:
        for root in sorted(kernel.roots):
            alone = kernel.roots == {root} and len(by_root[root]) == 1
            composable = alone and finder.is_composable(kernel, root)
            for user in users.get(root, ()):
                put_together = user.value is not None and is_composition(
                    kernel.first.kernel, kernel.roots, user.value
                )
                whole = user.whole and (composable or put_together)
                if whole and id(user.instance) not in served:
                    kernel.composed_in.add(id(user.instance))
                else:
                    kernel.reason = kernel.reason or _objection(user, root, table)
    # What one kernel still needs, no other can give up.
    pending = [kernel for kernel in finder.kernels if kernel.reason]
    while pending:
        rejected = pending.pop()
        for kernel in (k for root in rejected.roots for k in by_root[root]):
            if not kernel.reason:
                kernel.reason = f"its variable also holds {rejected.name}, which is kept"
                pending.append(kernel)


def _objection(user: OtherUse, root: str, table: VariableTable) -> str:
    where = f" in {user.instance.body.name}" if user.instance.body.name else ""
    if user.writes:
        return f"its variable is changed by {user.op}{where}"
    kind = "variable" if root in table.variables else "constant"
    return f"its {kind} is also used by {user.op}{where}"


def _other_users(
    finder: SiteFinder, instances: Iterable[Instance], live_main: set[str]
) -> dict[str, list[OtherUse]]:
    """Returns root -> everything in the graph that isn't a site's use."""
    users = defaultdict(list)
    for instance in instances:
        for name, values in instance.static_inputs.items():
            node = instance.body.nodes[name]
            if (not instance.body.is_function and name not in live_main) or node.op in _HARMLESS:
                continue
            found = finder.matched(instance, name)
            for index, value in values.items():
                if found is not None and index == found[1].operand:
                    continue
                whole = isinstance(value, Static) and finder.reads_whole(instance, name, index)
                read = value if isinstance(value, Static) else None
                user = OtherUse(node.op, instance, _writes(node.op), whole, read)
                for root in value.roots:
                    users[root].append(user)
    return users


def _outside_users(tracer: Tracer, fetched: Iterable[str]) -> Iterable[tuple[str, OtherUse]]:
    """Yields roots whose values leave a function in a way that a rewrite can't follow.

    That is from a function the outside calls, and from loops and branches unless every
    step, or every branch, hands on the same.
    """
    outside = {id(instance) for instance in tracer.entries.values()}
    outside |= {id(i) for i in tracer.instances if not any(v is not None for v in i.bindings)}
    for reference in fetched:
        yield from _roots(
            tracer.main.values.get(tracer.main.body.canonical(reference)), tracer.main
        )
    for instance in tracer.instances:
        if id(instance) in outside and instance.body.is_function:
            for value in instance.returns:
                yield from _roots(value, instance)
        for call in instance.calls.values():
            agreed = tracer.agreed_outputs(instance, call)
            for callee in call.callees.values():
                for value, handed_on in zip(callee.returns, agreed, strict=False):
                    if value is not handed_on:
                        yield from _roots(value, callee)


def _roots(value: Value | None, instance: Instance) -> Iterable[tuple[str, OtherUse]]:
    for root in value.roots if value is not None else ():
        yield root, OtherUse("return", instance)


def _writes(op: str) -> bool:
    return "Assign" in op or "Apply" in op or "Scatter" in op
