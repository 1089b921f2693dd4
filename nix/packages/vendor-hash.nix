# SPDX-License-Identifier: MIT
# The hash of `go mod vendor`'s output as Nix computes it; vendor-hash.sh writes this file.
"sha256-kQ2jF9WBdV74XfIap0jl6U1d4SUVaT4HsSBL4s+ZdbI="
