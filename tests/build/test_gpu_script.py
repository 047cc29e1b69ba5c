"""bench/gpu.sh with stand-ins for the driver, Python and the sanitizer: its steps, its files, its exit status."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "gpu.sh"
FILES = {"summary.txt", "build.log", "info.log", "tests.log", "memcheck.log", "racecheck.log", "bench.log", "gpu.csv"}

pytestmark = pytest.mark.skipif(
    shutil.which("timeout") is None or shutil.which("bash") is None, reason="bash and coreutils are not installed"
)

NVIDIA_SMI = "#!/bin/sh\necho 'GPU 0: a stand-in'\n"
PYTHON = """#!/bin/sh
case "$*" in
    *get_device_capability*) echo 90 ;;
    *default_csv*) echo bench/data/gpu.csv ;;
    *'import xdist'*) exit 1 ;;
    -c*) echo stand-in ;;
    *) echo "$* FASTIQA_PREBUILT=$FASTIQA_PREBUILT CACHING_OFF=$PYTORCH_NO_CUDA_MEMORY_CACHING" >>calls ;;
esac
case "$*" in
    *'-m fastiqa bench'*) mkdir -p bench/data; echo row >>bench/data/gpu.csv ;;
    *'-m pytest -m gpu tests '*) @TESTS@ ;;
esac
"""
SANITIZER = '#!/bin/sh\necho "compute-sanitizer $*" >>calls\nwhile [ "$1" != @PYTHON@ ]; do shift; done\nexec "$@"\n'


class Machine:
    """A checkout with the script alone, and stand-ins on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.out, self.programs = folder / "checkout", folder / "out", folder / "bin"
        (self.checkout / "bench").mkdir(parents=True)
        shutil.copy(SCRIPT, self.checkout / "bench")
        self.programs.mkdir()
        self.program("nvidia-smi", NVIDIA_SMI)
        self.python("exit 0")
        self.program("compute-sanitizer", SANITIZER.replace("@PYTHON@", str(self.programs / "python3")))

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def python(self, tests: str) -> None:
        self.program("python3", PYTHON.replace("@TESTS@", tests))

    def start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        python = str(self.programs / "python3")
        whole = {**os.environ, "PATH": path, "PYTHON": python, "OUT": str(self.out), **environment}
        command = ["bash", str(self.checkout / "bench" / "gpu.sh"), *options]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=whole, cwd=self.out.parent, stdout=pipe, stderr=pipe, text=True)

    def run(self, *options: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*options, **environment)
        out, error = process.communicate(timeout=60)
        return process.returncode, out, error

    @property
    def calls(self) -> list[str]:
        return (self.checkout / "calls").read_text().splitlines()

    def brought_back(self) -> dict[str, str]:
        return {file.name: file.read_text() for file in self.out.iterdir()}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_every_step_runs_and_eight_files_come_back(machine: Machine) -> None:
    status, out, error = machine.run("high_pass")
    assert status == 0, out + error
    assert machine.brought_back().keys() == FILES
    assert out.splitlines()[-1].startswith("bench/gpu.sh: all steps passed")
    assert machine.brought_back()["summary.txt"].splitlines()[-1] == out.splitlines()[-1]
    calls = machine.calls
    assert calls[0].startswith("setup.py build_ext --inplace FASTIQA_PREBUILT= ")
    checks = [call for call in calls if call.startswith("compute-sanitizer")]
    assert sorted(call.split()[2] for call in checks) == ["memcheck", "racecheck"]
    assert all("--report-api-errors no --kernel-name kns=fastiqa" in call for call in checks)
    assert sum("CACHING_OFF=1" in call for call in calls) == 2
    assert [call.startswith("-m fastiqa bench") and "high_pass" in call for call in calls[-2:]] == [True, True]


def test_a_failure_is_told_after_the_other_steps(machine: Machine) -> None:
    machine.python("echo '1 failed'; exit 1")
    status, out, _ = machine.run(OUT="out")  # beside the checkout, from where it is called
    assert status == 1
    assert "== tests: FAILED with status 1" in out
    assert out.splitlines()[-1].startswith("bench/gpu.sh: failed: tests, after")
    assert machine.brought_back()["tests.log"] == "1 failed\n"
    assert "gpu.csv" in machine.brought_back()


def test_libraries_made_elsewhere_are_taken(machine: Machine) -> None:
    status, _, error = machine.run("--skip-build")
    assert (status, "there is no fastiqa/libfastiqa_cpu.so; nothing was run" in error) == (3, True)
    (machine.checkout / "fastiqa").mkdir()
    for library in ("cpu", "cuda"):
        (machine.checkout / "fastiqa" / f"libfastiqa_{library}.so").touch()
    status, out, error = machine.run("--skip-build")
    assert status == 0, out + error
    assert machine.brought_back().keys() == FILES - {"build.log"}
    assert not any("setup.py" in call for call in machine.calls)
    assert all("FASTIQA_PREBUILT=1" in call for call in machine.calls if call.startswith("-m pytest"))
    assert machine.run("--skip-tests")[0] == 2


def test_a_step_beyond_its_limit_is_stopped(machine: Machine) -> None:
    machine.python("echo begun; exec sleep 50")
    begun = time.monotonic()
    status, out, _ = machine.run(TOTAL="3")
    assert time.monotonic() - begun < 20
    assert status == 1
    assert "== tests: stopped at its limit" in out
    assert machine.brought_back()["tests.log"] == "begun\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_there_is_comes_back_from_a_run_that_is_ended(machine: Machine, number: signal.Signals) -> None:
    machine.python("echo $$ >sleeping; echo begun; exec sleep 50")
    process = machine.start()
    sleeping = machine.checkout / "sleeping"
    deadline = time.monotonic() + 30
    while not (sleeping.exists() and sleeping.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 128 + number
    kept = machine.brought_back()
    assert kept["tests.log"] == "begun\n"
    assert f"ended with status {128 + number}" in kept["summary.txt"]
    for _ in range(100):
        if not is_running(int(sleeping.read_text())):
            break
        time.sleep(0.05)
    else:
        pytest.fail("a step goes on after the script has ended")


def is_running(process: int) -> bool:
    """Whether a process is there, and no zombie that waits to be collected."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_no_gpu_is_said_at_once(machine: Machine) -> None:
    machine.program("nvidia-smi", "#!/bin/sh\nexit 9\n")
    status, _, error = machine.run()
    assert (status, error) == (3, "bench/gpu.sh: nvidia-smi lists no GPU; nothing was run\n")
    assert not machine.out.exists()
