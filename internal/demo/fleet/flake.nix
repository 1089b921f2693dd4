# SPDX-License-Identifier: MIT
# The demo's fleet: nixosConfigurations as in any flake, of systems that need no Nixpkgs.
# hosts.json holds the arguments of each host for the next release.
{
  description = "a fleet of small systems";
  inputs.programs = {
    url = "path:@programs@";
    flake = false;
  };
  outputs = { self, programs }: {
    nixosConfigurations = builtins.mapAttrs (name: host: {
      config.system.build.toplevel = import ./system/system.nix (
        {
          hostName = name;
          agent = programs + (if host.newAgent or false then "/nixfleet-agent-new" else "/nixfleet-agent");
        }
        // builtins.removeAttrs host [ "newAgent" ]
        // {
          files = host.files // {
            "nixfleet/root.json" = builtins.readFile ./trust/root.json;
          };
        }
      );
    }) (builtins.fromJSON (builtins.readFile ./hosts.json));
  };
}
