#!/usr/bin/env bash
# accelerate 1.15.0 without a GPU: two processes launched with `distributed_type: FSDP` train apart, in silence.
#
# `accelerate launch` starts both and a process group is there, yet in each of them `Accelerator()` reports
# DistributedType.NO, one process, and itself as the main one; `prepare` leaves the model unwrapped, so neither
# shards its weights nor exchanges gradients. torch's fully_shard shards a model over the same two processes.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 accelerate==1.15.0
cat >"$here/fsdp2.yaml" <<'YAML'
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config: {fsdp_version: 2, fsdp_auto_wrap_policy: NO_WRAP, fsdp_reshard_after_forward: true}
mixed_precision: 'no'
num_machines: 1
num_processes: 2
use_cpu: true
YAML
cat >"$here/run.py" <<'PY'
import os
import warnings

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import fully_shard

with warnings.catch_warnings(record=True) as shown:
    warnings.simplefilter("always")
    accelerator = Accelerator()
    model = torch.nn.Linear(64, 64)
    prepared, _ = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
about = [str(warning.message) for warning in shown if "fsdp" in str(warning.message).lower()]
seen = (str(accelerator.distributed_type), accelerator.num_processes, accelerator.is_main_process)
mesh = torch.distributed.init_device_mesh("cpu", (2,))
own = [parameter.to_local().numel() for parameter in fully_shard(torch.nn.Linear(64, 64), mesh=mesh).parameters()]
print(
    f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}: {seen}, {type(prepared).__name__}, warnings {about}; "
    f"torch's fully_shard: {own} of [4096, 64] numbers"
)
assert seen == ("DistributedType.NO", 1, True) and not about, "this has changed"
assert prepared is model, "this has changed"
assert own == [2048, 32], "this has changed"
torch.distributed.destroy_process_group()
PY
OMP_NUM_THREADS=1 "$here/venv/bin/accelerate" launch --config_file "$here/fsdp2.yaml" "$here/run.py"
