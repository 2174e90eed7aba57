# Tests that are files: flare-opt (and llvm's not, FileCheck) on *.mlir. Run by ctest, or by hand:
#   lit -v tests/passes --param flare_opt=build/bin/flare-opt
import os
import lit.formats

config.name = "flarec"
config.test_format = lit.formats.ShTest(True)
config.suffixes = [".mlir"]
config.excludes = ["Inputs", "runtime", "ops", "codegen", "compiler", "layout", "gpu"]
config.test_source_root = os.path.dirname(__file__)
root = os.path.dirname(config.test_source_root)
flare_opt = lit_config.params.get("flare_opt", os.path.join(root, "build", "bin", "flare-opt"))
config.test_exec_root = lit_config.params.get("work", os.path.join(os.path.dirname(os.path.dirname(flare_opt)), "tests"))
tools = lit_config.params.get("llvm_tools", "/usr/lib/llvm-22/bin")
config.environment["PATH"] = os.pathsep.join([os.path.dirname(os.path.abspath(flare_opt)), tools, os.environ["PATH"]])
config.environment["FILECHECK_OPTS"] = "--enable-var-scope --dump-input-filter=error"
