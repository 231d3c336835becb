"""What a call of a block-sparse op costs the host in a tf.function, on a GPU.

    python benchmarks/gpu_host_time.py --output host.json

A tf.function holds a chain of equal ops, each on the result of the one before. `host` is the time
until the call returns, when every op has enqueued its kernels, divided by the ops; `both` the time
until the last result is there. Where the two are alike the GPU waits for the host. tf.matmul on a
dense matrix of the same width is measured in the same run. Medians.
"""

import argparse
import datetime
import json
import pathlib
import time

import numpy as np
import tensorflow as tf

from bsparse_tf import BlocksparseMatMul

OPS = 200  # fewer launches than the driver's queue holds
FEATURES = 512
# name -> (block size, feature axis, batch), by the kernels that they go through on Hopper.
CASES = {
    "stream": (32, 1, 32),
    "union, features last": (32, 1, 640),
    "union, features first": (64, 0, 640),
    "sweep": (8, 1, 25344),
}


def microseconds(function, x, repeats):
    """(host, both) of one op: medians over calls of a tf.function of OPS ops."""
    function(x).numpy()
    host, both = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        y = function(x)
        host.append(time.perf_counter() - begin)
        y.numpy()
        both.append(time.perf_counter() - begin)
    return tuple(float(np.median(times)) / OPS * 1e6 for times in (host, both))


def chain(op):
    @tf.function(jit_compile=False)
    def function(x):
        for _ in range(OPS):
            x = op(x)
        return x

    return function


def functions_of(block_size, feature_axis, batch):
    """Functions by op, and their input. The weights keep values in range through the chain."""
    matmul = BlocksparseMatMul.from_spec("ba:m=2,seed=0", FEATURES, block_size=block_size,
                                         feature_axis=feature_axis)
    shape = (batch, FEATURES) if feature_axis == 1 else (FEATURES, batch)
    x = tf.cast(tf.random.normal(shape), tf.bfloat16)
    fan_in = matmul.density * FEATURES
    w = tf.cast(tf.random.normal(matmul.w_shape, stddev=fan_in**-0.5), tf.bfloat16)
    dense = tf.cast(tf.random.normal([FEATURES, FEATURES], stddev=FEATURES**-0.5), tf.bfloat16)

    def ordinary(x):
        return tf.matmul(x, dense) if feature_axis == 1 else tf.matmul(dense, x)

    return {"ours": chain(lambda x: matmul(x, w)), "tf.matmul": chain(ordinary)}, x


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args()
    gpus = tf.config.list_physical_devices("GPU")
    device = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "CPU"
    rows = []
    print(f"{device}, µs an op, host / both")
    for name, case in CASES.items():
        functions, x = functions_of(*case)
        for op, function in functions.items():
            host, both = microseconds(function, x, options.repeats)
            rows.append({"case": name, "op": op, "host_us": host, "both_us": both})
            print(f"  {name:<22} {op:<10} {host:6.1f} / {both:.1f}", flush=True)
    if options.output:
        result = {"device": device, "tensorflow": tf.__version__,
                  "date": str(datetime.date.today()), "rows": rows}
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
