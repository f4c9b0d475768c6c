#!/usr/bin/env bash
# What needs a GPU, within ten minutes, on a machine that reaches nothing: its packages come as wheels.
#
#     WHEELS=dir benchmarks/gpu.sh OUT
#
# WHEELS is a folder with what the machine's Python ($PYTHON, or python3) lacks, torch excepted; without it that Python
# is used as it is, tilth included. Beside torch and the usual scientific packages the trainer needs megatron-core
# pydantic pydantic-core annotated-types orjson zstandard brotli pyahocorasick icu4py, as `pip download --no-deps
# --only-binary=:all:` gets them for that Python. OUT gets a log of each part and summary.txt, which is printed at the
# end. Parts:
#
#     tests    tests/train that need one process, and every kind of attention on the GPU beside the CPU
#     agree    20 steps of a tiny model on the CPU and on the GPU: losses agree to 1e-3
#     run      tilth train run, stopped and taken up again
#     speed    a GPT of 1.1 billion parameters, bfloat16, sequences of 4096: its share of the measured matrix rate, beside
#              the same model in plain torch through torch.compile
#
# PARTS="agree speed" runs some of them. DRY=1 runs all at toy size, on a CPU too.
set -uo pipefail
out=$(mkdir -p "${1:?usage: WHEELS=dir benchmarks/gpu.sh OUT}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
parts=${PARTS:-tests agree run speed}
export OUT="$out" PYTHONUNBUFFERED=1

if [ -n "${WHEELS:-}" ]; then
    # not a virtual environment: made from one, as such a Python may be, it would not see that one's torch
    install=("$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$out/site")
    "${install[@]}" "$WHEELS"/*.whl && "${install[@]}" --no-build-isolation . || exit
    export PYTHONPATH="$out/site"
fi
"$python" - <<'PYTHON' | tee "$out/machine.log"
import torch
print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")
PYTHON

if [ -n "${DRY:-}" ]; then
    big="--layers 2 --hidden 128 --heads 4 --kv-heads 2 --ffn 344 --vocab 1000 --length 128 --micro 2 --accumulate 2 --steps 2"
else
    big="--layers 16 --hidden 2048 --heads 16 --kv-heads 8 --ffn 8192 --vocab 32000 --length 4096 --micro 4 --accumulate 4 --steps 5 --warm 3"
fi
small="--layers 4 --hidden 128 --heads 4 --kv-heads 2 --ffn 344 --vocab 1000 --length 128 --micro 4 --accumulate 2 --warm 0 --steps 20"
device=$("$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')

# killed_after PATTERN COMMAND...: kills a command with SIGKILL as soon as there is such a file or folder
killed_after() {
    local pattern=$1 code=0
    shift
    "$@" &
    until compgen -G "$pattern" >/dev/null || ! kill -0 $! 2>/dev/null; do sleep 0.05; done
    kill -KILL $! && wait $! 2>/dev/null || code=$?
    [ $code = 137 ]
}
export -f killed_after

# part SECONDS LOG COMMAND...: a failure is told in the summary and does not end the rest
part() {
    local seconds=$1 log=$out/$2.log started=$SECONDS
    shift 2
    timeout "$seconds" bash -c '"$@"' part "$@" >"$log" 2>&1
    local code=$?
    echo "$(basename "$log" .log) $code $((SECONDS - started))" >>"$out/parts.txt"
    [ $code = 0 ] || tail -n 15 "$log"
}

: >"$out/parts.txt"
for name in $parts; do
    case $name in
    tests)
        pure="attention objectives shards guard watch sizes seen"
        part 150 tests "$python" -m pytest -q -x $(for each in $pure; do echo "tests/train/test_$each.py"; done)
        part 120 attention "$python" benchmarks/peers/attention_check.py
        ;;
    agree)
        part 90 agree-cpu env CUDA_VISIBLE_DEVICES= "$python" benchmarks/peers/tilth_step.py --threads 4 $small
        part 90 agree-gpu "$python" benchmarks/peers/tilth_step.py --threads 4 $small
        ;;
    run)
        "$python" -c 'import sys; sys.path.insert(0, "benchmarks"); from train_step import *; random_shards(Path(sys.argv[1]), 300_000)' \
            "$out/shards" 2>"$out/shards.log"
        run=("$python" -m tilth.cli.main train run --data "$out/shards" --output "$out/run" --quiet
            --set "model={preset: tiny, vocab_size: 8192}" --set validation.share=0 --set steps=60
            --set checkpoint.every=20 --set precision=bf16)
        part 90 run-killed killed_after "$out/run/checkpoints/step-*" "${run[@]}"
        part 60 run-resumed "${run[@]}"
        part 60 run-verified "$python" -m tilth.cli.main train verify "$out/run"
        ;;
    speed)
        part 150 speed-tilth "$python" benchmarks/peers/tilth_step.py --threads 0 --precision bf16 $big
        part 240 speed-plain-compile "$python" benchmarks/peers/plain_step.py --threads 0 --precision bf16 --device $device --mode compile $big
        part 120 speed-plain-eager "$python" benchmarks/peers/plain_step.py --threads 0 --precision bf16 --device $device $big
        ;;
    esac
done

"$python" benchmarks/peers/gpu_summary.py "$out" $big | tee "$out/summary.txt"
