"""At what clock a GPU ran while something was measured."""
import statistics
import subprocess
import threading


class Clock:
    """The SM clock, sampled while something runs."""

    def __init__(self, period=0.02):
        self.period = period  # seconds between samples, each of which is a process

    def __enter__(self):
        self.samples, self.stop = [], threading.Event()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self

    def sample(self):
        while not self.stop.is_set():
            text = subprocess.run(["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"], capture_output=True, text=True).stdout
            if text.strip().isdigit():
                self.samples.append(int(text))
            self.stop.wait(self.period)

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def ghz(self):
        return statistics.median(self.samples) / 1e3 if self.samples else float("nan")
