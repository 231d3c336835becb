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
LASTING_SECONDS = 1.0  # after 0.3 s a product's time still depends on what ran before it
TIMED_SECONDS = 0.1


class ColdTimer:
    """Each call alone between events, after a read that turns over the L2 cache.

    Before, the same call runs for a while, in which most of the fall of clocks is over (LastingTimer).

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

    def __call__(self, functions):
        """Median seconds of one of `functions`, which run in turn."""
        graph, calls = capture(functions)
        graph.replay()
        times = [time_of(graph.replay) for _ in range(self.repeats)]
        return float(np.median(times)) / calls


class LastingTimer:
    """Calls in a row, as in a training step that goes on for hours: at clocks that last.

    Large products draw so much power that a GPU lowers its clocks, dense and sparse ones alike. An H200's
    dense product of 8192^3 in bfloat16 takes 1.38 ms at first, 1.57 after 0.1 s, and 1.6 to 1.65 from
    0.2 to 2 s.
    """

    method = (f"mean of calls in a row for {TIMED_SECONDS} s, {LASTING_SECONDS} s after the first; CUDA graphs, "
              "weights rotated through more than the L2")

    def __call__(self, functions):
        """Mean seconds of one of `functions`, which run in turn."""
        graph, calls = capture(functions)
        graph.replay()
        seconds = time_of(graph.replay)

        def replay(count):
            for _ in range(count):
                graph.replay()

        replay(math.ceil(LASTING_SECONDS / seconds))
        count = math.ceil(TIMED_SECONDS / seconds)
        return time_of(lambda: replay(count)) / count / calls


def rotated_copies(weight_bytes):
    """How many weights it takes so that none is still in the L2 cache when it is read again."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    l2_bytes = getattr(properties, "L2_cache_size", 50 << 20)
    return max(1, math.ceil(3 * l2_bytes / weight_bytes))


def capture(functions):
    """A CUDA graph that calls `functions` in turn, at least LEAST_CALLS times in all; and how often."""
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
    return graph, len(functions)


def time_of(enqueue):
    """Seconds of what `enqueue` enqueues, by events around it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    enqueue()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3


def clocks():
    """What nvidia-smi says of clocks, power and temperature; None where there is no such tool."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = "--query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu"
    answer = subprocess.run(["nvidia-smi", query, "--format=csv,noheader", "--id=0"],
                            capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else None
