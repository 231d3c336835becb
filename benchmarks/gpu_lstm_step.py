"""A training step and batch-1 inference of SmallWorldLSTM on a GPU, beside its products alone.

    python benchmarks/gpu_lstm_step.py --output lstm.json

The defaults are the sizes of "GPU Kernels for Block-Sparse Weights" (2017): 18432 units, a
Barabási-Albert graph with m = 8 for each matrix, block 32, 6 internal steps, batch 128, sequences
of 64 bytes, bfloat16 with float32 weights. A training step is that of a byte-level language model:
embedding, recurrent layer, logits, gradients, Adam.

Parts (--parts), each of which can be left out:
  products        the products of a step and nothing else, in its shapes and their order, so that
                  weights come out of the caches as they do there
  step, step_xla  the training step as a tf.function, and compiled with XLA
  gradients       the training step without Adam
  inference, inference_xla
                  a sequence with batch 1 in pure bfloat16, and one byte at a time

Times are medians, taken on the host around several calls after a synchronisation. Where the host
is slower than the products, their time comes out too long: they are timed with and without XLA, and
the shorter counts.
"""

import argparse
import datetime
import gc
import json
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf

from bsparse_tf.keras import SmallWorldLSTM

PARTS = ("products", "step", "step_xla", "gradients", "inference", "inference_xla")
BYTES = 256


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=18432)
    parser.add_argument("--layout", default="ba:m=8,seed={step}",
                        help="a layout spec, or dense (%(default)s)")
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--internal-steps", type=int, default=6)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--embedding", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=64, help="bytes of a sequence")
    parser.add_argument("--dtype", default="mixed_bfloat16", help="policy of the recurrent layer")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[
        "products", "step", "step_xla", "inference"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--time-limit", type=float, default=240,
                        help="seconds after which no further part is begun (%(default)s)")
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args(argv)


def median_seconds(call, repeats, budget=6.0):
    """(seconds of the first call, median seconds of one of the others).

    `call` returns a tensor. Several are enqueued for each synchronisation, so that a wait for the
    host counts only if it slows the device down; as many as are needed for 0.1 s.
    """
    begin = time.perf_counter()
    synchronise(call())
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    synchronise(call())
    once = time.perf_counter() - begin
    calls = int(np.clip(0.1 / max(once, 1e-6), 1, 50))
    times = []
    end = time.perf_counter() + budget
    while len(times) < repeats and (not times or time.perf_counter() < end):
        begin = time.perf_counter()
        for _ in range(calls):
            result = call()
        synchronise(result)
        times.append((time.perf_counter() - begin) / calls)
    return first, float(np.median(times))


def synchronise(tensor):
    """Waits for a tensor by reading one number of it."""
    tf.reshape(tensor, [-1])[:1].numpy()


def gpus():
    return tf.config.list_physical_devices("GPU")


class Memory:
    """The most device memory that was in use at once since this object was made; None on a CPU."""

    def __init__(self):
        if gpus():
            tf.config.experimental.reset_memory_stats("GPU:0")

    def peak(self):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpus() else None


def recurrent_layer(options, dtype, **arguments):
    return SmallWorldLSTM(
        options.units, options.block_size, options.layout, options.internal_steps, options.stride,
        recompute=options.recompute, dtype=dtype, return_state=True, **arguments)


def language_model(options):
    """Bytes int32 [batch, steps] to logits float32 [batch, steps, 256]."""
    tokens = keras.Input((options.steps,), dtype="int32", batch_size=options.batch)
    embedded = keras.layers.Embedding(BYTES, options.embedding)(tokens)
    layer = recurrent_layer(options, options.dtype, return_sequences=True)
    hidden, *_ = layer(embedded)
    logits = keras.layers.Dense(BYTES, dtype="float32")(hidden)
    return keras.Model(tokens, logits), layer


def training_step(options, xla, with_optimizer=True):
    """A function that makes one step and returns the loss, and the recurrent layer."""
    model, layer = language_model(options)
    optimizer = keras.optimizers.Adam(1e-4, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    pieces = np.random.default_rng(0).integers(0, BYTES, (options.batch, options.steps + 1))
    pieces = tf.constant(pieces, tf.int32)

    @tf.function(jit_compile=xla)
    def step(pieces):
        weights = model.trainable_variables
        with tf.GradientTape() as tape:
            logits = model(pieces[:, :-1], training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=pieces[:, 1:], logits=logits))
        gradients = tape.gradient(loss, [w.value for w in weights])
        if with_optimizer:
            optimizer.apply(gradients, weights)
            return loss
        # One number that needs them all.
        return loss + tf.add_n([tf.reshape(g, [-1])[0] for g in gradients])

    return lambda: step(pieces)


def product_functions(options, xla):
    """Functions that take the products of a step: name -> (function, time steps it stands for)."""
    layer = recurrent_layer(options, options.dtype)
    layer.build((1, 1, options.embedding))
    linears = layer.cell._linears
    dtype = tf.as_dtype(layer.compute_dtype)
    random = tf.random.Generator.from_seed(0)
    weights = []
    for kernel in layer.cell.kernels[2:]:
        # Weights of about the size that keeps a vector's length, so that a chain of products does
        # not overflow.
        fan_in = int(np.prod(kernel.shape)) / options.units
        weights.append(tf.cast(random.normal(kernel.shape, stddev=0.3 * fan_in**-0.5), dtype))
    x = tf.cast(random.normal([options.batch, options.units]), dtype)
    cycles = 4

    def chain(chosen):
        @tf.function(jit_compile=xla)
        def multiply(x, weights):
            for _ in range(cycles):
                for i in chosen:
                    x = linears[i].product(x, weights[i])
                for i in reversed(chosen):
                    x = linears[i].transposed(x, weights[i])
            return x

        return (lambda: multiply(x, weights)), cycles

    last = len(linears) - 1
    functions = {
        "hidden_0 fprop + dx": chain([0]),
        "gates fprop + dx": chain([last]),
        "all fprop + dx": chain(list(range(len(linears)))),
    }
    rows = options.steps * options.batch
    operand = tf.cast(random.normal([rows, options.units]), dtype)
    gates = tf.cast(random.normal([rows, linears[last].outputs]), dtype)
    for name, i, dy in (("hidden_0 dw", 0, operand), ("gates dw", last, gates)):
        @tf.function(jit_compile=xla)
        def weight_gradient(x, dy, i=i):
            return linears[i].weight_gradient(x, dy, tf.float32)

        functions[name] = (lambda f=weight_gradient, dy=dy: f(operand, dy)), 1
    return functions


