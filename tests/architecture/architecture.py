"""The house's rules (docs/architecture.md), checked where they can be broken: #include lines, archives, dynamic sections.

    dialects <- compiler <- autotune      runtime alone      ops on runtime
"""
import argparse
import os
import re
import subprocess
import sys
import unittest

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--source", required=True)
parser.add_argument("--runtime", help="libflarec_runtime.a")
parser.add_argument("--compiler", help="libflarec_compiler.so")
parser.add_argument("--torch", help="libflarec_torch.so")
OPTIONS, REST = parser.parse_known_args()

# What a folder may include of the others. flarec/compiler.h is C and belongs to everyone.
MAY_USE = {
    "dialects": set(),
    "compiler": {"dialects"},
    "autotune": {"compiler", "dialects", "runtime"},
    "runtime": set(),
    "ops": {"runtime", "autotune"},
}
# compiler/tools/ holds programs for people: flarec also reads artefacts with the runtime, and tunes.
EXCEPTIONS = {("compiler/tools", "runtime"), ("compiler/tools", "autotune")}
# What every program may link.
SYSTEM = {"c", "m", "dl", "pthread", "rt", "stdc++", "gcc_s", "z", "zstd", "ld-linux-x86-64"}


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def needed(library):
    return re.findall(r"\(NEEDED\).*\[lib([^\].]+)\.so|\(NEEDED\).*\[(ld-linux[^\].]+)", run("readelf", "-dW", library))


def needed_names(library):
    return {a or b for a, b in needed(library)}


def sources(folder):
    for path, folders, files in os.walk(os.path.join(OPTIONS.source, folder)):
        for name in files:
            if name.endswith((".h", ".cpp", ".td", ".c", ".cu")):
                yield os.path.join(path, name)


def owners():
    """Include path -> folder, for every header of the project."""
    result = {}
    roots = {"dialects": ["dialects"], "compiler": ["compiler", "compiler/include"], "runtime": ["runtime/include", "runtime/src"],
             "autotune": ["autotune", "autotune/include"], "ops": ["ops/include", "ops/src", "ops/train"]}
    for folder, paths in roots.items():
        for root in paths:
            base = os.path.join(OPTIONS.source, root)
            for path, _, files in os.walk(base):
                for name in files:
                    if name.endswith((".h", ".td")):
                        result.setdefault(os.path.relpath(os.path.join(path, name), base), folder)
    return result


class Includes(unittest.TestCase):
    def test_folders_include_only_what_they_may(self):
        owner = owners()
        wrong = []
        for folder, allowed in MAY_USE.items():
            for path in sources(folder):
                relative = os.path.relpath(path, OPTIONS.source)
                with open(path, encoding="utf-8") as f:
                    for header in re.findall(r'^\s*#?\s*include\s+["<]([^">]+)[">]', f.read(), re.M):
                        used = owner.get(header)
                        if used in (None, folder) or used in allowed or header == "flarec/compiler.h":
                            continue
                        if os.path.exists(os.path.join(os.path.dirname(path), header)):
                            continue
                        if any(relative.startswith(place + "/") and used == other for place, other in EXCEPTIONS):
                            continue
                        wrong.append(f"{relative} includes {header} of {used}")
        self.assertEqual(wrong, [])

    def test_no_llvm_and_no_torch_in_the_runtime(self):
        self.forbid("runtime", r"(mlir|llvm|torch|ATen|c10)/")

    def test_no_llvm_in_the_ops(self):
        self.forbid("ops", r"(mlir|llvm)/")

    def test_no_llvm_and_no_torch_in_the_tuner(self):
        self.forbid("autotune", r"(mlir|llvm|torch|ATen|c10)/")

    def test_the_ops_see_the_tables_alone(self):  # what tunes needs the compiler
        used = set()
        for path in sources("ops"):
            with open(path, encoding="utf-8") as f:
                used |= set(re.findall(r'#include "flarec/autotune/(\S+)"', f.read()))
        self.assertLessEqual(used, {"tables.h"})

    def test_no_torch_in_the_compiler(self):
        self.forbid("compiler", r"(torch|ATen|c10)/")
        self.forbid("dialects", r"(torch|ATen|c10)/")

    def test_the_layout_is_free_of_mlir(self):
        self.forbid("compiler/layout", r"(mlir|llvm|flare|tile)/")

    def test_nvvm_headers_stay_in_one_place(self):  # 25 s a unit
        users = []
        for folder in ("dialects", "compiler"):
            for path in sources(folder):
                with open(path, encoding="utf-8") as f:
                    if re.search(r"#include .*NVVMDialect\.h", f.read()):
                        users.append(path)
        self.assertLessEqual(len(users), 2, users)

    def forbid(self, folder, pattern):
        wrong = []
        for path in sources(folder):
            with open(path, encoding="utf-8") as f:
                wrong += [f"{path}: {line.strip()}" for line in f if re.match(r'\s*#\s*include\s+["<]' + pattern, line)]
        self.assertEqual(wrong, [])


