"""All C++ computations under Address-, UndefinedBehavior- and ThreadSanitizer, with odd sizes."""

import os
import subprocess

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from trainer.models.kernels import native_library

DRIVER = ROOT / "tests/models/kernels/sanitizer_driver.cc"
OPTIONS = ("-std=c++17", "-O1", "-g", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-pthread")
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-ignored-attributes", "-Wno-unknown-pragmas")
SANITIZERS = ("address,undefined", "thread")
ENVIRONMENT = {
    **os.environ,
    "ASAN_OPTIONS": "allocator_may_return_null=1:detect_leaks=0",  # the pool and what is kept for reuse live for ever
    "TSAN_OPTIONS": "allocator_may_return_null=1",
    "BERT_TRAINER_THREADS": "3",
}
CASES_A_RUN = 40
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=SANITIZERS)
def driver(request, tmp_path_factory):
    compiler = native_library._compiler(os.environ)
    if compiler is None:
        pytest.skip("no C++ compiler here")
    program = tmp_path_factory.mktemp("driver") / "driver"
    sanitize = (f"-fsanitize={request.param}", "-fno-sanitize-recover=all")
    command = [compiler, *OPTIONS, *WARNINGS, *sanitize, f"-I{ROOT}/trainer/native", str(DRIVER), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "cannot find" in done.stderr and "san" in done.stderr:
        pytest.skip("the compiler has no sanitizers here")
    assert done.returncode == 0, done.stderr
    return program


types = st.sampled_from(["float", "bfloat16"])
head_sizes = st.sampled_from([(1, 8), (2, 10), (3, 24), (5, 20), (4, 64), (1, 34), (12, 96)])  # heads, hidden


@st.composite
def layers(draw, name="layer", more=()):
    heads, hidden = draw(head_sizes)
    length = draw(st.integers(1, 40))
    inner = 2 * draw(st.integers(1, 70))  # pairs of bfloat16
    sizes = [draw(st.integers(1, 4)), length, draw(st.integers(0, 5)), hidden, heads, inner, *(draw(one) for one in more)]
    return " ".join([name, draw(types), *map(str, sizes)])


@st.composite
def decoders(draw):
    heads, hidden = draw(head_sizes)
    tokens = draw(st.integers(1, 200))
    sizes = [draw(st.integers(*bounds)) for bounds in ((0, 5), (1, 4), (1, 6), (0, 9))]
    sizes += [hidden, heads, draw(st.integers(1, 70)), draw(st.integers(1, 3)), tokens, draw(st.integers(1, min(tokens, 9)))]
    return " ".join(["decode", *map(str, sizes)])


def sized(name, *sizes, typed=False):
    return st.tuples(st.just(name), *([types] if typed else []), *sizes).map(lambda words: " ".join(map(str, words)))


cases = st.one_of(
    layers(),
    layers(name="encode", more=(st.integers(1, 3),)),
    decoders(),
    sized("embed", st.integers(0, 70), st.integers(1, 70), st.integers(1, 40), typed=True),
    sized("adamw", st.integers(1, 300), st.integers(1, 300), st.integers(0, 20)),
    sized("tokenize", st.integers(0, 20), st.integers(0, 200)),
    sized("pool", st.integers(1, 50)),
)


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.generate],  # a run has many cases, and its output names the one that fails
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(cases, min_size=CASES_A_RUN, max_size=CASES_A_RUN))
def test_odd_sizes(driver, lines):
    done = subprocess.run([driver], input="\n".join(lines) + "\n", capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == f"{CASES_A_RUN} cases\n"
