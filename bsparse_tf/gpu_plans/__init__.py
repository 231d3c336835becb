"""How the work of a product would be cut for a GPU: the planner's tables, for people and tests.

The planner is C++ (cc/plan); it builds and caches plans when ops run. These modules ask it for the
same plans and describe them, one for each way of cutting.
"""

from bsparse_tf.gpu_plans.columns import MatmulPlan, matmul_plan
from bsparse_tf.gpu_plans.planner import DEFAULT_CTAS_PER_SM
from bsparse_tf.gpu_plans.streams import STREAM, StreamPlan, stream_plan
from bsparse_tf.gpu_plans.sweeps import SWEEP, SweepPlan, sweep_plan
from bsparse_tf.gpu_plans.weight_gradients import (
    DW_TILES, DwTilesPlan, MatmulDwPlan, dw_tiles_plan, matmul_dw_plan,
)

__all__ = [
    "DEFAULT_CTAS_PER_SM", "DW_TILES", "STREAM", "SWEEP", "DwTilesPlan", "MatmulDwPlan", "MatmulPlan", "StreamPlan",
    "SweepPlan", "dw_tiles_plan", "matmul_dw_plan", "matmul_plan", "stream_plan", "sweep_plan",
]
