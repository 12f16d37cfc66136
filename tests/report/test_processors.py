import os
import subprocess
import sys

import pytest

from attribook.report import processors

SEEN = """
import os, numpy, torch
print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
print(*numpy.show_config(mode="dicts")["SIMD Extensions"].get("found", []))
"""


@pytest.fixture(autouse=True)
def restored():
    """The environment as it was, after a test that changes it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def on_a_machine_with(monkeypatch):
    """Pretends that torch finds this capability."""
    return lambda found: monkeypatch.setattr(processors, "capability", lambda: found)


def started():
    """What a process that starts now finds: torch's capability and threads, numpy's features."""
    done = subprocess.run([sys.executable, "-c", SEEN], capture_output=True, text=True, check=True)
    first, features = done.stdout.split("\n")[:2]
    capability, threads = first.split()
    return capability, int(threads), features.split()


def test_a_process_under_default_uses_no_instructions_beyond_the_baseline():
    with processors.simulated("default"):
        capability, threads, features = started()
    assert capability in ("DEFAULT", "NO AVX") and threads == 1
    assert not any(name.startswith(("X86_V", "AVX")) for name in features)


def test_a_process_under_avx2_uses_avx2_and_no_avx512():
    if processors.capability() not in ("AVX2", "AVX512"):
        pytest.skip("this processor has no AVX2")
    with processors.simulated("avx2"):
        capability, _, features = started()
    assert capability == "AVX2"
    assert not any(name.startswith(("X86_V4", "AVX512")) for name in features)


def test_a_process_under_threads2_uses_two_threads_whatever_was_set_before(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with processors.simulated("threads2"):
        assert started()[1] == 2
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_one_simulation_leaves_nothing_behind_for_the_next(monkeypatch):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    before = dict(os.environ)
    for name in ("default", "threads2", "native", None):
        with processors.simulated(name):
            assert (os.environ.get("ATEN_CPU_CAPABILITY") == "default") == (name == "default")
        assert dict(os.environ) == before


def test_simulating_again_in_a_child_keeps_what_numpy_must_not_use(monkeypatch):
    monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", "X86_V3 X86_V4")
    assert {"X86_V3", "X86_V4"} <= set(
        processors.environment("default")["NPY_DISABLE_CPU_FEATURES"].split()
    )


def test_a_processor_that_this_machine_lacks_is_refused(on_a_machine_with):
    on_a_machine_with("AVX2")
    with pytest.raises(ValueError, match=r"avx512 cannot be simulated.* has AVX2; choose from"):
        processors.environment("avx512")
    assert processors.environment("avx2")["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    on_a_machine_with("DEFAULT")
    with pytest.raises(ValueError, match="avx2 cannot be simulated"):
        processors.environment("avx2")


def test_avx512_caps_nothing_where_the_machine_has_it(on_a_machine_with):
    on_a_machine_with("AVX512")
    found = processors.environment("avx512")
    assert found["ATEN_CPU_CAPABILITY"] == "avx512" and "ONEDNN_MAX_CPU_ISA" not in found


def test_an_unknown_processor_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown processor 'z80'; there are: native, default"):
        processors.apply("z80")


def test_the_environment_can_ask_for_a_processor(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.delenv(processors.ASKED, raising=False)
    processors.apply_asked()
    assert os.environ["OMP_NUM_THREADS"] == "8"
    monkeypatch.setenv(processors.ASKED, "threads2")
    processors.apply_asked()
    assert os.environ["OMP_NUM_THREADS"] == "2"
