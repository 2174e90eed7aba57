"""flarec_compile from outside: what it answers to requests that are wrong.

COMPILER names libflarec_compiler.so. Nothing but Python's own library is needed."""

import ctypes
import json
import os
import unittest

LIBRARY = ctypes.CDLL(os.environ["COMPILER"])
LIBRARY.flarec_free.argtypes = [ctypes.c_void_p]
MIXER = {"head_dim": 8, "latents": 16, "dtype": "bf16", "gradients": ""}


def answer(text):
    """The message for a request, None where it compiles."""
    data, size, message = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_void_p()
    status = LIBRARY.flarec_compile(text.encode(), ctypes.byref(data), ctypes.byref(size), ctypes.byref(message))
    words = ctypes.string_at(message).decode() if status else None
    LIBRARY.flarec_free(data)
    LIBRARY.flarec_free(message)
    return words


def request(mixer={}, **more):
    return json.dumps({"version": "", "mixer": {**MIXER, **mixer}, "target": "sm_80", "config": "", **more})


class Requests(unittest.TestCase):
    def refused(self, text, *says):
        words = answer(text)
        self.assertIsNotNone(words, text)
        for part in says:
            self.assertIn(part, words)

    def test_a_right_one_compiles(self):
        self.assertIsNone(answer(request()))

    def test_numbers(self):
        for given, said in ((0, "0"), (-1, "-1"), (129, "129"), (8.5, "8.5"), (10**20, "1e+20"), (2**32 + 8, "4294967304"), ("8", '"8"'), (None, "null"), ([8], "[8]")):
            with self.subTest(given):
                self.refused(request({"head_dim": given}), f"head dimension {said} is not supported", "use 1 to 128")
        for given, said in ((0, "0"), (-1, "-1"), (4097, "4097"), (10**20, "1e+20"), (10**19, "10000000000000000000"), (2**32 + 1, "4294967297"), (True, "true")):
            with self.subTest(given):
                self.refused(request({"latents": given}), f"number of latents {said} is not supported", "use 1 to 4096")

    def test_a_single_sweep(self):
        self.assertIsNone(answer(request(only="mixer_forward:1")))
        self.refused(request(only="mixer_forward:2"), "there is no sweep 'mixer_forward:2'; name one as function:number")
        self.refused(request(only="mixer_forward"), "there is no sweep 'mixer_forward'")
        self.refused(request(only="a:0}, cse"), "only 'a:0}, cse' is not supported; name a sweep as function:number, such as mixer_forward:0")
        self.refused(request(only=1), "only 1 is not supported; it must be a string")

    def test_what_is_missing(self):
        text = json.dumps({"mixer": {}, "target": "sm_80"})
        self.refused(text, "head dimension is missing; use 1 to 128 as head_dim")
        self.refused(json.dumps({"target": "sm_80"}), "neither a mixer nor a source")

    def test_types(self):
        self.refused(request({"dtype": 16}), "dtype 16 is not supported", "bf16")
        self.refused(request({"dtype": "f64"}), 'dtype "f64" is not supported', "bf16")
        self.refused(request({"gradients": 1}), "gradients 1 is not supported")
        self.refused(request({"gradients": "qx"}), 'gradients "qx" is not supported', "qkv")
        self.refused(request({"ragged": 1}), "ragged 1 is not supported", "true or false")
        self.refused(request({"masked": "yes"}), 'masked "yes" is not supported', "true or false")
        self.refused(request(mixer={}, config=5), "config 5 is not supported; it must be a string")
        self.refused(request(mixer={}, time="yes"), 'time "yes" is not supported; it must be true or false')
        self.refused(request(mixer={}, target=90), "target 90 is not supported")
        self.refused(json.dumps({"mixer": 8, "target": "sm_80"}), "mixer 8 is not supported; it must be an object")
        self.refused(json.dumps({"source": ["x"], "target": "sm_80"}), 'source ["x"] is not supported')
        self.refused("[1]", "must be a JSON object")
        self.refused("{", "is not JSON")


if __name__ == "__main__":
    unittest.main()