def measure_products(options):
    """Seconds of each product and their sum over a step; the shorter of with and without XLA."""
    times = {}
    for xla in (False, True):
        for name, (call, cycles) in product_functions(options, xla).items():
            seconds = median_seconds(call, options.repeats)[1] / cycles
            times.setdefault(name, {})["xla" if xla else "graph"] = seconds
    best = {name: min(both.values()) for name, both in times.items()}
    # The matrices of the internal steps have layouts of one size: one stands for all.
    dw = options.internal_steps * best["hidden_0 dw"] + best["gates dw"]
    total = options.steps * best["all fprop + dx"] + dw
    for name, both in times.items():
        each = ", ".join(f"{how} {seconds * 1e6:.1f}" for how, seconds in both.items())
        print(f"  {name:<22} {each} us")
    print(f"  the step's products: {options.steps} x {best['all fprop + dx'] * 1e6:.1f} us and dw "
          f"{dw * 1e3:.2f} ms = {total * 1e3:.2f} ms")
    return {"seconds": total, "dw_seconds": dw, "each": times}


def measure_step(options, xla, with_optimizer=True):
    step = training_step(options, xla, with_optimizer)
    memory = Memory()
    first, seconds = median_seconds(step, options.repeats, budget=20.0)
    peak = memory.peak()
    print(f"  {seconds * 1e3:.2f} ms, the first {first:.1f} s, peak memory {in_gigabytes(peak)}; "
          f"{options.batch * options.steps / seconds:,.0f} bytes of text a second")
    return {"seconds": seconds, "first_seconds": first, "peak_bytes": peak}


def measure_inference(options, xla):
    """Seconds for a byte in a sequence and for one alone, with a batch of 1."""
    layer = recurrent_layer(options, "bfloat16")
    steps = options.steps
    layer.build((1, steps, options.embedding))
    read = sum(int(np.prod(kernel.shape)) for kernel in layer.cell.kernels[2:]) * 2
    memory = Memory()
    rows = {"weight_bytes": read, "memory_speed": memory_speed()}
    for name, length in (("sequence", steps), ("single", 1)):
        x = tf.random.normal([1, length, options.embedding], dtype=tf.bfloat16)
        state = [tf.zeros([1, options.units], tf.bfloat16)] * 2

        @tf.function(jit_compile=xla)
        def infer(x, h, c):
            return layer(x, initial_state=[h, c], training=False)

        kept = {"state": state}

        def call():
            y, *kept["state"] = infer(x, *kept["state"])
            return y

        first, seconds = median_seconds(call, options.repeats)
        seconds /= length
        speed = read / seconds
        print(f"  {name:<9} {seconds * 1e6:8.1f} us a byte, weights at {speed / 1e12:.2f} TB/s, "
              f"{speed / rows['memory_speed']:.0%} of memory speed; the first call {first:.1f} s")
        rows[name] = {"seconds": seconds, "bytes_per_second": speed, "first_seconds": first}
    rows["peak_bytes"] = memory.peak()
    return rows


def memory_speed():
    """Bytes a second, read and written, of a pass over a gigabyte (on a CPU over a sixteenth)."""
    x = tf.random.uniform([2**28 if gpus() else 2**24])
    add = tf.function(lambda x: x + 1)
    _, seconds = median_seconds(lambda: add(x), repeats=9)
    return 2 * 4 * x.shape[0] / seconds


def in_gigabytes(size):
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"


def main():
    options = parse()
    measures = {
        "products": measure_products,
        "step": lambda options: measure_step(options, xla=False),
        "step_xla": lambda options: measure_step(options, xla=True),
        "gradients": lambda options: measure_step(options, xla=False, with_optimizer=False),
        "inference": lambda options: measure_inference(options, xla=False),
        "inference_xla": lambda options: measure_inference(options, xla=True),
    }
    device = "CPU"
    if gpus():
        device = tf.config.experimental.get_device_details(gpus()[0])["device_name"]
    result = dict(device=device, tensorflow=tf.__version__, date=str(datetime.date.today()),
                  options=vars(options), parts={})
    begin = time.monotonic()
    for part in PARTS:
        if part not in options.parts:
            continue
        if time.monotonic() - begin > options.time_limit:
            print(f"{part}: left out, the time is over")
            continue
        print(f"{part}:", flush=True)
        result["parts"][part] = measures[part](options)
        gc.collect()  # Models lie in cycles of references; the next part needs their memory.
        products = result["parts"].get("products")
        if products and part in ("step", "step_xla", "gradients"):
            row = result["parts"][part]
            row["over_products"] = row["seconds"] / products["seconds"]
            print(f"  {row['over_products']:.2f} times the step's products")
        if options.output:  # After each part, in case that a later one breaks.
            pathlib.Path(options.output).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
