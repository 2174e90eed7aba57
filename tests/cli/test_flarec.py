"""The program flarec from outside: every option, and the messages for every mistake a user can make.

FLAREC and FLARE_OPT name the programs. Nothing but Python's own library is needed."""

import hashlib
import json
import os
import pathlib
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import artefact

MIXER = HERE / "mixer.mlir"
FLAREC = os.environ.get("FLAREC", str(HERE.parents[1] / "build/bin/flarec"))
FLARE_OPT = os.environ.get("FLARE_OPT", str(HERE.parents[1] / "build/bin/flare-opt"))
SMALL = ["--head-dim", "8", "--latents", "16"]  # bf16, forward only: a third of a second
GPU_STAGES = ["flare", "sweeps", "tile", "nvvm", "llvm", "ptx"]


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="flarec-cli-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, name):
        return str(self.folder / name)

    def flarec(self, *arguments, code=0, env=None):
        """Runs flarec; returns (stdout, stderr)."""
        done = subprocess.run([FLAREC, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              env={**os.environ, **(env or {})}, timeout=300)
        self.assertEqual(done.returncode, code, f"flarec {' '.join(arguments)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        # On a slow machine it says every now and then that it still works.
        err = "".join(line for line in done.stderr.splitlines(True) if not line.startswith("compiling for "))
        return done.stdout, err

    def compile(self, *arguments, **kw):
        return self.flarec("compile", *arguments, **kw)

    def refused(self, *arguments, code=1, says=()):
        out, err = self.flarec(*arguments, code=code)
        self.assertEqual(out, "")
        self.assertTrue(err.startswith("flarec: "), err)
        for text in [says] if isinstance(says, str) else says:
            self.assertIn(text, err)
        return err


def manifest(path):
    return artefact.read_artefact(pathlib.Path(path).read_bytes())[0]


def rules(path):
    """The manifest less where code lies: who looks at stages gets all PTX as one blob, otherwise each kernel has its own."""
    m = manifest(path)
    del m["code"]
    for function in m["functions"]:
        for kernel in function["kernels"]:
            for entry in [kernel, *kernel["variants"]]:
                entry.pop("code", None)
    return m


def request(gradients="", target="sm_90a", config="", d=8, m=16, dtype="bf16"):
    """What the runtime asks for: docs/artefact.md, section 4."""
    version = subprocess.run([FLAREC, "--version"], capture_output=True, text=True).stdout.split()[1]
    return json.dumps({"version": version, "mixer": {"head_dim": d, "latents": m, "dtype": dtype, "gradients": gradients},
                       "target": target, "config": config}, separators=(",", ":"))


def key(text):
    return hashlib.sha256(text.encode()).hexdigest()


class Compile(Case):
    def test_every_gpu_target(self):
        for target in ("sm_80", "sm_90a", "sm_100a"):
            with self.subTest(target):
                out, _ = self.compile(*SMALL, "--target", target, "-o", self.path("m.flare"))
                self.assertRegex(out, rf"m\.flare: 1 functions, \d kernels, [\d,]+ bytes for {target}, in ")
                self.assertEqual(manifest(self.path("m.flare"))["target"], target)

    def test_host(self):
        self.compile(*SMALL, "--target", "host", "--grad", "-o", self.path("m.flare"))
        code = manifest(self.path("m.flare"))["code"]
        self.assertEqual([(c["kind"], c["isa"]) for c in code], [("elf", "avx512"), ("elf", "avx2"), ("elf", "baseline")])

    def test_native_is_the_default(self):
        self.compile(*SMALL, "-o", self.path("a.flare"))
        self.compile(*SMALL, "--target", "native", "-o", self.path("b.flare"))
        self.assertEqual(manifest(self.path("a.flare")), manifest(self.path("b.flare")))

    def test_gradients(self):
        for option, names in ((["--grad"], {"grad_q", "grad_k", "grad_v"}), (["--grad=q,v"], {"grad_q", "grad_v"}), (["--grad=vq"], {"grad_q", "grad_v"})):
            with self.subTest(option):
                self.compile(*SMALL, "--target", "sm_80", *option, "-o", self.path("m.flare"))
                functions = {f["name"]: f for f in manifest(self.path("m.flare"))["functions"]}
                self.assertEqual(set(functions), {"mixer_forward", "mixer_backward"})
                results = {t["name"] for t in functions["mixer_backward"]["tensors"] if t["role"] == "result"}
                self.assertEqual(results, names)

    def test_dtypes(self):
        for option, dtype in (([], "bf16"), (["--dtype", "bf16"], "bf16"), (["--dtype", "f16"], "f16"), (["--dtype", "fp16"], "f16"), (["--dtype", "f32"], "f32"), (["--dtype", "fp32"], "f32")):
            with self.subTest(option):
                self.compile(*SMALL, "--target", "sm_80", *option, "-o", self.path("m.flare"))
                self.assertEqual(manifest(self.path("m.flare"))["functions"][0]["tensors"][0]["type"], dtype)

    def test_which_tokens_there_are(self):
        for options, names in (([], []), (["--ragged"], ["range"]), (["--masked"], ["mask"]), (["--masked", "--ragged"], ["range", "mask"])):
            with self.subTest(options):
                self.compile(*SMALL, "--target", "sm_80", *options, "-o", self.path("m.flare"))
                m = manifest(self.path("m.flare"))
                tensors = m["functions"][0]["tensors"]
                self.assertEqual([t["name"] for t in tensors if t["role"] == "input"], ["q", "k", "v", *names])
                fields = "".join(f',"{f}":true' for f, n in (("ragged", "range"), ("masked", "mask")) if n in names)
                self.assertEqual(m["key"], key(request(target="sm_80").replace("},", fields + "},", 1)))

    def test_the_key_is_the_runtimes(self):
        cases = {"": [], "qkv": ["--grad"], "qv": ["--grad=v,q"]}
        for gradients, options in cases.items():
            with self.subTest(gradients):
                self.compile(*SMALL, "--target", "sm_90a", *options, "-o", self.path("m.flare"))
                self.assertEqual(manifest(self.path("m.flare"))["key"], key(request(gradients)))

    def test_tf32(self):
        three, one = (self.flarec("compile", *SMALL, "--dtype", "f32", "--target", "sm_80", *option, "--emit", "ptx")[0].count("mma.sync")
                      for option in ([], ["--tf32"]))
        self.assertEqual(three, 3 * one)
        self.assertGreater(one, 0)

    def test_looking_changes_nothing(self):
        self.compile(*SMALL, "--target", "sm_90a", "-o", self.path("plain.flare"))
        self.compile(*SMALL, "--target", "sm_90a", "--time", "-o", self.path("timed.flare"))
        self.assertEqual((self.folder / "plain.flare").read_bytes(), (self.folder / "timed.flare").read_bytes())
        self.compile(*SMALL, "--target", "sm_90a", "--dump-stages", self.path("stages"), "-o", self.path("looked.flare"))
        self.assertEqual(rules(self.path("looked.flare")), rules(self.path("plain.flare")))

    def test_file(self):
        self.compile(str(MIXER), "--target", "sm_90a", "-o", self.path("m.flare"))
        self.assertEqual([f["name"] for f in manifest(self.path("m.flare"))["functions"]], ["attention"])
        for option, names in (("--grad", ["grad_q", "grad_k", "grad_v"]), ("--grad=k", ["grad_k"])):
            self.compile(str(MIXER), "--target", "sm_90a", option, "-o", self.path("m.flare"))
            m = manifest(self.path("m.flare"))
            self.assertEqual([f["name"] for f in m["functions"]], ["attention_forward", "attention_backward"])
            self.assertEqual([t["name"] for t in m["functions"][1]["tensors"] if t["role"] == "result"], names)
        # The gradients asked for are part of the key, the file's name is not.
        version = m["compiler"].split()[1].rstrip(",")
        text = json.dumps({"version": version, "source": MIXER.read_text(), "gradients": "k", "target": "sm_90a", "config": ""},
                          separators=(",", ":"), ensure_ascii=False)
        self.assertEqual(m["key"], key(text))

    def test_every_supported_size(self):
        for d in (4, 8, 16, 32):
            for m in (1, 17, 512):
                with self.subTest(d=d, m=m):
                    self.compile("--head-dim", str(d), "--latents", str(m), "--target", "sm_90a", "-o", self.path("m.flare"))

    def test_time_and_report(self):
        _, err = self.compile(*SMALL, "--target", "sm_90a", "--time", "-o", self.path("m.flare"))
        for stage in ["parse", *GPU_STAGES, "in all"]:
            self.assertRegex(err, rf" ms  {stage}\n")
        _, err = self.compile(*SMALL, "--target", "sm_90a", "--report", "-o", self.path("m.flare"))
        if "registers" not in err:
            self.assertIn("FLAREC_PTXAS", err)
        else:
            self.assertIn("registers", err)
            self.assertRegex(err, r"mixer_forward_sweep_0 +\d+ ")
        _, err = self.compile(*SMALL, "--target", "sm_90a", "--report", "-o", self.path("m.flare"), env={"FLAREC_PTXAS": "/nowhere"})
        self.assertIn("FLAREC_PTXAS is '/nowhere', which is neither ptxas nor", err)

    def test_an_old_artefact_is_replaced_in_one_step(self):
        target = self.folder / "m.flare"
        target.write_text("old")
        self.compile(*SMALL, "--target", "sm_80", "-o", str(target))
        manifest(target)
        self.assertEqual([p.name for p in self.folder.iterdir()], ["m.flare"])

    def test_a_failed_compilation_leaves_the_old_artefact(self):
        target = self.folder / "m.flare"
        target.write_text("old")
        self.refused("compile", "--head-dim", "8", "--latents", "16", "--target", "sm_80", "--config", "none", "-o", str(target))
        self.assertEqual(target.read_text(), "old")


class Stages(Case):
    def test_emit(self):
        shows = {"flare": "flare.attend", "sweeps": "#tile.config<", "tile": "tile.pairs", "nvvm": "llvm.func", "llvm": "define ", "ptx": ".target sm_90a"}
        for stage, text in shows.items():
            with self.subTest(stage):
                out, err = self.compile(*SMALL, "--target", "sm_90a", "--emit", stage)
                self.assertIn(text, out)
                self.assertEqual(err, "")

    def test_dump(self):
        self.compile(*SMALL, "--target", "sm_90a", "--dump-stages", self.path("new/stages"))
        names = sorted(os.listdir(self.path("new/stages")))
        self.assertEqual(names, ["1-flare.mlir", "2-sweeps.mlir", "3-tile.mlir", "4-nvvm.mlir", "5-llvm.ll", "6-ptx.ptx"])
        for name in names:
            out, _ = self.compile(*SMALL, "--target", "sm_90a", "--emit", name.split("-")[1].split(".")[0])
            self.assertEqual(out, (self.folder / "new/stages" / name).read_text(), name)

    def test_every_stage_can_be_put_back(self):
        base = [*SMALL, "--target", "sm_90a", "--grad"]
        self.compile(*base, "-o", self.path("plain.flare"))
        self.compile(*base, "--dump-stages", self.path("stages"), "-o", self.path("looked.flare"))
        for name in sorted(os.listdir(self.path("stages"))):
            with self.subTest(name):
                self.compile(*base, "--from-stage", self.path("stages/" + name), "-o", self.path("back.flare"))
                same = self.folder / ("looked.flare" if name.endswith(".ptx") else "plain.flare")
                # A message with two artefacts in it helps nobody.
                self.assertTrue((self.folder / "back.flare").read_bytes() == same.read_bytes(), f"{name} put back gives another artefact")

    def edit(self, stage, before, after):
        """Dumps, edits one stage, compiles from it; returns the artefact's path."""
        self.compile(*SMALL, "--target", "sm_90a", "--dump-stages", self.path("stages"))
        (file,) = (self.folder / "stages").glob(f"*-{stage}.*")
        text = file.read_text()
        self.assertIn(before, text)
        file.write_text(text.replace(before, after))
        self.compile(*SMALL, "--target", "sm_90a", "--from-stage", str(file), "-o", self.path("edited.flare"))
        return self.path("edited.flare")

    def test_an_edited_configuration_reaches_the_manifest(self):
        out, _ = self.compile(*SMALL, "--target", "sm_90a", "--emit", "sweeps")
        old = out.split("rows = m, ")[1].split(" blocks = ")[1].split(",")[0]
        path = self.edit("sweeps", f"blocks = {old},", "blocks = 77,")
        m = manifest(path)
        self.assertEqual({s["blocks"] for s in m["functions"][0]["sweeps"]}, {77})
        self.assertEqual(m["key"], key(request()), "an edited stage serves the same description")

    def test_edited_ptx_is_what_is_packed(self):
        path = self.edit("ptx", ".version", "// edited by hand\n.version")
        self.assertIn(b"// edited by hand\n.version", pathlib.Path(path).read_bytes())

    def test_edited_llvm_reaches_the_ptx(self):
        self.compile(*SMALL, "--target", "sm_90a", "--dump-stages", self.path("stages"))
        file = self.folder / "stages/5-llvm.ll"
        file.write_text(file.read_text() + "\ndefine ptx_kernel void @added_by_hand() { ret void }\n")
        out, _ = self.compile(*SMALL, "--target", "sm_90a", "--from-stage", str(file), "--emit", "ptx")
        self.assertIn(".entry added_by_hand", out)

    def test_a_stage_of_another_mixer(self):
        self.compile(*SMALL, "--target", "sm_90a", "--dump-stages", self.path("stages"))
        stage = ["--target", "sm_90a", "--from-stage", self.path("stages/3-tile.mlir"), "-o", self.path("m.flare")]
        for other, says in ((["--head-dim", "8", "--latents", "32"], "q<m=16, d=8, bf16>, not q<m=32, d=8, bf16>"),
                            (["--head-dim", "16", "--latents", "16"], "q<m=16, d=8, bf16>, not q<m=16, d=16, bf16>"),
                            ([*SMALL, "--dtype", "f16"], "q<m=16, d=8, bf16>, not q<m=16, d=8, f16>"),
                            ([*SMALL, "--grad"], "no function mixer_backward")):  # fmt: skip
            with self.subTest(other):
                self.refused("compile", *other, *stage, says=[says, "a stage of the same description"])
                self.assertFalse(os.path.exists(self.path("m.flare")))

    def test_a_stage_of_another_configuration(self):
        parked = ["--config", '{mixer_forward = [{}, {park = "none"}]}']
        self.compile(*SMALL, "--target", "sm_90a", *parked, "--dump-stages", self.path("parked"), "-o", self.path("m.flare"))
        for name in ("5-llvm.ll", "6-ptx.ptx"):
            back = ["--target", "sm_90a", "--from-stage", self.path("parked/" + name), "-o", self.path("m.flare")]
            self.compile(*SMALL, *back, *parked)
            self.refused("compile", *SMALL, *back, says=["mixer_forward_park_2", "the same one"])

    def test_a_stage_without_its_manifest(self):
        self.compile(*SMALL, "--target", "sm_90a", "--dump-stages", self.path("stages"))
        text = (self.folder / "stages/4-nvvm.mlir").read_text()
        before, rest = text.split('flarec.manifest = "', 1)
        end = next(i for i, c in enumerate(rest) if c == '"' and rest[i - 1] != "\\")
        file = self.folder / "my-nvvm.mlir"
        for manifest, says in (("[]", "at least one function"), ("[1]", "at least one function"), ("5", "at least one function"), ("[", "not JSON")):
            with self.subTest(manifest):
                file.write_text(before + f'flarec.manifest = "{manifest}' + rest[end:])
                self.refused("compile", *SMALL, "--target", "sm_90a", "--from-stage", str(file), "-o", self.path("m.flare"), says=["flarec.manifest", says])

    def test_a_stage_alone(self):
        self.compile(*SMALL, "--target", "sm_90a", "--dump-stages", self.path("stages"))
        self.compile("--target", "sm_90a", "--from-stage", self.path("stages/3-tile.mlir"), "-o", self.path("m.flare"))
        self.refused("compile", "--target", "sm_90a", "--from-stage", self.path("stages/6-ptx.ptx"), "-o", self.path("m.flare"), code=2,
                     says="give the mixer's description")

    def test_mistakes(self):
        self.compile(*SMALL, "--target", "sm_90a", "--dump-stages", self.path("stages"))
        base = ["compile", *SMALL, "--target", "sm_90a"]
        self.refused(*base, "--emit", "ptex", says=["unknown stage 'ptex'", ", ".join(GPU_STAGES)])
        self.refused(*base, "--emit", "asm", says="for sm_90a there are")
        out = ["-o", self.path("m.flare")]
        self.refused(*base, "--from-stage", self.path("none-tile.mlir"), *out, says=["none-tile.mlir", "No such file"])
        self.refused(*base, "--from-stage", str(MIXER), *out, says=["does not name a stage", "tile.mlir", "ptx.ptx"])
        broken = self.folder / "my-tile.mlir"
        broken.write_text("func.func @f(")
        self.refused(*base, "--from-stage", str(broken), *out, says="my-tile.mlir:1:13: ")
        broken = self.folder / "my-llvm.ll"
        broken.write_text("define void")
        self.refused(*base, "--from-stage", str(broken), *out, says=["my-llvm.ll", "expected function name"])
        self.refused(*base, "--from-stage", self.path("stages/3-tile.mlir"), "--emit", "sweeps", says="does not come after")
        self.refused(*base, "--from-stage", self.path("stages/3-tile.mlir"), "--config", "#tile.config<>", *out, says="has no effect")
        (self.folder / "file").write_text("")
        self.refused(*base, "--dump-stages", self.path("file/below"), says=["cannot make the folder", "file/below"])
        for name, put, reason in (("1-flare.mlir", lambda p: p.symlink_to("/dev/full"), "No space left on device"),
                                  ("6-ptx.ptx", lambda p: p.symlink_to("/dev/full"), "No space left on device"),
                                  ("5-llvm.ll", pathlib.Path.mkdir, "Is a directory")):  # fmt: skip
            folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
            put(folder / name)
            self.refused(*base, "--dump-stages", str(folder), *out, says=f"cannot write stage '{folder / name}': {reason}")
            self.assertFalse(os.path.exists(self.path("m.flare")))

    def test_list_stages(self):
        for target, names in (("sm_90a", GPU_STAGES), ("host", ["flare", "sweeps", "tile", "vectors", "llvm", "asm"])):
            out, _ = self.flarec("list-stages", "--target", target)
            self.assertEqual([line.split()[0] for line in out.splitlines() if not line.startswith(" ")], names)
            self.assertIn("flare-plan-sweeps", out)

    def test_the_listed_pipeline_runs_in_flare_opt(self):
        out, _ = self.flarec("list-stages", "--target", "sm_90a", "--pipeline")
        self.assertEqual(len(out.splitlines()), 1)
        done = subprocess.run([FLARE_OPT, "--pass-pipeline=" + out.strip(), str(MIXER)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        self.assertIn("llvm.func", done.stdout)
        self.assertIn("attention_backward", done.stdout)


class Configuration(Case):
    def heuristic(self, rows):
        out, _ = self.compile(*SMALL, "--target", "sm_90a", "--emit", "sweeps")
        return "#tile.config<rows = " + rows + out.split("#tile.config<rows = " + rows)[1].split(">")[0] + ">"

    def test_is_obeyed_and_part_of_the_key(self):
        old = self.heuristic("m")
        config = old.replace(old.split("tile = ")[1].split(",")[0], "32", 1)
        self.compile(*SMALL, "--target", "sm_90a", "--config", config, "-o", self.path("m.flare"))
        m = manifest(self.path("m.flare"))
        self.assertEqual(m["functions"][0]["sweeps"][0]["tile"], 32)
        self.assertEqual(m["key"], key(request(config=config)))

    def test_is_shown(self):
        out, _ = self.compile(*SMALL, "--target", "sm_90a", "--config", "{mixer_forward = [{blocks = 77}, {}]}", "--emit", "sweeps")
        self.assertEqual(out.count("blocks = 77,"), 1)

    def test_mistakes(self):
        base = ["compile", *SMALL, "--target", "sm_90a", "-o", self.path("m.flare"), "--config"]
        self.refused(*base, "nonsense", says=["cannot read the configuration 'nonsense'", "--emit sweeps"])
        self.refused(*base, "#tile.config<rows = q>", says="expected one of [n, m, d]")
        self.refused(*base, self.heuristic("m").replace("rows = m", "rows = d"), says="rows are tokens (n) or latents (m), not channels (d)")

    def test_each_sweep_has_its_own(self):
        blocks = lambda *config: [s["blocks"] for s in self.sweeps(*config)]
        old = blocks()
        self.assertEqual(blocks("--config", "{mixer_forward = [{blocks = 77}, {}]}"), [77, old[1]])
        self.assertEqual(blocks("--config", "{mixer_forward = [{}, {blocks = 78, rows = \"n\"}]}"), [old[0], 78])
        self.assertEqual(blocks("--config", "{}"), old)
        whole = self.heuristic("n").replace(f"blocks = {old[1]}", "blocks = 79")
        self.assertEqual(blocks("--config", "{mixer_forward = [{}, " + whole + "]}"), [old[0], 79])

    def sweeps(self, *config):
        self.compile(*SMALL, "--target", "sm_90a", *config, "-o", self.path("m.flare"))
        return manifest(self.path("m.flare"))["functions"][0]["sweeps"]

    def test_comes_from_a_file(self):
        file = self.folder / "config"
        file.write_text("{mixer_forward = [{blocks = 77},\n {}]}\n\n")
        self.assertEqual(self.sweeps("--config", f"@{file}")[0]["blocks"], 77)
        self.assertEqual(manifest(self.path("m.flare"))["key"], key(request(config=file.read_text().strip())))
        base = ["compile", *SMALL, "--target", "sm_90a", "-o", self.path("m.flare"), "--config"]
        self.refused(*base, "@" + self.path("missing"), says=["cannot read the configuration", "missing", "check the path"])
        file.write_text("\n")
        self.refused(*base, f"@{file}", says="is empty")

    def test_mistakes_in_one_of_many(self):
        base = ["compile", *SMALL, "--target", "sm_90a", "-o", self.path("m.flare"), "--config"]
        self.refused(*base, "{mixer_backward = [{}, {}]}", says="for a function 'mixer_backward', and there is none; there are mixer_forward")
        self.refused(*base, "{mixer_forward = [{}]}", says="'mixer_forward' is for 1 sweeps; the function has 2, give a list of so many, {} for the heuristic's")
        self.refused(*base, "{mixer_forward = {}}", says="'mixer_forward' is no list; the function has 2")
        self.refused(*base, "{mixer_forward = [{}, 3]}", says=["sweep 1 of 'mixer_forward'", "'3 : i64' is no configuration of a sweep"])
        self.refused(*base, "{mixer_forward = [{colour = 3}, {}]}", says=["sweep 0 of 'mixer_forward'", "no field 'colour'; there are rows, tile, heads"])
        self.refused(*base, "{mixer_forward = [{tile = 7}, {}]}", says=["sweep 0 of 'mixer_forward'", "tile = 7 must be a positive multiple of 16"])
        self.refused(*base, "{mixer_forward = [{heads = \"two\"}, {}]}", says="sweep 0 of 'mixer_forward'")
        self.refused(*base, "{mixer_forward = [{rows = \"n\"}, {}]}", says="makes no configuration: tile = 64 must be workers")
        self.refused(*base, "{mixer_forward = [{stages = 1}, {}]}", says=["cannot be run as configured", "use 2 to 16"])
        self.refused(*base, "{mixer_forward = [{", says="cannot read the configuration")

    def test_what_does_not_fit_is_refused(self):
        config = self.heuristic("m")
        tile = config.split("tile = ")[1].split(",")[0]
        err = self.refused("compile", *SMALL, "--target", "sm_90a", "-o", self.path("m.flare"), "--config",
                           config.replace(f"tile = {tile},", "tile = 65536,"), says=["shared memory", "use fewer heads, stages or a smaller tile"])
        self.assertLess(len(err.splitlines()), 10, err)
        self.assertFalse(os.path.exists(self.path("m.flare")))


class Mistakes(Case):
    def test_targets(self):
        for name in ("sm_75", "sm_90", "gpu", "HOST"):
            self.refused("compile", *SMALL, "--target", name, "-o", self.path("m.flare"), code=2,
                         says=[f"there is no target '{name}'", "host, native, sm_80, sm_90a, sm_100a"])

    def test_sizes_and_types(self):
        out = ["--target", "sm_80", "-o", self.path("m.flare")]
        huge = str(10**20)
        for d in ("0", "129", "-1", "-8", "8.5", "eight", huge, str(2**32 + 8)):
            self.refused("compile", f"--head-dim={d}", "--latents", "8", *out, code=2, says=["--head-dim", f"'{d}' is not supported", "from 1 to 128"])
        for m in ("0", "-1", "4097", "1e2", huge, str(2**32 + 8)):
            self.refused("compile", "--head-dim", "8", f"--latents={m}", *out, code=2, says=["--latents", f"'{m}' is not supported", "from 1 to 4096"])
        for dtype in ("f64", "BF16"):
            self.refused("compile", *SMALL, "--dtype", dtype, *out, code=2, says=[f"'{dtype}' is not supported", "bf16, f16 or f32"])
        for given in (["--target", "host", "--dtype", "f32"], ["--target", "sm_80", "--dtype", "bf16"]):
            self.refused("compile", *SMALL, "--tf32", *given, *out[2:], says="TF32 is a precision of f32 on a GPU")
        self.refused("compile", *SMALL, "--grad=z", *out, says=["gradients \"z\"", "q, k and v"])
        self.refused("compile", *SMALL, "--grad=qq", *out, says="at most once")

    def test_command_lines(self):
        out = ["-o", self.path("m.flare")]
        self.refused(code=2, says="subcommand")
        self.refused("frobnicate", code=2)
        self.refused("compile", *out, code=2, says="nothing to compile")
        self.refused("compile", *SMALL, code=2, says="-o FILE")
        self.refused("compile", "--head-dim", "8", *out, code=2, says="--latents")
        self.refused("compile", str(MIXER), *SMALL, *out, code=2, says="not both")
        self.refused("compile", *SMALL, "--emit", "ptx", *out, code=2, says="leave out -o")
        self.refused("compile", *SMALL, "--frob", *out, code=2, says="--frob")
        self.refused("list-stages", "--target", "sm_1", code=2, says="sm_100a")
        self.refused("info", code=2, says="file is required")

    def source(self, text, *options):
        (self.folder / "bad.mlir").write_text(text)
        return ["compile", self.path("bad.mlir"), "--target", "sm_80", "-o", self.path("m.flare"), *options]

    def test_sources(self):
        self.refused("compile", self.path("none.mlir"), "-o", self.path("m.flare"), says=["none.mlir", "No such file"])
        self.refused("compile", str(self.folder), "-o", self.path("m.flare"), says="it is a directory")
        good = MIXER.read_text()
        self.refused(*self.source("func.func @f("), says="bad.mlir:1:13: ")
        self.refused(*self.source(good.replace("%q, %k, %v scale", "%q, %k, %w scale")), says=["bad.mlir:5:", "undeclared SSA value name"])
        self.refused(*self.source(good.replace("flare.encode", "flare.encoed")), says=["bad.mlir:5:", "flare.encoed"])
        self.refused(*self.source(good.replace("flare.decode %k, %q", "flare.decode %q, %k")), says="bad.mlir:7:")
        self.refused(*self.source(""), says="holds no function")
        self.refused(*self.source(good, "--grad=w"), says="w")
        self.refused(*self.source(good, "--grad=q}"), says="names of arguments")
        self.refused(*self.source("\xff\xfe\x00"), says="bad.mlir")

    def test_outputs(self):
        base = ["compile", *SMALL, "--target", "sm_80", "-o"]
        self.refused(*base, str(self.folder), says="it is a directory")
        self.refused(*base, self.path("none/m.flare"), says="its directory does not exist")
        (self.folder / "file").write_text("")
        self.refused(*base, self.path("file/m.flare"), says="is a file")
        self.refused(*base, "/proc/m.flare", says="cannot write the artefact")
        # A pipe is written to and stays a pipe; what does not fit a device is said.
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDWR)  # keeps it open: the artefact would not fit, so it is read as it comes
        taken = []
        thread = threading.Thread(target=lambda: taken.append(os.read(reader, 8)))
        thread.start()
        process = subprocess.Popen([FLAREC, *base, str(pipe)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        thread.join(60)
        process.kill()
        process.wait()
        os.close(reader)
        self.assertEqual(taken[0][:6], b"FLAREC")
        self.assertTrue(stat.S_ISFIFO(pipe.stat().st_mode))
        self.refused(*base, "/dev/full", says="No space left")

    def test_functions_that_are_none(self):
        for text, says in (("func.func private @f(i32) -> i32", "is only declared"),
                           ("func.func @f(%c: i1) { cf.cond_br %c, ^a, ^a\n^a: return }", "one block of straight-line ops")):  # fmt: skip
            (self.folder / "f.mlir").write_text(text)
            for target in ("host", "sm_80"):
                self.refused("compile", self.path("f.mlir"), "--target", target, "-o", self.path("m.flare"), says=says)

    def test_stage_of_another_target(self):
        self.compile(*SMALL, "--target", "host", "--dump-stages", self.path("host"), "-o", self.path("m.flare"))
        self.refused("compile", *SMALL, "--target", "sm_80", "--from-stage", self.path("host/3-tile.mlir"), "-o", self.path("m.flare"),
                     says="is it a stage of another target?")  # fmt: skip
        if os.getuid() != 0:
            closed = self.folder / "closed"
            closed.mkdir()
            closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
            self.refused(*base, str(closed / "m.flare"), says="permissions")


class Info(Case):
    def test_describes(self):
        self.compile(*SMALL, "--target", "sm_90a", "--grad", "-o", self.path("m.flare"))
        out, _ = self.flarec("info", self.path("m.flare"))
        for text in ("sm_90a", key(request("qkv")), "mixer_forward\n", "mixer_backward\n", "q<m=16, d=8, bf16>", "k<n, d=8, bf16>",
                     "tokens 16,384", "rows aligned to 16 bytes", "rows of any alignment", "workspace", "PTX"):
            self.assertIn(text, out)
        out, _ = self.flarec("info", self.path("m.flare"), "--tokens", "0", "--batch", "3", "--heads", "2")
        self.assertIn("batch 3, heads 2, tokens 0", out)

    def test_mistakes(self):
        self.refused("info", self.path("none.flare"), says=["none.flare", "no such file"])
        self.refused("info", str(MIXER), says="not a flarec artefact")
        for option in ("--batch", "--heads", "--tokens"):
            for given in ("-1", "many", str(10**20)):
                self.refused("info", "m.flare", f"{option}={given}", code=2, says=[option, f"'{given}' is not supported", "from 0 to"])
        for text in ("[1]", "[]", "5", "null", '{"format": 1, "compiler": "", "key": "", "target": "host", "code": [], "functions": []}',
                     '{"format": 1, "compiler": "", "key": "", "target": "host", "code": [], "functions": [1]}'):  # fmt: skip
            with self.subTest(text):
                body = struct.pack("<Q", len(text)) + text.encode()
                (self.folder / "m.flare").write_bytes(b"FLAREC\0\1" + hashlib.sha256(body).digest() + body)
                self.refused("info", self.path("m.flare"), says=["m.flare: the artefact is damaged", "copy or compile it again"])
        self.compile(*SMALL, "--target", "sm_80", "-o", self.path("m.flare"))
        for option in ("--batch", "--heads"):
            _, err = self.flarec("info", self.path("m.flare"), option, str(2**63 - 1), code=1)
            self.assertRegex(err, "flarec: .* 9223372036854775807.* are too many")
        data = bytearray((self.folder / "m.flare").read_bytes())
        data[-100] ^= 1
        (self.folder / "m.flare").write_bytes(data)
        self.refused("info", self.path("m.flare"), says=["damaged", "checksum"])


class Help(Case):
    def test_has_examples(self):
        for words in ([], ["compile"], ["info"], ["list-stages"]):
            out, _ = self.flarec(*words, "--help")
            self.assertIn("Examples:\n  flarec ", out)
        for option in ("--head-dim", "--grad", "--emit", "--dump-stages", "--from-stage", "--config", "--time", "--report"):
            self.assertIn(option, self.flarec("compile", "--help")[0])

    def test_version(self):
        self.assertRegex(self.flarec("--version")[0], r"^flarec \d+\.\d+\.\d+\+\d+\n$")


if __name__ == "__main__":
    if not os.access(FLAREC, os.X_OK):
        sys.exit(f"{FLAREC} is no program: build flarec, or set FLAREC to its path")
    unittest.main()
