"""The references' gradients against finite differences of the references themselves."""

import numpy as np
import pytest
import recurrent_reference as reference

T, N, F, U, STRIDE = 3, 2, 4, 6, 2
MASK = np.array([[True, True], [False, True], [True, False]])


def normal(rng, *shape):
    return rng.standard_normal(shape)


def check(loss, arguments, gradients):
    """Compares with central differences along a random direction of each argument."""
    rng = np.random.default_rng(1)
    for name, value in arguments.items():
        direction = normal(rng, *value.shape)
        step = 1e-6
        up, down = (loss({**arguments, name: value + s * direction}) for s in (step, -step))
        slope = (up - down) / (2 * step)
        assert np.sum(gradients[name] * direction) == pytest.approx(slope, rel=1e-6, abs=1e-8), name


@pytest.mark.parametrize("mask", [None, MASK])
def test_lstm(mask):
    rng = np.random.default_rng(0)
    arguments = {"x": normal(rng, T, N, F), "h": normal(rng, N, U), "c": normal(rng, N, U),
                 "kernel": normal(rng, F, 4 * U), "recurrent_kernel": normal(rng, U, 4 * U),
                 "bias": normal(rng, 4 * U)}
    dhidden, dc = normal(rng, T, N, U), normal(rng, N, U)

    def loss(arguments):
        hidden, c, _ = reference.lstm(**arguments, mask=mask)
        return np.sum(hidden * dhidden) + np.sum(c * dc)

    _, _, caches = reference.lstm(**arguments, mask=mask)
    gradients = reference.lstm_gradients(dhidden, dc, arguments["x"], arguments["kernel"],
                                         arguments["recurrent_kernel"], caches, mask)
    check(loss, arguments, gradients)


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("mask", [None, MASK])
def test_small_world(depth, mask):
    rng = np.random.default_rng(0)
    sizes = {"input_m": (F, U // STRIDE), "input_a": (F, U // STRIDE),
             **{f"hidden_{j}": (U, U) for j in range(depth)}, "gates": (U, 4 * U)}
    weights = {}
    for name, shape in sizes.items():
        weights[name] = normal(rng, *shape)
        weights[name + "_gain"] = 1 + 0.3 * normal(rng, shape[1])
        weights[name + "_bias"] = normal(rng, shape[1])
    states = {"x": normal(rng, T, N, F), "h": normal(rng, N, U), "c": normal(rng, N, U)}
    dhidden, dc = normal(rng, T, N, U), normal(rng, N, U)

    def run(arguments):
        weights = {name: value for name, value in arguments.items() if name not in states}
        return reference.small_world(*(arguments[name] for name in states), weights, STRIDE, mask)

    def loss(arguments):
        hidden, c, _ = run(arguments)
        return np.sum(hidden * dhidden) + np.sum(c * dc)

    arguments = {**states, **weights}
    gradients = reference.small_world_gradients(dhidden, dc, weights, STRIDE, run(arguments)[2],
                                                mask)
    check(loss, arguments, gradients)
