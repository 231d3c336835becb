"""Where the GPU's time goes in a step of TensorFlow: seconds by kernel, from TensorFlow's profiler."""

import collections
import heapq
import pathlib
import tempfile

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2


def kernel_seconds(step, calls=5):
    """What each kernel adds to one call of `step`, a function of no arguments.

    A kernel may be launched while the one before it still runs, for which it then waits. So a moment
    counts for the kernel that ends first of those that run.

    Returns:
      dict of name, without its arguments -> seconds a call, the longest first.

    Raises:
      RuntimeError: the profiler saw no kernels; it needs the CUDA profiling library (CUPTI).
    """
    step().numpy()
    with tempfile.TemporaryDirectory() as directory:
        tf.profiler.experimental.start(directory)
        for _ in range(calls):
            result = step()
        result.numpy()
        tf.profiler.experimental.stop()
        spaces = [xplane_pb2.XSpace.FromString(path.read_bytes())
                  for path in pathlib.Path(directory).rglob("*.xplane.pb")]
    added = time_added(events(spaces))
    if not added:
        raise RuntimeError("the profiler saw no kernels; expected those of a GPU: it needs CUPTI")
    return {name: picoseconds * 1e-12 / calls for name, picoseconds in added.items()}


def time_added(events):
    """dict of name -> time, the longest first, of (begin, end, name)."""
    added = collections.Counter()
    later = sorted(events, reverse=True)
    running = []  # (end, name), the first to end first
    moments = sorted({moment for begin, end, _ in later for moment in (begin, end)})
    for moment, next_moment in zip(moments, moments[1:]):
        while later and later[-1][0] <= moment:
            _, end, name = later.pop()
            heapq.heappush(running, (end, name))
        while running and running[0][0] <= moment:
            heapq.heappop(running)
        if running:
            added[running[0][1]] += next_moment - moment
    return dict(added.most_common())


def events(spaces):
    """(begin, end, name) of everything that ran on a GPU, in picoseconds."""
    for plane in (plane for space in spaces for plane in space.planes):
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):  # the same again, by op or by module
                continue
            for event in line.events:
                begin = 1000 * line.timestamp_ns + event.offset_ps
                name = plane.event_metadata[event.metadata_id].name
                yield begin, begin + event.duration_ps, _short(name)


def _short(name):
    """The function of "void f<types>(arguments)"."""
    name = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    return name.split("<")[0].split("(")[0]
