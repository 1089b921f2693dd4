# SPDX-License-Identifier: MIT
# The programs, built with the Nixpkgs that the caller gives.
{ pkgs }:
let
  inherit (pkgs) lib;
  source = import ./source.nix { inherit lib; };
  version = import ./version.nix;

  # buildGoModule downloads no other Go than the one it is given. A Nixpkgs whose own is too old for go.mod
  # may have a newer one beside it.
  required = lib.head (builtins.match ".*\ngo ([0-9.]+)\n.*" (builtins.readFile ../../go.mod));
  newer = "go_${lib.replaceStrings [ "." ] [ "_" ] (lib.versions.majorMinor required)}";
  buildGoModule =
    if lib.versionAtLeast pkgs.go.version required then
      pkgs.buildGoModule
    else if pkgs ? ${newer} && lib.versionAtLeast pkgs.${newer}.version required then
      pkgs.buildGoModule.override { go = pkgs.${newer}; }
    else
      throw "nixfleet needs Go ${required} or newer to build, and this Nixpkgs (${lib.trivial.release}) has ${pkgs.go.version}. Take the package from NixFleet's own Nixpkgs: remove inputs.nixfleet.inputs.nixpkgs.follows, and set for example services.nixfleet-agent.package = inputs.nixfleet.packages.${pkgs.stdenv.hostPlatform.system}.nixfleet-agent.";

  program =
    {
      name,
      description,
      license ? lib.licenses.mit,
      platforms ? lib.platforms.unix,
      completions ? false,
    }:
    buildGoModule {
      pname = name;
      inherit version;
      src = source;
      vendorHash = import ./vendor-hash.nix;
      subPackages = [ "cmd/${name}" ];
      env.CGO_ENABLED = 0;
      ldflags = [
        "-s"
        "-w"
        "-X main.version=${version}"
      ];
      # The packages whose tests need neither root nor Nix; `make test` runs all.
      checkPhase = ''
        runHook preCheck
        go test ./fleet ./api ./internal/trust ./controlplane/rollout ./internal/agent/states
        runHook postCheck
      '';
      nativeBuildInputs = lib.optional completions pkgs.installShellFiles;
      postInstall = lib.optionalString completions ''
        for shell in bash zsh fish; do
          $out/bin/${name} completion $shell > ${name}.$shell
          installShellCompletion ${name}.$shell
        done
      '';
      passthru.tests.version = pkgs.runCommand "${name}-version" { } ''
        ${(import ./. { inherit pkgs; }).${name}}/bin/${name} version | tee $out
        grep -qF ${version} $out
      '';
      meta = {
        inherit description license platforms;
        homepage = "https://github.com/arcanesys/nixfleet";
        mainProgram = name;
      };
    };
in
{
  nixfleet = program {
    name = "nixfleet";
    description = "Command line of the NixFleet fleet manager";
    completions = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;
  };
  nixfleet-agent = program {
    name = "nixfleet-agent";
    description = "Agent that brings NixOS and macOS machines to the releases of their fleet";
  };
  nixfleet-control-plane = program {
    name = "nixfleet-control-plane";
    description = "Control plane that rolls releases out to a fleet in stages";
    license = lib.licenses.agpl3Only;
    platforms = lib.platforms.linux;
  };
}
