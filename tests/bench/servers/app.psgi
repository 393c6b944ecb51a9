# Pages and streams on a PSGI server.
use strict;
use warnings;
use File::Basename qw(dirname);

my $release = $ENV{SHIP_RELEASE};
if (!defined $release) {
    open(my $file, '<', dirname(__FILE__) . '/release') or die $!;
    $release = <$file>;
}

sub {
    my $env = shift;
    my @headers = ('X-Release' => $release, 'Content-Type' => 'text/plain');
    return [200, [@headers, 'Content-Length' => 3], ["ok\n"]] if $env->{PATH_INFO} ne '/stream';
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
