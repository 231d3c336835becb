"""What ships: symbols of the libraries, where they look for others, what includes what, and what a
user reads when the op library is missing or does not fit."""

import json
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import textwrap

import cuda_binding
import cuda_sweep_plan
import pytest

from bsparse_tf import choice, version

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bsparse_tf"
LIBRARIES = sorted(PACKAGE.glob("*.so"))
CUDA_LIBRARY = PACKAGE / "libbsparse_cuda.so"

needs_cuda_library = pytest.mark.skipif(not CUDA_LIBRARY.exists(), reason="a CPU-only build")
every_library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


LINKERS_OWN = {"__bss_start", "_edata", "_end"}


def dynamic_symbols(library, *options):
    """The global names in the library's dynamic symbol table, without versions."""
    lines = run("nm", "--dynamic", "--format=posix", *options, str(library)).splitlines()
    symbols = [line.split()[:2] for line in lines]
    names = [name.split("@")[0] for name, kind in symbols if not kind.islower() or kind in "vw"]
    return [name for name in names if name not in LINKERS_OWN]


def dynamic_entries(library, tag):
    """What stands in brackets in the entries `tag` of the library's dynamic section."""
    lines = run("readelf", "--dynamic", "--wide", str(library)).splitlines()
    return [re.search(r"\[(.*)\]", line)[1] for line in lines if f"({tag})" in line]


def test_the_build_put_the_libraries_into_the_package():
    names = {library.name for library in LIBRARIES}
    assert names >= {"_bsparse_ops.so", "_bsparse_xla.so", "libbsparse_plan.so"}
    assert (PACKAGE / "_build_info.py").exists()


# Libraries.


@every_library
def test_no_cuda_symbol_is_left_to_others(library):
    # TensorFlow exports the CUDA runtime as stubs; an undefined symbol would bind to them.
    cuda_names = re.compile(r"_*(cuda|cu|cublas|cudnn|nvml|nvrtc)[A-Z]|__(cuda|nv)")
    undefined = dynamic_symbols(library, "--undefined-only")
    assert [name for name in undefined if cuda_names.match(name)] == []


@every_library
def test_runpath_is_the_librarys_own_directory(library):
    assert dynamic_entries(library, "RUNPATH") == ["$ORIGIN"]
    assert dynamic_entries(library, "RPATH") == []


@every_library
def test_soname_is_the_file_name(library):
    assert dynamic_entries(library, "SONAME") == [library.name]


SYSTEM = {
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libstdc++.so.6",
}


@pytest.mark.parametrize(
    "name, expected",
    [
        ("_bsparse_ops.so", {"libtensorflow_framework.so.2"}),
        (
            "_bsparse_xla.so",
            {"_bsparse_ops.so", "libtensorflow_cc.so.2", "libtensorflow_framework.so.2"},
        ),
        ("libbsparse_plan.so", set()),
        pytest.param("libbsparse_cuda.so", set(), marks=needs_cuda_library),
    ],
)
def test_libraries_need_only_what_the_architecture_says(name, expected):
    needed = dynamic_entries(PACKAGE / name, "NEEDED")
    others = {n for n in needed if n not in SYSTEM and not n.startswith("ld-linux")}
    assert others == expected


def test_the_plan_library_exports_its_c_api_alone():
    exported = dynamic_symbols(PACKAGE / "libbsparse_plan.so", "--defined-only")
    assert any(name.startswith("bsparse_plan") for name in exported)
    assert [name for name in exported if "bsparse" in name and name.startswith("_Z")] == []


@needs_cuda_library
def test_the_cuda_library_exports_one_function_and_knows_no_tensorflow():
    assert dynamic_symbols(CUDA_LIBRARY, "--defined-only") == ["bsparse_cuda_get_api"]
    foreign = re.compile(r"tensorflow|absl|xla|tsl|Eigen|stream_executor")
    assert [name for name in dynamic_symbols(CUDA_LIBRARY) if foreign.search(name)] == []


def device_code(library):
    """The device code in a library: a set of ("ptx" or "elf", compute capability).

    Reads the fat binaries in the section .nv_fatbin: a header (magic, version, its size, size of
    what follows), then entries (kind, -, size of the entry's header, size of its data, ..., the
    compute capability at offset 28).
    """
    data = library.read_bytes()
    kinds = {1: "ptx", 2: "elf"}
    found = set()
    for match in re.finditer(struct.pack("<I", 0xBA55ED50), data):
        _, _, header_size, size = struct.unpack_from("<IHHQ", data, match.start())
        position = match.start() + header_size
        end = position + size
        while position < end:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", data, position)
            (capability,) = struct.unpack_from("<I", data, position + 28)
            found.add((kinds[kind], capability))
            position += entry_header + entry_size
    return found


@needs_cuda_library
def test_the_cuda_library_has_machine_code_for_sm_80_and_sm_90_and_ptx_for_later():
    assert device_code(CUDA_LIBRARY) >= {("elf", 80), ("elf", 90), ("ptx", 90)}


