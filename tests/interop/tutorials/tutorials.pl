# The programs of RabbitMQ's tutorials in Perl, with AnyEvent::RabbitMQ: no content type is given, so it is the
# library's own, application/octet-stream.
# perl tutorials.pl rpc_client|rpc_server|new_task|worker|emit_log|receive_logs [TEXT]
use strict;
use warnings;
use AnyEvent;
use AnyEvent::RabbitMQ;

$| = 1;
my ($command, $text) = @ARGV;
my ($user, $password, $host, $port) = $ENV{AMQP_URL} =~ m{^amqp://([^:]+):([^@]+)@([^:/]+):(\d+)} or die "AMQP_URL?";
my $done = AnyEvent->condvar;
my $failed = sub { $done->croak("failed: @_") };
my $channel;

sub wait_for(&) {
    my ($ask) = @_;
    my $answer = AnyEvent->condvar;
    $ask->(on_success => sub { $answer->send(@_) }, on_failure => $failed);
    return $answer->recv;
}

sub durable {
    my ($queue) = @_;
    wait_for { $channel->declare_queue(queue => $queue, durable => 1, arguments => { 'x-queue-type' => 'quorum' }, @_) };
}

sub exclusive {
    return (wait_for { $channel->declare_queue(queue => '', exclusive => 1, @_) })->method_frame->queue;
}

sub consume {
    my ($queue, $no_ack, $callback) = @_;
    wait_for { $channel->consume(queue => $queue, no_ack => $no_ack, on_consume => $callback, @_) };
}

sub ack { $channel->ack(delivery_tag => $_[0]{deliver}->method_frame->delivery_tag) }

sub fib {
    my ($n) = @_;
    my ($a, $b) = (0, 1);
    ($a, $b) = ($b, $a + $b) while $n-- > 0;
    return $a;
}

my $rabbit = AnyEvent::RabbitMQ->new->load_xml_spec;
wait_for {
    $rabbit->connect(
        host => $host, port => $port, user => $user, pass => $password, vhost => '/', timeout => 20,
        on_read_failure => $failed, on_close => $failed, on_return => $failed, @_
    )
};
$channel = wait_for { $rabbit->open_channel(on_close => $failed, @_) };

my %commands = (
    rpc_client => sub {
        my $replies = exclusive();
        my $answer = AnyEvent->condvar;
        consume($replies, 1, sub { $answer->send($_[0]{body}->payload) if $_[0]{header}->correlation_id eq '1' });
        $channel->publish(
            exchange => '', routing_key => 'rpc_queue', body => $text,
            header => { reply_to => $replies, correlation_id => '1' },
        );
        print ' [.] Got ', $answer->recv, "\n";
    },
    rpc_server => sub {
        durable('rpc_queue');
        consume('rpc_queue', 0, sub {
            my ($request) = @_;
            $channel->publish(
                exchange => '', routing_key => $request->{header}->reply_to, body => fib($request->{body}->payload),
                header => { correlation_id => $request->{header}->correlation_id },
            );
            ack($request);
        });
        print " [x] Waiting\n";
        $done->recv;
    },
    new_task => sub {
        durable('task_queue');
        $channel->publish(exchange => '', routing_key => 'task_queue', body => $text, header => { delivery_mode => 2 });
    },
    worker => sub {
        durable('task_queue');
        consume('task_queue', 0, sub { print ' [x] Received ', $_[0]{body}->payload, "\n"; ack($_[0]) });
        print " [*] Waiting\n";
        $done->recv;
    },
    emit_log => sub {
        wait_for { $channel->declare_exchange(exchange => 'logs', type => 'fanout', @_) };
        $channel->publish(exchange => 'logs', routing_key => '', body => $text);
    },
    receive_logs => sub {
        wait_for { $channel->declare_exchange(exchange => 'logs', type => 'fanout', @_) };
        my $queue = exclusive();
        wait_for { $channel->bind_queue(queue => $queue, exchange => 'logs', routing_key => '', @_) };
        consume($queue, 1, sub { print ' [x] ', $_[0]{body}->payload, "\n" });
        print " [*] Waiting\n";
        $done->recv;
    },
);
$commands{$command}->();
# With the answer to this, the broker has what was published before.
exclusive();
exit 0;
