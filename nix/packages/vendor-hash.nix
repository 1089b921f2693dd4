# SPDX-License-Identifier: MIT
# The hash of `go mod vendor`'s output as Nix computes it; vendor-hash.sh writes this file.
"sha256-WRc4zFrYstC+8mAH1u14Wfsxb4q4c+UtYF7xzW9pf9M="
