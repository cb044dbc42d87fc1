"""Reports, inspections, verifications and latencies as tables for a terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfapprox.accounting.cost import Cost
from tfapprox.accounting.site import Site
from tfapprox.printable import printable
from tfapprox.report.numbers import count, error, milliseconds, share, size
from tfapprox.report.report import Report
from tfapprox.report.speed import speed_verdict
from tfapprox.report.sweep import Sweep, ratio_name
from tfapprox.report.sweep_table import original_row, sweep_table
from tfapprox.rewriters.agreement import Verification
from tfapprox.rewriters.inspection import Inspection
from tfapprox.rewriters.plan import Plan
from tfapprox.rewriters.plan_remarks import plan_remarks
from tfapprox.serving.latency import Latency
from tfapprox.serving.signature import Signature
from tfapprox.training.distillation_config import Distillation, RefinedBlock

_NO_TABLE_WIDTH = 100  # of a pipe or file, where there is no terminal to ask
_FAR = 0.3  # relative error of an output that is hardly what anybody wants
_WAYS_OUT = "keep more, or let the factors learn with --refine_steps and --distill_steps"


def print_inspection(inspection: Inspection, console: Console | None = None) -> None:
    """Prints the sites of a model, the operations that stay, and the totals."""
    console = console or _console()
    table = _table("Sites", "Kind", "Kernel", "Output positions", "Params", "MACs", "Share")
    for site in inspection.sites:
        table.add_row(
            *_texts(site.name, site.kind, _shape(site.kernel.shape), _positions(site)),
            *_cost(site.cost),
            share(site.cost.macs, inspection.macs),
        )
    console.print(table)
    if inspection.kept:
        kept = _table("Kept as they are", "Kind", "MACs", "Reason")
        for operation in inspection.kept:
            macs = count(operation.cost.macs)
            kept.add_row(*_texts(operation.name, operation.kind, macs, operation.reason))
        console.print(kept)
    console.print(
        f"{len(inspection.sites)} sites; {count(inspection.params)} parameters "
        f"({size(inspection.param_bytes)}), {count(inspection.macs)} MACs for one example"
    )
    _print_notes(inspection.notes, console)


def print_signatures(signatures: Mapping[str, Signature], console: Console | None = None) -> None:
    """Prints what each signature takes and gives, by the keys of its arrays."""
    console = console or _console()
    table = _table("Signature", "Takes", "Gives")
    for name, signature in signatures.items():
        keys = (
            "\n".join(printable(f"{key}: {spec}") for key, spec in sorted(specs.items()))
            for specs in (signature.inputs, signature.outputs)
        )
        table.add_row(*_texts(name), *map(Text, keys))
    console.print(table)


def inspection_to_json(inspection: Inspection) -> dict:
    """Returns an inspection without its kernels, for `json.dumps`."""
    return {
        "sites": [
            {
                "name": site.name,
                "kind": site.kind,
                "kernel_shape": list(site.kernel.shape),
                "dtype": str(site.kernel.dtype),
                "output_sizes": [list(g.output_size(site.kernel_size)) for g in site.geometries],
                "assumed_size": site.assumed_size,
                **_cost_to_json(site.cost),
            }
            for site in inspection.sites
        ],
        "kept": [
            {"name": x.name, "kind": x.kind, "reason": x.reason, **_cost_to_json(x.cost)}
            for x in inspection.kept
        ],
        "params": inspection.params,
        "param_bytes": inspection.param_bytes,
        "macs": inspection.macs,
        "notes": list(inspection.notes),
    }


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Prints the verdict on each site, and what should be known of them."""
    console = console or _console()
    _print_verdicts(plan, console)
    _print_notes(plan_remarks(plan), console)


def _print_verdicts(plan: Plan, console: Console) -> None:
    table = _table("Sites", "Kernel", "Verdict", "Error", "Params", "MACs")
    for verdict in plan.verdicts:
        kept = verdict.choice is None
        table.add_row(
            *_texts(verdict.site, _shape(verdict.kernel_shape)),
            Text(printable(f"dense: {verdict.reason}"), "dim")
            if kept
            else Text(str(verdict.choice)),
            "-" if kept else error(verdict.error),
            _change(verdict.before.params, verdict.after.params),
            _change(verdict.before.macs, verdict.after.macs),
        )
    console.print(table)
    if plan.settings.get("calibration") in ("anchored", "rectified"):
        seen = plan.settings.get("rectified") or ()
        behind = f" ({len(seen)} of them behind a ReLU)" if seen else ""
        console.print(
            Text(f"errors are of sites' outputs{behind} in the compressed model, as fitted", "dim")
        )


def print_verification(verification: Verification, console: Console | None = None) -> None:
    """Prints the agreement of every output, and what failed."""
    console = console or _console()
    table = _table("Outputs", "Relative error", "Largest difference", "Agreement")
    for output in verification.outputs:
        table.add_row(
            *_texts(f"{output.signature}: {output.output}"),
            error(output.relative_error),
            error(output.largest_difference),
            "-" if output.agreement is None else share(output.agreement, 1),
        )
    if verification.outputs:
        console.print(table)
    console.print(Text(printable(f"Inputs: {verification.inputs}")))
    for failure in verification.failures:
        console.print(Text(printable(f"✗ {failure}"), "red"))
    if verification.passed:
        limit = verification.limit
        beyond = "" if limit is None else f", no error beyond {error(limit)}"
        console.print(Text(f"✓ verified: same structure, finite outputs{beyond}", "green"))
    _print_notes(verification.notes, console)


