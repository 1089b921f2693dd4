# SPDX-License-Identifier: MIT
# A program's settings as a TOML file that the program itself has checked. If the build machine cannot
# run the program, it reports mistakes when it starts.
{
  lib,
  pkgs,
  package,
  name,
  settings,
  check,
}:
let
  file = (pkgs.formats.toml { }).generate name settings;
in
if check && pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform then
  pkgs.runCommand name { passthru.unchecked = file; } ''
    ${lib.getExe package} config check ${file}
    cp ${file} $out
  ''
else
  file
