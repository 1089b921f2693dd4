# SPDX-License-Identifier: MIT
# The hash of `go mod vendor`'s output as Nix computes it; vendor-hash.sh writes this file.
"sha256-cnv7kKVJZ6pgNiCY7gZx09qKJMetG5+83cvPggf0L2s="
