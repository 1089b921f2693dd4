# SPDX-License-Identifier: MIT
# Options of the control plane that Nix itself needs; the rest of its configuration is `settings`.
{
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) types;

  secret =
    description:
    lib.mkOption {
      type = types.nullOr (import ../secret-path.nix { inherit lib; });
      default = null;
      example = "/run/secrets/control-plane";
      inherit description;
    };
  listen =
    default: description:
    lib.mkOption {
      type = types.strMatching ".*:[0-9]+";
      inherit default description;
    };
in
{
  options.services.nixfleet-control-plane = {
    enable = lib.mkEnableOption "the NixFleet control plane, which rolls releases out to machines";

    package = lib.mkOption {
      type = types.package;
      default =
        pkgs.nixfleet-control-plane or (import ../../packages { inherit pkgs; }).nixfleet-control-plane;
      defaultText = lib.literalExpression "pkgs.nixfleet-control-plane";
      description = "The control plane's package.";
    };

    listen = {
      operators = listen ":8443" "Address and port for operators: API and events, with TLS.";
      agents = listen ":8444" "Address and port for agents, which show a client certificate.";
      metrics = listen "127.0.0.1:9443" ''
        Address and port of `/metrics`, `/healthz` and `/readyz`, without TLS; on loopback unless
        `allowPlainMetrics` is set.
      '';
    };

    allowPlainMetrics = lib.mkOption {
      type = types.bool;
      default = false;
      description = "Whether `listen.metrics`, which is plain HTTP, may be reached from the network.";
    };

    openFirewall = lib.mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the ports of `listen.operators` and `listen.agents`.";
    };

    tls = {
      names = lib.mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "fleet.example.org" ];
        description = "Host names and addresses of the control plane, for the certificate that it issues itself.";
      };
      certFile = secret "Your own certificate chain for both listeners; null: the control plane is its own CA.";
      keyFile = secret "Key of `tls.certFile`.";
      clientCaFile = lib.mkOption {
        type = types.nullOr types.path;
        default = null;
        example = lib.literalExpression "./agents-ca.pem";
        description = "PEM certificates of the CA that signs the agents' certificates; null: the control plane's own CA.";
      };
    };

    database.url = lib.mkOption {
      type = types.nullOr (types.strMatching "sqlite:///.+");
      default = null;
      example = "sqlite:///var/lib/nixfleet/control-plane/nixfleet.db";
      description = "Where the fleet's state is kept; null: an SQLite file in the state directory.";
    };

    trust.rootFile = lib.mkOption {
      type = types.nullOr types.path;
      default = null;
      example = lib.literalExpression "./trust/root.json";
      description = "The fleet's root document, which says whose releases the control plane accepts.";
    };

    bootstrap.secretFile = secret ''
      File with the one-time secret that is exchanged for the first administrator's API key; null: the
      control plane writes one to the state directory at its first start.
    '';

    backup = {
      passphraseFile = secret ''
        File with the passphrase that seals backups of database and keys, which are made in
        `/var/lib/nixfleet/backups`; null: none are made. Copy them off the machine, and keep the
        passphrase elsewhere: without it they cannot be opened.
      '';
      calendar = lib.mkOption {
        type = types.str;
        default = "daily";
        example = "*-*-* 04:00:00";
        description = "When backups are made, as systemd.time(7) writes it.";
      };
      keep = lib.mkOption {
        type = types.ints.positive;
        default = 14;
        description = "How many backups are kept; older ones are removed.";
      };
    };

    checkConfig = lib.mkOption {
      type = types.bool;
      default = true;
      description = "Whether the control plane checks its configuration when the system is built. A mistake then fails the build.";
    };

    settings = lib.mkOption {
      inherit (pkgs.formats.toml { }) type;
      default = { };
      example.listen.operators = ":443";
      description = ''
        The configuration file, `/etc/nixfleet/control-plane.toml`. The other options set its values
        by default; a value that is set here overrides them.
      '';
    };
  };
}
