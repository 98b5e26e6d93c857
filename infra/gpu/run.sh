#!/usr/bin/env bash
# What wants a GPU: the tests of the CUDA path, `bench encode --device cuda`, and one training run there. Ten minutes at
# most on one GPU, no network, no broker. What it prints goes to docs/benchmarks.md and docs/log.md, with the machine.
#
#   make gpu                                   # or, without make:
#   PYTHON=.venv/bin/python infra/gpu/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$python" - <<'END' || exit 2
import sys
import torch

if not torch.cuda.is_available():
    sys.exit("there is no GPU that torch can use here: nothing was run")
print(torch.cuda.get_device_name(), "torch", torch.__version__, "CUDA", torch.version.cuda)
END

export OMP_NUM_THREADS=1
failed=0
echo "== tests of the CUDA path"
timeout 120 "$python" -m pytest -q -p no:cacheprovider tests/models/test_models_device_embedding.py || failed=1
echo "== bench encode --device cuda"
timeout 240 "$python" -m streams.cli bench encode --device cuda --scale 0.3 --json --folder "$scratch/bench" || failed=1
echo "== one training run, the encoder's part bounded to a minute"
timeout 220 "$python" -m streams.cli train --data simulation --customers 500 --size gpu --device cuda --budget 60 \
	--out "$scratch/model" || failed=1
exit "$failed"