def print_latency(latency: Sequence[Latency], console: Console | None = None) -> None:
    """Prints original against compressed at each batch size."""
    console = console or _console()
    table = _table("Batch", "Original p50", "p95", "Compressed p50", "p95", "Faster", "Quartiles")
    for one in latency:
        low, high = one.ratio_range
        style = "green" if one.is_faster else "yellow"
        table.add_row(
            str(one.batch_size),
            *(milliseconds(x) for x in (one.original.p50, one.original.p95)),
            *(milliseconds(x) for x in (one.compressed.p50, one.compressed.p95)),
            Text(f"{one.ratio:.2f}x", style),
            f"{low:.2f}x - {high:.2f}x",
        )
    console.print(table)
    for line in dict.fromkeys(describe_measurement(one) for one in latency):
        console.print(Text(line, "dim"))


def describe_measurement(latency: Latency) -> str:
    """Returns by what loader, threads and TensorFlow it was measured."""
    threads = "default threads" if latency.threads is None else f"{latency.threads} thread(s)"
    return (
        f"measured in turns through the {latency.loader} loader, {threads}, "
        f"TensorFlow {latency.tensorflow_version}"
    )


def print_report(report: Report, console: Console | None = None) -> None:
    """Prints a whole compression."""
    console = console or _console()
    _print_verdicts(report.plan, console)
    table = _table("Model", "Before", "After", "Remains")
    before, after = report.before, report.after
    for name, form, old, new in (
        ("parameters", count, before.params, after.params),
        ("MACs", count, before.macs, after.macs),
        ("on disk", size, before.disk_bytes, after.disk_bytes),
    ):
        if old:
            table.add_row(name, form(old), form(new), share(new, old))
    console.print(table)
    if report.verification is not None:
        print_verification(report.verification, console)
        if report.verification.relative_error > _FAR:
            told = f"outputs are off by up to {error(report.verification.relative_error)}"
            _print_notes([f"{told} of the original's: {_WAYS_OUT}"], console)
    if report.latency:
        print_latency(report.latency, console)
    if report.refinement:
        _print_refinement(report.refinement, console)
    if report.distillation is not None:
        _print_distillation(report.distillation, console)
    console.print(Text(speed_verdict(report)))
    _print_notes(report.notes, console)
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.seconds.items())
    if phases:
        console.print(Text(f"{phases}; peak memory {size(report.peak_memory_bytes)}", "dim"))


def print_sweep(sweep: Sweep, console: Console | None = None) -> None:
    """Prints a line for the original, and one for each budget."""
    console = console or _console()
    columns, cells = sweep_table(sweep)
    table = _table("Budget", *columns)
    table.add_row("original", *(text for text, _ in original_row(sweep)))
    for point, _ in sweep.reports:
        table.add_row(ratio_name(point.ratio), *(text for text, _ in cells[point.ratio]))
    console.print(table)
    for point in sweep.points:
        if point.failure:
            console.print(Text(printable(f"✗ {ratio_name(point.ratio)}: {point.failure}"), "red"))
        elif point.resumed:
            console.print(Text(f"{ratio_name(point.ratio)} was there already", "dim"))


def _print_distillation(told: Distillation, console: Console) -> None:
    console.print(
        f"distilled for {told.steps} steps on {told.batches} batches; on {told.held_back} held "
        f"back, the relative error fell from {error(told.error_before)} to "
        f"{error(told.error_after)} (step {told.best_step})"
    )
    _print_notes(told.notes, console)


def _print_refinement(blocks: Sequence[RefinedBlock], console: Console) -> None:
    steps = sum(block.training.steps for block in blocks)
    table = _table("Refined blocks, up to", "Factors", "Error before", "Error after")
    for block in blocks:
        told = block.training
        errors = error(told.error_before), error(told.error_after)
        table.add_row(*_texts(block.name), str(len(block.factors)), *errors)
    console.print(table)
    console.print(f"{len(blocks)} blocks were trained for {steps} steps in all, each by itself")
    for block in blocks:
        _print_notes([f"{block.name}: {note}" for note in block.training.notes], console)


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, _NO_TABLE_WIDTH))
    return console


def _table(first: str, *columns: str) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column(first, overflow="fold")
    words = {"Kind", "Kernel", "Verdict", "Reason", "Takes", "Gives"}
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right", overflow="fold")
    return table


def _texts(*cells: str) -> list[Text]:
    """Returns the cells as they are: names from a model may hold markup, or worse."""
    return [Text(printable(cell)) for cell in cells]


def _print_notes(notes: Sequence[str], console: Console) -> None:
    for note in notes:
        console.print(Text(printable(f"note: {note}"), "yellow"))


def _shape(shape: Sequence[int]) -> str:
    height, width, fan_in, fan_out = shape
    return (
        f"{fan_in} -> {fan_out}"
        if height == width == 1
        else (f"{height}x{width}, {fan_in} -> {fan_out}")
    )


def _positions(site: Site) -> str:
    sizes = [g.output_size(site.kernel_size) for g in site.geometries]
    text = ", ".join("x".join(str(n) for n in size) for size in dict.fromkeys(sizes))
    uses = f" ({len(sizes)} uses)" if len(sizes) > 1 else ""
    return text + uses + (" assumed" if site.assumed_size else "")


def _cost(cost: Cost) -> tuple[str, str]:
    return count(cost.params), count(cost.macs)


def _cost_to_json(cost: Cost) -> dict:
    return {"params": cost.params, "macs": cost.macs, "bytes": cost.bytes}


def _change(before: int, after: int) -> str:
    return count(before) if before == after else f"{count(before)} -> {count(after)}"
