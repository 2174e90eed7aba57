#!/usr/bin/env python3
"""flarec tune as people use it: it measures this host for real, with small budgets."""

import html.parser
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import artefact

FLAREC = os.environ["FLAREC"]
SHAPE = ["--head-dim", "8", "--latents", "16", "--dtype", "fp32", "--tokens", "2000", "--target", "host"]


class Tune(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="flarec-tune-test-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.environment = {**os.environ, "FLAREC_TUNE_DIR": str(self.directory / "tables"), "FLAREC_CACHE_DIR": str(self.directory / "cache")}

    def run_flarec(self, *arguments, code=0, **environment):
        done = subprocess.run([FLAREC, *arguments], capture_output=True, text=True, env={**self.environment, **environment}, timeout=250)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def table(self):
        (path,) = (self.directory / "tables").glob("*.json")
        return json.loads(path.read_text())


class Measuring(Tune):
    def test_a_shape_is_tuned_kept_shown_and_compiles(self):
        start = time.monotonic()
        done = self.run_flarec("tune", *SHAPE, "--budget", "3s", "--report", str(self.directory / "report.html"))
        self.assertLess(time.monotonic() - start, 60)
        # A table before/after.
        self.assertRegex(done.stdout, r"H 8, D 8, M 16, N 2,000, f32")
        for function in ("mixer_forward", "mixer_backward"):
            self.assertRegex(done.stdout, rf"{function} +\d+\.\d+ +\d+\.\d+ +\d+\.\d\dx")
        self.assertEqual(len(re.findall(r"^    sweep \d, rows [mn] ", done.stdout, re.M)), 4)
        self.assertRegex(done.stdout, r"[\d,]+ combinations, [\d,]+ can be run, \d+ measured")
        # Progress goes to stderr, with the time left.
        self.assertRegex(done.stderr, r"compiling, \d+ of \d+, \d+ s left")
        self.assertRegex(done.stderr, r"measuring, round 1")

        table = self.table()
        self.assertEqual((table["format"], table["target"]), (1, "host"))
        (entry,) = table["entries"]
        self.assertEqual([entry[k] for k in ("dtype", "head_dim", "latents", "heads", "layout", "tokens", "measured_tokens")],
                         ["f32", 8, 16, 8, "tokens-major", [0, 4095], 2000])
        for name, function in entry["functions"].items():
            self.assertEqual(len(function["sweeps"]), 2, name)
            self.assertGreater(function["ms"], 0)
            self.assertLessEqual(function["ms"], function["heuristic_ms"])
        self.assertRegex(entry["date"], r"^20\d\d-\d\d-\d\d$")
        self.assertRegex(entry["compiler"], r"^\d+\.\d+\.\d+\+1 [0-9a-f]{12}$")

        # What was found is a configuration that `flarec compile` takes, also from a file.
        text = "{" + ", ".join(
            name + " = [" + ", ".join("{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in sweep.items()) + "}" for sweep in function["sweeps"]) + "]"
            for name, function in entry["functions"].items()) + "}"
        (self.directory / "config").write_text(text + "\n")
        self.run_flarec("compile", *SHAPE[:6], "--target", "host", "--grad", "--config", f"@{self.directory}/config", "-o", f"{self.directory}/m.flare")
        manifest, _ = artefact.read_artefact((self.directory / "m.flare").read_bytes())
        for function in manifest["functions"]:
            tuned = entry["functions"][function["name"]]["sweeps"]
            fields = ("tile", "heads", "row_groups", "blocks")
            for got, wanted in zip(function["sweeps"], tuned, strict=True):  # {}: the heuristic's was the fastest
                self.assertEqual({f: got[f] for f in fields if f in wanted}, {f: wanted[f] for f in fields if f in wanted})

        listed = self.run_flarec("tune", "--list").stdout
        self.assertIn("H 8, D 8, M 16, N 2,000, f32", listed)

        # One page that asks for nothing else.
        page = (self.directory / "report.html").read_text()
        for part in ("Predicted against measured", "Roofline", "What each knob is worth", "<svg", "<circle"):
            self.assertIn(part, page)
        self.assertNotRegex(page, r"(src|href)=")

        class Checker(html.parser.HTMLParser):
            open_tags = []

            def handle_starttag(self, tag, attrs):
                if tag not in ("meta",):
                    self.open_tags.append(tag)

            def handle_startendtag(self, tag, attrs):
                pass

            def handle_endtag(checker, tag):
                self.assertEqual(checker.open_tags.pop(), tag)

        checker = Checker()
        checker.feed(page)
        self.assertEqual(checker.open_tags, [])

    def test_everything_that_was_tried_can_be_recorded(self):
        path = self.directory / "tried.json"
        self.run_flarec("tune", *SHAPE, "--budget", "3s", "--dry-run", "--record", str(path))
        (record,) = json.loads(path.read_text())
        self.assertEqual([record[k] for k in ("target", "dtype", "head_dim", "latents", "heads", "tokens")], ["host", "f32", 8, 16, 8, 2000])
        self.assertEqual([(s["function"], s["sweep"]) for s in record["sweeps"]],
                         [("mixer_forward", 0), ("mixer_forward", 1), ("mixer_backward", 0), ("mixer_backward", 1)])
        for sweep in record["sweeps"]:
            first, *others = sweep["candidates"]
            self.assertEqual(first["changes"], {})
            self.assertGreater(first["ms"], 0)
            self.assertNotIn("fate", first)
            for candidate in others:
                self.assertTrue(candidate["changes"].keys() <= sweep["heuristic"].keys())
                self.assertGreater(candidate["predicted_ms"], 0)
                self.assertTrue("ms" in candidate or "fate" in candidate)
            kept = sweep["candidates"][sweep["chosen"]]
            self.assertNotIn("fate", kept)
        # One candidate is compiled for all ways to launch its kernels.
        self.assertGreater(sum("ms" in c for s in record["sweeps"] for c in s["candidates"]), sum(s["compiled"] for s in record["sweeps"]))
        looked = subprocess.run([sys.executable, pathlib.Path(__file__).resolve().parents[2] / "bench/first16.py", "--read", path], capture_output=True, text=True)
        self.assertRegex(looked.stdout, r"\d of 4 sweeps have the best, or one within 2% of it")

    def test_what_is_tuned_can_be_left_out(self):
        self.run_flarec("tune", *SHAPE, "--budget", "1s")
        again = self.run_flarec("tune", *SHAPE, "--budget", "1s", "--missing")
        self.assertEqual(again.stdout, "H 8, D 8, M 16, N 2,000, f32: tuned already\n")
        # A script that fills a whole table goes on likewise.
        script = pathlib.Path(__file__).resolve().parents[2] / "bench/tune_shipped.py"
        done = subprocess.run([sys.executable, script, self.directory / "new", "--from", self.directory / "tables", "--target", "host", "--time", "1s"],
                              capture_output=True, text=True, env=self.environment)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stdout, r"not tuned: \('bf16', 8, 8, 64\), .*--all, .*\('f32', 8, 8, 512, 16384\)")
        (path,) = (self.directory / "new").glob("*.json")
        self.assertEqual(json.loads(path.read_text()), self.table())

    def test_a_dry_run_keeps_nothing(self):
        self.run_flarec("tune", *SHAPE, "--budget", "1s", "--dry-run")
        self.assertFalse((self.directory / "tables").exists())

    def test_all_goes_on_where_it_was_killed(self):
        # The first shapes are small. As soon as one is kept the run is killed.
        command = [FLAREC, "tune", "--all", "--target", "host", "--budget", "1s"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self.environment)
        limit = time.monotonic() + 200
        while time.monotonic() < limit and not list((self.directory / "tables").glob("[!.]*.json")):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = len(self.table()["entries"])
        self.assertGreaterEqual(kept, 1)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self.environment)
        first = [process.stdout.readline() for _ in range(kept)]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for number, line in enumerate(first, 1):
            self.assertRegex(line, rf"^{number}/\d+ .*: tuned already$")

    def test_nothing_is_tuned_without_being_asked(self):
        self.run_flarec("compile", *SHAPE[:6], "--target", "host", "-o", str(self.directory / "m.flare"))
        self.assertFalse((self.directory / "tables").exists())


