#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# host-key.sh: the script of the secrets scope creates the host's key, once. Needs ssh-keygen.
set -uo pipefail
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
needs ssh-keygen
trap 'rm -rf "$work"' EXIT

text hostKey | sed -e "s#/@work@#$work#g; s#/nix/store/[^ ]*/bin/ssh-keygen#ssh-keygen#g" >"$work/activate"
key="$work/a folder/ssh_host_ed25519_key"

check "it creates the key" bash -eu "$work/activate"
check "it is an ed25519 key without a passphrase" bash -c "ssh-keygen -y -P '' -f '$key' | grep -q ^ssh-ed25519"
same "only root reads it" "$(stat -c %a "$key")" 600
same "it carries the host's name" "$(cut -d' ' -f3 "$key.pub")" web-01

before=$(<"$key")
check "the next run succeeds" bash -eu "$work/activate"
same "and leaves the key alone" "$(<"$key")" "$before"

: >"$key"
check "a key that a crash left empty is created again" bash -eu "$work/activate"
check "and is valid" ssh-keygen -y -P '' -f "$key"

finish
