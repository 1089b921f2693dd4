# SPDX-License-Identifier: MIT
# Scope generation-label (NixOS): the fleet's revision in the boot menu. With it, every commit changes the
# system of every host, so no role enables it; NixFleet itself keeps the revision in the release.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.generation-label;
  inherit (import ../lib/priorities.nix lib) chosen;

  parts = builtins.match "([0-9a-f]{12})[0-9a-f]*(-dirty)?" (toString cfg.revision);
  short = if parts == null then toString cfg.revision else lib.concatMapStrings toString parts;
in
{
  _class = "nixos";

  options.nixfleet.generation-label = {
    enable = lib.mkEnableOption ''
      the fleet's revision in the label of each generation, as the boot menu and `nixos-rebuild
      list-generations` show it. Every commit then changes every system'';

    revision = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = lib.literalExpression "self.rev or self.dirtyRev or null";
      description = "Revision of the fleet's repository. The label has the first twelve digits of a commit hash.";
    };

    label = mkOption {
      type = types.strMatching "[a-zA-Z0-9:_.-]*";
      default = lib.concatStringsSep "-" (
        config.system.nixos.tags
        ++ [
          config.system.nixos.version
          short
        ]
      );
      defaultText = lib.literalMD "tags, NixOS version and revision, joined by `-`";
      description = "The label: letters, digits and `:_.-`, which boot loaders accept.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.revision != null;
        message = "nixfleet.generation-label.revision is not set. In the fleet's flake, set it to self.rev or self.dirtyRev or \"unknown\".";
      }
    ];

    system.configurationRevision = chosen cfg.revision;
    # NixOS sets its label at mkDefault's priority.
    system.nixos.label = chosen cfg.label;
  };
}
