# SPDX-License-Identifier: MIT
# The hash of `go mod vendor`'s output as Nix computes it; vendor-hash.sh writes this file.
"sha256-gL6fu2ieUMXMNFbx8nIZVi/UEDB5ibp3SFTUc21KnJs="
