#!/usr/bin/perl
# SPDX-License-Identifier: MIT
# package-names.pl PATH...: which packages and unit files do the *.nix files below PATH mention?
# Prints { names = { a = { }; a.b = { }; }; units = [ ... ]; }, from which the stand-in
# package set makes one trivial derivation a name. Reads text, evaluates nothing: too many names
# cost little, a missing one fails loudly where it is used.
use strict;
use warnings;
use File::Find;

my @files;
find({ follow_fast => 1, follow_skip => 2, no_chdir => 1, wanted => sub { push @files, $_ if /\.nix$/ && -f $_ } }, @ARGV);

my (%names, %units);
my $id = qr/[A-Za-z_][A-Za-z0-9_-]*/;

sub add {
  my @path = split /\./, shift;
  for (@path) { return unless /^$id$/ && !/-$/ }
  $names{ join '.', map { "\"$_\"" } @path[ 0 .. $_ ] } = 1 for 0 .. $#path;
}

# pkgs.a.b, and members of the well-known sets even when pkgs is not written before them
my $sets = join '|', qw(xorg gnome xfce mate lxqt pantheon deepin cinnamon plasma5Packages kdePackages
  libsForQt5 python3Packages perlPackages haskellPackages nodePackages darwin);
sub selections {
  my $text = shift;
  add($1) while $text =~ /\b(?:pkgs|super|prev|final)\.($id(?:\.$id){0,3})/g;
  add("$1.$2") while $text =~ /\b($sets)\.($id)/g;
}

# mkPackageOption pkgs "a" { }, default = [ "a" "b" ], inherit (pkgs.x) a b;
sub declarations {
  my $text = shift;
  while ($text =~ /mkPackageOption(?:MD)?\s+pkgs(?:\.([\w-]+))?\s+"([^"\$]+)"/g) { add(defined $1 ? "$1.$2" : $2) }
  while ($text =~ /(?:mkPackageOption(?:MD)?\s+pkgs\s+|default\s*=\s*)\[\s*((?:"[\w-]+"\s*){1,3})\]/g) { add(join '.', $1 =~ /"([\w-]+)"/g) }
  while ($text =~ /inherit\s*\(\s*pkgs(?:\.([\w.-]+))?\s*\)\s*([^;]*);/g) {
    my ($set, $list) = ($1, $2);
    $list =~ s/#[^\n]*//g;
    add(defined $set ? "$set.$_" : $_) for grep { /^$id$/ } split /\s+/, $list;
  }
  # pkgs.${name}: any quoted word may be the name
  if ($text =~ /pkgs\.\$\{/ || $text =~ /mkPackageOption/) { add($1) while $text =~ /"($id)"/g }
}

# with pkgs; [ a b ] ++ [ c ], to the end of the definition; other views of the same packages are written out.
sub lists {
  my $text = shift;
  $text =~ s/#[^\n]*//g;
  $text =~ s/"(?:[^"\\]|\\.)*"/""/g;
  while ($text =~ /with\s+pkgs(?:\.([\w-]+))?\s*;(.{0,4000}?)(?:;\s*\n|\z)/gs) {
    my ($set, $body) = ($1, $2);
    undef $set if defined $set && $set =~ /^(?:pkgsBuildBuild|buildPackages)$/;
    while ($body =~ /(?<![\w.'-])($id(?:\.$id)?)/g) { add(defined $set ? "$set.$1" : $1) }
  }
}

for my $file (sort @files) {
  open my $handle, '<', $file or die "open $file: $!\n";
  my $text = do { local $/; <$handle> };
  close $handle;
  $units{$1} = 1 while $text =~ /"([\w@.-]+\.(?:service|socket|target|timer|mount|automount|slice|path|swap))"/g;
  $units{$1} = 1 while $text =~ m{udev/rules\.d/([\w-]+\.rules)}g;
  next unless $text =~ /pkgs|prev|super|final/;
  $text =~ s{/\*.*?\*/}{}gs;
  selections($text);
  declarations($text);
  lists($text);
}

print "{\n  names = {\n", (map { "    $_ = { };\n" } sort keys %names), "  };\n  units = [\n", (map { "    \"$_\"\n" } sort keys %units), "  ];\n}\n";