class Words(Tune):
    def refused(self, *arguments, says, code=2, **environment):
        error = self.run_flarec("tune", *arguments, code=code, **environment).stderr
        for part in [says] if isinstance(says, str) else says:
            self.assertIn(part, error)

    def test_help_has_examples(self):
        text = self.run_flarec("tune", "--help").stdout
        for part in ("flarec tune --head-dim 8 --latents 128 --dtype bf16", "--all", "--report", "--budget", "FLAREC_TUNE_DIR"):
            self.assertIn(part, text)
        self.assertNotIn("compile-worker", self.run_flarec("--help").stdout)

    def test_predictions_need_no_device(self):
        start = time.monotonic()
        text = self.run_flarec("tune", "--head-dim", "8", "--latents", "128", "--dtype", "bf16", "--target", "sm_90a", "--predict").stdout
        self.assertLess(time.monotonic() - start, 60)
        sweeps = re.split(r"^  mixer_\w+, sweep \d, rows [mn]: [\d,]+ combinations, [\d,]+ can be run$", text, flags=re.M)[1:]
        self.assertEqual(len(sweeps), 4)
        for sweep in sweeps:
            lines = sweep.strip().splitlines()
            self.assertTrue(lines[0].endswith("as the heuristic has it"), lines[0])
            times = [float(line.split()[0]) for line in lines]
            self.assertEqual(min(times[1:]), times[1], "the model's favourite first")
            self.assertLess(max(times[1:]), 1.31 * times[1], "what is expected to be far slower comes last")
            self.assertEqual(len(set(lines)), 9)
        self.assertFalse((self.directory / "tables").exists())

    def test_mistakes_are_answered(self):
        self.refused(says=["--head-dim and --latents", "--all"])
        self.refused("--head-dim", "8", says="give both, or --all")
        self.refused("--all", "--head-dim", "8", "--latents", "8", says="or --all")
        self.refused("--head-dim", "8", "--latents", "16", "--budget", "soon", says=["--budget: 'soon'", "from 1s to 1440m"])
        self.refused("--head-dim", "8", "--latents", "16", "--dtype", "int8", says="choose bf16, f16 or f32")
        self.refused("--head-dim", "8", "--latents", "16", "--target", "sm_1", says="there is no target 'sm_1'")
        self.refused("--head-dim", "8", "--latents", "0", says="from 1 to 4096")

    def test_a_gpu_that_is_not_here_cannot_be_tuned(self):
        if shutil.which("nvidia-smi"):
            self.skipTest("there is one")
        self.refused("--head-dim", "8", "--latents", "16", "--target", "sm_90a", code=1, says=["sm_90a cannot be tuned here", "NVIDIA driver"])

    def test_a_directory_that_cannot_be_written(self):
        self.refused(*SHAPE, "--budget", "200s", code=1, says="set FLAREC_TUNE_DIR", FLAREC_TUNE_DIR="/dev/null/none")

    def test_what_cannot_be_written_is_said_before_the_work(self):
        for option in ("--record", "--report"):
            self.refused(*SHAPE, "--budget", "200s", option, "/nowhere/tried", code=1, says="'/nowhere/tried': No such file or directory")
            kept = self.directory / "kept"
            kept.write_text("old")
            self.refused(*SHAPE, "--budget", "200s", option, str(kept), code=1, says="set FLAREC_TUNE_DIR", FLAREC_TUNE_DIR="/dev/null/none")
            self.assertEqual(kept.read_text(), "old")
        self.assertFalse((self.directory / "tables").exists())


unittest.main()
