"""Names the machine that a measurement was made on."""

import os
import platform

import tensorflow as tf


def cpu_model() -> str:
    """The CPU's own name, or the architecture where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may run on, which containers often limit below the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_machine() -> dict:
    """CPU, cores, threads, GPU and versions, as plain JSON values."""
    cores = usable_cores()
    gpus = tf.config.list_physical_devices("GPU")
    return {
        "cpu": cpu_model(),
        "cores": cores,
        # TensorFlow reports 0 for "as many as there are cores".
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads() or cores,
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads() or cores,
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
                 for gpu in gpus],
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "tensorflow": tf.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def machine_line(machine: dict) -> str:
    """`describe_machine`'s answer as one line for people."""
    device = ", ".join(machine["gpus"]) or f"{machine['cpu']}, {machine['cores']} cores"
    line = (f"{device}; TensorFlow {machine['tensorflow']}, "
            f"{machine['intra_op_threads']} intra-op threads")
    if machine["load_average"] is not None:
        line += f"; load average at the start {machine['load_average'][0]:.1f}"
    return line
