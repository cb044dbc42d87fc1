"""Names from a model are text, on a terminal as on the page."""

import json

from tests.security.hostile import CONFIG, edit
from tfapprox.cli.main import execute
from tfapprox.compression import compress_saved_model, plan_saved_model
from tfapprox.report.text import inspection_to_json, print_inspection
from tfapprox.rewriters.plan import EXTRA
from tfapprox.rewriters.saved_model import open_saved_model


def test_names_can_t_give_orders_to_a_terminal(model, capsys):
    def rename(meta):
        for node in meta.object_graph_def.nodes:
            if node.WhichOneof("kind") == "variable":
                node.variable.name = "\x1b]0;owned\x07[red]net"

    inspection = open_saved_model(edit(model, rename)).inspection
    print_inspection(inspection)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown
    assert "owned" in shown and "[red]" in shown
    assert "\x1b" in inspection_to_json(inspection)["sites"][0]["name"]  # JSON escapes it


def test_names_can_t_give_orders_when_a_compression_is_undone(model, tmp_path, capsys):
    def rename(meta):
        for node in meta.object_graph_def.nodes:
            if node.WhichOneof("kind") == "variable":
                node.variable.name = "\x1b]0;owned\x07net"

    small = tmp_path / "small"
    compress_saved_model(edit(model, rename), small, CONFIG, batch_sizes=(), run=False)
    target = ["--output_dir", str(tmp_path / "dense")]
    assert execute(["restore", "--dir", str(small), *target, "--dont_run"]) == 0
    shown = capsys.readouterr().out
    assert "dense again" in shown and "owned" in shown
    assert "\x1b" not in shown and "\x07" not in shown


def test_a_plan_inside_a_model_can_t_give_orders_to_a_terminal(model, capsys):
    plan = json.loads(plan_saved_model(model, CONFIG).to_json())
    file = model / EXTRA / "plan.json"
    file.parent.mkdir(parents=True)
    for settings in ({"selector": "\x1b[2Jalds", "budget": ["keep"]}, ["\x1b[2J"]):
        file.write_text(json.dumps({**plan, "settings": settings}))
        assert execute(["inspect", "--dir", str(model)]) == 0
        shown = "".join(capsys.readouterr())
        assert "\x1b" not in shown
