"""Every point runs once, what is done stays, what fails is told, and all ends in one table."""

import fcntl
import json
import pathlib
import sys
import threading

import pytest
from absl import flags

from experiments import sweep
from experiments.job_queue import Job, Pool, run_job, run_jobs
from experiments.sweep import Sweep, run_sweep, sweep_from_flags, table
from tfapprox.errors import UserError

# A stand-in for an experiment: leaves a row, counts its runs, fails for seed 7.
PROBE = """
import json, pathlib, sys
own = dict(x[2:].split("=", 1) for x in sys.argv[1:])
place, seed, keep = pathlib.Path(own["model_dir"]), int(own["seed"]), float(own["keep"])
with (place / "runs").open("a") as file:
    file.write("run\\n")
print("seed", seed)
sys.exit("no") if seed == 7 else None
def row(method, keep, test):
    return {"method": method, "seed": seed, "keep": keep, "params": int(100 * keep), "macs": 1,
            "params_ratio": keep, "macs_ratio": 1.0, "epoch": 1, "valid": test, "test": test}
rows = [row("dense", 1.0, 0.9), row("svd", keep, 0.8 + seed / 100)]
(place / "trade_offs.json").write_text(json.dumps(rows))
"""


@pytest.fixture
def code(tmp_path):
    place = tmp_path / "code" / "package" / "probe.py"
    place.parent.mkdir(parents=True)
    place.write_text(PROBE)
    return str(tmp_path / "code")


def runs(folder):
    return sorted(len(p.read_text().splitlines()) for p in folder.glob("*/runs"))


def test_a_sweep_runs_every_point_once_and_ends_in_one_table(tmp_path, code):
    grid = {"network": ("a", "b"), "keep": ("0.5", "0.3"), "seed": ("0", "1")}
    plan = Sweep(tmp_path / "sweep", "package.probe", grid)
    pool = Pool(processes=2, code=code)
    rows = run_sweep(plan, pool)
    assert runs(plan.folder) == [1] * 8
    assert len(rows) == 2 * 2 * (1 + 2)  # networks, seeds, dense and two ratios
    lines = (plan.folder / "sweep.md").read_text().splitlines()
    assert len(lines) == 2 + 2 * 3
    assert lines[3].startswith("| a | svd | 0.5 | 2 |") and "80.50 (0.71)" in lines[3]
    assert "-9.50" in lines[3]
    assert all((plan.folder / f"{network}.png").stat().st_size > 1000 for network in "ab")
    assert len(json.loads((plan.folder / "sweep.json").read_text())) == 12

    # Again: nothing runs; with one more seed only its points do.
    assert run_sweep(plan, pool) == rows
    more = Sweep(plan.folder, "package.probe", {**grid, "seed": ("0", "1", "2")})
    assert len(run_sweep(more, pool)) == 18
    assert runs(plan.folder) == [1] * 12


def test_a_point_that_fails_is_named_after_the_others_are_done(tmp_path, code):
    grid = {"seed": ("7", "0"), "keep": ("0.5",)}
    with pytest.raises(UserError, match=r"1 of 2 points failed: see .*seed=7,keep=0.5/log.txt"):
        run_sweep(Sweep(tmp_path, "package.probe", grid), Pool(processes=1, code=code))
    assert (tmp_path / "sweep.md").read_text().count("svd") == 1
    assert "seed 7" in (tmp_path / "seed=7,keep=0.5" / "log.txt").read_text()


def test_other_flags_make_methods_of_their_own(tmp_path, code):
    grid = {"seed": ("0",), "keep": ("0.5",), "epochs": ("1", "2")}
    rows = run_sweep(Sweep(tmp_path, "package.probe", grid), Pool(processes=1, code=code))
    assert {r.method for _, r in rows} == {
        f"{method} epochs={n}" for method in ("dense", "svd") for n in (1, 2)
    }
    assert table(rows).count("-10.00") == 2


def test_jobs_run_on_a_ray_cluster_with_the_same_calls(tmp_path, code):
    pytest.importorskip("ray")
    jobs = []
    for seed in (0, 7):
        folder = tmp_path / str(seed)
        arguments = (f"--model_dir={folder}", f"--seed={seed}", "--keep=1")
        jobs.append(Job(folder, "package.probe", arguments))
    failed = run_jobs(jobs, Pool(processes=2, ray="local", code=code))
    assert [job.folder.name for job in failed] == ["7"]
    assert (tmp_path / "0" / "done.json").exists()


def test_a_job_in_progress_is_waited_for_and_not_run_twice(tmp_path, code):
    folder = tmp_path / "point"
    folder.mkdir()
    job = Job(folder, "package.probe", (f"--model_dir={folder}", "--seed=0", "--keep=1"))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(run_job(job, 1, code)))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        (folder / "done.json").write_text("{}")  # what holds the lock has finished it
    waiting.join(300)
    assert answers == [True]
    assert not (folder / "runs").exists()


@pytest.fixture
def flag_values():
    values = flags.FlagValues()
    sweep.define_flags(values)
    return values


def test_flags_become_a_grid(flag_values, tmp_path):
    flag_values(
        [
            "sweep",
            f"--sweep_dir={tmp_path}",
            "--grid=seed 0 1",
            "--grid=keeps 0.5,0.3",
            "--threads=2",
        ]
    )
    plan, pool = sweep_from_flags(flag_values, ("--epochs=1",))
    (_, job), _ = plan.jobs()
    assert job.module == "experiments.cifar_alds"
    assert job.folder == tmp_path / "seed=0,keeps=0.5,0.3"
    assert job.arguments == (
        f"--model_dir={job.folder}",
        "--epochs=1",
        "--seed=0",
        "--keeps=0.5,0.3",
    )
    assert pool.threads == 2 and pool.code == str(pathlib.Path.cwd())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "sweep_dir"),
        (("--sweep_dir=x", "--grid=seed"), "seed"),
        (("--sweep_dir=x", "--grid=seed 0", "--grid=seed 1"), "each once"),
        (("--sweep_dir=x", "--threads=0"), "threads"),
        (("--sweep_dir=x", "--experiment=cifar_aldz"), "no experiments/cifar_aldz.py"),
    ],
)
def test_impossible_flags_are_refused(flag_values, arguments, message):
    flag_values(["sweep", *arguments])
    with pytest.raises(UserError, match=message):
        sweep_from_flags(flag_values, ())


def test_without_ray_its_absence_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install"):
        run_jobs([], Pool(ray="local"))
