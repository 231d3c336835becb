"""A training step of a wide MLP on a GPU: block-sparse layers beside dense ones.

    python benchmarks/gpu_training_step.py --width 8192 --density 0.1 --output step.json

Three models of the same depth: BlockSparseDense of the given width, Dense of that width, and Dense
of about as many parameters. bfloat16 activations, float32 weights (Keras's mixed_bfloat16), SGD.
Also the time of the products alone, in the same number and shapes, and so the share of the step
that is spent elsewhere. Medians of steps timed on the host after a synchronisation. With --xla steps are
compiled by XLA, as Keras does by itself on a GPU (the products alone are not: XLA leaves out equal
ones). With --kernels also what each kernel adds to a step, by TensorFlow's profiler
(benchmarks/gpu_profile.py), on a host that has CUPTI.
"""

import argparse
import datetime
import itertools
import json
import pathlib
import time

import gpu_profile
import keras
import numpy as np
import tensorflow as tf

from bsparse_tf import BlocksparseMatMul, layouts
from bsparse_tf.keras import BlockSparseDense


def median_seconds(step, repeats):
    """Of one call; several are enqueued for each synchronisation, so that the host is hidden."""
    calls = 5
    step().numpy()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(calls):
            result = step()
        result.numpy()
        times.append((time.perf_counter() - begin) / calls)
    return float(np.median(times))


def training_step(layers, batch, width, xla):
    model = keras.Sequential([keras.Input((width,)), *layers])
    optimizer = keras.optimizers.SGD(1e-3)
    optimizer.build(model.trainable_variables)
    x = tf.random.normal([batch, width], dtype=tf.bfloat16)

    @tf.function(jit_compile=xla)
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(tf.cast(model(x, training=True), tf.float32)))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return step, model.count_params()


def products_alone(matmul, depth, batch):
    """The fprop, dx and dw of `depth` layers but for the first one's dx."""
    x = tf.random.normal([batch, matmul.C], dtype=tf.bfloat16)
    w = tf.Variable(tf.random.normal(matmul.w_shape))

    @tf.function(jit_compile=False)
    def step():
        total = 0.0
        for layer in range(depth):
            with tf.GradientTape(persistent=False) as tape:
                tape.watch(x)
                y = matmul(x, w)
            sources = [w] if layer == 0 else [w, x]
            for gradient in tape.gradient(y, sources, output_gradients=y):
                total += tf.cast(gradient[0, 0], tf.float32)
        return tf.reduce_sum(total)

    return step


def print_kernels(kernels, step_seconds):
    """The longest ones, and sums of ours and of others; what they leave of the step the GPU waits."""
    ours = sum(seconds for name, seconds in kernels.items() if name.startswith("bsparse::"))
    busy = sum(kernels.values())
    print(f"{'':>6} ours {ours * 1e3:.2f} ms, others {(busy - ours) * 1e3:.2f} ms, none "
          f"{max(0.0, step_seconds - busy) * 1e3:.2f} ms")
    for name, seconds in itertools.islice(kernels.items(), 12):
        print(f"{seconds * 1e6:>16.0f} us  {name}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--block-sizes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--xla", action="store_true", help="compile the steps by XLA")
    parser.add_argument("--kernels", action="store_true", help="what each kernel adds")
    parser.add_argument("--output", help="JSON file to write")
    options = parser.parse_args()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    rows = []

    def report(name, step, parameters, products=None):
        seconds = median_seconds(step, options.repeats)
        row = dict(model=name, parameters=parameters, seconds=seconds)
        line = f"{name:>34} {parameters / 1e6:8.1f} M {seconds * 1e3:9.2f} ms"
        if products:
            row["products_seconds"] = products
            line += f"   products alone {products * 1e3:.2f} ms, elsewhere {1 - products / seconds:.0%}"
        print(line, flush=True)
        if options.kernels:
            row["kernel_seconds"] = gpu_profile.kernel_seconds(step)
            print_kernels(row["kernel_seconds"], seconds)
        rows.append(row)

    width = options.width
    for block_size in options.block_sizes:
        blocks = width // block_size
        layout = layouts.random(blocks, density=options.density, seed=0)
        layers = [BlockSparseDense(width, block_size=block_size, layout=layout, activation="relu")
                  for _ in range(options.depth)]
        step, parameters = training_step(layers, options.batch, width, options.xla)
        matmul = BlocksparseMatMul(layout, block_size=block_size)
        products = median_seconds(products_alone(matmul, options.depth, options.batch),
                                  options.repeats)
        report(f"block-sparse {width}, block {block_size}", step, parameters, products)
    narrow = int(round(width * options.density**0.5 / 8) * 8)
    for name, size in ((f"dense {width}", width), (f"dense {narrow} (equal parameters)", narrow)):
        layers = [keras.layers.Dense(size, activation="relu") for _ in range(options.depth)]
        report(name, *training_step(layers, options.batch, size, options.xla))
    if options.output:
        device = tf.config.experimental.get_device_details(
            tf.config.list_physical_devices("GPU")[0])["device_name"]
        result = dict(device=device, tensorflow=tf.__version__, date=str(datetime.date.today()),
                      options=vars(options), rows=rows)
        pathlib.Path(options.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
