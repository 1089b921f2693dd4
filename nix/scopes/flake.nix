# SPDX-License-Identifier: MIT
# Only the scopes, roles and disk templates, for a fleet that uses nothing else of NixFleet:
#   inputs.nixfleet-scopes.url = "github:arcanesys/nixfleet?dir=nix/scopes";
# No inputs: every module uses the fleet's own Nixpkgs.
{
  description = "NixFleet's scopes, roles and disk templates as plain NixOS and nix-darwin modules";

  outputs = _: import ./.;
}
