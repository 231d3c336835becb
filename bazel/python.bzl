"""Helpers of the repository rules that look into the Python environment."""

def find_python(ctx):
    """Path of the Python that has TensorFlow: $PYTHON_BIN_PATH, then .venv, then python3.

    PYTHON_BIN_PATH is TensorFlow's own name for it.
    """
    configured = ctx.os.environ.get("PYTHON_BIN_PATH")
    if configured:
        return configured
    venv = ctx.path(Label("//:WORKSPACE")).dirname.get_child(".venv").get_child("bin")
    if venv.get_child("python").exists:
        return str(venv.get_child("python"))
    return str(ctx.which("python3") or fail("no python3 on PATH; run tools/setup"))

def run_python(ctx, script):
    """Runs `script`; returns (its output lines, None), or (None, what it said when it failed)."""
    result = ctx.execute([find_python(ctx), "-c", script])
    if result.return_code != 0:
        return None, result.stderr.strip()
    return result.stdout.strip().split("\n"), None
