# SPDX-License-Identifier: MIT
# Evaluates the tests of one file; run.sh calls this. A test is a value that must be true, or
# { expr; expected; }, or { expr; throws = "part of the message"; }, or { skip = "why"; } if something
# that it needs is missing.
{
  file,
  root,
  harness,
  # Only this test, by name; null for all.
  only ? null,
}:
let
  built = import ./harness harness;
  inherit (built) lib;

  all = import file {
    inherit lib root;
    harness = built;
  };
  tests = if only == null then all else { ${only} = all.${only}; };

  # A value as text of limited length. A part that cannot be shown is named instead.
  show =
    depth: value:
    if depth == 0 then
      "<...>"
    else if builtins.isFunction value then
      "<function>"
    else if lib.isDerivation value then
      value.outPath
    else if builtins.isAttrs value then
      lib.mapAttrs (_: attempt depth) value
    else if builtins.isList value then
      map (attempt depth) value
    else if builtins.isPath value then
      toString value
    else
      value;
  attempt =
    depth: value:
    let
      shown = builtins.tryEval (builtins.deepSeq (show (depth - 1) value) (show (depth - 1) value));
    in
    if shown.success then shown.value else "<error>";
  render = value: builtins.toJSON (attempt 8 value);

  outcome =
    name: test:
    let
      isPair = builtins.isAttrs test && test ? expr && test ? expected;
      passed = builtins.tryEval (if isPair then test.expr == test.expected else test == true);
    in
    if builtins.isAttrs test && test ? skip then
      [ "skip\t${name}\t${test.skip}" ]
    else if builtins.isAttrs test && test ? throws then
      [ "throws\t${name}\t${test.throws}" ] # a message can only be seen from outside: run.sh
    else if passed.success && passed.value then
      [ "ok\t${name}" ]
    else
      [ "not ok\t${name}" ]
      ++ lib.optional (!passed.success) "#\tthrew an error; --show-trace with ONLY='${name}' tells where"
      ++ lib.optional isPair "#\texpected: ${render test.expected}"
      ++ lib.optional passed.success "#\tgot:      ${render (if isPair then test.expr else test)}";
  # Tabs and line breaks separate results.
  clean = builtins.replaceStrings [ "\n" ] [ "\\n" ];
in
{
  names = lib.concatStringsSep "\n" (lib.attrNames all);
  forced = builtins.deepSeq all.${only}.expr "no error";
  results = lib.concatMapStringsSep "\n" clean (lib.concatLists (lib.mapAttrsToList outcome tests));
}
