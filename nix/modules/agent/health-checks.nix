# SPDX-License-Identifier: MIT
# services.nixfleet-agent.healthChecks: what must pass before a new system counts as healthy.
{ lib, ... }:
let
  inherit (lib) types;

  timing =
    type: example: description:
    lib.mkOption {
      type = types.nullOr type;
      default = null;
      inherit example;
      description = "${description} null uses the agent's default.";
    };
  seconds = types.either types.ints.positive (types.addCheck types.float (value: value > 0));

  common = {
    interval = timing seconds 15 "Seconds between two runs of the check.";
    timeout = timing seconds 3 "Seconds after which a run is killed and counts as failed.";
    retries = timing types.ints.unsigned 5 "How many further failures in a row are tolerated after the first one.";
    startPeriod =
      timing (types.either types.ints.unsigned types.float) 60
        "Seconds after a switch in which failures do not count.";
    successes = timing types.ints.positive 3 "How many runs in a row must succeed until the check passes.";
    required = lib.mkOption {
      type = types.bool;
      default = true;
      description = "Whether the host rolls back to its previous system when the check fails; otherwise the failure is only reported.";
    };
  };

  checks =
    description: own:
    lib.mkOption {
      type = types.attrsOf (
        types.submodule (
          { name, ... }:
          {
            options = common // own name;
          }
        )
      );
      default = { };
      inherit description;
    };
in
{
  options.services.nixfleet-agent.healthChecks = {
    systemd = checks "systemd units that must become active and stay active; NixOS only." (name: {
      unit = lib.mkOption {
        type = types.strMatching "[^ /]+\\.[a-z]+";
        default = "${name}.service";
        defaultText = lib.literalExpression ''"<name>.service"'';
        example = "postgresql.service";
        description = "The unit, with its suffix.";
      };
    });
    launchd = checks "launchd services that must have a running process; macOS only." (name: {
      label = lib.mkOption {
        type = types.strMatching "[^ /]+";
        default = name;
        defaultText = lib.literalMD "the check's name";
        example = "org.nixos.nix-daemon";
        description = "The service's label.";
      };
    });
    http = checks "URLs that must answer." (_: {
      url = lib.mkOption {
        type = types.strMatching "https?://.+";
        example = "http://127.0.0.1:8080/health";
        description = "The URL to ask.";
      };
      expectStatus = lib.mkOption {
        type = types.nullOr (types.ints.between 100 599);
        default = null;
        example = 204;
        description = "The HTTP status that passes; null: any from 200 to 299.";
      };
    });
    tcp = checks "Ports that must accept a connection." (_: {
      address = lib.mkOption {
        type = types.strMatching ".+:[0-9]+";
        example = "127.0.0.1:5432";
        description = "Host and port.";
      };
    });
    command = checks "Programs that must exit with 0." (_: {
      command = lib.mkOption {
        type = types.nonEmptyListOf types.str;
        example = lib.literalExpression ''[ (lib.getExe pkgs.curl) "--fail" "http://127.0.0.1" ]'';
        description = ''
          The program, by absolute path, and its arguments; no shell interprets them. It runs as root.
          The agent's unit makes the file system read-only for it.
        '';
      };
    });
  };
}
