"""Figures of a row of results, as gpu_cell.py measures it and JSON keeps it."""


def useful_rate(row, name):
    """TF/s of stored blocks, or None where there was no time."""
    flops = 2.0 * row["blocks"] * row["block_size"] ** 2 * row["shape"][2]
    seconds = row["seconds"].get(name)
    return flops / seconds * 1e-12 if seconds else None


def speed(row):
    """Ours over the dense product."""
    return row["seconds"]["dense"] / row["seconds"]["ours"]


def share(row):
    """Of the limit that ours reaches: the modelled one, or of a mixture that takes longer."""
    return max(row["limit_seconds"], row["seconds"].get("mixture", 0.0)) / row["seconds"]["ours"]