def test_what_drives_the_kernels_in_tests_knows_their_header():
    """No GPU is needed to see that one was changed without the other."""
    header = (ROOT / "cuda" / "bsparse_cuda.h").read_text()
    version = re.search(r"define BSPARSE_CUDA_API_VERSION (\d+)", header)
    assert cuda_binding.API_VERSION == int(version[1])
    kernels = dict(re.findall(r"^  BSPARSE_(SM80\w*|SM90\w*|DENSE) = (\d+)", header, re.MULTILINE))
    assert kernels == {name: str(getattr(cuda_binding, name)) for name in kernels} and len(kernels) == 7
    assert len(choice.FAMILIES) == len(kernels)
    sweeps = dict(re.findall(r"^  BSPARSE_SWEEP_(\w+) = (\d+)", header, re.MULTILINE))
    known = {"SUMS": cuda_sweep_plan.SUMS, "BOX_ROW_BYTES": cuda_sweep_plan.BOX_ROW_BYTES,
             "BOXES": cuda_sweep_plan.MOST_BOXES, "RECORD_BYTES": cuda_sweep_plan.RECORD_BYTES,
             "HEADER_BYTES": cuda_sweep_plan.HEADER_BYTES, "WARPS": cuda_sweep_plan.WARPS,
             "STAGE_WORDS": cuda_binding.SWEEP_STAGE_WORDS}
    assert {name: int(number) for name, number in sweeps.items()} == known


def test_nothing_in_the_package_names_a_place_on_this_machine():
    places = [str(ROOT), str(pathlib.Path.home() / ""), ".cache/bazel", "site-packages"]
    for file in PACKAGE.rglob("*"):
        if not file.is_file() or "__pycache__" in file.parts:
            continue
        content = file.read_bytes()
        assert [place for place in places if place.encode() in content] == [], file


# Includes.

CPP_SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
TENSORFLOW = r"tensorflow/|tsl/|xla/|absl/|google/protobuf|Eigen|unsupported/"
CUDA_TOOLKIT = r"cuda|cublas|cudnn|curand|cooperative_groups|mma\.h|nv/|thrust/|cub/"


@pytest.mark.parametrize(
    "directory, forbidden",
    [
        ("cuda", TENSORFLOW + r"|cc/|hwy/"),
        ("cc", CUDA_TOOLKIT),
        ("cc/plan", TENSORFLOW + r"|hwy/|cc/(?!plan/)|cuda/"),
        ("cc/cpu", TENSORFLOW + r"|cc/(?!plan/|cpu/)|cuda/"),
        ("cc/ops", r"cc/(?!plan/|ops/)|cuda/|xla/"),
        ("cc/kernels", r"cc/xla/"),
    ],
)
def test_code_includes_nothing_of_the_layers_above_it(directory, forbidden):
    include = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
    files = [f for f in (ROOT / directory).rglob("*") if f.suffix in CPP_SUFFIXES]
    assert files
    bad = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in include.findall(file.read_text())
        if re.match(forbidden, name) and name != "cuda/bsparse_cuda.h"
    ]
    assert bad == []


# Versions.


def test_one_tensorflow_version_everywhere():
    major, minor = version.SUPPORTED_TENSORFLOW.split(".")
    wanted = f"tensorflow>={major}.{minor},<{major}.{int(minor) + 1}"
    assert f'"{wanted}"' in (ROOT / "pyproject.toml").read_text()
    assert f"\ntensorflow=={major}.{minor}.*\n" in (ROOT / "requirements.txt").read_text()


# Imports copies of the package one after the other in one process, because TensorFlow takes
# seconds to start; the last may load its library.
IMPORT_COPIES = """
import json, sys
import tensorflow as tf

results = []
for directory in sys.argv[1:]:
    sys.path.insert(0, directory)
    for name in [n for n in sys.modules if n.split(".")[0] == "bsparse_tf"]:
        del sys.modules[name]
    try:
        from bsparse_tf import native
        results.append("loaded; xla: %s; cuda: %s" % (native.xla_status(), native.cuda_status()))
    except Exception as error:
        results.append("%s: %s" % (type(error).__name__, error))
    sys.path.remove(directory)
print(json.dumps({"tensorflow": tf.__version__, "results": results}))
"""


@pytest.fixture(scope="module")
def import_results(tmp_path_factory):
    """What importing damaged copies of the package says: {case: sentence}."""
    cases = {}

    def copy(case):
        directory = tmp_path_factory.mktemp(case)
        shutil.copytree(
            PACKAGE, directory / "bsparse_tf", ignore=shutil.ignore_patterns("__pycache__")
        )
        cases[case] = directory
        return directory / "bsparse_tf"

    (copy("not_built") / "_build_info.py").unlink()
    (copy("missing") / "_bsparse_ops.so").unlink()
    (copy("mismatch") / "_build_info.py").write_text('TF_VERSION = "2.20.1"\n')
    (copy("broken") / "_bsparse_ops.so").write_bytes(b"not a library")
    without_extras = copy("without_extras")
    (without_extras / "_bsparse_xla.so").unlink()
    (without_extras / CUDA_LIBRARY.name).unlink(missing_ok=True)

    output = run(sys.executable, "-c", textwrap.dedent(IMPORT_COPIES), *map(str, cases.values()))
    answer = json.loads(output.splitlines()[-1])
    return dict(zip(cases, answer["results"])) | {"tensorflow": answer["tensorflow"]}


@pytest.mark.parametrize(
    "case, built_for",
    [("not_built", "2.21"), ("missing", "2.21"), ("mismatch", "2.20.1"), ("broken", "2.21")],
)
def test_an_op_library_that_is_missing_or_does_not_fit(import_results, case, built_for):
    message = import_results[case]
    assert message.startswith("ImportError: ")
    assert f"TensorFlow {built_for}" in message
    assert f"installed is TensorFlow {import_results['tensorflow']}" in message
    assert "make build" in message
    assert "_bsparse_ops.so" in message


def test_the_op_library_loads_without_the_xla_and_cuda_libraries(import_results):
    message = import_results["without_extras"]
    assert message.startswith("loaded; ")
    assert "_bsparse_xla.so is missing" in message
    assert "libbsparse_cuda.so is missing" in message
