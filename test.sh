#!/usr/bin/env bash
# Runs every test of the workspace, the ones against a real etcd included.
#
# What is missing is installed where that can be done without asking (root on Debian or Ubuntu);
# elsewhere the script says what to install and stops. Arguments go to `cargo test`:
#     ./test.sh -p config_center
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# The crate etcd-client is generated from etcd's protos when it is built. That takes protoc and the
# well-known protos, which Debian has in a package of their own.
protoc_works() {
  local dir status=0
  dir=$(mktemp -d)
  printf 'syntax = "proto3";\nimport "google/protobuf/descriptor.proto";\n' >"$dir/probe.proto"
  protoc -I "$dir" --descriptor_set_out="$dir/probe.bin" "$dir/probe.proto" >/dev/null 2>&1 || status=1
  rm -r "$dir"
  return "$status"
}

missing_packages() {
  command -v etcd >/dev/null || echo etcd-server
  protoc_works || echo protobuf-compiler libprotobuf-dev
  # A worker in another language, and namespaces of their own.
  command -v python3 >/dev/null || echo python3
  command -v unshare >/dev/null || echo util-linux
}

install_missing() {
  local packages
  read -r -d '' -a packages < <(missing_packages; printf '\0')
  [ "${#packages[@]}" -gt 0 ] || return 0
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing ${packages[*]}"
    apt-get update -qq
    # The package would start its own etcd as a service; the tests start theirs.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
      apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
    return 0
  fi
  {
    echo "The tests need etcd (a server of their own, which they start and stop themselves), protoc,"
    echo "python3 and unshare."
    echo "On Debian and Ubuntu:  sudo apt-get install ${packages[*]}"
    echo "Elsewhere: etcd 3.4 or newer, protoc 3.15 or newer with its include files, Python 3.9 or newer"
    echo "and unshare of util-linux, in PATH."
  } >&2
  return 1
}

install_missing
if [ "$#" -eq 0 ]; then
  # Not the benches beside other frameworks, which take those to be built.
  set -- --workspace --exclude peers
fi
exec cargo test --all-features --no-fail-fast "$@"
