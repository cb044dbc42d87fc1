"""Runs processes in parallel, on one machine or several; each job once, whatever is killed.

joblib hands the jobs out: by itself to processes of this machine, through its Ray backend,
with the same calls, to the machines of a Ray cluster. (tf.distribute's cluster is no queue:
its workers train one model in step.) Machines share the folder of the jobs, and have the
code at one path.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from tfapprox.errors import UserError


@dataclasses.dataclass(frozen=True)
class Job:
    """One process.

    Attributes:
      folder: of its own; gets log.txt, and done.json once the process has ended well.
      module: that Python runs.
      arguments: its command line.
    """

    folder: pathlib.Path
    module: str
    arguments: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Pool:
    """Where jobs run.

    Attributes:
      processes: at a time; 0 is one a core, or what the cluster has room for.
      threads: TensorFlow's in each.
      ray: address of a Ray cluster, "local" for one on this machine, "" for none.
      code: directory that jobs are started in.
    """

    processes: int = 0
    threads: int = 1
    ray: str = ""
    code: str = dataclasses.field(default_factory=os.getcwd)

    def __post_init__(self):
        if self.processes < 0 or self.threads < 1:
            raise UserError(
                f"a pool needs processes >= 0 and threads >= 1, got {self.processes}, "
                f"{self.threads}"
            )


def run_jobs(jobs: Sequence[Job], pool: Pool) -> list[Job]:
    """Runs what is not done yet; returns the jobs that failed, whose logs say why.

    A job that another sweep runs at the moment, on whatever machine, is waited for.

    Raises:
      UserError: Ray is asked for and not installed.
    """
    import joblib  # type: ignore[import-untyped,unused-ignore]

    count = pool.processes or (-1 if pool.ray else max(1, (os.cpu_count() or 1) // pool.threads))
    with _backend(pool):
        # Batches would keep jobs waiting behind each other.
        run = joblib.Parallel(n_jobs=count, batch_size=1)
        done = run(joblib.delayed(run_job)(job, pool.threads, pool.code) for job in jobs)
    return [job for job, well in zip(jobs, done, strict=True) if not well]


def run_job(job: Job, threads: int, code: str) -> bool:
    """Runs a job unless it is done; returns whether it ended well."""
    job.folder.mkdir(parents=True, exist_ok=True)
    done = job.folder / "done.json"
    with (job.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            return True
        start = time.time()
        with (job.folder / "log.txt").open("a") as log:
            # The process holds the lock too: it may outlive the sweep.
            status = subprocess.run(
                [sys.executable, "-m", job.module, *job.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=code,
                env=_environment(threads),
                pass_fds=(lock.fileno(),),
                check=False,
            ).returncode
        if status == 0:
            body = {"arguments": job.arguments, "seconds": time.time() - start}
            staging = done.with_name(".done.json.partial")
            staging.write_text(json.dumps(body, indent=1))
            staging.replace(done)
        return status == 0


def _environment(threads: int) -> dict[str, str]:
    names = ("OMP", "OPENBLAS", "MKL", "TF_INTRAOP", "TF_INTEROP")
    own = {f"{name}_NUM_THREADS": str(threads) for name in names[:3]}
    own |= {"TF_NUM_INTRAOP_THREADS": str(threads), "TF_NUM_INTEROP_THREADS": str(threads)}
    return {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **own}


@contextlib.contextmanager
def _backend(pool: Pool) -> Iterator[None]:
    import joblib  # type: ignore[import-untyped,unused-ignore]

    if not pool.ray:
        with joblib.parallel_config(backend="loky"):
            yield
        return
    try:
        import ray  # type: ignore[import-not-found,unused-ignore]
        from ray.util.joblib import register_ray  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise UserError("several machines are reached by Ray: pip install 'ray>=2.40'") from error
    where = {"num_cpus": pool.processes or None} if pool.ray == "local" else {"address": pool.ray}
    # Workers import this module from where the jobs are started.
    path = os.pathsep.join(filter(None, (pool.code, os.environ.get("PYTHONPATH"))))
    ray.init(runtime_env={"env_vars": {"PYTHONPATH": path}}, log_to_driver=False, **where)
    try:
        register_ray()
        resources = {"num_cpus": pool.threads}
        with joblib.parallel_config(backend="ray", ray_remote_args=resources):
            yield
    finally:
        ray.shutdown()
