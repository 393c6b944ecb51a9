# The app under test on a PSGI server: pages and streams. Starlet keeps no connection unless told to, so there is nothing to drain.
use strict;
use warnings;
use File::Basename qw(dirname);

my $broken = $ENV{BROKEN} // '';
die "this release cannot start\n" if $broken eq 'exit';

# Without Ship, as in the benches, a release says itself which it is.
my $release = $ENV{SHIP_RELEASE};
if (!defined $release) {
    open(my $file, '<', dirname(__FILE__) . '/release') or die $!;
    $release = <$file>;
}

sub {
    my $env = shift;
    my @headers = ('X-Release' => $release, 'Content-Type' => 'text/plain');
    my $status = $env->{PATH_INFO} eq '/healthz' && $broken eq 'sick' ? 500 : 200;
    return [$status, [@headers, 'Content-Length' => 3], ["ok\n"]] if $env->{PATH_INFO} ne '/stream';
    my ($seconds) = $env->{QUERY_STRING} =~ /seconds=([\d.]+)/;
    return sub {
        my $writer = shift->([200, [@headers]]);
        for (1 .. $seconds * 10) {
            $writer->write("a piece\n");
            select(undef, undef, undef, 0.1);
        }
        $writer->close;
    };
};
