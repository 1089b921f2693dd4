#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
# The results of the matrix as tables that a person reads, one for each scope and role:
#   table.pl rows SHAPES                  what to evaluate, from the list of shapes: SHAPE CELL..., ten hosts at most
#   table.pl error SHAPE CELL FILE        the result of a cell that did not evaluate, from nix's message
#   table.pl compare GOLDEN RESULTS [--update]
#   table.pl check GOLDEN SHAPES NIX      whether the tables are of the scopes, roles and shapes that exist; as TAP
# A line of a table is a change, and, below it and unless it is the same on all hosts, on which it is.
use strict;
use warnings;
use JSON::PP;

my $json = JSON::PP->new->canonical;

sub slurp {
    my ($path) = @_;
    open my $in, '<', $path or die "$path: $!\n";
    local $/;
    return scalar <$in>;
}

sub wanted {
    my ($name, $list) = @_;
    return !length($list // '') || grep { $_ eq $name } split ' ', $list;
}

# A host alone and nine with something added: ten in a process.
sub rows {
    my ($file) = @_;
    for my $shape (@{ $json->decode(slurp($file)) }) {
        next unless wanted($shape->{name}, $ENV{SHAPES});
        if (defined $shape->{skip}) {
            print STDERR "$shape->{name}: SKIP: $shape->{skip}\n";
            next;
        }
        my @cells = grep { wanted($_, $ENV{CELLS}) } @{ $shape->{cells} };
        print join(' ', $shape->{name}, splice(@cells, 0, 9)), "\n" while @cells;
    }
}

sub error {
    my ($shape, $cell, $file) = @_;
    my @lines = grep { /^\s*error:/ } split /\n/, slurp($file);
    my $message = @lines ? $lines[-1] : 'no result: the time or the memory of the process ended';
    $message =~ s/^\s*error:\s*//;
    print $json->encode([ { shape => $shape, cell => $cell, error => $message } ]);
}

sub sentence {
    my ($text) = @_;
    $text =~ s/\s+/ /g;
    $text =~ s/ $//;
    return $text =~ /^(.*?[^.]{12}\.) [A-Z]/ ? $1 : $text;
}

# The lines of a result that the golden table holds.
sub lines_of {
    my ($result) = @_;
    my @refused = map { 'refused: ' . sentence($_) } @{ $result->{refused} // [] };
    return @refused if @refused;
    return (@{ $result->{changes} }, map { 'warning: ' . sentence($_) } @{ $result->{warnings} });
}

# Why a cell fails, apart from its table.
sub failures {
    my ($result) = @_;
    return ("does not evaluate: $result->{error}") if defined $result->{error};
    return () if defined $result->{refused};
    my @found = map { s/\s+/ /gr } map { "refused: $_" } @{ $result->{assertions} };
    push @found, 'has no system' unless $result->{evaluates} || @found;
    push @found, map { "lost: $_" } map { @{ $result->{$_} } } qw(boot login identities);
    push @found, map { "a plain assignment of the user would not win: $_" } @{ $result->{unyielding} };
    return @found;
}

sub read_table {
    my ($path) = @_;
    return [] unless -e $path;
    my @entries;
    for (split /\n/, slurp($path)) {
        next if /^#/ || /^$/;
        if (/^    (only|not) on (.*)$/) { $entries[-1]{$1} = { map { $_ => 1 } split ' ', $2 } }
        else                            { push @entries, { line => $_ } }
    }
    return \@entries;
}

sub expected {
    my ($table, $shape) = @_;
    return map { $_->{line} }
      grep { $_->{only} ? $_->{only}{$shape} : $_->{not} ? !$_->{not}{$shape} : 1 } @$table;
}

sub write_table {
    my ($path, $cell, $by_shape) = @_;
    my @shapes = sort keys %$by_shape;
    my %on;
    for my $shape (@shapes) { $on{$_}{$shape} = 1 for @{ $by_shape->{$shape} } }
    open my $out, '>', $path or die "$path: $!\n";
    print $out "# What $cell changes in a host. Written by make hosts-matrix UPDATE=1; compared by make hosts-matrix.\n";
    print $out "# nothing\n" unless %on;
    # What is the same everywhere comes first.
    for my $line (sort { keys(%{ $on{$b} }) <=> keys(%{ $on{$a} }) || $a cmp $b } keys %on) {
        my @with = grep { $on{$line}{$_} } @shapes;
        my @without = grep { !$on{$line}{$_} } @shapes;
        print $out "$line\n";
        next unless @without;
        print $out @with <= @without ? "    only on @with\n" : "    not on @without\n";
    }
    close $out or die "$path: $!\n";
}

sub compare {
    my ($golden, $folder, $update) = @_;
    my (%shapes, %tables, $cells, $failed, %kept);
    %kept = (boot => 1, login => 1);
    $cells = $failed = 0;
    for my $file (sort glob "$folder/*.json") {
        for my $result (@{ $json->decode(slurp($file)) }) {
            my ($shape, $cell) = @$result{qw(shape cell)};
            my @found = failures($result);
            $shapes{$shape} = 1;
            $cells++;
            for my $kind (keys %kept) { $kept{$kind} = 0 if @{ $result->{$kind} // [] } }
            unless (defined $result->{error}) {
                my @got = lines_of($result);
                $tables{$cell}{$shape} = \@got;
                unless ($update) {
                    my %want = map { $_ => 1 } expected(read_table("$golden/$cell.txt"), $shape);
                    my %got = map { $_ => 1 } @got;
                    push @found, map { "changes, and golden/$cell.txt does not say so: $_" } grep { !$want{$_} } @got;
                    push @found, map { "golden/$cell.txt says so, and it does not: $_" } grep { !$got{$_} } sort keys %want;
                }
            }
            next unless @found;
            $failed++;
            print "not ok - $shape with $cell\n", map { "#   $_\n" } @found;
        }
    }
    if ($update) {
        die "SHAPES and CELLS are set: golden tables need all of them\n" if length(($ENV{SHAPES} // '') . ($ENV{CELLS} // ''));
        mkdir $golden;
        write_table("$golden/$_.txt", $_, $tables{$_}) for sort keys %tables;
    }
    printf qq({"shapes":%d,"cells":%d,"failed":%d,"bootLoaderKept":%s,"loginKept":%s}\n), scalar(keys %shapes), $cells,
      $failed, map { $kept{$_} ? 'true' : 'false' } qw(boot login);
    exit($failed || !$cells ? 1 : 0);
}

sub names_in { return map { m{([^/]+)\.\w+$} ? $1 : () } map { glob "$_/*.nix" } @_ }

sub check {
    my ($golden, $shapes, $nix) = @_;
    my %shape = map { $_ => 1 } names_in($shapes);
    my %cell = map { $_ => 1 } grep { $_ ne 'default' && $_ ne 'flake' } names_in("$nix/scopes", "$nix/scopes/darwin", "$nix/platforms");
    $cell{"role-$_"} = 1 for names_in("$nix/roles");
    my %table = map { m{([^/]+)\.txt$} ? ($1 => $_) : () } glob "$golden/*.txt";
    my @wrong = map { "golden/$_.txt is missing" } grep { !$table{$_} } sort keys %cell;
    push @wrong, map { "golden/$_.txt is of no scope or role" } grep { !$cell{$_} } sort keys %table;
    for my $cell (sort keys %table) {
        my %named = map { $_ => 1 } map { keys %{ $_->{only} // {} }, keys %{ $_->{not} // {} } } @{ read_table($table{$cell}) };
        push @wrong, map { "golden/$cell.txt names $_, which is not in shapes" } grep { !$shape{$_} } sort keys %named;
    }
    print @wrong ? 'not ok' : 'ok', " - hosts-matrix: the tables are of the scopes, roles and shapes that exist\n";
    print "# $_\n" for @wrong;
    exit(@wrong ? 1 : 0);
}

my %actions = (check => \&check, rows => \&rows, error => \&error, compare => \&compare);
my $action = $actions{ shift // '' } or die "table.pl: check, rows, error or compare\n";
$action->(@ARGV);
