#!/usr/bin/env bash
# Makes .venv and all that the demo, the tests and the benchmarks need. Does nothing when nothing has changed.
# usage: setup/setup.sh [--upgrade]    PYTHON=/path/to/python chooses the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.vla-setup
extras='.[sim,serve,report,lora,lowbit,public,gguf,wandb,formats,ray,rl,dev]'
disk_gb=9
spare_gb=2 # what is needed where the environment is whole and some packages change
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

check_disk() { # what the environment takes, less what is there of it; an upgrade may replace everything
  local free there=0 need
  free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1024 / 1024)}')
  if [ -d .venv ] && [ -z "$upgrade" ]; then there=$(du -sk .venv | awk '{print int($1 / 1024 / 1024)}'); fi
  need=$((disk_gb - there > spare_gb ? disk_gb - there : spare_gb))
  [ "$free" -ge "$need" ] || fail "$need GB of disk are needed in $PWD, $free GB are free"
}

key() { # changes whenever the environment must be installed anew
  { pwd; .venv/bin/python -VV; cat pyproject.toml setup/overrides.txt setup/constraints.txt setup/setup.sh; } | cksum
}

has_library() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'; }

has_renderer() { # whether EGL or OSMesa is there, from whichever package; $1: a Python
  "$1" -c 'import sys; from ctypes.util import find_library as find; sys.exit(not (find("EGL") or find("OSMesa")))'
}

install_libraries() { # $1: a Python. Debian and Ubuntu only; elsewhere `vla doctor` says whether pictures can be rendered
  command -v apt-get >/dev/null && command -v dpkg-query >/dev/null || return 0
  local missing='' as_root='' allowed=yes library
  for library in $libraries $fallback; do has_library "$library" || missing="$missing $library"; done
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    if sudo -n true >/dev/null 2>&1; then as_root='sudo -n'; else allowed=''; fi
  fi
  [ -z "$allowed" ] || $as_root apt-get update -q || true
  apt-cache show "$fallback" >/dev/null 2>&1 || missing=${missing% "$fallback"}
  [ -n "$missing" ] || return 0
  if [ -n "$allowed" ]; then
    echo "setup: installing$missing"
    # shellcheck disable=SC2086  # a list of words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing && return 0
  fi
  local command="  sudo apt-get update && sudo apt-get install -y$missing"
  has_renderer "$1" || fail "libraries for rendering are missing:$missing. Install them, then run this again:" "$command"
  printf 'setup: %s\n' "going on without$missing: another library is there, and the doctor will try it. To install:" "$command"
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
fi

check_disk
install_libraries "${python:-.venv/bin/python}"
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
