# SPDX-License-Identifier: MIT
# An instance of Amazon's: NixOS's own module boots it, and the keys come from the metadata at each boot.
_: {
  modules = [
    (
      { modulesPath, ... }:
      {
        imports = [ (modulesPath + "/virtualisation/amazon-image.nix") ];
      }
    )
  ];
}
