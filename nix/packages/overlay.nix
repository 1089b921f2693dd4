# SPDX-License-Identifier: MIT
# overlays.default: the programs as packages of any Nixpkgs.
final: _prev: import ./. { pkgs = final; }
