#!/usr/bin/env bash
# Makes .venv and all that the demo, the tests and the benchmarks need. Does nothing when nothing has changed.
# usage: setup/setup.sh [--upgrade]    PYTHON=/path/to/python chooses the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.vla-setup
extras='.[sim,serve,report,lora,wandb,formats,dev]'
disk_gb=9
# EGL renders; OSMesa is its fall-back, and newer distributions no longer have it.
libraries='libegl1 libgl1-mesa-dri libgles2'
fallback='libosmesa6'

fail() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

supported() { case "$1" in 3.11 | 3.12 | 3.13) ;; *) return 1 ;; esac; }

pick_python() { # prints a supported interpreter; a candidate may exist and still not start (a version manager's shim)
  local found='' candidate version
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    version=$(version_of "$candidate") || continue
    if supported "$version"; then
      "$candidate" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$candidate cannot make virtual environments; install them: apt-get install python$version-venv"
      echo "$candidate"
      return
    fi
    found="${found:+$found, }$candidate is Python $version"
  done
  fail "Python 3.11, 3.12 or 3.13 is needed; found: ${found:-none}." \
    "Install one of them, or name it: PYTHON=/path/to/python3.12 make setup"
}

check_disk() {
  local free
  free=$(df -Pk . | awk 'NR == 2 {print $4}')
  awk -v free="$free" -v need="$disk_gb" 'BEGIN {exit !(free >= need * 1024 * 1024)}' ||
    fail "$disk_gb GB of disk are needed in $PWD, $((free / 1024 / 1024)) GB are free"
}

key() { # changes whenever the environment must be installed anew
  { pwd; .venv/bin/python -VV; cat pyproject.toml setup/overrides.txt setup/constraints.txt setup/setup.sh; } | cksum
}

has_library() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'; }

install_libraries() { # Debian and Ubuntu only; elsewhere `vla doctor` says whether pictures can be rendered
  command -v apt-get >/dev/null && command -v dpkg-query >/dev/null || return 0
  local missing='' as_root='' allowed=yes library
  for library in $libraries; do has_library "$library" || missing="$missing $library"; done
  if [ "$(id -u)" -ne 0 ]; then
    if sudo -n true >/dev/null 2>&1; then as_root='sudo -n'; else allowed=''; fi
  fi
  if [ -n "$allowed" ] && { [ -n "$missing" ] || ! has_library "$fallback"; }; then
    $as_root apt-get update -q
  fi
  if ! has_library "$fallback" && apt-cache show "$fallback" >/dev/null 2>&1; then missing="$missing $fallback"; fi
  [ -n "$missing" ] || return 0
  [ -n "$allowed" ] ||
    fail "libraries for rendering are missing:$missing. Install them, then run this again:" \
      "  sudo apt-get update && sudo apt-get install -y$missing"
  echo "setup: installing$missing"
  # shellcheck disable=SC2086  # a list of words
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
}

upgrade=''
case "${1:-}" in
  '') ;;
  --upgrade) upgrade=yes ;;
  *) fail "unknown option $1; the only one is --upgrade" ;;
esac

if [ -x .venv/bin/python ]; then
  version=$(version_of .venv/bin/python) || fail ".venv holds a Python that does not start; remove the folder .venv"
  supported "$version" || fail ".venv is of Python $version, 3.11 to 3.13 are supported; remove the folder .venv"
  [ -z "$upgrade" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(key)" ] && exit 0
else
  python=$(pick_python)
  check_disk
fi

install_libraries
if [ ! -x .venv/bin/python ]; then
  echo "setup: making .venv with $("$python" -V)"
  "$python" -m venv .venv
fi
rm -f "$stamp"

[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet uv
if [ -n "$upgrade" ]; then
  .venv/bin/uv pip install --compile-bytecode --python .venv/bin/python --override setup/overrides.txt --upgrade -e "$extras"
  .venv/bin/uv pip freeze --python .venv/bin/python --exclude-editable |
    sed -n -e '/^pip==/d' -e '/^uv==/d' -e 's/^\([^ @]*==[^ +]*\).*/\1/p' >.venv/constraints.txt
  mv .venv/constraints.txt setup/constraints.txt
else
  .venv/bin/uv pip install --compile-bytecode --python .venv/bin/python --override setup/overrides.txt --constraint setup/constraints.txt -e "$extras"
fi

.venv/bin/python -m vla.doctor || fail "this machine is not ready, see above"
key >"$stamp"