@unittest.skipUnless(OPTIONS.runtime, "not built")
class Runtime(unittest.TestCase):
    def test_uses_no_llvm_and_no_torch(self):
        symbols = run("nm", "-C", OPTIONS.runtime)
        for namespace in ("llvm::", "mlir::", "at::", "c10::", "torch::"):
            found = [s for s in symbols.splitlines() if re.search(r"(^|[\s(<*&])" + namespace, s)]
            self.assertEqual(found, [], f"the runtime speaks of {namespace}")

    def test_links_no_driver(self):  # libcuda comes through dlopen
        undefined = re.findall(r" U (cu[A-Z]\w+|cuda\w+)$", run("nm", OPTIONS.runtime), re.M)
        self.assertEqual(undefined, [])


@unittest.skipUnless(OPTIONS.compiler, "not built")
class Compiler(unittest.TestCase):
    def test_exports_its_c_functions_alone(self):
        names = re.findall(r"^[0-9a-f]* ?([A-Za-z]) (\S+)$", run("nm", "-D", "--defined-only", OPTIONS.compiler), re.M)
        exported = {name for _, name in names}
        self.assertTrue({"flarec_compile", "flarec_free", "flarec_version"} <= exported, exported)
        self.assertEqual({n for n in exported if not n.startswith("flarec_")}, set())

    def test_says_which_build_it_is(self):  # the cache's entries go by it
        self.assertRegex(run("readelf", "-nW", OPTIONS.compiler), r"Build ID: [0-9a-f]{40}\b")

    def test_has_no_unique_symbols(self):  # g++'s TypeIDs would be shared with another LLVM in the process
        names = re.findall(r"^[0-9a-f]* ?u (\S+)$", run("nm", "-D", OPTIONS.compiler), re.M)
        self.assertEqual(names, [])

    def test_needs_system_libraries_alone(self):
        self.assertLessEqual(needed_names(OPTIONS.compiler), SYSTEM)

    def test_has_no_executable_stack_or_text_relocations(self):
        self.assertNotIn("TEXTREL", run("readelf", "-dW", OPTIONS.compiler))
        stack = [l for l in run("readelf", "-lW", OPTIONS.compiler).splitlines() if "GNU_STACK" in l]
        self.assertTrue(stack and "RWE" not in stack[0], stack)


@unittest.skipUnless(OPTIONS.torch and os.path.exists(OPTIONS.torch), "not built")
class Ops(unittest.TestCase):
    def test_need_libtorch_cpu_and_c10_alone(self):
        self.assertLessEqual(needed_names(OPTIONS.torch) - SYSTEM, {"torch_cpu", "c10"})
        self.assertTrue({"torch_cpu", "c10"} <= needed_names(OPTIONS.torch))

    def test_have_no_llvm(self):
        symbols = run("nm", "-DC", OPTIONS.torch)
        self.assertEqual([s for s in symbols.splitlines() if "llvm::" in s or "mlir::" in s], [])


unittest.main(argv=[sys.argv[0], *REST])
