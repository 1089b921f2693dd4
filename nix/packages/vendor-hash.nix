# SPDX-License-Identifier: MIT
# The hash of `go mod vendor`'s output as Nix computes it; vendor-hash.sh writes this file.
"sha256-kSKe0fnZCS4PNMVygRvtclmKR+DVERfTL2mLk+lhXp0="
