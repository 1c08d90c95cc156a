<?php
// RabbitMQ's tutorials in PHP, with php-amqplib:
// php tutorials.php rpc_client|rpc_server|new_task|worker|emit_log|receive_logs [TEXT]
// https://www.rabbitmq.com/tutorials/tutorial-six-php
require_once 'PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPTable;

[, $command, $text] = $argv + [2 => ''];
$url = parse_url(getenv('AMQP_URL'));
$connection = new AMQPStreamConnection($url['host'], $url['port'], $url['user'], $url['pass']);
$channel = $connection->channel();

function durable($channel, $queue)
{
    $channel->queue_declare($queue, false, true, false, false, false, new AMQPTable(['x-queue-type' => 'quorum']));
}

function fib($n)
{
    [$a, $b] = [0, 1];
    for (; $n > 0; $n--) {
        [$a, $b] = [$b, $a + $b];
    }
    return $a;
}

switch ($command) {
    case 'rpc_client':
        [$replies] = $channel->queue_declare('', false, false, true, false);
        $id = uniqid();
        $answer = null;
        $channel->basic_consume($replies, '', false, true, false, false, function ($reply) use (&$answer, $id) {
            if ($reply->get('correlation_id') == $id) {
                $answer = $reply->body;
            }
        });
        $message = new AMQPMessage($text, ['correlation_id' => $id, 'reply_to' => $replies]);
        $channel->basic_publish($message, '', 'rpc_queue');
        while ($answer === null) {
            $channel->wait();
        }
        echo " [.] Got $answer\n";
        break;
    case 'rpc_server':
        durable($channel, 'rpc_queue');
        $channel->basic_qos(0, 1, false);
        $channel->basic_consume('rpc_queue', '', false, false, false, false, function ($request) {
            $reply = new AMQPMessage(
                (string) fib(intval($request->body)),
                ['correlation_id' => $request->get('correlation_id')]
            );
            $request->getChannel()->basic_publish($reply, '', $request->get('reply_to'));
            $request->ack();
        });
        echo " [x] Waiting\n";
        while (true) {
            $channel->wait();
        }
    case 'new_task':
        durable($channel, 'task_queue');
        $message = new AMQPMessage($text, ['delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT]);
        $channel->basic_publish($message, '', 'task_queue');
        break;
    case 'worker':
        durable($channel, 'task_queue');
        $channel->basic_qos(0, 1, false);
        $channel->basic_consume('task_queue', '', false, false, false, false, function ($message) {
            echo " [x] Received $message->body\n";
            $message->ack();
        });
        echo " [*] Waiting\n";
        while (true) {
            $channel->wait();
        }
    case 'emit_log':
        $channel->exchange_declare('logs', 'fanout', false, false, false);
        $channel->basic_publish(new AMQPMessage($text), 'logs');
        break;
    case 'receive_logs':
        $channel->exchange_declare('logs', 'fanout', false, false, false);
        [$queue] = $channel->queue_declare('', false, false, true, false);
        $channel->queue_bind($queue, 'logs');
        $channel->basic_consume($queue, '', false, true, false, false, function ($message) {
            echo " [x] $message->body\n";
        });
        echo " [*] Waiting\n";
        while (true) {
            $channel->wait();
        }
}
$channel->close();
$connection->close();
