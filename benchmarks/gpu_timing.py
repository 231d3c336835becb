"""GPU times of functions that enqueue work on PyTorch's current stream."""

import math
import shutil
import subprocess
import time

import numpy as np
from cuda_binding import torch

FLUSH_BYTES = 256 << 20  # several times any GPU's L2 cache
HEAD_START = 16  # reads of so many bytes
SETTLING_SECONDS = 0.1
LEAST_CALLS = 4  # in a graph, so that its own launch counts little


class ColdTimer:
    """Each call alone between events, after a read that turns over the L2 cache.

    Before, the same call runs for a while: large products draw so much power that a GPU lowers its
    clocks after some ten milliseconds, and a training step runs at those clocks. (An H100's dense product of
    8192^3 takes 1.22 to 1.32 ms at first, and 1.47 to 1.52 later.)

    The cache is turned over by reading, since lines that were written would be written back during the
    call. It also hides the host: the call is enqueued long before the GPU comes to it. Some more
    reads ahead of all calls leave it time for a pause of its own, which would count as the call's.
    """

    method = (f"median of event times after {SETTLING_SECONDS} s of the same calls, L2 turned over by "
              "reads before each")

    def __init__(self, repeats):
        self.repeats = repeats
        self.flush = torch.zeros(FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")

    def _turn_over(self):
        self.flush.sum(dtype=torch.int32)

    def _settle(self, function):
        function()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        for _ in range(math.ceil(SETTLING_SECONDS / seconds)):
            function()

    def __call__(self, function, repeats=None):
        """Median seconds of one call."""
        self._settle(function)
        for _ in range(HEAD_START):
            self._turn_over()
        pairs = []
        for _ in range(repeats or self.repeats):
            self._turn_over()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        return float(np.median([start.elapsed_time(end) for start, end in pairs])) * 1e-3


class GraphTimer:
    """Many calls in one CUDA graph, each with weights of its own that the calls before pushed out.

    For products so short that launches count: a graph's are the cheapest there are. Activations
    stay in the L2 cache, as between the layers of a network.
    """

    method = "median time of a CUDA graph over its calls, weights rotated through more than the L2"

    def __init__(self, repeats):
        self.repeats = repeats
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        self.l2_bytes = getattr(properties, "L2_cache_size", 50 << 20)

    def copies(self, weight_bytes):
        """How many weights it takes so that none is still in the cache when it is read again."""
        return max(1, math.ceil(3 * self.l2_bytes / weight_bytes))

    def __call__(self, functions):
        """Median seconds of one of `functions`, which run in turn."""
        functions = list(functions) * math.ceil(LEAST_CALLS / len(functions))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # first calls do what a capture forbids
            for function in functions:
                function()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for function in functions:
                function()
        graph.replay()
        times = []
        for _ in range(self.repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        return float(np.median(times)) * 1e-3 / len(functions)


def clocks():
    """What nvidia-smi says of clocks, power and temperature; None where there is no such tool."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = "--query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu"
    answer = subprocess.run(["nvidia-smi", query, "--format=csv,noheader", "--id=0"],
                            capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else None
