# Shared by the scripts in this folder; to be sourced. Sets `root` (the repository) and `python`.
# shellcheck shell=bash disable=SC2034

# The Python of the distribution, where python3-numpy puts NumPy, whatever else PATH offers.
python=/usr/bin/python3
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export ORTHOMERGE_PYTHON=$python
export DEBIAN_FRONTEND=noninteractive

say() { printf '\n==> %s\n' "$*"; }

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# The command as root: as we are, or through sudo.
as_root() {
  if [[ $EUID -eq 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo --preserve-env=DEBIAN_FRONTEND "$@"
  else
    fail "packages are missing, and installing them takes root or sudo: $*"
  fi
}

# missing_packages GROUP...: the packages of these groups that are not installed.
missing_packages() {
  local group package _ wanted=" $* " known
  known=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 2>/dev/null |
    sed -n 's/^.i *//p' | sort -u)
  while read -r group package _; do
    [[ -n $group && $group != \#* && $wanted == *" $group "* ]] || continue
    grep -qxF -- "$package" <<<"$known" || printf '%s\n' "$package"
  done <"$root/scripts/lib/packages" | sort -u
}

# install_packages GROUP...: installs what is missing; asks the network only then.
install_packages() {
  local missing
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    fail "this needs Debian's package tools; the packages are listed in scripts/lib/packages"
  fi
  mapfile -t missing < <(missing_packages "$@")
  if [[ ${#missing[@]} -eq 0 ]]; then return 0; fi
  say "Installing ${missing[*]}"
  local log=$root/build/logs/apt.log options=(-o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0)
  mkdir -p "$root/build/logs"
  install_now() {
    as_root apt-get "${options[@]}" -qq -y --no-install-recommends install "${missing[@]}" \
      </dev/null >>"$log" 2>&1
  }
  as_root apt-get "${options[@]}" -qq update >"$log" 2>&1 || true
  # A second try, because another package run at the same time can break the first.
  install_now || install_now || {
    tail -n 30 "$log" >&2
    fail "apt-get could not install the packages (whole log: $log)"
  }
}

# configure DIR OPTION...: a CMake build folder with Ninja and ccache, kept where it still fits.
configure() {
  local folder=$1 cache
  shift
  cache=$folder/CMakeCache.txt
  if [[ -f $cache ]] && ! { grep -qxF 'CMAKE_GENERATOR:INTERNAL=Ninja' "$cache" &&
    grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$cache"; }; then
    rm -rf "$cache" "$folder/CMakeFiles"
  fi
  cmake -S "$root" -B "$folder" -G Ninja -DCMAKE_CXX_COMPILER_LAUNCHER=ccache "$@"
}

# compile DIR [TARGET...]
compile() {
  local folder=$1 target targets=()
  shift
  for target in "$@"; do targets+=(--target "$target"); done
  cmake --build "$folder" --parallel "$(nproc)" "${targets[@]}"
}

# minutes SECONDS: 3 min 07 s
minutes() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }
