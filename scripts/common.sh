# shellcheck shell=bash
# Shared by the scripts: where things are, phases with their time, and failures that show their output.
# Sourced, with `set -euo pipefail`.
FLAREC_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
FLAREC_BUILD_DIR=${FLAREC_BUILD_DIR:-$FLAREC_ROOT/build}
FLAREC_LOG_DIR=$FLAREC_ROOT/.cache/logs

# Compilers take up to 1.5 GB each.
jobs() {
  local cores memory
  cores=$(nproc)
  memory=$(awk '/MemAvailable/ {print int($2 / 1600000)}' /proc/meminfo)
  ((memory < 1)) && memory=1
  echo $((cores < memory ? cores : memory))
}

say() { printf '%s\n' "$*" >&2; }
die() {
  say "${0##*/}: $*"
  exit 1
}

PHASE_NAMES=() PHASE_SECONDS=()

# phase NAME COMMAND…: runs it with its output shown, and remembers how long it took.
phase() {
  local name=$1 start=$SECONDS status=0
  shift
  say "== $name"
  "$@" || status=$?
  PHASE_NAMES+=("$name") PHASE_SECONDS+=($((SECONDS - start)))
  ((status == 0)) || {
    phase_times
    die "$name failed (exit code $status)"
  }
}

phase_times() {
  local i
  for i in "${!PHASE_NAMES[@]}"; do
    printf '%5d:%02d  %s\n' $((PHASE_SECONDS[i] / 60)) $((PHASE_SECONDS[i] % 60)) "${PHASE_NAMES[i]}" >&2
  done
  printf '%5d:%02d  in all\n' $((SECONDS / 60)) $((SECONDS % 60)) >&2
}

# logged NAME COMMAND…: output goes to a log, shown only where the command fails. A line every half minute says that it works.
logged() {
  local name=$1 log=$FLAREC_LOG_DIR/$1.log start=$SECONDS status=0 ticker
  shift
  mkdir -p "$FLAREC_LOG_DIR"
  : >"$log"
  (
    # The sleep outlives its shell: it must not hold the terminal or a pipe.
    while sleep 30 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
      say "   $name: $((SECONDS - start)) s, $(tail -n 1 "$log" | tr -d '\r' | cut -c1-100)"
    done
  ) &
  ticker=$!
  "$@" >"$log" 2>&1 </dev/null || status=$?
  kill $ticker 2>/dev/null || true
  wait $ticker 2>/dev/null || true
  if ((status != 0)); then
    tail -n 60 "$log" >&2
    say "all of it: $log"
  fi
  return $status
}
