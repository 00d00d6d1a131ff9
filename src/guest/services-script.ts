/**
 * The guest's services, one Perl program with one select loop: HTTP (80), echo (7, TCP and UDP), discard (9), ledger
 * (7000) and session (7001).
 *
 * It is data for the guest, never run on the host. It uses Perl's core alone (no Socket.pm, no POSIX.pm): on an
 * emulated CPU compiling those modules takes longer than everything else the guest does after its kernel.
 */

import type { Arch } from './arch.ts';

/** The program for `arch`. */
export function services({ name, abi }: Arch): string {
  return String.raw`use strict;

# ${name} Linux numbers, spelt out so that no module has to be compiled at boot.
my ($AF_INET, $AF_INET6, $SOCK_STREAM, $SOCK_DGRAM) = (2, 10, 1, 2);
my ($SOL_SOCKET, $SO_REUSEADDR, $IPPROTO_TCP, $TCP_NODELAY) = (1, 2, 6, 1);
my ($F_SETFL, $O_NONBLOCK, $EINTR, $EAGAIN) = (4, 2048, 4, 11);
my ($SYS_FSYNC, $SYS_SYNC, $SYS_CLOCK_GETTIME) = (${abi.fsync}, ${abi.sync}, ${abi.clockGettime});

my $MAX_CLIENTS = 256;
my $MAX_LINE = 4096;
my $MAX_HEADER = 8192;
my $MAX_OUT = 262144;
my $MAX_BODY = 67108864;
my $LEDGER = '/data/ledger';

my $started = uptime();
my $boot = read_first('/proc/sys/kernel/random/boot_id');
$boot = substr($boot, 0, 8);
my ($hits, $sessions, $clock) = (0, 0, 0);
my ($rbits, $wbits) = ('', '');
my (%listener, %client, @appends);
my ($ledger, $ledger_size, $ledger_lines);

$SIG{PIPE} = 'IGNORE';
$listener{fileno $_->[0]} = $_ for (
    [listen_on(80), \&http], [listen_on(7), \&echo], [listen_on(9), \&discard],
    [listen_on(7000), \&ledger], [listen_on(7001), \&session]);
my $udp = bound($SOCK_DGRAM, 7);
vec($rbits, fileno $udp, 1) = 1;
my $power = open_power_button();

if (open my $console, '>', '/dev/console') {
    print $console "colo-guest: ready\n";
    close $console;
}

while (1) {
    my ($r, $w) = ($rbits, $wbits);
    my $n = select $r, $w, undef, undef;
    next if $n <= 0;
    if (vec $r, fileno $udp, 1) {
        my $peer = recv $udp, my $data, 65535, 0;
        send $udp, $data, 0, $peer if defined $peer && length $peer;
    }
    power_event() if $power && vec $r, fileno $power, 1;
    for my $fd (keys %listener) {
        greet($listener{$fd}) if vec $r, $fd, 1;
    }
    for my $fd (keys %client) {
        my $c = $client{$fd} or next;
        take($c) if vec $r, $fd, 1;
        # A service may have closed it, or the descriptor may belong to someone new by now.
        give($c) if !$c->{closed} && (vec($w, $fd, 1) || length $c->{out} || $c->{body});
    }
    if (@appends) {
        flush_appends();
        for my $c (values %client) { give($c) if length $c->{out} }
    }
}

sub bound {
    my ($type, $port) = @_;
    # Where there is IPv6, one socket serves both.
    my $six = -e '/proc/net/if_inet6';
    socket my $fh, $six ? $AF_INET6 : $AF_INET, $type, 0 or die "socket: $!";
    setsockopt $fh, $SOL_SOCKET, $SO_REUSEADDR, pack 'i', 1;
    my $any = $six ? pack('S n x4 x16 x4', $AF_INET6, $port) : pack('S n a4 x8', $AF_INET, $port, "\0\0\0\0");
    bind $fh, $any or die "bind $port: $!";
    fcntl $fh, $F_SETFL, $O_NONBLOCK;
    return $fh;
}

sub listen_on {
    my $fh = bound($SOCK_STREAM, $_[0]);
    listen $fh, 64 or die "listen: $!";
    vec($rbits, fileno $fh, 1) = 1;
    return $fh;
}

sub greet {
    my ($fh, $service) = @{$_[0]};
    while (accept my $c, $fh) {
        fcntl $c, $F_SETFL, $O_NONBLOCK;
        setsockopt $c, $IPPROTO_TCP, $TCP_NODELAY, pack 'i', 1;
        # Full: the one silent for longest makes room, so peers that vanished cannot lock everybody out.
        if (keys %client >= $MAX_CLIENTS) {
            my ($oldest) = sort { $a->{seen} <=> $b->{seen} } values %client;
            drop($oldest);
        }
        $client{fileno $c} = { fh => $c, fd => fileno $c, service => $service, in => '', out => '', seen => ++$clock };
        vec($rbits, fileno $c, 1) = 1;
    }
}

sub take {
    my ($c) = @_;
    my $n = sysread $c->{fh}, $c->{in}, 16384, length $c->{in};
    if (!defined $n) {
        drop($c) unless $! == $EAGAIN || $! == $EINTR;
        return;
    }
    $c->{seen} = ++$clock;
    if ($n == 0) { $c->{last} = 1 } else { $c->{service}->($c) }
    # The peer may have closed only its sending half: answers still due are sent before we close ours.
    flush_appends() if $c->{last} && $c->{waiting};
    drop($c) if $c->{last} && !length $c->{out} && !$c->{body};
    pace($c);
}

sub give {
    my ($c) = @_;
    refill($c);
    if (length $c->{out}) {
        my $n = syswrite $c->{fh}, $c->{out};
        if (defined $n) {
            substr($c->{out}, 0, $n) = '';
        } elsif ($! != $EAGAIN && $! != $EINTR) {
            return drop($c);
        }
    }
    return drop($c) if $c->{last} && !length $c->{out} && !$c->{body};
    pace($c);
}

# Listens for whatever this client can do next: one that does not read its answers is not read from either.
sub pace {
    my ($c) = @_;
    return if $c->{closed};
    vec($wbits, $c->{fd}, 1) = length $c->{out} || $c->{body} ? 1 : 0;
    vec($rbits, $c->{fd}, 1) = $c->{last} || $c->{body} || length $c->{out} > $MAX_OUT ? 0 : 1;
}

sub drop {
    my ($c) = @_;
    return if $c->{closed}++;
    vec($rbits, $c->{fd}, 1) = 0;
    vec($wbits, $c->{fd}, 1) = 0;
    delete $client{$c->{fd}};
    close $c->{fh};
}

# Takes whole lines from the input; a line beyond the bound ends the connection after an error.
sub lines {
    my ($c, $each) = @_;
    while ($c->{in} =~ s/\A([^\n]*)\n//) {
        my $line = $1;
        $line =~ s/\r\z//;
        return too_long($c) if length $line > $MAX_LINE;
        $each->($c, $line);
    }
    too_long($c) if length $c->{in} > $MAX_LINE;
}

sub too_long {
    my ($c) = @_;
    $c->{in} = '';
    flush_appends() if $c->{waiting};
    $c->{out} .= "err line too long\n";
    $c->{last} = 1;
}

sub echo {
    my ($c) = @_;
    $c->{out} .= $c->{in};
    $c->{in} = '';
}

sub discard {
    $_[0]{in} = '';
}

sub session {
    my ($c) = @_;
    $c->{id} = $boot . '-' . ++$sessions unless $c->{id};
    lines($c, sub { $_[0]{out} .= "session $_[0]{id} " . ++$_[0]{lines} . "\n" });
}

sub http {
    my ($c) = @_;
    while (!$c->{last} && !$c->{body} && $c->{in} =~ s/\A(?:\r?\n)*([^\n]*)\n(.*?)(?<=\n)\r?\n//s) {
        answer($c, $1, $2);
    }
    if (!$c->{last} && length $c->{in} > $MAX_HEADER) {
        $c->{last} = 1;
        reply($c, '431 Request Header Fields Too Large', 'text/plain', "too long\n");
    }
}

sub answer {
    my ($c, $request, $headers) = @_;
    my ($method, $path, $version) = $request =~ m{\A([A-Z]+) (\S+) HTTP/(1\.[01])\r?\z};
    if (!defined $version) {
        $c->{last} = 1;
        return reply($c, '400 Bad Request', 'text/plain', "bad request\n");
    }
    my $keep = $headers =~ /^connection:[ \t]*([^\r\n]*)/im ? lc $1 : '';
    $c->{last} = 1 if $keep =~ /close/ || ($version eq '1.0' && $keep !~ /keep-alive/);
    if ($method ne 'GET' && $method ne 'HEAD') {
        # The length of what follows is not worth parsing for a method nobody serves.
        $c->{last} = 1;
        return reply($c, '405 Method Not Allowed', 'text/plain', "only GET and HEAD\n");
    }
    $c->{head} = $method eq 'HEAD';
    if ($path eq '/' || $path =~ m{\A/\?}) {
        $hits++;
        my $up = uptime();
        return reply($c, '200 OK', 'text/html',
            "<!doctype html><title>colo guest</title><h1>colo guest</h1>\n"
            . "<p>uptime <b id=uptime>$up</b> s</p>\n<p>hits <b id=hits>$hits</b></p>\n");
    }
    # What two copies of a guest say alike, as long as they draw alike; and what they cannot: its clock in nanoseconds.
    return reply($c, '200 OK', 'text/plain', read_first('/proc/sys/kernel/random/uuid')) if $path eq '/random';
    return reply($c, '200 OK', 'text/plain', join('.', clock()) . "\n") if $path eq '/clock';
    if ($path =~ m{\A/bytes/(\d{1,9})\z} && $1 <= $MAX_BODY) {
        reply($c, '200 OK', 'application/octet-stream', '', $1);
        $c->{body} = $c->{head} ? 0 : $1;
        return refill($c);
    }
    reply($c, '404 Not Found', 'text/plain', "not found\n");
}

sub reply {
    my ($c, $status, $type, $text, $length) = @_;
    $length = length $text unless defined $length;
    my $connection = $c->{last} ? 'close' : 'keep-alive';
    $c->{out} .= "HTTP/1.1 $status\r\nServer: colo-guest\r\nContent-Type: $type\r\nContent-Length: $length\r\n"
        . "Cache-Control: no-store\r\nConnection: $connection\r\n\r\n" . ($c->{head} ? '' : $text);
}

# The rest of a /bytes/N body is made as the client takes it, never held whole.
sub refill {
    my ($c) = @_;
    return unless $c->{body};
    while ($c->{body} && length $c->{out} < 65536) {
        my $n = $c->{body} < 16384 ? $c->{body} : 16384;
        $c->{out} .= substr "0123456789abcde\n" x 1024, 0, $n;
        $c->{body} -= $n;
    }
    http($c) if !$c->{body} && length $c->{in};
}

sub ledger {
    my ($c) = @_;
    lines($c, \&ledger_line);
}

sub ledger_line {
    my ($c, $line) = @_;
    if ($line =~ /\Aappend (.+)\z/s) {
        push @appends, [$c, $1];
        $c->{waiting}++;
        return;
    }
    # Answers keep the order of the questions.
    flush_appends() if $c->{waiting};
    if (!open_ledger()) {
        $c->{out} .= "err ledger: $!\n";
    } elsif ($line eq 'count') {
        my ($count) = scan(0);
        $c->{out} .= defined $count ? "count $count\n" : "err ledger: $!\n";
    } elsif ($line =~ /\Aread ([0-9]{1,9})\z/) {
        my ($count, $text) = scan($1);
        $c->{out} .= !defined $count ? "err ledger: $!\n" : defined $text ? "line $text\n" : "err no such line\n";
    } else {
        $c->{out} .= "err usage: append TEXT, read N or count\n";
    }
}

# Opens the file once; what a crash left of an unfinished (never acknowledged) line is cut off.
sub open_ledger {
    return 1 if $ledger;
    if (!-d '/data/lost+found') { $! = 19; return 0 }
    open my $fh, '+>>', $LEDGER or return 0;
    binmode $fh;
    $ledger = $fh;
    my ($count, undef, $whole) = scan(0);
    if (defined $count && $whole < -s $fh) { truncate $fh, $whole }
    ($ledger_lines, $ledger_size) = ($count, -s $fh);
    return 1 if defined $count && defined sync_directory();
    undef $ledger;
    return 0;
}

# A new file's name must be on the disk too before the first line is acknowledged.
sub sync_directory {
    return syscall($SYS_FSYNC, fileno $ledger) == 0 && syscall($SYS_SYNC) == 0 ? 1 : undef;
}

# Reads the file from its start. Gives the number of whole lines, line number $want if it is there, and where the last
# whole line ends. Gives nothing if the disk fails.
sub scan {
    my ($want) = @_;
    sysseek $ledger, 0, 0 or return;
    my ($count, $whole, $at, $text, $rest) = (0, 0, 0, undef, '');
    while (1) {
        my $n = sysread $ledger, my $block, 65536;
        return unless defined $n;
        last if $n == 0;
        my $here = $block =~ tr/\n//;
        if ($want > $count && $want <= $count + $here) {
            my @lines = split /\n/, $rest . $block, $want - $count + 1;
            $text = $lines[$want - $count - 1];
        }
        my $end = rindex $block, "\n";
        $whole = $at + $end + 1 if $end >= 0;
        $rest = $end >= 0 ? substr $block, $end + 1 : $rest . $block;
        $count += $here;
        $at += $n;
    }
    return ($count, $text, $whole);
}

# Writes every line that is waiting, syncs once for all of them, and only then answers.
sub flush_appends {
    my @batch = splice @appends or return;
    my $error = open_ledger() ? undef : "$!";
    if (!defined $error && -s $ledger != $ledger_size) {
        ($ledger_lines) = scan(0);
        $ledger_size = -s $ledger;
    }
    if (!defined $error) {
        my $data = join '', map { "$_->[1]\n" } @batch;
        my $at = 0;
        while ($at < length $data) {
            my $n = syswrite $ledger, $data, length($data) - $at, $at;
            if (!defined $n) { $error = "$!"; last }
            $at += $n;
        }
        $error = "$!" if !defined $error && syscall($SYS_FSYNC, fileno $ledger) != 0;
        if (defined $error) { truncate $ledger, $ledger_size } else { $ledger_size += length $data }
    }
    for my $append (@batch) {
        my $c = $append->[0];
        $c->{waiting}--;
        $c->{out} .= defined $error ? "err ledger: $error\n" : 'ok ' . ++$ledger_lines . "\n";
        pace($c);
    }
}

# The ACPI power button is an input device; KEY_POWER pressed means an orderly halt.
sub open_power_button {
    # opendir, since glob would need the module File::Glob.
    opendir my $dir, '/sys/class/input' or return undef;
    for my $event (grep { /^event/ } readdir $dir) {
        next unless read_first("/sys/class/input/$event/device/name") =~ /^Power Button/;
        open my $fh, '<', "/dev/input/$event" or next;
        fcntl $fh, $F_SETFL, $O_NONBLOCK;
        vec($rbits, fileno $fh, 1) = 1;
        return $fh;
    }
    return undef;
}

sub power_event {
    my $n = sysread $power, my $events, ${abi.inputEventBytes} * 32;
    if (!$n) {
        vec($rbits, fileno $power, 1) = 0 if defined $n;
        return;
    }
    for my $at (map { $_ * ${abi.inputEventBytes} } 0 .. length($events) / ${abi.inputEventBytes} - 1) {
        my ($type, $code, $value) = unpack '${abi.inputEvent}', substr $events, $at, ${abi.inputEventBytes};
        # SIGUSR2 tells busybox init to power off.
        kill 'USR2', 1 if $type == 1 && $code == 116 && $value == 1;
    }
}

sub uptime {
    return int read_first('/proc/uptime');
}

sub clock {
    my $time = pack '${abi.timespec}', 0, 0;
    syscall $SYS_CLOCK_GETTIME, 1, $time;
    return unpack '${abi.timespec}', $time;
}

sub read_first {
    open my $fh, '<', $_[0] or return '';
    my $line = <$fh>;
    close $fh;
    return defined $line ? $line : '';
}
`;
}
