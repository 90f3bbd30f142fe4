#!/usr/bin/env bash
# A half hour on a GPU, in stages: what is done is skipped, so that calls with little time add up.
#
#     benchmarks/gpu.sh [FOLDER]              # once more until it says that nothing is left
#
# FOLDER (default build/gpu) gets the figures and the output of every stage. Needs bash, torch,
# torchvision, timm, numpy, pyarrow, safetensors and pytest. Variables: ALLOWED, the seconds of one
# call (540); DEVICE (cuda); BACKBONE (vit_base_patch16_224); MORE, backbones of the last stages;
# REHEARSAL=1, the same stages with as little work as they can have.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=$(mkdir -p "${1:-build/gpu}" && realpath "${1:-build/gpu}")
device=${DEVICE:-cuda} backbone=${BACKBONE:-vit_base_patch16_224} allowed=${ALLOWED:-540}
more=${MORE-vit_large_patch16_224 swin_base_patch4_window7_224}
failed=() waiting=()
arms=(--trials 4 --rounds 1) widths=1,4,16 wide=4,16 short=() trials=() few=() scale=1
side=(--epochs 3)
if [ "${REHEARSAL:-0}" = 1 ]; then
  arms=(--trials 1 --rounds 1 --epochs 2 --few --quick) widths=2 wide=1 scale=20
  short=(--widths 1 --batch 16) trials=(--epochs 2 --trials 2) few=(--adapters efft2 --batch 8)
  side=(--epochs 2 --widths 1)
fi

# stage NAME LEAST COMMAND…: run it if it is not done and LEAST seconds are left. LEFT in an argument
# becomes the seconds that it may take.
stage() {
  local name=$1 least=$(($2 / scale)) left=$((allowed - SECONDS)) code
  shift 2
  [ -e "$folder/$name.done" ] && return
  if [ "$left" -lt "$least" ]; then
    waiting+=("$name")
    return
  fi
  printf '\n== %s (after %d s, %d s left)\n' "$name" "$SECONDS" "$left"
  timeout --signal=INT --kill-after=10 "$left" "${@//LEFT/$((left * 9 / 10))}" 2>&1 |
    tee "$folder/$name.txt"
  code=${PIPESTATUS[0]}
  case $code in
    0) touch "$folder/$name.done" ;;
    124 | 137) waiting+=("$name") ;; # its time was over
    *) failed+=("$name (exit code $code)") ;;
  esac
}

environment() {
  if [ "$device" = cuda ]; then nvidia-smi || return; fi
  python - "$device" << 'PYTHON' || return
import sys, torch, torchvision, timm, numpy, pyarrow, safetensors
for package in (torch, torchvision, timm, numpy, pyarrow, safetensors):
    print(package.__name__, package.__version__)
if sys.argv[1] == "cuda":
    cudnn = torch.backends.cudnn.version()
    print(torch.cuda.get_device_name(), "CUDA", torch.version.cuda, "cuDNN", cudnn)
PYTHON
  # Without the project's configuration, whose plug-ins and fixtures a bare machine does not have.
  local tests=(tests/engine/test_gpu.py)
  [ "$device" != cuda ] || tests+=(tests/engine/test_optimiser.py)
  python -m pytest -c /dev/null --rootdir=. --confcutdir=tests/engine -p no:cacheprovider \
    --import-mode=importlib -q "${tests[@]}"
}
export device
export -f environment

cost=(--backbone "$backbone" --device "$device")
stage check 60 bash -c environment
stage throughput 400 python benchmarks/throughput.py "${cost[@]}" --arms script,stock,tuned,pool \
  --widths "$widths" "${arms[@]}" --seconds LEFT --out "$folder/throughput.json"
stage profile 90 python benchmarks/gpu.py profile "${cost[@]}" "${short[@]}" \
  --out "$folder/profile.json"
stage profile_fp8 60 python benchmarks/gpu.py profile "${cost[@]}" --precision fp8 "${short[@]}" \
  --out "$folder/profile_fp8.json"
stage precision 120 python benchmarks/gpu.py precision "${cost[@]}" "${trials[@]}" \
  --out "$folder/precision.json"
[ "$backbone" = vit_mini ] || # has just been measured
  stage precision_mini 60 python benchmarks/gpu.py precision --device "$device" --epochs 20 \
    "${trials[@]}" --out "$folder/precision_mini.json"
stage widths 120 python benchmarks/gpu.py widths "${cost[@]}" "${few[@]}" \
  --out "$folder/widths.json"
stage side 120 python benchmarks/gpu.py side "${cost[@]}" "${side[@]}" --out "$folder/side.json"
[ "$device" != cuda ] || # half a minute of compiling on a CPU
  stage compiled 200 python benchmarks/throughput.py "${cost[@]}" --arms pool --widths 1,16 \
    --compiled "${arms[@]}" --seconds LEFT --out "$folder/compiled.json"
for other in $more; do
  stage "throughput_$other" 250 python benchmarks/throughput.py --backbone "$other" \
    --device "$device" --arms tuned,pool --widths "$wide" "${arms[@]}" \
    --seconds LEFT --out "$folder/throughput_$other.json"
done

echo
[ "${#failed[@]}" = 0 ] || printf 'failed: %s\n' "${failed[@]}"
[ "${#waiting[@]}" = 0 ] || printf 'for the next call: %s\n' "${waiting[@]}"
[ "$((${#failed[@]} + ${#waiting[@]}))" != 0 ] || echo "nothing is left; the figures are in $folder"
[ "${#failed[@]}" = 0 ]
