import importlib.util
import sys

import pytest

from tfapprox.errors import UserError
from tfapprox.report.tensorboard import plan_table, write_tensorboard

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="TensorBoard is not installed: pip install 'tfapprox[tensorboard]'",
)


def values(folder):
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    tags = accumulator.Tags()["tensors"]
    return {tag: tf.make_ndarray(accumulator.Tensors(tag)[0].tensor_proto) for tag in tags}


@needs_tensorboard
def test_plan_ranks_errors_savings_and_link_are_in_the_event_file(report, tmp_path):
    write_tensorboard(report, tmp_path / "log", tmp_path / "report.html")
    found = values(tmp_path / "log")
    assert found["plan"].item().decode() == plan_table(report)
    assert f"({(tmp_path / 'report.html').as_uri()})" in found["report"].item().decode()
    assert found["kept/macs"] == pytest.approx(report.after.macs / report.before.macs)
    assert found["speed-up/batch 8"] == pytest.approx(1.8)
    assert found["outputs/relative_error"] == pytest.approx(0.042)
    replaced = [v for v in report.plan.verdicts if v.choice is not None]
    assert found["plan/rank"][:, 2].sum() == len(replaced)
    assert found["plan/error"][:, 2].sum() == len(replaced)
    assert found[f"site_error/{replaced[1].site}"] == pytest.approx(replaced[1].error)


def test_the_plan_table_has_a_row_for_each_site_and_no_live_markup(report):
    lines = plan_table(report).splitlines()
    assert len(lines) == 2 + len(report.plan.verdicts)
    assert all(line.replace("\\|", "").count("|") == 6 for line in lines)
    assert "<img" not in plan_table(report).replace("\\<", "")
    assert "kept: no candidate is cheaper" in lines[-1]


def test_without_tensorboard_the_remedy_is_one_line(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'tfapprox\[tensorboard\]'"):
        write_tensorboard(report, tmp_path)
